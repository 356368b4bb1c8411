package http2

import (
	"github.com/tulle-mesh/tulle/internal/proxy/http2/hpack"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// conn is what both sides share: frames, compression, flow control, streams.
// Exactly one of srv and cli is set.
type conn struct {
	wire stream.Wire
	set  *Set
	lim  Limits
	srv  *Server
	cli  *Client

	streams streamTable
	in      []byte // a frame that has come in part
	preface int    // bytes of the client's preface still to come
	running bool   // in OnBytes
	closed  bool   // nothing is read or written any more
	greeted bool   // the peer's first SETTINGS came

	// A field block that has come in part.
	block    []byte
	blockID  uint32
	blockEnd bool // END_STREAM

	dec hpack.Decoder
	enc hpack.Encoder

	// What we may send.
	sendWindow int64
	peerWindow int64 // initial window of streams
	frameMax   int
	peerMax    uint32 // streams
	extended   bool   // the peer takes extended CONNECT
	ready      *h2stream
	readyTail  *h2stream
	waiting    []*h2stream // were told Blocked, wait for OnWritable
	spare      []*h2stream

	// What the peer may send.
	lenient    bool  // our stream window is smaller than the default and not acknowledged
	recvWindow int64 // left of the connection's window
	credit     int64 // taken, not yet given back
	held       int64 // of paused streams
	bulk       int   // streams with large bodies

	lastID    uint32 // highest stream of the peer that we took up
	nextID    uint32 // our next stream
	goneLast  uint32 // what the peer's GOAWAY named
	goneAway  bool   // the peer sent GOAWAY
	leaving   uint8  // our GOAWAY: 0 none, 1 announced, 2 final
	forgotten [64]uint32
	forget    uint8 // next place in forgotten: streams that we reset, whose frames may still come

	tokens  int64 // of the flood limit
	tokenAt int64
	opened  uint32 // streams of the peer, and
	resets  uint32 // those it reset before their end; halved now and then

	// What Limits.Floods bounds.
	outFrames, outControl int // written while the wire is blocked
	empty                 int // in a row
	priorities, windows   int64
	begun, dataSent       int64 // streams of either side, DATA frames
}

func (c *conn) init(wire stream.Wire, set *Set, lim Limits) {
	c.wire, c.set, c.lim = wire, set, lim.filled()
	c.sendWindow, c.peerWindow, c.frameMax = defaultWindow, defaultWindow, frameSize
	c.peerMax = 1 << 31
	c.recvWindow = int64(c.lim.ConnWindow)
	c.tokens, c.tokenAt = floodBurst, wire.Now()
}

// greet sends our SETTINGS and opens the connection's window.
func (c *conn) greet(o []byte) {
	at := len(o)
	o = appendFrame(o, 0, frameSettings, 0, 0)
	if c.cli != nil {
		o = appendSetting(o, setPush, 0)
	} else {
		o = appendSetting(o, setMaxStreams, c.lim.MaxStreams)
		if !c.srv.o.NoExtendedConnect {
			o = appendSetting(o, setConnect, 1)
		}
	}
	o = appendSetting(o, setWindow, c.lim.StreamWindow)
	o = appendSetting(o, setMaxHead, c.lim.MaxHead)
	patchFrame(o[at:], len(o)-at-9)
	if n := c.lim.ConnWindow - defaultWindow; n > 0 {
		o = appendFrame(o, 4, frameWindow, 0, 0)
		o = appendUint32(o, uint32(n))
	}
	c.wire.SetOut(o)
}

// OnBytes implements stream.Codec.
func (c *conn) OnBytes(p []byte) {
	if c.closed {
		return
	}
	c.running = true
	for len(p) > 0 && !c.closed {
		if c.preface > 0 {
			p = c.readPreface(p)
			continue
		}
		if len(c.in) > 0 {
			p = c.fillFrame(p)
			continue
		}
		n := frameLen(p)
		if n > 9+frameSize {
			c.fault(frameSizeError, "frame too large")
			break
		}
		if n == 0 || len(p) < n {
			c.in = c.set.hold(p)
			break
		}
		c.onFrame(p[:n])
		p = p[n:]
		c.overfull()
	}
	c.running = false
	if len(c.in) == 0 || c.closed {
		c.release()
	}
	if !c.closed {
		c.pump()
		c.settle()
	}
}

// frameLen returns the length of the frame at the start of p with its header,
// 0 when not even that is complete.
func frameLen(p []byte) int {
	if len(p) < 9 {
		return 0
	}
	return 9 + int(p[0])<<16 + int(p[1])<<8 + int(p[2])
}

// fillFrame completes the frame in c.in from p and returns the rest of p.
func (c *conn) fillFrame(p []byte) []byte {
	want := 9
	if n := frameLen(c.in); n > 0 {
		want = n
	}
	k := min(want-len(c.in), len(p))
	c.in = append(c.in, p[:k]...)
	n := frameLen(c.in)
	switch {
	case n > 9+frameSize:
		c.fault(frameSizeError, "frame too large")
	case n > 0 && len(c.in) == n:
		c.onFrame(c.in)
		c.in = c.in[:0]
		c.overfull()
	}
	return p[k:]
}

func (c *conn) readPreface(p []byte) []byte {
	k := min(c.preface, len(p))
	at := len(Preface) - c.preface
	if string(p[:k]) != Preface[at:at+k] {
		c.fault(protocolError, "no http/2 preface")
		return nil
	}
	c.preface -= k
	return p[k:]
}

func (c *conn) release() {
	if !c.running {
		c.set.drop(c.in)
		c.in = nil
	}
}

// OnEOF implements stream.Codec.
func (c *conn) OnEOF() { c.end("peer closed the connection", stream.ConnectionLost, false, nil) }

// OnWritable implements stream.Codec.
func (c *conn) OnWritable() {
	if !c.closed {
		c.pump()
		c.settle()
	}
}

// OnClose implements stream.Codec.
func (c *conn) OnClose(err error) {
	if !c.closed {
		c.closed = true
		c.finish("connection lost", stream.ConnectionLost, err)
	}
	if c.cli != nil {
		c.cli.tellClosed(err)
	}
}

// fault ends the connection over what the peer did (RFC 9113 5.4.1).
func (c *conn) fault(e code, detail string) {
	if c.closed {
		return
	}
	o := appendFrame(c.wire.Out(), 8+len(detail), frameGoAway, 0, 0)
	o = appendUint32(o, c.lastID)
	o = appendUint32(o, uint32(e))
	c.wire.SetOut(append(o, detail...))
	if c.srv != nil && c.srv.o.OnFault != nil {
		c.srv.o.OnFault(c.srv, detail)
	}
	c.end(detail, stream.ProtocolError, false, &faultError{e, detail})
}

// faultError is what a client's OnGone gets.
type faultError struct {
	code   code
	detail string
}

func (e *faultError) Error() string { return "http/2: " + e.code.String() + ": " + e.detail }

// end closes the connection and resets what is in progress.
func (c *conn) end(detail string, r stream.Reset, abort bool, err error) {
	if c.closed {
		return
	}
	c.closed = true
	if abort {
		c.wire.Abort()
	} else {
		c.wire.Close()
	}
	c.finish(detail, r, err)
}

// finish resets all streams of a connection that has ended.
func (c *conn) finish(detail string, r stream.Reset, err error) {
	c.release()
	c.set.drop(c.block)
	c.block = nil
	if c.cli != nil {
		c.cli.tellGone(err)
	}
	for _, s := range c.streams.all(nil) {
		if s.c != c {
			continue // ended by an earlier one's OnReset
		}
		why := r
		if c.cli != nil && (s.id > c.goneLast && c.goneAway) {
			why = stream.Refused
		}
		c.lose(s, why, detail)
	}
	for c.cli != nil && len(c.cli.unborn) > 0 {
		c.lose(c.cli.unborn[0], stream.Refused, detail) // nothing of it was sent
	}
}

// lose ends a stream for its peer; nothing is sent.
func (c *conn) lose(s *h2stream, r stream.Reset, detail string) {
	p := s.peer
	c.drop(s)
	if p != nil {
		p.OnReset(r, detail)
	}
}

// drop forgets a stream. It may not be used after that.
func (c *conn) drop(s *h2stream) {
	if s.id != 0 {
		c.streams.del(s.id)
	} else if c.cli != nil {
		c.cli.born(s)
	}
	c.unready(s)
	c.held -= s.held
	if s.bulk {
		c.bulk--
	}
	c.set.drop(s.pend)
	if s.late != nil {
		c.set.putHead(s.late)
	}
	if s.early != nil {
		c.set.putHead(s.early)
	}
	if c.cli != nil {
		c.cli.open--
		c.cli.freed = true
	}
	c.set.putStream(s)
}

// reset ends a stream with RST_STREAM.
func (c *conn) reset(s *h2stream, e code) {
	if s.id != 0 && !c.closed {
		c.writeReset(s.id, e)
		c.forgotten[c.forget] = s.id
		c.forget = (c.forget + 1) % uint8(len(c.forgotten))
	}
	c.drop(s)
}

func (c *conn) writeReset(id uint32, e code) {
	c.queued(true)
	o := appendFrame(c.wire.Out(), 4, frameReset, 0, id)
	c.wire.SetOut(appendUint32(o, uint32(e)))
}

// queued counts a frame for a peer that may not be reading. What comes of it
// OnBytes settles: this may be within a Peer's own call.
func (c *conn) queued(control bool) {
	if !c.wire.Blocked() {
		c.outFrames, c.outControl = 0, 0
		return
	}
	if c.outFrames++; control {
		c.outControl++
	}
}

// overfull ends the connection of a peer that asks on and does not read.
func (c *conn) overfull() {
	if c.outFrames > c.lim.Floods.OutFrames || c.outControl > c.lim.Floods.OutControl {
		c.fault(enhanceYourCalm, "too many frames wait for a peer that does not read")
	}
}

// wasReset reports whether we reset that stream lately: its frames may still
// be under way.
func (c *conn) wasReset(id uint32) bool {
	for _, f := range c.forgotten {
		if f == id {
			return true
		}
	}
	return false
}

// streamFault answers a peer's mistake that concerns one stream only
// (RFC 9113 5.4.2).
func (c *conn) streamFault(s *h2stream, e code, detail string) {
	p := s.peer
	c.reset(s, e)
	if p != nil {
		p.OnReset(stream.ProtocolError, detail)
	}
	if c.srv != nil && !c.closed {
		c.srv.wasted()
	}
}

// spend takes tokens of the flood limit; false: the connection was ended.
func (c *conn) spend(n int64) bool {
	c.tokens -= n
	if c.tokens >= 0 {
		return true
	}
	now := c.wire.Now()
	c.tokens = min(floodBurst, c.tokens+(now-c.tokenAt)*floodRate/1e9)
	c.tokenAt = now
	if c.tokens >= 0 {
		return true
	}
	c.fault(enhanceYourCalm, "flood of frames that carry nothing")
	return false
}

func (c *conn) earn(n int64) { c.tokens = min(floodBurst, c.tokens+n) }

// settle does what is due after an event: credit, hooks, the end of a drained
// connection.
func (c *conn) settle() {
	if c.closed {
		return
	}
	c.giveCredit()
	if c.srv != nil {
		c.srv.settle()
	} else {
		c.cli.settle()
	}
}

// giveCredit returns what was taken of the connection's window, once it is
// half of it and paused streams do not hold too much.
func (c *conn) giveCredit() {
	if c.closed || c.credit < int64(c.lim.ConnWindow)/2 || c.held > int64(c.lim.MaxHeld) {
		return
	}
	o := appendFrame(c.wire.Out(), 4, frameWindow, 0, 0)
	c.wire.SetOut(appendUint32(o, uint32(c.credit)))
	c.recvWindow += c.credit
	c.credit = 0
}
