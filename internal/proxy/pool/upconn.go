package pool

import (
	"errors"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// upconn is one upstream connection. While it is being made it is its own
// codec; then h1 or h2 is.
type upconn struct {
	g       *group
	wire    *loop.Conn
	h1      *http1.Client
	h2      *http2.Client
	via     Upstream
	secure  *mtls.Handshake // nil: no TLS
	streams int             // open ones on h2, 0 or 1 on h1
	served  uint32
	counted bool // holds one of the cluster's connections
	retired bool // takes no more requests
	over    bool
	cancel  func()     // of a handshake under way
	timer   loop.Timer // of the attempt to connect, then of idleness
	onIdle  func()
	age     loop.Timer // until it takes no more requests
	expiry  loop.Timer // until it is cut
}

// dial begins a connection for the group.
func (g *group) dial(counted bool) {
	u := &upconn{g: g, counted: counted}
	g.open++
	g.dialing++
	d := g.conf.ConnectTimeout
	if d <= 0 {
		d = defaultConnect
	}
	g.p.loop.Arm(&u.timer, d, func() { u.failed(errTimeout) })
	var err error
	u.wire, err = g.p.connect(g.conf, g.ep)
	if err != nil {
		g.p.loop.Next(func() { u.failed(err) })
		return
	}
	u.wire.Start(u)
}

// OnConnect goes on with TLS, or with requests.
func (u *upconn) OnConnect() {
	t := u.g.tls
	if t == nil {
		u.ready(nil, nil)
		return
	}
	u.cancel = u.g.p.o.TLS.Client(u.wire, t, u.g.sni, u.g.offers(), u.ready)
}

// offers is the ALPN list of the group: an HTTP/1 group never offers h2, which
// a peer would take for the end of HTTP/1 features.
func (g *group) offers() []string {
	return slices.DeleteFunc(slices.Clone(g.tls.ALPN), func(a string) bool {
		return a == "h2" && !g.h2 && g.conf.Protocol != conf.UpAuto || a == Bridge && (g.p.o.NoBridge || g.conf.Protocol == conf.UpDownstream)
	})
}

// ready makes the codec of a connection that stands and serves who waits.
func (u *upconn) ready(h *mtls.Handshake, err error) {
	u.cancel = nil
	if u.over {
		return
	}
	if err != nil {
		u.secureFailed(err)
		return
	}
	g, p := u.g, u.g.p
	u.timer.Stop()
	u.via = Upstream{Local: u.wire.Local(), Remote: g.addr}
	alpn, life := "", g.conf.MaxConnDuration
	if h != nil {
		alpn, u.via.TLS, u.secure = h.ALPN, true, h
		u.via.Ours = alpn == Bridge
		if h.Peer != nil {
			u.via.Principal = h.Peer.URI
		}
		if end := h.Expiry(); !end.IsZero() {
			left := max(time.Until(end), 1)
			p.loop.Arm(&u.expiry, left, u.wire.Abort)
			if left -= min(expiryLead, left/10); life <= 0 || left < life {
				life = left
			}
		}
	}
	g.dialing--
	p.conns[u] = struct{}{}
	g.alone = false
	u.wire.Lazy(true)
	switch {
	case alpn == Bridge, alpn == "h2", g.h2 && alpn != "http/1.1":
		u.via.HTTP2, u.via.Bridged = true, u.via.Ours && !g.h2
		u.h2 = http2.NewClient(u.wire, &p.h2)
		u.h2.Owner = u
		g.shared = true
		g.multi = append(g.multi, u)
		if u.via.Bridged && u.counted { // only virtual connections count
			u.counted = false
			g.cluster.Release(cluster.Connections)
		}
		u.wire.Swap(&codec{u, u.h2})
	default:
		g.shared = false
		u.h1 = http1.NewClient(u.wire, &p.h1)
		u.h1.Owner = u
		g.idle = append(g.idle, u)
		u.wire.Swap(&codec{u, u.h1})
	}
	if life > 0 {
		p.loop.Arm(&u.age, life, u.retire)
	}
	u.armIdle()
	g.serve()
}

// expiryLead is how long before a certificate expires its connections take no
// more requests.
const expiryLead = 30 * time.Second

// codec passes events to the HTTP codec and learns how the connection ended.
type codec struct {
	u *upconn
	stream.Codec
}

// OnClose notes a TLS alert that came instead of any answer.
func (c *codec) OnClose(err error) {
	var refused *mtls.Error
	if c.u.wire.BytesIn() == 0 && errors.As(err, &refused) {
		c.u.via.Refused = refused.Error()
	}
	c.Codec.OnClose(err)
}

// take serves t on this connection.
func (u *upconn) take(t *Ticket) {
	if t.waiting {
		u.g.unqueue(t)
		u.g.cluster.Release(cluster.Pending)
	}
	u.timer.Stop()
	u.via.Reused = u.served > 0
	u.served++
	u.streams++
	if u.secure != nil && u.secure.Worn() {
		u.retired = true
	}
	var s stream.Stream
	if u.h1 != nil {
		s = u.h1.Start(t.Peer)
	} else {
		s = u.h2.Open(t.Peer)
	}
	if n := u.g.conf.MaxRequestsPerConn; n > 0 && u.served >= n && !u.via.Bridged {
		u.retired = true
	}
	if s == nil { // died between being chosen and being used
		t.Owner.Failed(stream.Refused, "connection was closing")
		return
	}
	t.Owner.Ready(s, &u.via)
}

// idled is told by the HTTP/1 codec when its exchange is over.
func (u *upconn) idled() {
	u.streams = 0
	if u.retired || u.g.stale {
		u.close()
		return
	}
	u.g.idle = append(u.g.idle, u)
	u.armIdle()
	u.g.serve()
}

// capacity is told by the HTTP/2 codec when streams ended.
func (u *upconn) capacity() {
	u.streams = u.h2.Active()
	if u.streams == 0 {
		if u.retired || u.g.stale {
			u.close()
			return
		}
		u.armIdle()
	}
	u.g.serve()
}

func (u *upconn) armIdle() {
	d := u.g.conf.IdleTimeout
	if d == 0 {
		d = time.Hour
	}
	if d > 0 {
		if u.onIdle == nil {
			u.onIdle = u.close // made once: each request ends with it
		}
		u.g.p.loop.Arm(&u.timer, d, u.onIdle)
	}
}

// retire lets the present requests end and takes no new ones.
func (u *upconn) retire() {
	u.retired = true
	if u.streams == 0 {
		u.close()
	}
}

func (u *upconn) close() {
	switch {
	case u.h1 != nil:
		u.h1.Close()
	case u.h2 != nil:
		u.h2.Close()
	}
}

// gone is told by the codec when the connection takes no more requests. On
// HTTP/2 the present ones may go on until closed.
func (u *upconn) gone() {
	g := u.g
	u.retired = true
	if u.via.Refused != "" && g.waiting > 0 { // the others would fare alike
		g.fail(stream.TLSFailed, "TLS error: "+u.via.Refused)
	}
	if i := slices.Index(g.idle, u); i >= 0 {
		g.idle = slices.Delete(g.idle, i, i+1)
	}
	if i := slices.Index(g.multi, u); i >= 0 {
		g.multi = slices.Delete(g.multi, i, i+1)
	}
	if u.h1 != nil {
		u.end()
	}
	if g.waiting > 0 {
		g.p.loop.Next(g.serve)
	}
}

// closed is told by the HTTP/2 codec when the connection is over.
func (u *upconn) closed() {
	u.end()
	if u.g.waiting > 0 {
		u.g.p.loop.Next(u.g.serve)
	}
}

// end gives back what the connection counted for.
func (u *upconn) end() {
	if u.over {
		return
	}
	u.over = true
	delete(u.g.p.conns, u)
	u.timer.Stop()
	u.age.Stop()
	u.expiry.Stop()
	u.g.open--
	if u.counted {
		u.counted = false
		u.g.cluster.Release(cluster.Connections)
	}
}

// failed ends an attempt to connect: everyone who waits is told.
func (u *upconn) failed(err error) {
	if u.over || u.h1 != nil || u.h2 != nil {
		return
	}
	u.g.dialing--
	u.end()
	if u.cancel != nil {
		u.cancel()
		u.cancel = nil
	}
	if u.wire != nil {
		u.wire.Abort()
	}
	u.g.noOther(resetOf(err), err.Error())
}

// noOther tells everyone who waits that there is no connection; where there are
// some, they are made do with.
func (g *group) noOther(r stream.Reset, detail string) {
	if !g.blocked() {
		g.fail(r, detail)
		return
	}
	g.alone = true
	g.p.loop.Next(g.serve)
}

func (u *upconn) secureFailed(err error) {
	u.g.dialing--
	u.end()
	u.g.noOther(stream.TLSFailed, "TLS error: "+err.Error())
}

// OnBytes, OnEOF, OnWritable and OnClose make upconn the codec of a connection
// that is being made; nothing is expected to be read then.
func (u *upconn) OnBytes([]byte) { u.failed(errors.New("bytes before the request")) }

// OnEOF ends the attempt.
func (u *upconn) OnEOF() { u.failed(errors.New("closed before the request")) }

// OnWritable does nothing.
func (u *upconn) OnWritable() {}

// OnClose ends the attempt.
func (u *upconn) OnClose(err error) {
	if err == nil {
		err = errors.New("connection closed")
	}
	u.failed(err)
}

// retire closes what is idle and keeps the rest from coming back.
func (g *group) retire() {
	g.stale = true
	for _, u := range slices.Clone(g.idle) {
		u.retire()
	}
	for _, u := range slices.Clone(g.multi) {
		u.retire()
	}
}
