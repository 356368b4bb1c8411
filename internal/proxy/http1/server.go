package http1

import (
	"bytes"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

type serverState uint8

const (
	readHead    serverState = iota // between requests, or in a head
	readBody                       // in a request's body
	awaitEnd                       // the request is read, its response has not ended
	awaitSwitch                    // upgrade or CONNECT, its response has not begun
	tunnel                         // raw bytes both ways
	discard                        // the response has ended before the request
	closed
)

// Server is the downstream side of one HTTP/1 connection. It implements
// stream.Codec.
type Server struct {
	wire stream.Wire
	acc  stream.Acceptor
	o    *ServerOptions

	state    serverState
	running  bool // in run
	draining bool
	eof      bool // the client has closed its sending side
	held     bool // reading is stopped for pipelined bytes
	paused   bool // reading is stopped by the exchange
	later    bool // Continue is due
	ahead    bool // while running: bytes follow the head just read
	over     bool // an exchange ended, OnIdle is due
	turn     uint8
	in       []byte // bytes not consumed yet
	seen     int    // how much of in was searched for the end of a head
	skipped  int    // bytes discarded after an early response
	body     body

	// Two exchanges in turn, so that a late call on a finished one does not
	// reach the next.
	ex [2]serverStream
}

// NewServer returns the codec of an accepted connection. o is shared, not copied.
func NewServer(wire stream.Wire, acc stream.Acceptor, o *ServerOptions) *Server {
	return &Server{wire: wire, acc: acc, o: o}
}

// Rest reports whether nothing of its connection is under way; then s has let
// go of it, and Adopt makes it that of another one.
func (s *Server) Rest() bool {
	if s.state != readHead || s.running || s.later || s.held || s.paused || s.eof || len(s.in) > 0 {
		return false
	}
	s.wire, s.acc, s.o = nil, nil, nil
	return true
}

// Adopt makes s, which rests, the codec of another connection.
func (s *Server) Adopt(wire stream.Wire, acc stream.Acceptor, o *ServerOptions) {
	s.wire, s.acc, s.o = wire, acc, o
	s.draining, s.over = false, false
}

// Acceptor returns what NewServer was given.
func (s *Server) Acceptor() stream.Acceptor { return s.acc }

// Idle reports whether no request is in progress, not even the first byte of one.
func (s *Server) Idle() bool {
	return s.state == readHead && len(s.in) == 0
}

// Active reports whether an exchange is in progress.
func (s *Server) Active() bool { return s.cur().live }

// Partial reports whether the client has begun something that it has not ended
// and that no exchange waits for: a request head, or the rest of a request that
// was answered already.
func (s *Server) Partial() bool {
	return s.state == readHead && len(s.in) > 0 || s.state == discard
}

// Drain makes the next response the last one of this connection. An idle
// connection stays open: its owner closes it when it sees fit.
func (s *Server) Drain() { s.draining = true }

// Reject ends a connection that is Partial, for instance by the owner's timer:
// a request whose head has not arrived completely is answered, which it
// reports. It does nothing once a request was accepted.
func (s *Server) Reject(status int) (answered bool) {
	switch s.state {
	case readHead:
		s.answer(status)
		return true
	case discard:
		s.close()
	}
	return false
}

// OnBytes implements stream.Codec.
func (s *Server) OnBytes(p []byte) {
	if s.state == closed {
		return
	}
	if len(s.in) > 0 {
		s.in = append(s.in, p...)
		p = s.in
	}
	s.run(p)
}

// Continue reads what waited for a response; see ServerOptions.Later.
func (s *Server) Continue() {
	s.later = false
	if !s.running && (s.state == readHead || s.state == tunnel) {
		s.run(s.in)
	}
}

// OnEOF implements stream.Codec.
func (s *Server) OnEOF() {
	s.eof = true
	switch s.state {
	case closed:
	case tunnel:
		if !s.later {
			s.cur().endRequest(nil)
			s.settle()
		}
	case readHead:
		if !s.later || !s.o.HalfClose {
			s.close()
		}
	case awaitEnd:
		if !s.o.HalfClose { // else settle closes
			s.lost("downstream closed before the response ended")
		}
	case awaitSwitch:
		s.lost("downstream closed before the response began")
	default:
		s.lost("downstream closed within the request")
	}
}

// OnWritable implements stream.Codec.
func (s *Server) OnWritable() {
	if x := s.cur(); x.live && !x.respEnd && x.peer != nil {
		x.peer.OnWritable()
	}
}

// OnClose implements stream.Codec.
func (s *Server) OnClose(err error) {
	s.state = closed
	s.release()
	if x := s.cur(); x.broken {
		x.reset(stream.ProtocolError, "response differs from what its head promised")
	} else {
		x.reset(stream.ConnectionLost, "downstream connection lost")
	}
}

func (s *Server) cur() *serverStream { return &s.ex[s.turn] }

// lost closes after the client went away.
func (s *Server) lost(detail string) {
	s.close()
	s.cur().reset(stream.ConnectionLost, detail)
}

func (s *Server) close() {
	if s.state != closed {
		s.state = closed
		s.release()
		s.wire.Close()
	}
}

func (s *Server) abort() {
	if s.state != closed {
		s.state = closed
		s.release()
		s.wire.Abort()
	}
}

// release gives the input buffer back, unless run still reads from it.
func (s *Server) release() {
	if !s.running {
		s.o.Set.drop(s.in)
		s.in = nil
	}
}

// run reads what p allows and keeps the rest. p is either s.in or bytes of
// the connection while s.in is empty.
func (s *Server) run(p []byte) {
	s.running = true
	own := len(s.in) > 0
	n := 0
	for s.state != closed {
		k, more := s.step(p[n:])
		n += k
		if !more {
			break
		}
	}
	s.running = false
	rest := p[n:]
	switch {
	case s.state == closed || len(rest) == 0:
		s.release()
	case own:
		s.in = append(s.in[:0], rest...)
	default:
		s.in = s.o.Set.hold(rest)
	}
	if s.state == closed {
		return
	}
	s.hold()
	if s.eof {
		s.OnEOF()
	}
	s.idle()
}

// hold stops reading while too much waits for a response to end. What is kept of
// a head or of trailers waits for its own rest.
func (s *Server) hold() {
	h := len(s.in) >= maxAhead && s.state != readHead && s.state != readBody && s.state != discard
	if h != s.held {
		s.held = h
		s.wire.PauseRead(s.held || s.paused)
	}
}

// step makes one step of reading. more says that another may follow at once.
func (s *Server) step(p []byte) (n int, more bool) {
	switch s.state {
	case readHead:
		return s.readHead(p)
	case readBody, discard:
		return s.readBody(p)
	case tunnel:
		if len(p) > 0 {
			s.cur().data(p, false)
		}
		return len(p), false
	}
	return 0, false
}

func (s *Server) readHead(p []byte) (n int, more bool) {
	from := s.seen
	if from == 0 { // RFC 9112 2.2: an empty line or two before a request
		for n < 4 && len(p)-n >= 2 && p[n] == '\r' && p[n+1] == '\n' {
			n += 2
		}
		if p = p[n:]; len(p) == 0 || len(p) == 1 && p[0] == '\r' {
			return n, false
		}
	}
	maxHead := s.o.Limits.head()
	if from == 0 && len(p) <= min(maxHead, wholeHead) && bytes.HasSuffix(p, emptyLine) {
		var f framing
		h := s.o.Set.head()
		err := s.parse(h, p, &f)
		if err == nil {
			s.ahead = false
			s.accept(h, &f)
		}
		s.o.Set.putHead(h)
		if err == nil {
			return n + len(p), true
		}
	}
	e := headEnd(p, from)
	if e == 0 || e > maxHead {
		err := early(p, from, maxHead)
		if err == nil && e > 0 {
			err = badLongHead
		}
		if err == nil && from == 0 {
			err = earlyMethod(p)
		}
		if err != nil {
			s.refuse(err)
		}
		s.seen = len(p)
		return n, false
	}
	s.seen, s.ahead = 0, len(p) > e
	var f framing
	h := s.o.Set.head()
	if err := s.parse(h, p[:e], &f); err != nil {
		s.refuse(err)
	} else {
		s.accept(h, &f)
	}
	s.o.Set.putHead(h)
	return n + e, true
}

// Mostly a request is all that was received. When bytes end like a head they
// are read as one; an empty line within them makes that fail. Bounded, because
// the bytes of pipelined requests are read twice so.
const wholeHead = 2 << 10

var emptyLine = []byte("\r\n\r\n")

// parse reads a complete head.
func (s *Server) parse(h *stream.Head, raw []byte, f *framing) *bad {
	err := parseRequest(h, raw, f, s.o.Limits.fields())
	if err == nil && h.Version == 10 && !s.o.AcceptHTTP10 {
		err = badOldVersion
	}
	return err
}

// accept begins the exchange of a complete head.
func (s *Server) accept(h *stream.Head, f *framing) {
	if s.o.Scheme == "" {
		h.Scheme = h.KeepString("http")
	} else {
		h.Scheme = h.KeepString(s.o.Scheme)
	}
	s.turn ^= 1
	x := s.cur()
	*x = serverStream{s: s, live: true, version: h.Version}
	s.over = false
	x.close = f.close || h.Version == 10 && !f.keepAlive
	x.keepAlive = h.Version == 10 && !x.close
	x.toHead = string(h.Method) == "HEAD"
	x.connect = string(h.Method) == "CONNECT"
	x.expect = f.expect && h.Version == 11 && h.Body
	s.setUpgrade(x, h, f)
	s.body = body{left: f.length}
	switch {
	case x.connect || x.upgrade:
		s.state = awaitSwitch
	case f.chunked:
		s.body.kind, s.body.left, s.state = chunkedBody, 0, readBody
	case f.length > 0:
		s.body.kind, s.state = sizedBody, readBody
	default:
		s.state, x.reqEnd = awaitEnd, true
	}
	peer := s.acc.Accept(x, h, x.reqEnd)
	if x.live {
		x.peer = peer
	}
	s.settle()
}

// setUpgrade takes up an Upgrade that we pass on.
func (s *Server) setUpgrade(x *serverStream, h *stream.Head, f *framing) {
	if !f.upgrade || f.token == nil || h.Version != 11 || h.Body || x.connect {
		return
	}
	for v := f.token; len(v) > 0; {
		var t []byte
		t, v = nextToken(v)
		if len(s.o.Upgrades) == 0 && fold(t, "websocket") || s.listed(t) {
			h.Protocol = h.KeepLower(t)
			x.upgrade = true
			if len(f.wsKey) == len(x.wsKey) {
				copy(x.wsKey[:], f.wsKey)
			}
			return
		}
	}
}

func (s *Server) listed(t []byte) bool {
	for _, u := range s.o.Upgrades {
		if fold(t, u) {
			return true
		}
	}
	return false
}

// readBody reads a request's body, for the exchange or to discard it.
func (s *Server) readBody(p []byte) (n int, more bool) {
	d, n, end, trailers, err := s.body.next(p)
	if err != nil {
		s.refuse(err)
		return n, false
	}
	x := s.cur()
	if s.state == discard {
		if s.skipped += n; s.skipped > maxDiscard {
			s.close()
			return n, false
		}
	}
	if trailers {
		k, ended := s.readTrailers(p[n:])
		return n + k, ended
	}
	if end {
		x.endRequest(d)
		s.settle()
		return n, true
	}
	if len(d) > 0 {
		x.data(d, false)
	}
	return n, n < len(p)
}

func (s *Server) readTrailers(p []byte) (n int, ended bool) {
	n, err := trailerEnd(p, s.seen, s.o.Limits.head())
	if n == 0 && err == nil {
		s.seen = len(p)
		return 0, false
	}
	s.seen = 0
	x := s.cur()
	if n == 2 {
		x.endRequest(nil)
		s.settle()
		return n, true
	}
	h := s.o.Set.head()
	defer s.o.Set.putHead(h)
	if err == nil {
		err = parseTrailers(h, p[:n], s.o.Limits.fields())
	}
	if err != nil {
		s.refuse(err)
		return n, false
	}
	x.reqEnd = true
	if x.live && x.peer != nil && !x.respEnd {
		x.peer.OnTrailers(h)
	}
	s.settle()
	return n, true
}

// settle moves on when an exchange's response, or both of its sides, ended.
func (s *Server) settle() {
	x := s.cur()
	if s.state == closed || !x.live {
		return
	}
	if s.state == tunnel {
		if x.respEnd && x.reqEnd {
			x.live = false
			s.close()
		}
		return
	}
	if x.reqEnd && s.state == readBody {
		s.state = awaitEnd
	}
	if !x.respEnd {
		return
	}
	if s.state == awaitSwitch { // refused: what came behind the head is unclear
		x.reqEnd = true
		x.close = x.close || s.pending()
	}
	if !x.reqEnd {
		// The rest of the request has no reader any more. A client that waits
		// for 100 may or may not send it: only closing is clear (RFC 9110 10.1.1).
		if x.close || x.expect || s.eof || s.body.kind == sizedBody && s.body.left > maxDiscard {
			x.live = false
			s.close()
			return
		}
		if s.state != discard {
			s.state, s.skipped = discard, 0
			s.unpause()
		}
		return
	}
	x.live = false
	x.peer = nil
	if x.close || s.eof && len(s.in) == 0 {
		s.close()
		return
	}
	s.state, s.seen, s.over = readHead, 0, true
	s.unpause()
	if !s.running {
		s.proceed()
	}
}

// proceed reads on after a response that ended, or a switch that came,
// outside run.
func (s *Server) proceed() {
	switch {
	case len(s.in) == 0:
		s.idle()
	case s.o.Later != nil:
		s.later = true
		s.o.Later(s)
	default:
		s.run(s.in)
	}
}

// pending reports whether bytes wait behind what was read.
func (s *Server) pending() bool {
	if s.running {
		return s.ahead
	}
	return len(s.in) > 0
}

// idle tells the owner that an exchange ended and nothing followed.
func (s *Server) idle() {
	if s.over && s.Idle() {
		s.over = false
		if s.o.OnIdle != nil {
			s.o.OnIdle(s)
		}
	}
}

func (s *Server) unpause() {
	if s.paused {
		s.paused = false
		s.wire.PauseRead(s.held)
	}
}

// refuse ends the connection over a malformed request.
func (s *Server) refuse(err *bad) {
	x := s.cur()
	if x.live {
		begun := x.respBegun
		x.reset(stream.ProtocolError, err.text)
		if begun {
			s.tell(err)
			s.abort()
			return
		}
	}
	s.tell(err)
	if s.state == discard {
		s.close()
		return
	}
	s.answer(err.status)
}

func (s *Server) tell(err *bad) {
	if s.o.OnBadRequest != nil {
		s.o.OnBadRequest(s, err.status, err.text)
	}
}

// answer sends a minimal response and closes.
func (s *Server) answer(status int) {
	if s.state == closed {
		return
	}
	text := Reason(status)
	o := append(s.wire.Out(), "HTTP/1.1 "...)
	o = strconv.AppendInt(o, int64(status), 10)
	o = append(o, ' ')
	o = append(o, text...)
	o = append(o, "\r\n"...)
	o = appendLength(o, int64(len(text)))
	o = append(o, "content-type: text/plain\r\nconnection: close\r\n\r\n"...)
	s.wire.SetOut(append(o, text...))
	s.close()
}
