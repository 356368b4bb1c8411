package wire

import (
	"bufio"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// counted is a backend that says which connections it had: turn is called with
// the number of the request on its connection, and says whether to answer it.
type counted struct {
	opened atomic.Int32
	ended  chan int // requests that each connection had, when it ends
}

func (b *counted) serve(t *testing.T, turn func(n int, c net.Conn) bool) string {
	b.ended = make(chan int, 100)
	return app(t, func(c net.Conn, in *bufio.Reader) {
		b.opened.Add(1)
		n := 0
		defer func() { b.ended <- n }()
		for {
			if _, err := head(in); err != nil {
				return
			}
			if n++; turn != nil && !turn(n, c) {
				return
			}
			ok(c, "")
		}
	})
}

const plainGet = "GET / HTTP/1.1\r\nhost: a\r\n\r\n"

// TestPoolKeeps: a connection to an endpoint serves one request after the
// other, whoever they come from, until it has served as many as it may.
func TestPoolKeeps(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*conf.Cluster)
		want []int // requests on each connection
	}{
		{"without limits", func(*conf.Cluster) {}, []int{6}},
		{"three each", func(c *conf.Cluster) { c.MaxRequestsPerConn = 3 }, []int{3, 3}},
		{"one each", func(c *conf.Cluster) { c.MaxRequestsPerConn = 1 }, []int{1, 1, 1, 1, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &counted{}
			p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(b.serve(t, nil)), func(p *proxytest.Parts) { c.edit(p.Cluster) }))
			for range 6 {
				if r, _ := dial(t, p.Addr).say(plainGet).response("GET"); r.StatusCode != 200 {
					t.Fatalf("got %d", r.StatusCode)
				}
			}
			if n := int(b.opened.Load()); n != len(c.want) {
				t.Fatalf("%d connections, want %d", n, len(c.want))
			}
			for i, want := range c.want {
				if want == 6 {
					break // it stays
				}
				if n := <-b.ended; n != want {
					t.Errorf("connection %d had %d requests, want %d", i, n, want)
				}
			}
		})
	}
}

// TestPoolIdles: an idle connection is closed after its time, and the next
// request has a new one.
func TestPoolIdles(t *testing.T) {
	b := &counted{}
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(b.serve(t, nil)), func(p *proxytest.Parts) { p.Cluster.IdleTimeout = 20 * time.Millisecond }))
	for i := 1; i <= 3; i++ {
		if r, _ := dial(t, p.Addr).say(plainGet).response("GET"); r.StatusCode != 200 {
			t.Fatalf("got %d", r.StatusCode)
		}
		if n := <-b.ended; n != 1 {
			t.Errorf("it ended after %d requests", n)
		}
		if n := int(b.opened.Load()); n != i {
			t.Errorf("%d connections, want %d", n, i)
		}
		eventually(t, "it is given back", func() bool { return p.Cluster("backend").Used(cluster.Connections) == 0 })
	}
}

// TestPoolFindsOutWhatBroke: a connection that ends while it is idle harms
// nobody; one that ends on a request is UC, or a further attempt on a new
// connection where the policy says so.
func TestPoolFindsOutWhatBroke(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		b := &counted{}
		p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(b.serve(t, func(n int, c net.Conn) bool {
			ok(c, "")
			return false // without a word
		})), nil))
		for i := 1; i <= 5; i++ {
			if r, _ := dial(t, p.Addr).say(plainGet).response("GET"); r.StatusCode != 200 {
				t.Fatalf("got %d", r.StatusCode)
			}
			<-b.ended
			eventually(t, "it is found out", func() bool { return p.Cluster("backend").Used(cluster.Connections) == 0 })
			if n := int(b.opened.Load()); n != i {
				t.Errorf("%d connections, want %d", n, i)
			}
		}
	})
	for _, retried := range []bool{false, true} {
		t.Run(map[bool]string{false: "on a request", true: "on a request, retried"}[retried], func(t *testing.T) {
			b := &counted{}
			p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(b.serve(t, func(n int, _ net.Conn) bool { return n < 2 })), func(p *proxytest.Parts) {
				if retried {
					p.Route.Forward.Retry = &conf.Retry{On: conf.OnReset, Attempts: 1, BackoffBase: time.Millisecond}
				}
			}))
			want, flags, times := 503, "UC", 1
			if retried {
				want, flags, times = 200, "-", 2
			}
			for i, status := range []int{200, want} {
				if r, _ := dial(t, p.Addr).say(plainGet).response("GET"); r.StatusCode != status {
					t.Fatalf("request %d: got %d, want %d", i+1, r.StatusCode, status)
				}
			}
			if n := <-b.ended; n != 2 {
				t.Errorf("the connection had %d requests", n)
			}
			eventually(t, flags+" is counted", func() bool { return p.Requests(`response_flags="`+flags+`"`) == times })
		})
	}
}
