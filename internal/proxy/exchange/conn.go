package exchange

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/overload"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// Peer is what is known of the other end of a connection.
type Peer struct {
	TLS       bool
	Mutual    bool   // it showed a certificate that was verified
	Principal string // its SPIFFE URI; empty: none
	Local     string // our own certificate's URI
	URIs      []string
	DNS       []string
	Subject   string // RFC 2253
	Hash      string // SHA-256 of the certificate, hex
	Cert      []byte // DER
	SNI       string
	ALPN      string
	Version   string // TLSv1.3
	Cipher    string
}

// Conn is a downstream connection that carries HTTP: the stream.Acceptor of
// its codec, and the stream.Codec the loop drives.
type Conn struct {
	env        *Env
	wire       *loop.Conn
	listener   *conf.Listener
	chain      *conf.Chain
	http       *conf.HTTP
	peer       *party
	original   netip.AddrPort // set when it was captured
	remoteText string
	seen       uint64 // Env.epoch of the configuration it has
	active     int
	served     uint32 // requests
	port       uint16 // on which hosts are looked up; 0: they are not
	bridge     bool   // an authenticated tulle1 connection
	draining   bool
	secure     *mtls.Handshake // nil: no TLS
	h1         *http1.Server   // nil: HTTP/2, or nothing is under way, see rest.go
	h1o        *http1.ServerOptions
	h2         *http2.Server
	idle       loop.Timer
	onIdle     func()
	rare       *timers // nil: none was armed yet
}

// party is a peer and what is made of it once.
type party struct {
	Peer
	xfcc     string
	workload string // what a peer of ours says it is, in Istio's form
}

// nobody is the peer of connections of which nothing is known. Never written.
var nobody party

// timers that few connections have: idle ones are many and should be small.
type timers struct {
	age  loop.Timer // until it is drained
	end  loop.Timer // until it is cut
	gone loop.Timer // the same, since its chain is gone
	slow loop.Timer // a request head that has begun
	last loop.Timer // until its last GOAWAY
}

func (c *Conn) timers() *timers {
	if c.rare == nil {
		o := loop.Timer{Owner: c.wire}
		c.rare = &timers{o, o, o, o, o}
	}
	return c.rare
}

// remote is the other end.
func (c *Conn) remote() netip.AddrPort { return c.wire.Remote() }

// local is where it was accepted, or its original destination.
func (c *Conn) local() netip.AddrPort {
	if c.original.IsValid() {
		return c.original
	}
	return c.wire.Local()
}

// Accepted describes a connection that is handed to Serve.
type Accepted struct {
	Wire     *loop.Conn
	Listener *conf.Listener
	Chain    *conf.Chain
	Original netip.AddrPort // invalid: not captured
	Peer     Peer
	Secure   *mtls.Handshake // nil: no TLS
	HTTP2    bool            // by ALPN or preface
}

// Serve makes the codec of a connection and begins to serve requests. The
// caller starts the connection with what Serve returns.
func (e *Env) Serve(a *Accepted) (*Conn, stream.Codec) {
	c := &Conn{env: e, wire: a.Wire, listener: a.Listener, chain: a.Chain, http: a.Chain.HTTP, peer: &nobody,
		original: a.Original, secure: a.Secure}
	if a.Peer.TLS || a.Peer.SNI != "" {
		c.peer = &party{Peer: a.Peer}
	}
	if e.Desk != nil {
		c.port = a.Listener.OwnPort()
	}
	a.Wire.Local() // known from here on, also when it is closed
	c.bridge = a.Peer.ALPN == "tulle1" && a.Peer.Mutual
	c.onIdle, c.idle.Owner = c.idled, a.Wire
	_, c.seen = e.current()
	c.limitAge()
	if e.conns == nil {
		e.conns = map[*Conn]struct{}{}
	}
	e.conns[c] = struct{}{}
	a.Wire.Lazy(true)
	if a.HTTP2 {
		c.h2 = http2.NewServer(a.Wire, c, e.h2Options(c))
		c.startIdle()
		return c, c
	}
	c.h1o = e.h1Options(c)
	c.startIdle()
	return c, c
}

// OnBytes implements stream.Codec; it watches over request heads that come slowly.
func (c *Conn) OnBytes(p []byte) {
	if c.h2 != nil {
		c.h2.OnBytes(p)
	} else {
		c.wake().OnBytes(p)
		c.rest()
	}
	c.watch()
}

// watch gives a request head that has begun its time, counted from its first
// byte as Envoy does: the shortest of what a head, a whole request and a quiet
// stream may take.
func (c *Conn) watch() {
	if partial := c.h2 != nil && c.h2.Partial() || c.h1 != nil && c.h1.Partial(); !partial {
		c.unwatch()
	} else if limit, _ := c.headLimit(); limit > 0 && !c.timers().slow.Armed() {
		c.env.Loop.Arm(&c.rare.slow, limit, c.tooSlow)
	}
}

