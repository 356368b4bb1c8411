package tcp

import (
	"errors"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// Env is what the sessions of one loop share. Owned by that loop.
type Env struct {
	Loop     *loop.Loop
	Pool     *pool.Pool // dials, with TLS
	Clusters *cluster.Registry
	Reporter Reporter
	Local    telemetry.Workload
	Desk     *demand.Desk // nil: nothing is looked up
	live     map[*session]struct{}
}

// Reporter is told when a session begins to carry bytes and when it ends.
type Reporter interface {
	Opened(l *loop.Loop, r *telemetry.Record)
	Closed(l *loop.Loop, r *telemetry.Record, logs []*conf.AccessLog)
}

// Accepted describes a connection for Serve. The caller has let its filters pass.
type Accepted struct {
	Wire      *loop.Conn
	Listener  *conf.Listener
	Chain     *conf.Chain
	Original  netip.AddrPort // invalid: not captured
	TLS       bool
	Mutual    bool
	Principal string
	Own       string // URI of the certificate that we showed
	SNI       string
	Secure    *mtls.Handshake // nil: no TLS
}

// session is one connection and its upstream.
type session struct {
	env      *Env
	conf     *conf.TCP
	down     *loop.Conn
	up       *loop.Conn
	handle   *cluster.Handle
	ep       *cluster.Endpoint
	original netip.AddrPort
	counted  bool
	tries    uint32
	idleFor  time.Duration
	idle     loop.Timer
	onIdle   func()
	life     loop.Timer     // maximum duration
	expiry   loop.Timer     // a certificate expires
	gone     loop.Timer     // its chain is gone, or another
	inform   *conf.Listener // the newest of its name; nil: it is gone
	dial     pool.Dialing
	downTLS  *mtls.Handshake // nil: none
	upTLS    *mtls.Handshake
	ends     time.Time // what expiry is set to
	listener string
	chain    *conf.Chain
	early    []byte // read before there was an upstream; at most one read
	downEOF  bool
	upEOF    bool
	half     bool // one of the two has ended both ways
	over     bool
	rec      telemetry.Record
	upCodec  upstream
	out, in  flow // client to endpoint, and back
}

// Serve begins a session and returns the codec of its connection, which the
// caller starts.
func (e *Env) Serve(a *Accepted) stream.Codec {
	s := &session{env: e, conf: a.Chain.TCP, down: a.Wire, original: a.Original, downTLS: a.Secure,
		listener: a.Listener.Name, inform: a.Listener, chain: a.Chain}
	for _, t := range [...]*loop.Timer{&s.idle, &s.life, &s.expiry, &s.gone} {
		t.Owner = a.Wire
	}
	s.onIdle, s.upCodec.s = s.idled, s
	s.out.s, s.in.s = s, s
	s.idleFor = s.conf.IdleTimeout
	if s.idleFor == 0 {
		s.idleFor = time.Hour
	}
	local := a.Wire.Local()
	if a.Original.IsValid() {
		local = a.Original
	}
	s.rec = telemetry.Record{Start: e.Loop.Wall(), Begin: e.Loop.Now(), TCP: true, Inbound: a.Listener.Inbound,
		Downstream: a.Wire.Remote(), Direct: a.Wire.Remote(), DownstreamLocal: local, SNI: a.SNI, TLS: a.TLS, Mutual: a.Mutual,
		Peer: a.Principal, LocalPrincipal: a.Own, Local: &e.Local}
	if e.live == nil {
		e.live = map[*session]struct{}{}
	}
	e.live[s] = struct{}{}
	if d := s.conf.MaxDuration; d > 0 {
		e.Loop.Arm(&s.life, d, s.expired)
	}
	s.limit(a.Secure)
	a.Wire.PauseRead(true)
	e.Loop.Next(s.connect)
	return &downstream{s}
}

// Count is the number of live sessions.
func (e *Env) Count() int { return len(e.live) }

// CloseAll ends every session, as the last step of a drain.
func (e *Env) CloseAll() {
	for s := range e.live {
		s.end(errors.New("proxy is stopping"))
	}
}

// EachSecure calls f with every connection under TLS.
func (e *Env) EachSecure(f func(*loop.Conn, *mtls.Handshake)) {
	for s := range e.live {
		if s.downTLS != nil {
			f(s.down, s.downTLS)
		}
		if s.up != nil && s.upTLS != nil {
			f(s.up, s.upTLS)
		}
	}
}

// limit ends the session when a peer's certificate expires.
func (s *session) limit(h *mtls.Handshake) {
	if h == nil || h.Expiry().IsZero() {
		return
	}
	left := max(time.Until(h.Expiry()), 1)
	if !s.ends.IsZero() && !h.Expiry().Before(s.ends) {
		return
	}
	s.ends = h.Expiry()
	s.env.Loop.Arm(&s.expiry, left, func() {
		s.rec.Termination = "certificate expired"
		s.end(errors.New("certificate expired"))
	})
}

// expired is the maximum duration.
func (s *session) expired() {
	s.rec.Flags |= telemetry.FlagDT
	s.rec.Termination = "maximum duration"
	s.end(nil)
}

// connect picks an endpoint and dials it.
func (s *session) connect() {
	s.env.Loop.Blame(s.down)
	if s.over {
		return
	}
	w := pick(s.conf.Clusters, s.env.Loop.Rand())
	if w == nil {
		s.refuse(telemetry.NoCluster(0))
		return
	}
	s.rec.Cluster = w.Name
	if s.handle = s.env.Clusters.Get(w.Name); s.handle == nil {
		s.refuse(telemetry.NoCluster(0))
		return
	}
	if c := s.handle.Conf(); c != nil {
		s.rec.To(c)
	}
	s.attempt()
}

func (s *session) attempt() {
	s.tries++
	pc := cluster.PickContext{Random: s.env.Loop.Rand(), Loop: s.env.Loop.ID(), OriginalDst: s.original}
	if s.conf.HashSource {
		pc.Hash, pc.HasHash, _ = cluster.Hash(sourceIP, nil, s.down.Remote().Addr(), pc.Random)
	}
	ep, err := s.handle.Pick(&pc, nil)
	if err != nil {
		s.refuse(telemetry.FromCluster(err))
		return
	}
	if !s.handle.TryAcquire(cluster.Connections) {
		s.refuse(telemetry.Overflow)
		return
	}
	s.handle.Begin(ep)
	s.ep, s.counted = ep, true
	s.rec.Upstream = ep.Addr
	s.dial = s.env.Pool.Dial(s.handle, ep, s.dialed)
}

// dialed gets the upstream connection or the reason there is none.
func (s *session) dialed(c *loop.Conn, h *mtls.Handshake, err error) {
	s.dial = pool.Dialing{}
	if s.over {
		if c != nil {
			c.Abort()
		}
		return
	}
	if err != nil {
		s.uncount(cluster.Outcome{Reset: stream.ConnectFailed})
		if s.tries < max(s.conf.MaxConnect, 1) {
			s.attempt()
			return
		}
		s.rec.TransportFailure = err.Error()
		s.refuse(telemetry.ConnectFailed)
		return
	}
	s.handle.Judge(s.ep, cluster.Outcome{}, s.env.Loop.Now())
	s.up, s.upTLS = c, h
	s.limit(h)
	s.rec.UpstreamLocal, s.rec.UpstreamTLS, s.rec.UpstreamWorkload = c.Local(), h != nil, s.ep.Workload
	if h != nil && h.Peer != nil {
		s.rec.UpstreamPeer = h.Peer.URI
	}
	s.env.Reporter.Opened(s.env.Loop, &s.rec)
	c.Swap(&s.upCodec)
	s.out.from, s.out.to, s.in.from, s.in.to = s.down, c, c, s.down
	s.touch()
	if len(s.early) > 0 {
		c.Write(s.early)
		s.early = nil
	}
	if s.downEOF {
		c.CloseWrite()
	}
	if !c.Blocked() {
		s.down.PauseRead(false)
	}
}

func (s *session) touch() {
	if s.idleFor > 0 {
		s.env.Loop.Arm(&s.idle, s.idleFor, s.onIdle)
	}
}

func (s *session) idled() {
	s.rec.Termination = "idle timeout"
	s.end(nil)
}

// refuse ends a session that never had an upstream.
func (s *session) refuse(o telemetry.Outcome) {
	s.rec.Flags |= o.Flag
	s.rec.Details = o.Details
	s.end(errors.New(o.Details))
}

// end closes both sides and reports. Without err what is pending still leaves.
func (s *session) end(err error) {
	if s.over {
		return
	}
	s.over = true
	s.idle.Stop()
	s.life.Stop()
	s.expiry.Stop()
	s.gone.Stop()
	s.dial.Cancel()
	for _, c := range []*loop.Conn{s.down, s.up} {
		switch {
		case c == nil:
		case err != nil:
			c.Abort()
		default:
			c.Close()
		}
	}
	s.uncount(cluster.Outcome{Reset: stream.Cancelled})
	delete(s.env.live, s)
	s.rec.BytesReceived, s.rec.BytesSent = s.down.BytesIn(), s.down.BytesOut()
	s.rec.End = s.env.Loop.Now()
	s.env.Reporter.Closed(s.env.Loop, &s.rec, s.conf.AccessLog)
}

func (s *session) uncount(o cluster.Outcome) {
	if s.counted {
		s.counted = false
		s.handle.Done(s.ep, o, s.env.Loop.Now())
		s.handle.Release(cluster.Connections)
	}
}

var sourceIP = []conf.HashPolicy{{SourceIP: true}}

// eof passes a half-close on. A connection that has ended both ways closes by
// itself, when all was sent: how long that takes is the idle timeout's matter.
func (s *session) eof(from *bool, to *loop.Conn) {
	*from = true
	if to != nil {
		to.CloseWrite()
	}
}

// closed ends the session when one side is gone, unless the other is still
// taking the rest of what both have sent.
func (s *session) closed(err error, flag telemetry.Flags) {
	if err == nil && s.downEOF && s.upEOF && !s.half {
		s.half = true
		return
	}
	if !s.over && err != nil {
		s.rec.Flags |= flag
		s.rec.Termination = err.Error()
	}
	s.end(err)
}

// downstream is the codec of the client's connection.
type downstream struct{ s *session }

func (d *downstream) OnBytes(p []byte) {
	s := d.s
	if s.up == nil { // came with the end of the handshake, before reading was stopped
		s.early = append(s.early, p...)
		return
	}
	s.out.pass(p)
}

func (d *downstream) OnEOF() { d.s.eof(&d.s.downEOF, d.s.up) }

func (d *downstream) OnWritable() {
	if d.s.up != nil {
		d.s.up.PauseRead(false)
	}
}

func (d *downstream) OnClose(err error) { d.s.closed(err, 0) }

// upstream is the codec of the endpoint's connection.
type upstream struct{ s *session }

func (u *upstream) OnBytes(p []byte) { u.s.in.pass(p) }

func (u *upstream) OnEOF() { u.s.eof(&u.s.upEOF, u.s.down) }

func (u *upstream) OnWritable() { u.s.down.PauseRead(false) }

func (u *upstream) OnClose(err error) { u.s.closed(err, telemetry.FlagUC) }

// pick chooses by weight.
func pick(cs []conf.WeightedCluster, random uint64) *conf.WeightedCluster {
	var total uint64
	for i := range cs {
		total += uint64(cs[i].Weight)
	}
	if len(cs) == 1 {
		return &cs[0]
	}
	if total == 0 {
		return nil
	}
	n := random % total
	for i := range cs {
		if w := uint64(cs[i].Weight); n < w {
			return &cs[i]
		} else {
			n -= w
		}
	}
	return nil
}
