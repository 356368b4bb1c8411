// Package http1 is a strict HTTP/1 codec (RFC 9110, 9112) for both sides of a
// proxy, driven by an event loop.
//
// In: bytes of one connection through stream.Codec. Out: heads, body pieces,
// trailers and resets on a stream.Peer, and bytes on a stream.Wire.
//
// A Server reads requests one after the other (pipelined ones wait) and
// writes their responses; a Client does one exchange at a time. Upgrade and
// CONNECT turn a connection into a raw tunnel in both directions. Upgrades
// have their HTTP/1 form above the waist: a GET with Head.Protocol, answered
// by 101; the http2 codec translates extended CONNECT to and from that.
//
// When the response has ended the exchange is over: the server side discards
// or closes what is left of the request, the client side closes a connection
// whose request was not yet complete. Each Peer sees either an end or
// OnReset, and nothing after a Stream's Reset.
//
// In steady state no request allocates: heads and buffers come from a Set,
// one per event loop. Nothing here is safe for concurrent use.
//
// What does not belong here: sockets, timers (idle and head timeouts are the
// owner's, see Idle and OnIdle), date and server fields, routing, policy, HTTP/2.
// Standard library only.
package http1
