// Package control wires the control plane: sources, dialects, link, lower and
// xds, in that order, with the certificate authority beside them. The one list
// of dialects is here (Dialects), and so are the lifetimes.
//
// In: a source of user objects, registrations of standalone workloads, and
// connections of proxies. Out: each proxy's own resources over xDS, its
// certificates, notices and status. Compile does the first half of it from
// files alone, for the command line.
//
// Goroutines: Plane.Run owns the compiled mesh and replaces it as a whole; each
// xDS stream is owned by xds. Readers see immutable generations.
//
// What does not belong here: rules of any kind (dialect, link and lower have
// them), and HTTP (api).
package control
