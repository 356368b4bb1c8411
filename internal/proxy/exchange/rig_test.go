package exchange

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// rig is one loop's exchanges between a client and endpoints that the test
// plays: no byte leaves it. A test's function runs on the loop.
type rig struct {
	*testing.T
	env   Env
	conn  *Conn
	loop  *loop.Loop
	route *conf.Route
	http  *conf.HTTP
	conf  *conf.Cluster
	ups   []*up    // attempts, in order
	refer []string // how the next attempts fail instead; "" is given a stream
	done  []string // finished exchanges: status, flags, details
}

// spoken is a stream that writes down what is sent on it.
type spoken struct {
	said    []string
	blocked bool
}

func (s *spoken) say(end bool, format string, args ...any) {
	t := fmt.Sprintf(format, args...)
	if end {
		t += " end"
	}
	s.said = append(s.said, t)
}

func (s *spoken) SendHead(h *stream.Head, end bool) {
	if len(h.Method) > 0 {
		s.say(end, "%s %s%s", h.Method, h.Path, attempts(h))
		return
	}
	s.say(end, "%d", h.Status)
}

func attempts(h *stream.Head) string {
	if v := h.Get("x-envoy-attempt-count"); v != nil {
		return " #" + string(v)
	}
	return ""
}

func (s *spoken) SendData(p []byte, end bool) { s.say(end, "%s", p) }
func (s *spoken) SendTrailers(t *stream.Head) { s.say(true, "trailers %s", t.Fields[0].Value) }
func (s *spoken) Reset(stream.Reset)          { s.say(false, "reset") }
func (s *spoken) Pause(stop bool)             { s.say(false, "pause %t", stop) }
func (s *spoken) Blocked() bool               { return s.blocked }

// up is an attempt at an endpoint; the embedded Peer is told what it answers.
type up struct {
	spoken
	stream.Peer
	at netip.AddrPort
	t  *pool.Ticket
}

func (u *up) answer(status int, end bool) { u.OnHead(&stream.Head{Status: status, Length: -1}, end) }

// Get implements Upstreams.
func (r *rig) Get(t *pool.Ticket) {
	u := &up{Peer: t.Peer, at: t.Endpoint.Addr, t: t}
	r.ups = append(r.ups, u)
	if len(r.refer) > 0 {
		why := r.refer[0]
		r.refer = r.refer[1:]
		switch why {
		case "refused":
			t.Owner.Failed(stream.ConnectFailed, "connection refused")
			return
		case "wait":
			return
		}
	}
	r.ready(u)
}

// ready gives an attempt its stream.
func (r *rig) ready(u *up) { u.t.Owner.Ready(&u.spoken, &pool.Upstream{Remote: u.at}) }

// Finished implements Reporter.
func (r *rig) Finished(_ *loop.Loop, rec *telemetry.Record, _ []*conf.AccessLog) {
	r.done = append(r.done, strings.TrimSpace(fmt.Sprintf("%d %s %s", rec.Status, rec.Flags, rec.Details)))
}

// newRig makes one with two endpoints; edit may change its configuration.
func newRig(t *testing.T, edit func(*rig)) *rig {
	t.Helper()
	g, err := loop.New(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	r := &rig{T: t, loop: g.Loops()[0]}
	r.conf = &conf.Cluster{Name: "backend", Type: conf.ClusterEDS}
	r.route = &conf.Route{Name: "all", Match: conf.Match{Kind: conf.PathPrefix, Path: "/"},
		Forward: &conf.Forward{Clusters: []conf.WeightedCluster{{Name: "backend", Weight: 1}}, Total: 1}}
	v := &conf.VirtualHost{Name: "all", Domains: []string{"*"}, Routes: []*conf.Route{r.route}, AttemptCount: true}
	r.http = &conf.HTTP{Routes: &conf.RouteTable{Name: "inline", Hosts: []*conf.VirtualHost{v}, Any: v}, Upgrades: []string{"websocket"}, AcceptHTTP10: true}
	if edit != nil {
		edit(r)
	}
	s := conf.NewSnapshot()
	l := &conf.Listener{Name: "in", Chains: []*conf.Chain{{HTTP: r.http}}}
	s.Listeners["in"], s.Clusters["backend"] = l, r.conf
	s.Endpoints["backend"] = &conf.Endpoints{Cluster: "backend", Localities: []conf.Locality{{Endpoints: []conf.Endpoint{
		{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 1, Health: conf.Healthy},
		{Addr: netip.MustParseAddrPort("192.0.2.2:80"), Weight: 1, Health: conf.Healthy}}}}}
	all := cluster.New(cluster.Options{Loops: 1})
	all.Apply(s, loop.Nanotime())
	r.env = Env{Loop: r.loop, Pool: r, Clusters: all, Snapshot: func() *conf.Snapshot { return s }, Reporter: r, Gate: g.Gate()}
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil || g.Panics() > 0 {
			t.Errorf("%v, %d panics", err, g.Panics())
		}
		all.Close()
	})
	fd := silent(t)
	r.do(func() {
		wire := r.loop.Adopt(fd, netip.AddrPort{}, netip.MustParseAddrPort("198.51.100.1:1000"))
		r.conn, _ = r.env.Serve(&Accepted{Wire: wire, Listener: l, Chain: l.Chains[0]})
	})
	return r
}

// silent is a descriptor that never has anything to say.
func silent(t *testing.T) int {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd // closed with the connection, at the latest with the process
}

// do runs f on the loop.
func (r *rig) do(f func()) {
	r.Helper()
	done := make(chan struct{})
	r.loop.Post(func() { defer close(done); f() })
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		r.Fatal("the loop does not come to it")
	}
}

// until waits for what a timer brings.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		var now bool
		if r.do(func() { now = ok() }); now {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("waited for %s", what)
		}
	}
}

// client is a request from its client's side; the Peer takes its body.
type client struct {
	spoken
	stream.Peer
}

// request begins one; edit may change its head.
func (r *rig) request(method string, end bool, edit func(*stream.Head)) *client {
	c := &client{}
	h := &stream.Head{Method: []byte(method), Scheme: []byte("http"), Authority: []byte("shop"), Path: []byte("/a"), Version: 11, Length: -1, Body: !end}
	if edit != nil {
		edit(h)
	}
	c.Peer = r.conn.Accept(&c.spoken, h, end)
	return c
}

func trailers(v string) *stream.Head {
	h := &stream.Head{Length: -1}
	h.AddString("t", v)
	return h
}

// said compares what was sent, without pauses.
func (r *rig) said(who string, s *spoken, want ...string) {
	r.Helper()
	got := slices.DeleteFunc(slices.Clone(s.said), func(t string) bool { return strings.HasPrefix(t, "pause") })
	if !slices.Equal(got, want) {
		r.Errorf("%s is sent %.200q, want %.200q", who, got, want)
	}
}

// finished compares what was reported, and looks at what is given back.
func (r *rig) finished(want ...string) {
	r.Helper()
	if !slices.Equal(r.done, want) {
		r.Errorf("reported %q, want %q", r.done, want)
	}
	h := r.env.Clusters.Get("backend")
	for _, x := range []cluster.Resource{cluster.Requests, cluster.Retries} {
		if n := h.Used(x); n != 0 {
			r.Errorf("%d of resource %d are not given back", n, x)
		}
	}
	if r.conn.active != 0 {
		r.Errorf("%d requests still count", r.conn.active)
	}
}
