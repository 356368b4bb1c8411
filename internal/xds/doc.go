// Package xds is the ADS server: it keeps every client at the newest set of
// named resources that it may have.
//
// In: authenticated callers, and for each a Feed of immutable Sets; resources
// are opaque bytes with a type URL, a name and a version. Out: Envoy's
// aggregated discovery service, state-of-the-world and delta, wildcard and by
// name, on a gRPC server; and Rejections, what a client did not accept.
//
// A stream has three goroutines: one receives, one sends, and one owns all
// state and decides (stream.run). The decisions are in subscription, which is
// pure: no clock, no I/O.
//
// What does not belong here: what resources mean, who may have them (control),
// and how a caller is authenticated.
package xds
