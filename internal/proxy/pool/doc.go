// Package pool keeps the upstream connections of one loop and hands out
// streams on them.
//
// In: a Ticket, which names the cluster and the endpoint that was picked. Out:
// a stream.Stream for it, at once or later, or the way it failed. Limits of
// the cluster (connections, pending requests) are counted in its handle; the
// pool waits or refuses as Envoy does.
//
// A group holds the connections to one endpoint for one policy: HTTP/1 ones
// that carry one request at a time (last used, first reused, so that the rest
// age out), or HTTP/2 ones that are shared. Where the peer chose ALPN "tulle1",
// HTTP/1 requests travel as HTTP/2 streams; each then occupies one virtual
// connection, so that limits mean what they meant before.
//
// Owned by its loop. What does not belong here: choosing an endpoint, retries,
// what a request says.
package pool
