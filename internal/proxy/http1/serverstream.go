package http1

import (
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// serverStream is one exchange of a Server. It implements stream.Stream.
type serverStream struct {
	s    *Server
	peer stream.Peer
	out  outBody

	live      bool // not reset, not over
	broken    bool // the connection was broken off in the middle of the response
	version   uint8
	close     bool // the connection ends with this exchange
	keepAlive bool // say so, to HTTP/1.0
	toHead    bool
	connect   bool
	upgrade   bool
	expect    bool // waits for 100
	reqEnd    bool
	respBegun bool
	respEnd   bool
	wsKey     [24]byte
}

// SendHead implements stream.Stream.
func (x *serverStream) SendHead(h *stream.Head, end bool) {
	if !x.live || x.broken || x.respBegun {
		return
	}
	s := x.s
	if h.Status < 200 && h.Status != 101 {
		x.interim(h)
		return
	}
	x.respBegun = true
	if h.Status == 101 && x.upgrade || x.connect && h.Status >= 200 && h.Status < 300 {
		x.switchOver(h, end)
		return
	}
	if h.Status < 200 { // 101 that nobody asked for: not a response we can send
		x.fail()
		return
	}
	if s.draining || s.eof && !s.pending() || x.expect && !x.reqEnd || s.state == awaitSwitch && s.pending() {
		x.close = true
	}
	o := appendStatus(s.wire.Out(), x.version, h)
	o = x.frame(o, h, end)
	s.wire.SetOut(append(o, "\r\n"...))
	if end {
		x.ended()
	}
}

// frame appends the fields and settles how the body travels.
func (x *serverStream) frame(o []byte, h *stream.Head, end bool) []byte {
	length := h.Length
	bodyless := x.toHead || h.Status == 204 || h.Status == 304
	switch {
	case h.Status == 204:
		length = -1
	case end && !bodyless:
		length = 0
	}
	o, with := appendFields(o, h.Fields, length)
	switch {
	case length >= 0:
		if !with {
			o = appendLength(o, length)
		}
		x.out = outBody{kind: sizedBody, left: length}
	case bodyless:
	case x.version == 11:
		o = append(o, "transfer-encoding: chunked\r\n"...)
		x.out = outBody{kind: chunkedBody}
	default:
		x.close = true
		x.out = outBody{kind: untilClose}
	}
	if bodyless {
		x.out = outBody{kind: noBody}
	}
	if x.close {
		o = append(o, "connection: close\r\n"...)
	} else if x.keepAlive {
		o = append(o, "connection: keep-alive\r\n"...)
	}
	return o
}

// interim sends a 1xx head; HTTP/1.0 knows none.
func (x *serverStream) interim(h *stream.Head) {
	if h.Status < 100 || x.version == 10 {
		return
	}
	if h.Status == 100 {
		x.expect = false
	}
	w := x.s.wire
	o := appendStatus(w.Out(), 11, h)
	o, _ = appendFields(o, h.Fields, -1)
	w.SetOut(append(o, "\r\n"...))
}

// switchOver turns the connection into a tunnel.
func (x *serverStream) switchOver(h *stream.Head, end bool) {
	s := x.s
	o := appendStatus(s.wire.Out(), x.version, h)
	o, _ = appendFields(o, h.Fields, -1)
	if x.upgrade {
		o = append(o, "connection: Upgrade\r\nupgrade: "...)
		if len(h.Protocol) > 0 && isToken(h.Protocol) {
			o = append(o, h.Protocol...)
		} else {
			o = append(o, "websocket"...)
		}
		o = append(o, "\r\n"...)
		if x.wsKey[0] != 0 && !h.Has("sec-websocket-accept") {
			o = append(o, "sec-websocket-accept: "...)
			o = appendAccept(o, x.wsKey[:])
			o = append(o, "\r\n"...)
		}
	}
	s.wire.SetOut(append(o, "\r\n"...))
	x.out = outBody{kind: rawBody}
	s.state = tunnel
	if end {
		x.ended()
	}
	if !s.running && s.state == tunnel {
		s.proceed()
	}
}

// SendData implements stream.Stream.
func (x *serverStream) SendData(p []byte, end bool) {
	if !x.live || x.broken || !x.respBegun || x.respEnd {
		return
	}
	if !x.out.send(x.s.wire, p, end) {
		x.fail()
		return
	}
	if end {
		x.ended()
	}
}

// SendTrailers implements stream.Stream.
func (x *serverStream) SendTrailers(t *stream.Head) {
	if !x.live || x.broken || !x.respBegun || x.respEnd {
		return
	}
	w := x.s.wire
	switch x.out.kind {
	case chunkedBody:
		w.SetOut(appendTrailers(w.Out(), t))
	case sizedBody:
		if x.out.left > 0 {
			x.fail()
			return
		}
	}
	x.ended()
}

// ended notes the end of the response.
func (x *serverStream) ended() {
	x.respEnd = true
	s := x.s
	if s.state == tunnel {
		if !x.reqEnd {
			s.wire.CloseWrite()
		}
	}
	s.settle()
}

// fail breaks the connection over a response that cannot be kept whole. The
// peer learns it from OnClose, not within its own call.
func (x *serverStream) fail() {
	x.broken = true
	x.s.abort()
}

// Reset implements stream.Stream. A response that has begun never gets a
// clean end by it.
func (x *serverStream) Reset(r stream.Reset) {
	if !x.live {
		return
	}
	x.live, x.peer = false, nil
	switch x.out.kind {
	case untilClose, rawBody:
		x.s.abort() // a FIN would be a clean end there
	default:
		x.s.close() // what is missing shows by the framing
	}
}

// Pause implements stream.Stream.
func (x *serverStream) Pause(stop bool) {
	s := x.s
	if !x.live || s.paused == stop || s.state == closed || s.state == discard {
		return
	}
	s.paused = stop
	s.wire.PauseRead(s.held || s.paused)
}

// Blocked implements stream.Stream.
func (x *serverStream) Blocked() bool { return x.live && x.s.wire.Blocked() }

// data delivers a piece of the request.
func (x *serverStream) data(p []byte, end bool) {
	if x.live && !x.broken && !x.respEndedEarly() && x.peer != nil {
		x.peer.OnData(p, end)
	}
}

// respEndedEarly: the exchange is over for the peer although its request is not.
func (x *serverStream) respEndedEarly() bool { return x.respEnd && x.s.state != tunnel }

// endRequest delivers the last piece, which may be empty.
func (x *serverStream) endRequest(p []byte) {
	if x.reqEnd {
		return
	}
	x.reqEnd = true
	x.data(p, true)
}

// reset ends the exchange for its peer.
func (x *serverStream) reset(r stream.Reset, detail string) {
	if !x.live {
		return
	}
	p, over := x.peer, x.respEndedEarly()
	x.live, x.peer = false, nil
	if p != nil && !over {
		p.OnReset(r, detail)
	}
}
