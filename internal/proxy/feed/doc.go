// Package feed keeps the proxy's configuration at what the control plane says.
//
// In: xDS over one aggregated stream (delta, or state of the world), and a
// certificate over the Istio CA API on the same connection. Out: immutable
// snapshots of conf nodes through Config.Publish. A snapshot shares every node
// that did not change with the one before.
//
// Listeners and clusters are asked for by wildcard; route tables, endpoints
// and secrets by the names that accepted listeners and clusters mention.
// Acceptance is per resource: a bad one keeps its last good version, and the
// refusal names it with the reason. A node is published when all that it names
// is there, or after a time; a node that is gone stays while a published one
// names it, for a time (see warm.go).
//
// The last good configuration rests in Config.StateDir and is served before
// the control plane answers. Keys never go there: they, and the secrets of
// gateways, rest in Config.SecretDir.
//
// One goroutine owns all state (Feed.Run); the stream, the certificate and the
// files have goroutines of their own which hand it functions to run. What costs
// CPU passes Config.Gate, decoding in pieces of a millisecond.
//
// The connection is made by rpc, on the proxy's own HTTP/2.
//
// What does not belong here: what resources mean (conf), parsing of
// certificates for TLS (mtls), and reading the files that file-cert: and
// file-root: secrets name (mtls).
package feed
