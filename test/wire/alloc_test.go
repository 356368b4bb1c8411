package wire

import (
	"bufio"
	"bytes"
	"net"
	"runtime"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy"
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

// keepAlive sends requests one after the other over one connection.
func keepAlive(t testing.TB, addr string) func(n int) {
	c := dial(t, addr)
	request := []byte("GET /api/items?x=1 HTTP/1.1\r\nhost: items.shop\r\nuser-agent: test\r\naccept: */*\r\nx-request-id: 1234\r\n\r\n")
	b := make([]byte, 4096)
	return func(n int) {
		for range n {
			if _, err := c.Write(request); err != nil {
				t.Fatal(err)
			}
			for k := 0; !bytes.HasSuffix(b[:k], []byte("hello")); {
				n, err := c.Read(b[k:])
				if err != nil {
					t.Fatal(err)
				}
				k += n
			}
		}
	}
}

// TestAllocations: forwarding allocates nothing in steady state. What is left
// under mTLS are the two small ones that crypto/tls makes for each record read.
func TestAllocations(t *testing.T) {
	app := fixed(t)
	alone := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app), nil))
	bridged := proxytest.NewMesh(t, app, proxytest.Options{})
	plain := proxytest.NewMesh(t, app, proxytest.Options{NoBridge: true})
	for _, c := range []struct {
		name, addr string
		most       float64
	}{{"one proxy", alone.Addr, 0.5}, {"bridge", bridged.Client.Addr, 4.5}, {"no bridge", plain.Client.Addr, 4.5}} {
		t.Run(c.name, func(t *testing.T) {
			run := keepAlive(t, c.addr)
			run(500)
			const n = 2000
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			run(n)
			runtime.ReadMemStats(&after)
			if per := float64(after.Mallocs-before.Mallocs) / n; per > c.most {
				t.Errorf("%.2f allocations per request, want at most %.1f", per, c.most)
			} else {
				t.Logf("%.2f allocations per request", per)
			}
		})
	}
}

// BenchmarkKeepAlive is one HTTP/1 request through one proxy on one connection.
func BenchmarkKeepAlive(b *testing.B) {
	p := proxytest.Start(b, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(fixed(b)), nil))
	run := keepAlive(b, p.Addr)
	b.ReportAllocs()
	b.ResetTimer()
	run(b.N)
}

// BenchmarkBridge is one HTTP/1 request through two sidecars.
func BenchmarkBridge(b *testing.B) {
	run := keepAlive(b, proxytest.NewMesh(b, fixed(b), proxytest.Options{}).Client.Addr)
	b.ReportAllocs()
	b.ResetTimer()
	run(b.N)
}
