package wire

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestTrustWithdrawn: when a bundle no longer holds the CA of a live
// connection's peer, the connection ends, and no new one is made.
func TestTrustWithdrawn(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		at := make(chan bool, 1)
		addr := answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
			if strings.HasPrefix(h, "GET /wait") {
				at <- true
				return
			}
			ok(c, "")
		})
		m := proxytest.NewMesh(t, addr, o)
		c := dial(t, m.Client.Addr).say("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
		<-at
		// Rotation: the new CA beside the old one disturbs nobody.
		other := proxytest.NewCA(t)
		both := m.CA.Secrets(t, proxytest.ServerURI, time.Hour, other)
		m.Server.Change(func(s *conf.Snapshot) { s.Secrets["ROOTCA"] = both["ROOTCA"] })
		again := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
		if h := again.head(); status(h) != "200" {
			t.Fatalf("during the rotation: %q", h)
		}
		if n := m.Client.Requests(`response_code="503"`); n != 0 {
			t.Fatal("the rotation broke a request")
		}
		m.Server.Change(func(s *conf.Snapshot) { s.Secrets["ROOTCA"] = &conf.Secret{Name: "ROOTCA", CA: other.PEM} })
		if r, _ := c.response("GET"); r.StatusCode != 503 {
			t.Errorf("the live request got %d", r.StatusCode)
		}
		eventually(t, "no old connection is left", func() bool { return m.Client.Connections() == 2 })
		// TLS 1.3 tells a client after its handshake that it is refused: that is a
		// failure to connect, safe to try again, and not a broken request.
		r, b := again.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").response("GET")
		if r.StatusCode != 503 || !strings.Contains(b, "remote connection failure") {
			t.Errorf("%d %q", r.StatusCode, b)
		}
		if m.Client.Requests(`response_flags="UF"`) != 1 {
			t.Errorf("not counted as UF:\n%s", m.Client.Totals())
		}
		idle(t, m.Client, m.Server)
	})
}

// TestExpiry: a connection ends when its peer's certificate does, and requests
// go over new ones made with new certificates meanwhile.
func TestExpiry(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		m := proxytest.NewMesh(t, answers(t, func(_ string, c net.Conn, _ *bufio.Reader) { ok(c, "") }), o)
		short := m.CA.Secrets(t, proxytest.ServerURI, 4*time.Second)
		m.Server.Change(func(s *conf.Snapshot) { s.Secrets["default"] = short["default"] })
		c := dial(t, m.Client.Addr)
		if h := c.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").head(); status(h) != "200" {
			t.Fatal(h)
		}
		before := m.Server.Connections()
		m.Server.Change(func(s *conf.Snapshot) {
			s.Secrets["default"] = m.CA.Secrets(t, proxytest.ServerURI, time.Hour)["default"]
		})
		eventually(t, "the connection with the old certificate ends", func() bool { return m.Server.Connections() < before })
		if h := c.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").head(); status(h) != "200" {
			t.Fatal(h)
		}
	})
}

// TestWorkloads: each side's metrics name the workload at the other.
func TestWorkloads(t *testing.T) {
	m := proxytest.NewMesh(t, answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
		if strings.Contains(h, "tulle-") {
			t.Errorf("the program saw %q", h)
		}
		ok(c, "")
	}), proxytest.Options{})
	c := dial(t, m.Client.Addr)
	for range 3 {
		c.say("GET / HTTP/1.1\r\nhost: a\r\ntulle-peer: evil;web;evil;v1;c\r\n\r\n").head()
	}
	want := `source_workload="front-v2",source_canonical_service="front",source_canonical_revision="v2",source_workload_namespace="web"`
	for name, p := range map[string]*proxytest.Proxy{"client": m.Client, "server": m.Server} {
		if p.Requests(want) != 3 || p.Requests(`destination_workload="backend-v1",destination_workload_namespace="shop"`) != 3 {
			t.Errorf("%s counts\n%s", name, p.Totals())
		}
	}
}
