// Package standalone runs a mesh on one machine, without root: it starts
// programs as replicas of Deployments, each with a sidecar, and gateways.
//
// In: the control plane's admin API, a command line. Out: running processes
// whose traffic goes through the mesh, and nothing left of them at the end.
//
// What does not belong here: configuration and its meaning (control), the
// proxy's own work (proxy).
package standalone
