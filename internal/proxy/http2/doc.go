// Package http2 is an HTTP/2 codec (RFC 9113, 7541, 8441) for both sides of a
// proxy, driven by an event loop.
//
// In: bytes of one connection through stream.Codec. Out: heads, body pieces,
// trailers and resets on one stream.Peer per stream, and bytes on a
// stream.Wire. What one event produces is appended to Wire.Out and leaves in
// one write.
//
// Flow control gives credit when a body was taken, not when it arrived: a
// stream that its peer has paused gets none, and a connection gets none while
// its paused streams hold too much. Bodies that wait for a window are sent in
// rounds of one frame per stream.
//
// Extended CONNECT has its HTTP/1 form above the waist: a GET with
// Head.Protocol, answered by 101. Cookie crumbs are joined to one field.
//
// When the response has ended the exchange is over, as in package http1: what
// is left of the request is given up with RST_STREAM. Tunnels (CONNECT, 101)
// end each way for itself.
//
// In steady state no exchange allocates: streams, heads and buffers come from
// a Set, one per event loop. Nothing here is safe for concurrent use.
//
// What does not belong here: sockets, timers, priorities (ignored), server
// push (refused), routing, policy, HTTP/1. Standard library only.
package http2
