package pool

import (
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// raw is a connection that carries one stream's body as bytes: a CONNECT that
// ends here. It is the stream and the codec in one. Its head is answered with
// 200 as soon as it was sent.
type raw struct {
	p       *Pool
	t       *Ticket // nil after its Done
	cluster *cluster.Handle
	peer    stream.Peer // nil: nobody listens any more
	dialing Dialing
	wire    *loop.Conn
	secure  *mtls.Handshake
	via     Upstream
	early   []byte // came before the head was answered
	begun   bool
	open    bool
	sent    bool // our side ended
	ended   bool // the peer's did
}

// raw makes the connection of a ticket.
func (p *Pool) raw(t *Ticket) {
	if !t.Cluster.TryAcquire(cluster.Connections) {
		t.Owner.Failed(stream.Overflow, "overflow")
		return
	}
	r := &raw{p: p, t: t, cluster: t.Cluster, peer: t.Peer}
	t.raw = r
	p.raws[r] = struct{}{}
	r.dialing = p.Dial(t.Cluster, t.Endpoint, r.dialed)
}

// done is told by the ticket: it wants nothing more.
func (r *raw) done() {
	r.t = nil
	r.dialing.Cancel()
	if r.wire == nil {
		delete(r.p.raws, r)
	}
	r.cluster.Release(cluster.Connections)
}

func (r *raw) dialed(c *loop.Conn, h *mtls.Handshake, err error) {
	r.dialing = Dialing{}
	if r.t == nil {
		if c != nil {
			c.Abort()
		}
		delete(r.p.raws, r)
		return
	}
	if err != nil {
		delete(r.p.raws, r)
		r.t.Owner.Failed(dialReset(err))
		return
	}
	r.wire, r.secure = c, h
	r.via = Upstream{Local: c.Local(), Remote: c.Remote(), TLS: h != nil}
	if h != nil && h.Peer != nil {
		r.via.Principal = h.Peer.URI
	}
	c.PauseRead(true)
	c.Swap(r)
	r.t.Owner.Ready(r, &r.via)
}

// SendHead begins the tunnel.
func (r *raw) SendHead(_ *stream.Head, end bool) {
	if r.begun || r.peer == nil {
		return
	}
	r.begun = true
	if end {
		r.finish()
	}
	r.p.loop.Next(r.answer)
}

// answer accepts the tunnel and hands over what came before.
func (r *raw) answer() {
	if r.peer == nil {
		return
	}
	r.open = true
	h := stream.Head{Status: 200, Version: 11, Length: -1, Body: true}
	r.peer.OnHead(&h, false)
	if r.peer != nil && len(r.early) > 0 {
		r.peer.OnData(r.early, false)
		r.early = nil
	}
	if r.peer != nil && r.ended {
		r.OnEOF()
		return
	}
	if r.peer != nil {
		r.wire.PauseRead(false)
	}
}

// SendData passes bytes on.
func (r *raw) SendData(p []byte, end bool) {
	if r.peer == nil || r.sent {
		return
	}
	r.wire.Write(p)
	if end {
		r.finish()
	}
}

// SendTrailers ends our side: there are none among bytes.
func (r *raw) SendTrailers(*stream.Head) { r.SendData(nil, true) }

func (r *raw) finish() {
	r.sent = true
	r.wire.CloseWrite()
	r.settle()
}

// settle closes when both sides have ended.
func (r *raw) settle() {
	if r.sent && r.ended {
		r.peer = nil
		r.wire.Close()
	}
}

// Reset cuts the connection.
func (r *raw) Reset(stream.Reset) {
	if r.peer != nil {
		r.peer = nil
		r.wire.Abort()
	}
}

// Pause stops or resumes reading.
func (r *raw) Pause(stop bool) {
	if r.peer != nil {
		r.wire.PauseRead(stop)
	}
}

// Blocked reports whether the connection takes no more for now.
func (r *raw) Blocked() bool { return r.peer != nil && r.wire.Blocked() }

// OnBytes passes bytes back.
func (r *raw) OnBytes(p []byte) {
	switch {
	case r.peer == nil:
	case !r.open:
		r.early = append(r.early, p...)
	default:
		r.peer.OnData(p, false)
	}
}

// OnEOF ends the peer's side.
func (r *raw) OnEOF() {
	r.ended = true
	if peer := r.peer; peer != nil && r.open {
		r.settle()
		peer.OnData(nil, true)
	}
}

// OnWritable resumes the sender.
func (r *raw) OnWritable() {
	if r.peer != nil {
		r.peer.OnWritable()
	}
}

// OnClose ends what has not ended.
func (r *raw) OnClose(error) {
	delete(r.p.raws, r)
	if peer := r.peer; peer != nil {
		r.peer = nil
		peer.OnReset(stream.ConnectionLost, "upstream connection lost")
	}
}

// dialReset names a failure to connect.
func dialReset(err error) (stream.Reset, string) {
	if e, ok := err.(*mtls.Error); ok {
		return stream.TLSFailed, "TLS error: " + e.Error()
	}
	return resetOf(err), err.Error()
}
