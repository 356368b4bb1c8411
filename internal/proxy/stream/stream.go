// Package stream is the narrow waist between codecs and everything that
// decides: a message is a Head, a body in pieces, perhaps Trailers, or a Reset.
//
// In: codecs (http1, http2) turn bytes into calls on a Peer. Out: whoever
// answers or forwards calls the Stream. Above this waist nobody knows whether
// a message travels as HTTP/1 or HTTP/2.
//
// All types are owned by one event loop: every call happens on it, none may
// block, none may be made from elsewhere.
//
// What does not belong here: sockets, routes, filters, policy. Standard
// library only.
package stream

// Reset says why a message ended before its end.
type Reset uint8

// Resets. The codec picks the wire form (RST_STREAM code, closed connection).
const (
	NoReset         Reset = iota
	Cancelled             // the other side no longer wants it
	Refused               // the peer did not process it: safe to send again
	ConnectFailed         // no connection was made
	ConnectTimedOut       // the same, by time
	TLSFailed             // the handshake failed
	ConnectionLost        // the connection ended after the message had begun
	ProtocolError         // the peer broke the protocol
	Overflow              // a limit was reached
	LocalReset            // we gave up (time, policy)
	RemoteReset           // the peer gave this stream up, for no reason named above
)

// Stream is a codec's end of one exchange. On the server side it takes the
// response, on the client side the request. Calls after the end (end=true,
// Trailers or Reset) are ignored.
//
// When the response has ended the exchange is over, even if the request has
// not: the codec gives up what is left of it and its Peer hears no more
// (tunnels, after 101 or a CONNECT's 2xx, end each way for themselves). Drop a
// Stream when its exchange is over; it may serve another later. A codec calls
// OnReset, OnHead and OnTrailers of a Peer never within that Peer's own call.
type Stream interface {
	// SendHead begins the message. For responses it may be called with 1xx
	// heads first. h is only read during the call.
	SendHead(h *Head, end bool)
	// SendData sends a piece of the body. p is not kept.
	SendData(p []byte, end bool)
	// SendTrailers ends the message with trailers.
	SendTrailers(t *Head)
	// Reset ends the exchange in both directions; the Peer is not called again.
	Reset(r Reset)
	// Pause stops (true) or resumes (false) the reading of this exchange's
	// incoming body. A codec may deliver what it has already read.
	Pause(stop bool)
	// Blocked reports whether the outgoing side is above its high-water mark;
	// the Peer's OnWritable is called when it is below the low one again.
	Blocked() bool
}

// Peer receives one exchange's incoming message from a codec.
type Peer interface {
	// OnHead delivers the head. On client streams 1xx heads may come first
	// (101 excepted, which is final). h is only valid during the call.
	OnHead(h *Head, end bool)
	// OnData delivers a piece of the body; p is only valid during the call.
	OnData(p []byte, end bool)
	// OnTrailers ends the message.
	OnTrailers(t *Head)
	// OnReset says that the exchange is over in both directions. detail is a
	// few plain words for the access log, or empty.
	OnReset(r Reset, detail string)
	// OnWritable says that Blocked has become false.
	OnWritable()
}

// Wire is what a codec sees of its connection.
type Wire interface {
	// Out lends the pending output for appending; SetOut gives it back. The
	// connection sends it at the end of the event or round. Nothing else on
	// the Wire may be called in between.
	Out() []byte
	SetOut(b []byte)
	// Write sends a larger piece, directly where possible; p is not kept.
	Write(p []byte)
	// Blocked reports whether output waits above the high-water mark;
	// Codec.OnWritable is called when it falls below the low one.
	Blocked() bool
	// PauseRead stops or resumes reading from the connection. Resuming may
	// deliver bytes later, never inside the call.
	PauseRead(stop bool)
	// Close closes after pending output was sent (bounded in time). The codec
	// gets no more bytes; OnClose is called once, later.
	Close()
	// Abort closes at once, with RST where possible. OnClose is called once, later.
	Abort()
	// CloseWrite half-closes after pending output was sent, keeping reading.
	CloseWrite()
	// Now is the loop's clock in nanoseconds, monotonic, cached per round.
	Now() int64
}

// Codec is driven by its connection.
type Codec interface {
	// OnBytes delivers received bytes, valid only during the call: what is not
	// consumed the codec must copy.
	OnBytes(p []byte)
	// OnEOF says that the peer has half-closed cleanly (TLS: close_notify).
	OnEOF()
	// OnWritable says that Wire.Blocked has become false.
	OnWritable()
	// OnClose says that the connection is gone; err is nil after a clean Close
	// by us. It is called exactly once and last.
	OnClose(err error)
}

// Acceptor is told of every request that a server codec has read the head of.
type Acceptor interface {
	// Accept returns the Peer that receives the rest of the request. It may
	// answer at once through s. h is only valid during the call, but may be
	// taken: see Head.Take.
	Accept(s Stream, h *Head, end bool) Peer
}
