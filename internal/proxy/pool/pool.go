package pool

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Bridge is the ALPN token of our own proxies: HTTP/1 requests as HTTP/2 streams.
const Bridge = "tulle1"

// Options of a pool.
type Options struct {
	// TLS makes the handshakes; nil: clusters with TLS cannot be reached.
	TLS *mtls.Engine
	// Dial opens a connection towards an endpoint, or returns nil twice: from
	// this host, as all are when there is no Dial. Sidecars of programs that
	// live in another network namespace set it.
	Dial func(l *loop.Loop, c *conf.Cluster, ep *cluster.Endpoint, o loop.DialOptions) (*loop.Conn, error)
	// NoBridge never offers "tulle1".
	NoBridge bool
	H1       http1.Limits
}

// Pool is the set of upstream connections of one loop.
type Pool struct {
	loop   *loop.Loop
	o      Options
	groups map[key]*group
	h1     http1.ClientOptions
	h2     http2.ClientOptions
	h1set  http1.Set
	h2set  http2.Set
	recent [4]*group // used last; nil: none
	conns  map[*upconn]struct{}
	raws   map[*raw]struct{}
	sweepT loop.Timer
	sweepF func()
}

// New makes the pool of a loop.
func New(l *loop.Loop, o Options) *Pool {
	p := &Pool{loop: l, o: o, groups: map[key]*group{}, conns: map[*upconn]struct{}{},
		raws: map[*raw]struct{}{}}
	p.h1 = http1.ClientOptions{Set: &p.h1set, Limits: o.H1, OnIdle: func(c *http1.Client) { c.Owner.(*upconn).idled() },
		OnGone: func(c *http1.Client, err error) { c.Owner.(*upconn).gone() }}
	p.h2 = http2.ClientOptions{Set: &p.h2set, OnCapacity: func(c *http2.Client) { c.Owner.(*upconn).capacity() },
		OnGone:   func(c *http2.Client, err error) { c.Owner.(*upconn).gone() },
		OnClosed: func(c *http2.Client) { c.Owner.(*upconn).closed() }}
	return p
}

// Get finds or makes a stream for t and tells its owner, perhaps at once.
func (p *Pool) Get(t *Ticket) {
	c := t.Cluster.Conf()
	if c == nil {
		t.Owner.Failed(stream.ConnectFailed, "cluster was removed")
		return
	}
	if t.Raw {
		p.raw(t)
		return
	}
	h2 := c.Protocol == conf.UpHTTP2 || c.Protocol == conf.UpDownstream && t.Version == 20
	for i, g := range p.recent {
		if g != nil && g.ep == t.Endpoint && g.conf == c && g.h2 == h2 && !g.named {
			if i > 0 {
				p.recent[i], p.recent[i-1] = p.recent[i-1], g
			}
			g.get(t)
			return
		}
	}
	p.find(t, c, h2).get(t)
}

// find returns the group of a ticket, which may be new.
func (p *Pool) find(t *Ticket, c *conf.Cluster, h2 bool) *group {
	k := key{conf: c, addr: t.Endpoint.Addr, pipe: t.Endpoint.Pipe, tls: t.Endpoint.TLS, h2: h2}
	named := k.tls != nil && k.tls.SNI == "" && k.tls.AutoSNI
	if k.tls != nil {
		k.sni = k.tls.SNI
		if named {
			k.sni = hostOnly(t.Authority)
		}
	}
	g := p.groups[k]
	if g == nil {
		g = &group{key: k, p: p, cluster: t.Cluster, ep: t.Endpoint, named: named}
		p.groups[k] = g
		p.armSweep()
	}
	if g.ep != t.Endpoint { // its facts changed, or it came back
		g.ep, g.stale = t.Endpoint, false
	}
	p.recent[len(p.recent)-1] = g
	return g
}

// defaultConnect is Envoy's connect_timeout.
const defaultConnect = 5 * time.Second

// connect begins a connection to an endpoint.
func (p *Pool) connect(c *conf.Cluster, ep *cluster.Endpoint) (*loop.Conn, error) {
	o := loop.DialOptions{Source: c.BindSource}
	if ep.Addr.Addr().Is6() {
		o.Source = c.BindSource6
	}
	if k := c.Keepalive; k != nil {
		o.Keepalive = &loop.Keepalive{Probes: int(k.Probes), Time: k.Time, Interval: k.Interval}
	}
	if p.o.Dial != nil {
		if w, err := p.o.Dial(p.loop, c, ep, o); w != nil || err != nil {
			return w, err
		}
	}
	if ep.Pipe != "" {
		return p.loop.DialUnix(ep.Pipe)
	}
	return p.loop.Dial(ep.Addr, o)
}

// hostOnly is an authority without its port.
func hostOnly(a []byte) string {
	s := string(a)
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String()
	}
	for i := len(s) - 1; i >= 0 && s[i] != ']'; i-- {
		if s[i] == ':' {
			return s[:i]
		}
	}
	return s
}

// sweepEvery is how often groups are looked over whose endpoint or
// configuration is gone.
const sweepEvery = 5 * time.Second

func (p *Pool) armSweep() {
	if p.sweepT.Armed() {
		return
	}
	if p.sweepF == nil {
		p.sweepF = p.sweep
	}
	p.loop.Arm(&p.sweepT, sweepEvery, p.sweepF)
}

// sweep closes the idle connections of groups that no request will choose any
// more, and forgets empty groups.
func (p *Pool) sweep() {
	for k, g := range p.groups {
		if g.cluster.Conf() != k.conf || g.ep.Removed() {
			g.retire()
		}
		if g.open == 0 && g.waiting == 0 {
			delete(p.groups, k)
			clear(p.recent[:])
		}
	}
	if len(p.groups) > 0 {
		p.armSweep()
	}
}

// EachSecure calls f with every connection under TLS.
func (p *Pool) EachSecure(f func(*loop.Conn, *mtls.Handshake)) {
	for u := range p.conns {
		if u.secure != nil {
			f(u.wire, u.secure)
		}
	}
	for r := range p.raws {
		if r.secure != nil && r.wire != nil {
			f(r.wire, r.secure)
		}
	}
}

// Spare closes the connections that are idle, because memory is short, and
// gives their number.
func (p *Pool) Spare() (n int) {
	for _, g := range p.groups {
		for _, u := range slices.Concat(g.idle, g.multi) {
			if u.streams == 0 && !u.retired {
				u.retire()
				n++
			}
		}
	}
	return n
}

// Counts says how many connections and waiting tickets the pool holds.
func (p *Pool) Counts() (connections, waiting int) {
	for _, g := range p.groups {
		connections += g.open
		waiting += g.waiting
	}
	return connections, waiting
}

// errTimeout ends connection attempts that take too long.
var errTimeout = errors.New("connection timeout")

// resetOf names a failure to connect.
func resetOf(err error) stream.Reset {
	if errors.Is(err, errTimeout) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return stream.ConnectTimedOut
	}
	return stream.ConnectFailed
}
