// Package proxy wires the data plane.
//
// The order of layers, outside in: listen accepts a connection on the least
// busy loop, learns where it was going and what it speaks, and chooses a
// filter chain; mtls opens TLS where the chain says so (its handshake runs
// beside the loops, behind the work gate); the chain's connection filters
// allow or refuse; then http1 or http2 reads requests for exchange, or tcp
// carries bytes. exchange filters, routes and forwards through pool, which
// dials with mtls again.
//
// Configuration comes the other way: feed receives xDS, conf decodes it, and a
// snapshot is published: first to cluster (handles, endpoints, DNS), then as
// the root pointer that every request reads once, then to the listeners, so
// that nothing points at what is not there yet.
//
// In: a Bootstrap. Out: a running proxy until its context ends, then a drain.
// What does not belong here: any rule of its own.
package proxy
