// Package pod runs tulle-proxy as it runs in pods, on this machine: network
// namespaces with an address of their own, redirect rules made with NET_ADMIN
// alone, a sidecar without any capability, on a root that cannot be written to.
//
// In: root, iproute2 and util-linux. Out: tests of capture, probes, metrics and
// the end of a pod, against a control plane over TLS.
// What does not belong here: Kubernetes itself (e2e), what the injector writes
// (kube/inject).
package pod
