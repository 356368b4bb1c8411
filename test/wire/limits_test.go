package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestCircuitBreaker is Istio's example: one connection, one pending request,
// and clients at the same time. Bridged requests count as if each had a
// connection of its own.
func TestCircuitBreaker(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		gate, at := make(chan bool), make(chan bool, 8)
		addr := answers(t, func(_ string, c net.Conn, _ *bufio.Reader) {
			at <- true
			<-gate
			ok(c, "")
		})
		o.Client = func(p *proxytest.Parts) {
			p.Cluster.Limits = conf.Limits{Connections: 1, Pending: 1, Requests: 1024, Retries: 3}
		}
		m := proxytest.NewMesh(t, addr, o)
		const get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
		first := dial(t, m.Client.Addr).say(get)
		<-at // occupies the connection
		second := dial(t, m.Client.Addr).say(get)
		h := m.Client.Cluster("backend")
		eventually(t, "the second waits", func() bool { return h.Used(cluster.Pending) == 1 })
		third := dial(t, m.Client.Addr).say(get)
		r, b := third.response("GET")
		if r.StatusCode != 503 || r.Header.Get("x-envoy-overloaded") != "true" || !strings.HasSuffix(b, "reset reason: overflow") {
			t.Errorf("the third: %d %v %q", r.StatusCode, r.Header, b)
		}
		close(gate)
		for _, c := range []*conn{first, second} {
			if r, _ := c.response("GET"); r.StatusCode != 200 {
				t.Errorf("got %d", r.StatusCode)
			}
		}
		if n := m.Client.Requests(`response_flags="UO"`); n != 1 {
			t.Errorf("UO counted %d times", n)
		}
		idle(t, m.Client, m.Server)
		if !o.NoBridge && h.Used(cluster.Connections) != 0 {
			t.Errorf("%d virtual connections are left", h.Used(cluster.Connections))
		}
	})
}

// TestSafeRetries: what the program may have seen is not sent again.
func TestSafeRetries(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		var seen atomic.Int32
		addr := app(t, func(_ net.Conn, in *bufio.Reader) {
			if _, err := head(in); err == nil {
				seen.Add(1)
			}
		})
		retry := func(p *proxytest.Parts) {
			p.Route.Forward.Retry = &conf.Retry{On: conf.OnConnectFailure | conf.OnRefusedStream | conf.OnResetBeforeRequest, Attempts: 2}
		}
		o.Client, o.Server = retry, retry
		m := proxytest.NewMesh(t, addr, o)
		c := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
		if r, _ := c.response("POST"); r.StatusCode != 503 || seen.Load() != 1 {
			t.Errorf("%d, seen %d times", r.StatusCode, seen.Load())
		}
		idle(t, m.Client, m.Server)
	})
}

// TestRetries: attempts are limited, the body is sent again, limits are given
// back, and the last failure is told with URX.
func TestRetries(t *testing.T) {
	var n atomic.Int32
	var body strings.Builder // of several pieces
	for i := 0; body.Len() < 300<<10; i++ {
		fmt.Fprintln(&body, i)
	}
	addr := answers(t, func(h string, c net.Conn, in *bufio.Reader) {
		n.Add(1)
		if strings.HasPrefix(h, "POST") {
			b := make([]byte, body.Len())
			if k, err := io.ReadFull(in, b); string(b) != body.String() {
				t.Errorf("attempt %d got another body, of %d bytes: %v", n.Load(), k, err)
			}
		}
		fmt.Fprint(c, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
	})
	m := proxytest.NewMesh(t, addr, proxytest.Options{Client: func(p *proxytest.Parts) {
		p.Route.Forward.Retry = &conf.Retry{On: conf.On5xx, Attempts: 2, BackoffBase: time.Millisecond}
	}})
	r, _ := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s", body.Len(), &body).response("POST")
	if r.StatusCode != 503 || n.Load() != 3 || m.Client.Requests(`response_flags="URX"`) != 1 {
		t.Errorf("%d after %d attempts\n%s", r.StatusCode, n.Load(), m.Client.Totals())
	}
	idle(t, m.Client, m.Server)
	// A client that leaves in the back-off leaves nothing behind.
	m.Client.Change(func(s *conf.Snapshot) {
		*s = *proxytest.Forward(s.Endpoints["backend"], func(p *proxytest.Parts) {
			p.Cluster = s.Clusters["backend"]
			p.Route.Forward.Retry = &conf.Retry{On: conf.On5xx, Attempts: 2, BackoffBase: time.Hour, BackoffMax: time.Hour}
		})
		s.Secrets = m.Client.Snapshot.Secrets
	})
	h := m.Client.Cluster("backend")
	c := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	eventually(t, "a retry waits", func() bool { return h.Used(cluster.Retries) == 1 })
	_ = c.Close()
	idle(t, m.Client, m.Server)
}

// TestTimeouts: each with its status, flag and nothing left behind.
func TestTimeouts(t *testing.T) {
	addr := app(t, func(_ net.Conn, in *bufio.Reader) {
		for _, err := in.ReadByte(); err == nil; _, err = in.ReadByte() {
		}
	})
	const short = 30 * time.Millisecond
	for _, c := range []struct {
		name, request, text, flags string
		status                     int
		edit                       func(*proxytest.Parts)
	}{
		{"route", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "upstream request timeout", "UT", 504,
			func(p *proxytest.Parts) { p.Route.Forward.Timeout = short }},
		{"per try", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "upstream request timeout", "UT", 504,
			func(p *proxytest.Parts) { p.Route.Forward.Retry = &conf.Retry{PerTryTimeout: short} }},
		{"per try, retried", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "upstream request timeout", "URX,UT", 504,
			func(p *proxytest.Parts) {
				p.Route.Forward.Retry = &conf.Retry{On: conf.On5xx, Attempts: 1, PerTryTimeout: short}
			}},
		{"idle, answer awaited", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "stream timeout", "SI", 504,
			func(p *proxytest.Parts) { p.HTTP.StreamIdle = short }},
		{"idle, request awaited", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhalf", "stream timeout", "SI", 408,
			func(p *proxytest.Parts) { p.Route.Forward.IdleTimeout = short }},
		{"whole request", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhalf", "request timeout", "-", 408,
			func(p *proxytest.Parts) { p.HTTP.RequestTimeout = short }},
		{"duration", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "downstream duration timeout", "-", 504,
			func(p *proxytest.Parts) { p.Route.Forward.MaxStream = short }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := proxytest.NewMesh(t, addr, proxytest.Options{Client: c.edit})
			r, b := dial(t, m.Client.Addr).say("%s", c.request).response("GET")
			if r.StatusCode != c.status || b != c.text || m.Client.Requests(fmt.Sprintf(`response_flags="%s"`, c.flags)) != 1 {
				t.Errorf("%d %q, want %d %q %s\n%s", r.StatusCode, b, c.status, c.text, c.flags, m.Client.Totals())
			}
			idle(t, m.Client, m.Server)
		})
	}
}
