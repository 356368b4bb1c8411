package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// fixed is an app that answers each read with the same bytes, and allocates
// nothing for it.
func fixed(t testing.TB) string {
	answer := []byte("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello")
	return app(t, func(c net.Conn, _ *bufio.Reader) {
		b := make([]byte, 4096)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
}

// keepAlive sends requests in rounds, one over each of so many connections.
func keepAlive(t testing.TB, addr string, conns int) func(rounds int) {
	all := make([]net.Conn, conns)
	for i := range all {
		all[i] = dial(t, addr)
	}
	request := []byte("GET /api/items?x=1 HTTP/1.1\r\nhost: items.shop\r\nuser-agent: test\r\naccept: */*\r\n" +
		"x-drop: me\r\nx-role: ops\r\nx-request-id: 1234\r\n\r\n")
	b := make([]byte, 4096)
	return func(rounds int) {
		for range rounds {
			for _, c := range all {
				if _, err := c.Write(request); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range all {
				k := 0
				for !bytes.HasSuffix(b[:k], []byte("hello")) {
					n, err := c.Read(b[k:])
					if err != nil {
						t.Fatal(err)
					}
					k += n
				}
				if !bytes.HasPrefix(b[:k], []byte("HTTP/1.1 200 ")) {
					t.Fatalf("%q", b[:k])
				}
			}
		}
	}
}

// filters are what a sidecar or gateway of a mesh does beside forwarding.
func filters(p *proxytest.Parts) {
	rule := func(name, prefix string) conf.RBACPolicy {
		return conf.RBACPolicy{Name: name, Principals: []*conf.RBACRule{{Kind: conf.RBACAny}},
			Permissions: []*conf.RBACRule{{Kind: conf.RBACAnd, Children: []*conf.RBACRule{
				{Kind: conf.RBACHeader, Header: &conf.HeaderMatch{Name: ":method", StringMatch: conf.StringMatch{Value: "GET"}}},
				{Kind: conf.RBACPath, String: &conf.StringMatch{Kind: conf.StrPrefix, Value: prefix}},
				{Kind: conf.RBACHeader, Header: &conf.HeaderMatch{Name: "x-role", StringMatch: conf.StringMatch{Value: "ops"}}},
			}}}}
	}
	p.HTTP.Filters = []conf.Filter{{Name: "rbac", RBAC: &conf.RBAC{Action: conf.RBACAllow,
		Policies: []conf.RBACPolicy{rule("no", "/admin/"), rule("yes", "/api/")}}}}
	p.HTTP.UseRemoteAddress = true
	edit := conf.HeaderEdit{Set: []conf.Header{{Name: "x-set", Value: "to this"}, {Name: "x-made", Value: "%PROTOCOL%", Dynamic: true}},
		Add: []conf.Header{{Name: "x-more", Value: "and that"}}, Remove: []string{"x-drop"}}
	p.Route.Request, p.Route.Response = edit, edit
	p.Route.Forward.Timeout = time.Minute
	p.Route.Forward.Retry = &conf.Retry{On: conf.On5xx, Attempts: 2, PerTryTimeout: time.Minute}
	p.Host.AttemptCount = true
}

// underRace: the race detector allocates too, so that counts mean nothing.
var underRace bool

// TestAllocations: forwarding allocates nothing in steady state, on however
// many connections and with filters on. What is left under mTLS is the one
// small reader that crypto/tls makes for each record read: two on the way
// through a pair of sidecars, less where records carry many requests.
func TestAllocations(t *testing.T) {
	app := fixed(t)
	alone := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app), nil))
	filtered := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app), filters))
	bridged := proxytest.NewMesh(t, app, proxytest.Options{})
	plain := proxytest.NewMesh(t, app, proxytest.Options{NoBridge: true})
	busy := proxytest.NewMesh(t, app, proxytest.Options{Client: filters, Server: filters})
	for _, c := range []struct {
		name, addr string
		conns      int
		most       float64
	}{
		{"one proxy", alone.Addr, 1, 0}, {"one proxy", alone.Addr, 64, 0}, {"filters", filtered.Addr, 64, 0},
		{"bridge", bridged.Client.Addr, 1, 2}, {"bridge", bridged.Client.Addr, 64, 0.5},
		{"filters on the bridge", busy.Client.Addr, 64, 0.5}, {"no bridge", plain.Client.Addr, 64, 2},
	} {
		t.Run(fmt.Sprintf("%s, %d connections", c.name, c.conns), func(t *testing.T) {
			run := keepAlive(t, c.addr, c.conns)
			const n = 1024
			least := math.Inf(1)
			// Until it is steady: at first connections are made.
			for i := 0; i < 10 && least > c.most; i++ {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				run(n / c.conns)
				runtime.ReadMemStats(&after)
				least = min(least, math.Round(float64(after.Mallocs-before.Mallocs)/n*10)/10)
			}
			if t.Logf("%.1f allocations per request", least); least > c.most && !underRace {
				t.Errorf("want at most %.1f", c.most)
			}
		})
	}
}

// BenchmarkKeepAlive is one HTTP/1 request through one proxy with filters, on
// one connection and on 64 at once.
func BenchmarkKeepAlive(b *testing.B) {
	p := proxytest.Start(b, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(fixed(b)), filters))
	requests(b, p.Addr)
}

// BenchmarkBridge is one HTTP/1 request through two sidecars.
func BenchmarkBridge(b *testing.B) {
	requests(b, proxytest.NewMesh(b, fixed(b), proxytest.Options{Client: filters, Server: filters}).Client.Addr)
}

// BenchmarkPair is the same without the bridge: HTTP/1 over mTLS.
func BenchmarkPair(b *testing.B) {
	requests(b, proxytest.NewMesh(b, fixed(b), proxytest.Options{NoBridge: true}).Client.Addr)
}

func requests(b *testing.B, addr string) {
	for _, conns := range []int{1, 64} {
		b.Run(fmt.Sprint(conns), func(b *testing.B) {
			run := keepAlive(b, addr, conns)
			b.ReportAllocs()
			b.ResetTimer()
			run((b.N + conns - 1) / conns)
		})
	}
}
