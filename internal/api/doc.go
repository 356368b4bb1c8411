// Package api is the admin API of the control plane: HTTP and JSON on a unix
// socket, the only door for the command line and the console.
//
// In: requests of the user who runs the control plane (or of root), told by the
// socket's peer; nobody else is served. Out: registrations, and what the
// control plane knows: workloads, proxies, notices, versions. Server and client
// are both here, so that the types are written once.
//
// A registration is a lease: it lasts as long as the connection that asked for
// it, so that nothing is left of a process that died.
//
// What does not belong here: decisions (control).
package api
