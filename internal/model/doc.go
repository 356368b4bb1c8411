// Package model is the mesh in our own words: services, workloads, routes,
// policies, identities. Every fact carries its Origin, the user's object,
// field and file:line that caused it.
//
// In: nothing. Dialect readers fill a Fragment; link turns fragments into a
// Mesh and, for one requester, into a View.
// Out: plain values, and their text form (Text, Parse, Equal), which tests and
// tulle translate print. Nil and empty lists and maps mean the same. Everything here is immutable once it has left the stage
// that made it, and may then be shared between goroutines without a lock.
//
// What does not belong here: Kubernetes, Istio, protobuf or Envoy types,
// defaults (link decides), and any I/O. Standard library only. The model grows
// only when two dialects need it or one cannot be honest without it.
package model
