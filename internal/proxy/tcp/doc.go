// Package tcp carries connections that are not read as HTTP: Envoy's tcp_proxy.
//
// In: an accepted connection with its chain. Out: its bytes to an endpoint of
// the chain's cluster and back, with half-close, back-pressure, the idle
// timeout, limits and one record at the end. Every connection has an upstream
// connection of its own.
//
// Owned by one event loop. What does not belong here: protocol detection
// (listen), TLS (mtls).
package tcp
