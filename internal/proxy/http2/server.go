package http2

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// Server is the downstream side of one HTTP/2 connection. It implements
// stream.Codec.
type Server struct {
	conn
	acc    stream.Acceptor
	o      *ServerOptions
	active bool // OnIdle is due when no stream is left
}

// NewServer returns the codec of an accepted connection; it sends our SETTINGS.
// o is shared, not copied.
func NewServer(wire stream.Wire, acc stream.Acceptor, o *ServerOptions) *Server {
	s := &Server{acc: acc, o: o}
	s.init(wire, o.Set, o.Limits)
	s.srv = s
	s.preface = len(Preface)
	s.lenient = s.lim.StreamWindow < defaultWindow
	s.greet(wire.Out())
	return s
}

// Idle reports whether no stream is in progress.
func (s *Server) Idle() bool { return s.streams.n == 0 && s.blockID == 0 }

// Partial reports whether the peer has begun something that it has not ended
// and on which nothing can be done yet: its preface, or a field block.
func (s *Server) Partial() bool {
	return s.preface > 0 || s.blockID != 0 || s.streams.n == 0 && len(s.in) > 0
}

// Active returns how many streams are in progress.
func (s *Server) Active() int { return s.streams.n }

// Drain tells the client to open no more streams (RFC 9113 6.8: first with
// the highest stream id, then, when the client has seen that, with the last
// one taken up: see Leave) and closes when those in progress have ended.
func (s *Server) Drain() {
	if s.leaving > 0 || s.closed {
		return
	}
	s.leaving = 1
	s.goAway(1<<31 - 1)
	s.ping(pingDrain)
}

func (s *Server) goAway(last uint32) {
	o := appendFrame(s.wire.Out(), 8, frameGoAway, 0, 0)
	o = appendUint32(o, last)
	s.wire.SetOut(appendUint32(o, uint32(noError)))
}

// drained comes when the client has seen the first GOAWAY.
func (s *Server) drained() {
	switch {
	case s.leaving != 1:
	case s.o.OnSeen != nil:
		s.o.OnSeen(s)
	default:
		s.leave()
	}
}

// Leave takes up no more streams of a client that has seen Drain's first GOAWAY.
func (s *Server) Leave() {
	if s.leaving == 1 && !s.closed {
		s.leave()
		s.settle()
	}
}

func (s *Server) leave() {
	s.leaving = 2
	s.goAway(s.lastID)
}

// settle closes a drained connection and tells of idleness.
func (s *Server) settle() {
	if s.streams.n > 0 {
		return
	}
	if s.leaving == 2 {
		s.end("", stream.NoReset, false, nil)
		return
	}
	if s.active {
		s.active = false
		if s.o.OnIdle != nil {
			s.o.OnIdle(s)
		}
	}
}

// onList takes a decoded field block; x is its stream, nil when there is none.
func (s *Server) onList(x *h2stream, id uint32, end bool, l *fieldList) {
	if x != nil {
		s.onTrailers(x, end, l)
		return
	}
	if id <= s.lastID {
		if s.wasReset(id) {
			s.spend(1)
		} else {
			s.fault(streamClosed, "headers on a closed stream")
		}
		return
	}
	if s.leaving == 2 {
		return // opened after our GOAWAY: it will be sent again elsewhere
	}
	s.lastID = id
	s.begun++
	if s.opened++; s.opened >= 1<<14 {
		s.opened, s.resets = s.opened/2, s.resets/2
	}
	s.earn(4)
	if s.streams.n >= s.lim.MaxStreams {
		s.refuse(id, refusedStream)
		return
	}
	if l.bad == nil {
		l.bad = l.request(s.o.Scheme, !s.o.NoExtendedConnect)
	}
	if l.bad == nil && end && l.h.Length > 0 {
		l.bad = badLengthEnd
	}
	switch {
	case l.bad == tooLarge:
		s.answerTooLarge(id, end)
	case l.bad != nil:
		s.tell(400, l.bad.text)
		s.refuse(id, protocolError)
	default:
		s.accept(id, end, l)
	}
}

func (s *Server) accept(id uint32, end bool, l *fieldList) {
	h := l.h
	x := s.set.newStream()
	x.c, x.id, x.head = &s.conn, id, true
	x.connect = l.pseudo&hasScheme == 0
	x.extended = l.pseudo&hasProtocol != 0
	x.toHead = string(h.Method) == "HEAD"
	x.remoteEnd = end
	x.left = h.Length
	x.sendWindow, x.recvWindow = s.peerWindow, int64(s.lim.StreamWindow)
	if s.lenient {
		x.recvWindow = defaultWindow
	}
	if x.connect || x.extended {
		h.Length, x.left = -1, -1
		h.Del("content-length")
	}
	h.Version, h.Body = 20, !end
	s.streams.put(x)
	s.active = true
	p := s.acc.Accept(x, h, end)
	if x.c == &s.conn && x.id == id && !(x.localEnd && !x.tunnel) {
		x.peer = p
	}
}

// refuse resets a stream that was not taken up. Each counts as a reset of the
// peer's: a client that sends nothing else is not worth its connection.
func (s *Server) refuse(id uint32, e code) {
	s.writeReset(id, e)
	s.forgotten[s.forget] = id
	s.forget = (s.forget + 1) % uint8(len(s.forgotten))
	s.wasted()
}

// Reject answers a request whose head has begun and does not end, and says
// goodbye, since nothing can be read before that head ends. It reports whether
// there is such a request. The caller closes the connection.
func (s *Server) Reject(status int) bool {
	id := s.blockID
	if s.closed || id <= s.lastID || s.leaving == 2 {
		return false
	}
	s.lastID = id
	at, o := s.beginBlock(id)
	o = s.enc.Status(o, status)
	o = s.enc.Append(o, nameLength, []byte("0"))
	s.endBlock(o, at, id, true)
	s.queued(false)
	s.goAway(id)
	return true
}

// wasted counts a stream that ended in a reset, whoever sent it.
func (s *Server) wasted() {
	if s.resets++; s.resets >= resetFloor && s.resets > s.opened/2 {
		s.fault(enhanceYourCalm, "too many streams reset")
	}
}

// answerTooLarge answers 431 (RFC 6585 5).
func (s *Server) answerTooLarge(id uint32, end bool) {
	s.tell(431, tooLarge.text)
	at, o := s.beginBlock(id)
	o = s.enc.Status(o, 431)
	o = s.enc.Append(o, nameLength, []byte("0"))
	s.endBlock(o, at, id, true)
	s.queued(false)
	if !end {
		s.refuse(id, noError)
	} else {
		s.wasted()
	}
}

func (s *Server) tell(status int, detail string) {
	if s.o.OnBadRequest != nil {
		s.o.OnBadRequest(s, status, detail)
	}
}
