package proxy

import (
	"net/netip"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/rbac"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/listen/match"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// worker is what belongs to one loop.
type worker struct {
	p    *Proxy
	loop *loop.Loop
	pool *pool.Pool
	http exchange.Env
	tcp  tcp.Env
	// refreshing: a refresh is posted and has not begun.
	refreshing atomic.Bool
	// detecting counts connections whose protocol their first bytes will tell.
	detecting int
}

// arrival is a connection for which a chain was chosen.
type arrival struct {
	conn     *loop.Conn
	listener *conf.Listener
	chain    *conf.Chain
	info     match.Info
	original netip.AddrPort // invalid: not captured
	first    []byte         // read while its protocol was found out
}

// accepted gets every connection for which a chain was found, on its loop.
func (p *Proxy) accepted(c *listen.Accepted) {
	p.workers[c.Conn.Loop().ID()].take(&arrival{conn: c.Conn, listener: c.Listener, chain: c.Chain, info: c.Info,
		original: c.Original, first: c.Pending})
}

// unmatched notes a connection that no chain takes; it is being closed.
func (p *Proxy) unmatched(c *listen.Accepted) {
	p.turnedAway(c, telemetry.FlagNR, "filter_chain_not_found")
}

// unknown notes a connection to the mesh whose destination could not be looked
// up; it is being closed.
func (p *Proxy) unknown(c *listen.Accepted) {
	p.turnedAway(c, telemetry.NotLearnt.Flag, telemetry.NotLearnt.Details)
}

func (p *Proxy) turnedAway(c *listen.Accepted, flag telemetry.Flags, why string) {
	w := p.workers[c.Conn.Loop().ID()]
	now := w.loop.Now()
	r := telemetry.Record{Start: w.loop.Wall(), Begin: now, End: now, TCP: true, Inbound: c.Listener.Inbound,
		Downstream: c.Conn.Remote(), Direct: c.Conn.Remote(), DownstreamLocal: c.Info.Destination, SNI: c.Info.SNI,
		Flags: flag, Details: why, Local: &w.http.Node.Local}
	p.telemetry.Refused(w.loop.ID(), &r, c.Listener.AccessLog)
}

// take goes on with a connection: TLS, connection filters, then its codec.
func (w *worker) take(a *arrival) {
	if a.chain.TLS == nil {
		w.serve(a, nil)
		return
	}
	w.p.tls.Server(a.conn, a.chain.TLS, a.first, a.chain.HandshakeTimeout, func(h *mtls.Handshake, err error) {
		a.first = nil
		if err != nil {
			w.refused(a, err.Error())
			return
		}
		w.serve(a, h)
	})
}

// serve gives the connection its codec.
func (w *worker) serve(a *arrival, h *mtls.Handshake) {
	peer := peerOf(h, a.info.SNI)
	for _, r := range a.chain.RBAC {
		in := rbac.Input{Source: a.conn.Remote(), Remote: a.conn.Remote(), Destination: a.destination(), ServerName: peer.SNI,
			TLS: peer.TLS, Mutual: peer.Mutual, Principals: peer.URIs}
		if ok, policy := rbac.Eval(r, &in, nil); !ok {
			w.refused(a, telemetry.DeniedBy(policy).Details)
			a.conn.Start(closed{})
			a.conn.Close()
			return
		}
	}
	var codec stream.Codec
	switch c := a.chain.HTTP; {
	case c == nil:
		codec = w.tcp.Serve(&tcp.Accepted{Wire: a.conn, Listener: a.listener, Chain: a.chain, Original: a.original,
			TLS: peer.TLS, Mutual: peer.Mutual, Principal: peer.Principal, Own: peer.Local, SNI: peer.SNI, Secure: h})
	case c.Codec == conf.CodecHTTP1, c.Codec == conf.CodecHTTP2, peer.ALPN == "h2", peer.ALPN == pool.Bridge:
		codec = w.httpCodec(a, &peer, h, c.Codec != conf.CodecHTTP1)
	default:
		w.detecting++
		d := &detector{w: w, a: a, peer: peer, secure: h}
		if idle := exchange.IdleTimeout(c); idle > 0 {
			w.loop.Arm(&d.idle, idle, a.conn.Close)
		}
		codec = d
	}
	a.conn.Start(codec)
	if len(a.first) > 0 {
		a.conn.Redeliver(a.first)
		a.first = nil
	}
}

func (w *worker) httpCodec(a *arrival, peer *exchange.Peer, h *mtls.Handshake, h2 bool) stream.Codec {
	_, codec := w.http.Serve(&exchange.Accepted{Wire: a.conn, Listener: a.listener, Chain: a.chain, Original: a.original,
		Peer: *peer, Secure: h, HTTP2: h2})
	return codec
}

func (a *arrival) destination() netip.AddrPort {
	if a.original.IsValid() {
		return a.original
	}
	return a.conn.Local()
}

// refused notes a connection that got no further than its handshake or filters.
func (w *worker) refused(a *arrival, why string) {
	logs := a.listener.AccessLog
	switch {
	case a.chain.HTTP != nil:
		logs = a.chain.HTTP.AccessLog
	case a.chain.TCP != nil:
		logs = a.chain.TCP.AccessLog
	}
	now := w.loop.Now()
	r := telemetry.Record{Start: w.loop.Wall(), Begin: now, End: now, TCP: true, Inbound: a.listener.Inbound,
		Downstream: a.conn.Remote(), Direct: a.conn.Remote(), DownstreamLocal: a.destination(), SNI: a.info.SNI,
		Termination: why, Local: &w.http.Node.Local}
	w.p.telemetry.Refused(w.loop.ID(), &r, logs)
}

// peerOf is what is known of the other end.
func peerOf(h *mtls.Handshake, sni string) exchange.Peer {
	if h == nil {
		return exchange.Peer{SNI: sni}
	}
	p := exchange.Peer{TLS: true, Local: h.Local, SNI: h.SNI, ALPN: h.ALPN, Version: h.Version, Cipher: h.Cipher}
	if c := h.Peer; c != nil {
		p.Mutual, p.Principal, p.URIs, p.DNS, p.Subject, p.Hash = true, c.URI, c.URIs, c.DNS, c.Subject, c.Hash
		if c.Cert != nil {
			p.Cert = c.Cert.Raw
		}
	}
	return p
}

// detector reads the first bytes of a connection to tell HTTP/2 with prior
// knowledge (RFC 9113 3.3) from HTTP/1.
type detector struct {
	w      *worker
	a      *arrival
	peer   exchange.Peer
	secure *mtls.Handshake
	seen   []byte
	idle   loop.Timer // from the start: the preface is short
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// OnBytes decides as soon as the bytes differ from the preface or complete it.
func (d *detector) OnBytes(p []byte) {
	if len(d.seen) > 0 {
		d.seen = append(d.seen, p...)
		p = d.seen
	}
	n := min(len(p), len(preface))
	h2 := string(p[:n]) == preface[:n]
	if h2 && n < len(preface) {
		d.seen = append(d.seen[:0:0], p...)
		return
	}
	d.w.detecting--
	d.idle.Stop()
	codec := d.w.httpCodec(d.a, &d.peer, d.secure, h2)
	d.a.conn.Swap(codec)
	codec.OnBytes(p) // not by Redeliver: what came by TLS is open already
}

// OnEOF ends a connection that never said anything.
func (d *detector) OnEOF() { d.a.conn.Close() }

// OnWritable has nothing to send.
func (d *detector) OnWritable() {}

// OnClose forgets the connection.
func (d *detector) OnClose(error) {
	d.w.detecting--
	d.idle.Stop()
}

// closed is the codec of a connection that is being refused.
type closed struct{}

func (closed) OnBytes([]byte) {}
func (closed) OnEOF()         {}
func (closed) OnWritable()    {}
func (closed) OnClose(error)  {}

// Finished, Opened and Closed pass what happened on to telemetry.
func (w *worker) Finished(l *loop.Loop, r *telemetry.Record, logs []*conf.AccessLog) {
	w.p.telemetry.Request(l.ID(), r, logs)
}

// Opened reports a connection that reached its upstream.
func (w *worker) Opened(l *loop.Loop, r *telemetry.Record) { w.p.telemetry.Opened(l.ID(), r) }

// Closed reports the end of a connection.
func (w *worker) Closed(l *loop.Loop, r *telemetry.Record, logs []*conf.AccessLog) {
	w.p.telemetry.Closed(l.ID(), r, logs)
}
