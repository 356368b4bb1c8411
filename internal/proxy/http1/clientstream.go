package http1

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// clientStream is one exchange of a Client. It implements stream.Stream.
type clientStream struct {
	c    *Client
	peer stream.Peer
	out  outBody

	live     bool
	toHead   bool
	connect  bool
	upgrade  bool
	ownKey   bool // wsKey was made here
	paused   bool
	reqBegun bool
	reqEnd   bool
	answered bool // any byte of a response came
	respEnd  bool
	interims uint8
	early    []byte // tunnel bytes that came before the tunnel stood
	fault    *bad   // why we broke the connection off in a call of the peer's
	wsKey    [24]byte
}

// maxEarly bounds tunnel bytes held until the tunnel stands.
const maxEarly = 64 << 10

var badEarly = &bad{400, "too many bytes before the protocol was switched"}
var badRequestHead = &bad{400, "request cannot be written as http/1"}
var badRequestBody = &bad{400, "request differs from its content-length"}

// SendHead implements stream.Stream.
func (x *clientStream) SendHead(h *stream.Head, end bool) {
	if !x.live || x.reqBegun || x.fault != nil {
		return
	}
	x.reqBegun = true
	if !isToken(h.Method) || !stream.TargetOK(h.Path) || !stream.HostOK(h.Authority) || len(h.Protocol) > 0 && !isToken(h.Protocol) {
		x.fail(badRequestHead)
		return
	}
	x.upgrade = len(h.Protocol) > 0
	x.connect = !x.upgrade && string(h.Method) == "CONNECT"
	x.toHead = string(h.Method) == "HEAD"
	w := x.c.wire
	w.SetOut(x.appendRequest(w.Out(), h, end))
	if end {
		x.ended()
	}
}

// SendData implements stream.Stream.
func (x *clientStream) SendData(p []byte, end bool) {
	if !x.live || !x.reqBegun || x.reqEnd || x.fault != nil {
		return
	}
	if x.waits() {
		if len(x.early)+len(p) > maxEarly {
			x.fail(badEarly)
			return
		}
		x.early = append(x.early, p...)
	} else if !x.out.send(x.c.wire, p, end) {
		x.fail(badRequestBody)
		return
	}
	if end {
		x.ended()
	}
}

// SendTrailers implements stream.Stream.
func (x *clientStream) SendTrailers(t *stream.Head) {
	if !x.live || !x.reqBegun || x.reqEnd || x.fault != nil {
		return
	}
	w := x.c.wire
	switch {
	case x.out.kind == chunkedBody:
		w.SetOut(appendTrailers(w.Out(), t))
	case x.out.kind == sizedBody && x.out.left > 0:
		x.fail(badRequestBody)
		return
	}
	x.ended()
}

// waits reports whether a tunnel was asked for and does not stand yet.
func (x *clientStream) waits() bool {
	return (x.upgrade || x.connect) && x.c.state == responseHead
}

// open begins the tunnel; the response head is delivered between.
func (x *clientStream) open(h *stream.Head) {
	c := x.c
	c.state, c.close = clientTunnel, true
	x.out.kind = rawBody
	if len(x.early) > 0 {
		c.wire.Write(x.early)
		x.early = nil
	}
	if x.reqEnd {
		c.wire.CloseWrite()
	}
	x.head(h, false)
	if x.live && !x.reqEnd && !c.wire.Blocked() {
		x.peer.OnWritable()
	}
}

func (x *clientStream) ended() {
	x.reqEnd = true
	if x.c.state == clientTunnel && !x.respEnd {
		x.c.wire.CloseWrite()
	}
	x.c.settle()
}

// fail breaks the connection over a request that cannot be sent whole. The
// peer learns it from OnClose, not within its own call.
func (x *clientStream) fail(why *bad) {
	x.fault = why
	x.c.end(true, why)
}

// Reset implements stream.Stream.
func (x *clientStream) Reset(r stream.Reset) {
	if !x.live {
		return
	}
	c := x.c
	if x.reqEnd && x.respEnd && c.state == responseBody {
		return // whole: settle is about to free the connection
	}
	x.live, x.peer = false, nil
	if !x.reqBegun && c.state == responseHead { // nothing was sent: still good
		c.state = clientIdle
		if x.paused {
			c.wire.PauseRead(false)
		}
		if c.o.OnIdle != nil {
			c.o.OnIdle(c)
		}
		return
	}
	c.end(true, nil)
}

// Pause implements stream.Stream.
func (x *clientStream) Pause(stop bool) {
	if x.live && x.paused != stop && x.c.state != clientClosed {
		x.paused = stop
		x.c.wire.PauseRead(stop)
	}
}

// Blocked implements stream.Stream.
func (x *clientStream) Blocked() bool { return x.live && (x.waits() || x.c.wire.Blocked()) }

func (x *clientStream) head(h *stream.Head, end bool) {
	if x.live {
		x.peer.OnHead(h, end)
	}
}

func (x *clientStream) data(p []byte, end bool) {
	if x.live {
		x.peer.OnData(p, end)
	}
}

func (x *clientStream) endResponse(p []byte) {
	if !x.respEnd {
		x.respEnd = true
		x.data(p, true)
	}
}

// loss is how the loss of the connection is told: a request of which nothing
// was sent may be sent again.
func (x *clientStream) loss() stream.Reset {
	if x.reqBegun {
		return stream.ConnectionLost
	}
	return stream.Refused
}

func (x *clientStream) reset(r stream.Reset, detail string) {
	if x.live {
		p := x.peer
		x.live, x.peer = false, nil
		if p != nil {
			p.OnReset(r, detail)
		}
	}
}
