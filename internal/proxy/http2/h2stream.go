package http2

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// h2stream is one stream. It implements stream.Stream. A zero c means that it
// has ended: calls are ignored.
type h2stream struct {
	c    *conn
	peer stream.Peer // nil: nobody listens any more
	id   uint32      // 0: a client's stream whose head was not sent

	head       bool // client: the final response head came; server: always
	tunnel     bool // CONNECT, or extended CONNECT that was accepted
	connect    bool // plain CONNECT
	extended   bool // extended CONNECT
	websocket  bool // of that protocol
	toHead     bool
	remoteEnd  bool // END_STREAM came
	headSent   bool
	localEnd   bool // our side ended its message
	localSent  bool // END_STREAM was sent
	paused     bool
	queued     bool // in the ready list
	waits      bool // in the waiting list
	doomed     bool // client: cannot be sent; its peer is told later
	pendEnd    bool // END_STREAM follows pend
	bulk       bool // carries a large body, one way or the other
	left       int64
	sendWindow int64
	recvWindow int64
	credit     int64 // taken of the window, not yet given back
	held       int64 // of credit, counted in conn.held
	moved      int64 // bytes of bodies, both ways

	pend  []byte       // body that waits for a window or for the wire
	off   int          // sent of pend
	late  *stream.Head // trailers that follow pend
	early *stream.Head // client: a head that waits for the peer's SETTINGS

	next, prev *h2stream // ready list; next: Set's resting list
}

// unsent reports whether anything waits to be sent.
func (s *h2stream) unsent() bool {
	return len(s.pend) > s.off || s.pendEnd || s.late != nil
}

// large notes that n bytes of body were moved, or will be.
func (s *h2stream) large(n int64) {
	if s.moved += max(n, 0); s.moved >= bulkSize && !s.bulk {
		s.bulk = true
		s.c.bulk++
	}
}

// SendHead implements stream.Stream.
func (s *h2stream) SendHead(h *stream.Head, end bool) {
	c := s.c
	if c == nil || c.closed || s.localEnd || s.headSent || s.doomed || s.early != nil {
		return
	}
	if c.srv != nil {
		c.sendResponse(s, h, end)
	} else {
		c.cli.sendRequest(s, h, end)
	}
}

// SendData implements stream.Stream.
func (s *h2stream) SendData(p []byte, end bool) {
	c := s.c
	if c == nil || c.closed || s.localEnd || s.doomed || !s.headSent && s.early == nil {
		return
	}
	if len(p) == 0 && !end {
		return
	}
	s.localEnd = end
	if s.early == nil && !s.unsent() && !(c.ready != nil && c.sendWindow <= 0) && !c.wire.Blocked() {
		p = c.sendData(s, p, end)
		if len(p) == 0 && (!end || s.localSent) {
			c.localEnded(s)
			return
		}
	}
	s.hold(p)
	s.pendEnd = end
	if s.early == nil {
		c.makeReady(s)
	}
	if len(s.pend)-s.off >= highWater {
		s.wait()
	}
	c.localEnded(s)
}

// SendTrailers implements stream.Stream.
func (s *h2stream) SendTrailers(t *stream.Head) {
	c := s.c
	if c == nil || c.closed || s.localEnd || s.doomed || !s.headSent && s.early == nil {
		return
	}
	s.localEnd = true
	switch {
	case s.unsent() || s.early != nil || c.wire.Blocked():
		s.late = c.set.head()
		s.late.CopyFrom(t)
		if s.early == nil {
			c.makeReady(s)
		}
	default:
		c.sendTrailers(s, t)
	}
	c.localEnded(s)
}

// Reset implements stream.Stream.
func (s *h2stream) Reset(r stream.Reset) {
	c := s.c
	if c == nil || s.localEnd && s.remoteEnd && !s.tunnel {
		return
	}
	if c.srv != nil && s.localEnd && !s.tunnel {
		return // the exchange is over; what is queued still goes out
	}
	e := internalError
	switch r {
	case stream.Refused:
		e = refusedStream
	case stream.Cancelled:
		e = cancel
	case stream.ProtocolError:
		e = protocolError
	case stream.Overflow:
		e = enhanceYourCalm
	default:
		switch {
		case c.cli != nil:
			e = cancel
		case s.connect:
			e = connectError
		}
	}
	c.reset(s, e)
	c.idleCheck()
}

// Pause implements stream.Stream.
func (s *h2stream) Pause(stop bool) {
	c := s.c
	if c == nil || c.closed || s.paused == stop {
		return
	}
	s.paused = stop
	if stop {
		return
	}
	c.held -= s.held
	s.held = 0
	s.giveCredit()
	if !c.running {
		c.giveCredit()
	}
}

// Blocked implements stream.Stream.
func (s *h2stream) Blocked() bool {
	if s.c == nil || s.c.closed || !s.blocked(highWater) {
		return false
	}
	s.wait()
	return true
}

func (s *h2stream) blocked(mark int) bool {
	return s.early != nil || len(s.pend)-s.off >= mark || s.c.wire.Blocked()
}

// wait asks for OnWritable.
func (s *h2stream) wait() {
	if !s.waits {
		s.waits = true
		s.c.waiting = append(s.c.waiting, s)
	}
}

// hold keeps a piece of the body for later.
func (s *h2stream) hold(p []byte) {
	switch {
	case len(p) == 0:
	case s.pend == nil:
		s.pend = s.c.set.hold(p)
	default:
		if s.off > 0 && s.off*2 >= len(s.pend) {
			s.pend = s.pend[:copy(s.pend, s.pend[s.off:])]
			s.off = 0
		}
		s.pend = append(s.pend, p...)
	}
}

// giveCredit returns what was taken of the stream's window once it is half of it.
func (s *h2stream) giveCredit() {
	c := s.c
	if s.paused || s.remoteEnd || s.id == 0 || s.credit < int64(c.lim.StreamWindow)/2 {
		return
	}
	o := appendFrame(c.wire.Out(), 4, frameWindow, 0, s.id)
	c.wire.SetOut(appendUint32(o, uint32(s.credit)))
	s.recvWindow += s.credit
	s.credit = 0
}
