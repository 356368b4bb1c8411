package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestManyChanges: a thousand WebSockets stay open, and memory flat, while the
// configuration changes ten thousand times.
func TestManyChanges(t *testing.T) {
	sockets, changes := 1000, 10000
	if testing.Short() {
		sockets, changes = 100, 1000
	}
	addr := app(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := head(in); err != nil {
			return
		}
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, in)
	})
	build := func(n int) *conf.Snapshot {
		s := proxytest.Forward(proxytest.To(addr), func(p *proxytest.Parts) {
			p.Route.Name = fmt.Sprint("route ", n)
			p.Cluster.Limits = conf.Limits{Connections: 4096, Pending: 1024, Requests: 4096, Retries: 3}
			if n%2 == 1 {
				p.Cluster.ConnectTimeout = time.Second
			}
		})
		pad := make([]*conf.Route, 64) // what must not be kept, of some size
		for i := range pad {
			pad[i] = &conf.Route{Name: fmt.Sprint("pad ", n, i), Match: conf.Match{Kind: conf.PathExact, Path: "/pad"}}
		}
		s.Routes["unused"] = &conf.RouteTable{Name: "unused", Hosts: []*conf.VirtualHost{{Name: "pad", Routes: pad}}}
		return s
	}
	p := proxytest.Start(t, &proxy.Bootstrap{}, build(0))
	var open []*conn
	for i := range sockets {
		if i%10 == 9 { // each few under another configuration
			p.Publish(build(i))
		}
		c := dial(t, p.Addr).say("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		if h := c.head(); status(h) != "101" {
			t.Fatal(h)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		open = append(open, c)
	}
	change := func(n int) {
		for i := range n {
			p.Publish(build(i))
		}
	}
	change(changes / 10)
	before := heap()
	change(changes * 9 / 10)
	if after := heap(); after > before+before/4+4<<20 {
		t.Errorf("the heap grew from %d to %d KiB", before>>10, after>>10)
	}
	for i, c := range open {
		if got := c.say("ping %4d\n", i).line(); got != fmt.Sprintf("ping %4d\n", i) {
			t.Fatalf("socket %d: %q", i, got)
		}
	}
	for _, c := range open {
		_ = c.Close()
	}
	idle(t, p)
	eventually(t, "all connections are closed", func() bool { return p.Connections() == 0 })
}

// heap is what lives after a collection.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestRollingReplacement: endpoints are replaced one by one under load, as a
// Deployment does; each drains before it ends. No request fails.
func TestRollingReplacement(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		start := func() *httptest.Server {
			return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				_, _ = w.Write(b)
			}))
		}
		first := start()
		m := proxytest.NewMesh(t, first.Listener.Addr().String(), o)
		stop := make(chan bool)
		var done, failed atomic.Int64
		var turns [4]atomic.Int64 // requests of each client
		var wg sync.WaitGroup
		for i := range turns {
			wg.Go(func() {
				c := http.Client{Transport: &http.Transport{}, Timeout: patience}
				defer c.CloseIdleConnections()
				for {
					select {
					case <-stop:
						return
					default:
					}
					r, err := c.Post("http://"+m.Client.Addr+"/", "text/plain", strings.NewReader("body"))
					if err != nil {
						failed.Add(1)
						continue
					}
					if b, err := io.ReadAll(r.Body); err != nil || string(b) != "body" || r.StatusCode != 200 {
						failed.Add(1)
					}
					_ = r.Body.Close()
					done.Add(1)
					turns[i].Add(1)
				}
			})
		}
		old := first
		for range 8 {
			n := done.Load()
			eventually(t, "requests flow", func() bool { return done.Load() > n+50 })
			next := start()
			m.Server.Change(func(s *conf.Snapshot) { s.Endpoints["backend"] = proxytest.To(next.Listener.Addr().String()) })
			h := m.Server.Cluster("backend")
			eventually(t, "there is one endpoint", func() bool { return len(h.Endpoints()) == 1 })
			// What is under way to the old one has ended when every client has
			// begun and ended a request since; then it goes, as programs do that
			// are asked to end.
			for i := range turns {
				n := turns[i].Load()
				eventually(t, "every client goes on", func() bool { return turns[i].Load() > n+1 })
			}
			if err := old.Config.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			old = next
		}
		close(stop)
		wg.Wait()
		if failed.Load() > 0 || done.Load() < 400 {
			t.Errorf("%d of %d requests failed\n%s", failed.Load(), done.Load(), m.Server.Totals())
		}
		idle(t, m.Client, m.Server)
		old.Close()
	})
}
