// Command control measures the control plane beside no peer: what it costs in
// CPU, memory and bytes to serve many proxies of a large mesh, and how soon a
// change is with all who hold it.
//
// In: nothing; the meshes are made here (Services with ten endpoints each, a
// VirtualService and a DestinationRule on every tenth). The control plane is a
// process of its own, so that CPU and peak memory are its own from the kernel's
// accounting; proxies are a load client, which says what sidecars say and keeps
// versions only. First requests to a destination go through a sidecar in this
// process, certificates over TLS on loopback. Out: tables, the targets and whether
// they were met, control.json and control.svg.
//
// What does not belong here: what proxies do with what they are given
// (test/bench).
package main
