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
	logs       []*conf.AccessLog
	peer       Peer
	remote     netip.AddrPort
	local      netip.AddrPort // where it was accepted, or its original destination
	original   netip.AddrPort // set when it was captured
	remoteText string
	xfccText   string
	seen       *conf.Snapshot
	bridge     bool // an authenticated tulle1 connection
	draining   bool
	active     int
	h1         *http1.Server
	h2         *http2.Server
	idle       loop.Timer
	age        loop.Timer
	onIdle     func()
}

// Accepted describes a connection that is handed to Serve.
type Accepted struct {
	Wire     *loop.Conn
	Listener *conf.Listener
	Chain    *conf.Chain
	Original netip.AddrPort // invalid: not captured
	Peer     Peer
	HTTP2    bool // by ALPN or preface
}

// Serve makes the codec of a connection and begins to serve requests. The
// caller starts the connection with what Serve returns.
func (e *Env) Serve(a *Accepted) (*Conn, stream.Codec) {
	c := &Conn{env: e, wire: a.Wire, listener: a.Listener, chain: a.Chain, http: a.Chain.HTTP, peer: a.Peer,
		remote: a.Wire.Remote(), local: a.Wire.Local(), original: a.Original, logs: a.Chain.HTTP.AccessLog}
	if a.Original.IsValid() {
		c.local = a.Original
	}
	c.remoteText = c.remote.Addr().String()
	c.bridge = a.Peer.ALPN == "tulle1" && a.Peer.Mutual
	c.onIdle = c.idled
	if e.conns == nil {
		e.conns = map[*Conn]struct{}{}
	}
	e.conns[c] = struct{}{}
	if a.HTTP2 {
		c.h2 = http2.NewServer(a.Wire, c, e.h2Options(c))
		a.Wire.Lazy(true)
		c.startIdle()
		return c, &tracked{c, c.h2}
	}
	c.h1 = http1.NewServer(a.Wire, c, e.h1Options(c))
	c.startIdle()
	return c, &tracked{c, c.h1}
}

// tracked passes events to the codec and lets go of the connection at its end.
type tracked struct {
	c *Conn
	stream.Codec
}

func (t *tracked) OnClose(err error) {
	t.c.idle.Stop()
	t.c.age.Stop()
	t.Codec.OnClose(err)
	t.c.env.closed(t.c)
}

// Accept begins an exchange.
func (c *Conn) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	x := c.env.get()
	x.conn, x.down = c, s
	if snap := c.env.Snapshot(); snap != c.seen {
		c.refresh(snap)
	}
	x.req.CopyFrom(h)
	if c.bridge {
		fromBridge(&x.req)
	}
	c.active++
	c.idle.Stop()
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
	c.seen = snap
	l := snap.Listeners[c.listener.Name]
	if l == c.listener {
		return
	}
	if l != nil {
		for _, ch := range append([]*conf.Chain{l.Default}, l.Chains...) {
			if ch != nil && ch.HTTP != nil && ch.Name == c.chain.Name &&
				reflect.DeepEqual(ch.Match, c.chain.Match) && reflect.DeepEqual(ch.TLS, c.chain.TLS) {
				c.listener, c.chain, c.http, c.logs = l, ch, ch.HTTP, ch.HTTP.AccessLog
				c.xfccText = ""
				return
			}
		}
	}
	c.draining = true
}

// ended is called by each exchange as its last act.
func (c *Conn) ended() {
	if c.active--; c.active == 0 {
		c.startIdle()
		if c.draining && c.h1 == nil {
			c.drainCodec()
		}
	}
}

func (c *Conn) startIdle() {
	d := c.http.IdleTimeout
	if d == 0 {
		d = time.Hour
	}
	if d > 0 {
		c.env.Loop.Arm(&c.idle, d, c.onIdle)
	}
}

func (c *Conn) idled() {
	if c.active == 0 {
		c.wire.Close()
	}
}

// Drain ends the connection with its present requests: "connection: close",
// or GOAWAY. It must be called on the connection's loop.
func (c *Conn) Drain() {
	c.draining = true
	c.drainCodec()
	if c.active == 0 && c.h1 != nil && c.h1.Idle() {
		c.wire.Close()
	}
}

func (c *Conn) drainCodec() {
	if c.h1 != nil {
		c.h1.Drain()
	} else {
		c.h2.Drain()
	}
}

// http1 reports whether the client speaks HTTP/1 here: then an accepted
// upgrade is 101.
func (c *Conn) http1() bool { return c.h1 != nil }

// destination is where the connection was going.
func (c *Conn) destination() netip.AddrPort { return c.local }

func (c *Conn) bufferLimit() int {
	if n := c.listener.BufferLimit; n > 0 {
		return n
	}
	return 1 << 20
}

func (c *Conn) upgradeAllowed(proto []byte) bool {
	return slices.Contains(c.http.Upgrades, string(proto))
}

// badRequest reports a request that the codec refused by itself.
func (c *Conn) badRequest(status int, detail string) {
	now := c.env.Loop.Now()
	r := telemetry.Record{Start: c.env.now(), Begin: now, End: now, Status: status, Flags: telemetry.FlagDPE,
		Details: underscored(detail), Downstream: c.remote, Direct: c.remote, DownstreamLocal: c.local,
		Local: &c.env.Node.Local, Inbound: c.listener.Inbound, TLS: c.peer.TLS, Mutual: c.peer.Mutual, Peer: c.peer.Principal}
	c.env.Reporter.Finished(c.env.Loop, &r, c.logs)
}

// ignore is the Peer of an exchange that was over before it was returned.
type ignore struct{}

func (ignore) OnHead(*stream.Head, bool)    {}
func (ignore) OnData([]byte, bool)          {}
func (ignore) OnTrailers(*stream.Head)      {}
func (ignore) OnReset(stream.Reset, string) {}
func (ignore) OnWritable()                  {}
