// Package exchange is one HTTP request's life at the proxy: what Envoy calls
// the connection manager and the router.
//
// In: request heads from a server codec (Conn is its stream.Acceptor), the
// listener chain's configuration, the present snapshot. Out: one answer to
// each request, forwarded from a cluster or made here, with its metrics and
// its line in the access log.
//
// The order of things, written once: prepare (what a connection manager does
// to the head) -> route -> cors, fault, rbac in the order of the listener ->
// redirect, direct response or forward -> attempts -> answer -> finish.
//
// Everything here is owned by one event loop and never blocks. Exchanges are
// pooled per loop; a timer or callback that outlives its request is stopped
// before the exchange is reused.
//
// What does not belong here: bytes of a protocol (codecs), the choice of a
// route or endpoint (route, cluster), connections (pool).
package exchange