func (c *Conn) unwatch() {
	if c.rare != nil {
		c.rare.slow.Stop()
	}
}

// headLimit is how long a head may take, and what is told when it took longer;
// 0: as long as it likes.
func (c *Conn) headLimit() (time.Duration, telemetry.Outcome) {
	limit, o := c.http.StreamIdle, telemetry.StreamIdle
	if limit == 0 {
		limit = defaultStreamIdle
	}
	if d := c.http.RequestTimeout; d > 0 && (d < limit || limit < 0) {
		limit, o = d, telemetry.RequestTimeout
	}
	if d := c.http.HeadersTimeout; d > 0 && (d <= limit || limit < 0) {
		limit, o = d, telemetry.HeadTimeout
	}
	return max(limit, 0), o
}

// tooSlow ends a connection whose request head did not come in time.
func (c *Conn) tooSlow() {
	_, o := c.headLimit()
	if c.h2 != nil {
		status := 0
		if c.h2.Reject(408) {
			status = 408
		}
		c.refused(status, o.Flag, o.Details)
		c.wire.Close()
		return
	}
	if c.h1 != nil && c.h1.Reject(408) {
		c.refused(408, o.Flag, o.Details)
	}
}

// goOn reads what waited for a response.
func (c *Conn) goOn() {
	c.env.Loop.Blame(c.wire)
	if c.h1 != nil {
		c.h1.Continue()
		c.rest()
	}
	c.watch()
}

// OnEOF implements stream.Codec.
func (c *Conn) OnEOF() {
	if k := c.codec(); k != nil {
		k.OnEOF()
	} else {
		c.wire.Close() // between requests
	}
}

// OnWritable implements stream.Codec.
func (c *Conn) OnWritable() {
	if k := c.codec(); k != nil {
		k.OnWritable()
	}
}

// OnClose implements stream.Codec and lets go of the connection.
func (c *Conn) OnClose(err error) {
	if k := c.codec(); k != nil {
		k.OnClose(err) // ends exchanges, the last of which arms idle
	}
	c.idle.Stop()
	if r := c.rare; r != nil {
		r.age.Stop()
		r.end.Stop()
		r.gone.Stop()
		r.slow.Stop()
		r.last.Stop()
	}
	c.env.closed(c)
}

// codec is nil while an HTTP/1 connection rests.
func (c *Conn) codec() stream.Codec {
	switch {
	case c.h2 != nil:
		return c.h2
	case c.h1 != nil:
		return c.h1
	}
	return nil
}

// Accept begins an exchange.
func (c *Conn) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	x := c.env.get()
	x.conn, x.down = c, s
	if snap, epoch := c.env.current(); epoch != c.seen {
		c.seen = epoch
		c.refresh(snap)
	}
	x.req.Take(h)
	if c.bridge {
		c.fromBridge(&x.req)
	}
	if c.secure != nil && c.secure.Worn() {
		c.draining = true
	}
	if c.served++; c.http.MaxRequests > 0 && c.served >= c.http.MaxRequests {
		c.draining = true
	}
	c.active++
	c.idle.Stop()
	c.unwatch()
	x.begin(end)
	if x.done {
		return ignore{}
	}
	return x
}

// refresh takes up the present configuration of this connection's chain, so
// that a changed policy or route holds for the next request already. When the
// chain is gone, or asks for another kind of connection, the connection ends
// with this request.
func (c *Conn) refresh(snap *conf.Snapshot) {
	l := snap.Listeners[c.listener.Name]
	if l == c.listener || l == nil && c.env.Desk.Forgot(c.listener.Name) {
		return
	}
	if ch := SameChain(l, c.chain); ch != nil {
		c.listener, c.chain, c.http = l, ch, ch.HTTP
		if c.peer != &nobody {
			c.peer.xfcc = ""
		}
		return
	}
	c.draining = true
}

// SameChain finds the chain of a listener (nil: it is gone) that connections of
// an earlier chain belong to: the same connections are meant, secured in the
// same way, carrying the same kind of traffic. nil: there is none any more.
func SameChain(l *conf.Listener, old *conf.Chain) *conf.Chain {
	if l == nil {
		return nil
	}
	same := func(ch *conf.Chain) bool {
		return ch != nil && (ch == old || (ch.HTTP != nil) == (old.HTTP != nil) && ch.Name == old.Name &&
			reflect.DeepEqual(ch.Match, old.Match) && reflect.DeepEqual(ch.TLS, old.TLS))
	}
	if same(l.Default) {
		return l.Default
	}
	if i := slices.IndexFunc(l.Chains, same); i >= 0 {
		return l.Chains[i]
	}
	return nil
}

// limitAge has the connection end by the listener's limit, and when the
// client's certificate expires.
func (c *Conn) limitAge() {
	life := c.http.MaxConnDuration
	if c.secure != nil && !c.secure.Expiry().IsZero() {
		left := max(time.Until(c.secure.Expiry()), 1)
		c.env.Loop.Arm(&c.timers().end, left, c.wire.Abort)
		if left -= min(expiryLead, left/10); life <= 0 || left < life {
			life = left
		}
	}
	if life > 0 {
		c.env.Loop.Arm(&c.timers().age, life, c.Drain)
	}
}

// expiryLead is how long before a certificate expires its connections are
// drained, so that requests can end.
const expiryLead = 30 * time.Second

// ended is called by each exchange as its last act.
func (c *Conn) ended() {
	if c.active--; c.active == 0 {
		c.startIdle()
		c.rest()
		c.watch()
		if c.draining && c.h2 != nil {
			c.drainCodec()
		}
	}
}

// IdleTimeout is how long a connection may rest without a request; not
// positive: for ever. Envoy's default is an hour.
func IdleTimeout(h *conf.HTTP) time.Duration {
	if h.IdleTimeout == 0 {
		return time.Hour
	}
	return h.IdleTimeout
}

func (c *Conn) startIdle() {
	d := IdleTimeout(c.http)
	if q := c.env.quiet; q > 0 && (q < d || d < 0) {
		d = q
	}
	if d > 0 {
		c.env.Loop.Arm(&c.idle, d, c.onIdle)
	}
}

// idled closes an idle connection; HTTP/2 clients are told first.
func (c *Conn) idled() {
	switch {
	case c.active > 0:
	case c.rare != nil && c.rare.slow.Armed(): // a request is coming
		c.startIdle()
	case c.h2 != nil && !c.draining:
		c.Drain()
		c.env.Loop.Arm(&c.idle, drainIdle, c.onIdle)
	default:
		c.wire.Close()
	}
}

// drainIdle is how long an idle HTTP/2 client has to confirm our goodbye.
const drainIdle = 5 * time.Second

// Drain ends the connection with its present requests: "connection: close",
// or GOAWAY. It must be called on the connection's loop.
func (c *Conn) Drain() {
	c.draining = true
	c.drainCodec()
	if c.active == 0 && c.h2 == nil && (c.h1 == nil || c.h1.Idle()) {
		c.wire.Close()
	}
}

func (c *Conn) drainCodec() {
	switch {
	case c.h2 != nil:
		c.h2.Drain()
	case c.h1 != nil:
		c.h1.Drain()
	}
}

// lastStreams is how long streams are taken up from a client that has seen that
// we go: what it had begun to write then is still to come.
const lastStreams = time.Second

// leaveSoon has the last GOAWAY sent.
func (c *Conn) leaveSoon() {
	wait := lastStreams
	if q := c.env.quiet; c.env.leaving == LeaveAll && q > 0 {
		wait = min(wait, q)
	}
	c.env.Loop.Arm(&c.timers().last, wait, c.h2.Leave)
}

// destination is where the connection was going.
func (c *Conn) destination() netip.AddrPort { return c.local() }

// tightBuffer is how much of a request's body is kept for another attempt while
// memory is short.
const tightBuffer = 4 << 10

func (c *Conn) bufferLimit() int {
	if c.env.Memory.Level() >= overload.Tight {
		return tightBuffer
	}
	if n := c.listener.BufferLimit; n > 0 {
		return n
	}
	return 1 << 20
}

// badRequest reports a request that the codec refused by itself.
func (c *Conn) badRequest(status int, detail string) {
	c.refused(status, telemetry.FlagDPE, underscored(detail))
}

// refused reports a request that did not become an exchange.
func (c *Conn) refused(status int, flags telemetry.Flags, details string) {
	now := c.env.Loop.Now()
	r := telemetry.Record{Start: c.env.now(), Begin: now, End: now, Status: status, Flags: flags,
		Details: details, Downstream: c.remote(), Direct: c.remote(), DownstreamLocal: c.local(),
		Local: &c.env.Node.Local, Inbound: c.listener.Inbound, TLS: c.peer.TLS, Mutual: c.peer.Mutual, Peer: c.peer.Principal}
	c.env.Reporter.Finished(c.env.Loop, &r, c.http.AccessLog)
}

// ignore is the Peer of an exchange that was over before it was returned.
type ignore struct{}

func (ignore) OnHead(*stream.Head, bool)    {}
func (ignore) OnData([]byte, bool)          {}
func (ignore) OnTrailers(*stream.Head)      {}
func (ignore) OnReset(stream.Reset, string) {}
func (ignore) OnWritable()                  {}
