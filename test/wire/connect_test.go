package wire

import (
	"bufio"
	"fmt"
	"net"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestConnect: the HTTP proxy of ports mode ends CONNECT and carries bytes.
func TestConnect(t *testing.T) {
	addr := app(t, func(c net.Conn, in *bufio.Reader) {
		fmt.Fprint(c, "hello\n")
		for line, err := in.ReadString('\n'); err == nil; line, err = in.ReadString('\n') {
			fmt.Fprint(c, "got "+line)
		}
		fmt.Fprint(c, "bye\n")
	})
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(addr), func(p *proxytest.Parts) {
		p.HTTP.Upgrades = []string{"websocket", "connect"}
		p.Route.Match = conf.Match{Kind: conf.PathConnect}
		p.Route.Forward.ConnectTCP = true
		p.Route.Forward.Upgrades = map[string]bool{"connect": true}
		p.Host.Domains = []string{"db.shop:443"}
		p.HTTP.Routes = &conf.RouteTable{Name: "proxy", Hosts: []*conf.VirtualHost{p.Host}, Exact: map[string]*conf.VirtualHost{"db.shop:443": p.Host}}
	}))
	c := dial(t, p.Addr).say("CONNECT db.shop:443 HTTP/1.1\r\nhost: db.shop:443\r\n\r\nearly\n")
	if h := c.head(); status(h) != "200" || field(h, "transfer-encoding") != "-" || field(h, "content-length") != "-" {
		t.Fatalf("answered %q", h)
	}
	if got := c.line() + c.line(); got != "hello\ngot early\n" {
		t.Fatalf("got %q", got)
	}
	_ = c.say("late\n").CloseWrite()
	if got, err := c.rest(); got != "got late\nbye\n" || err != nil {
		t.Fatalf("then %q, %v", got, err)
	}
	idle(t, p)
	if n := p.Cluster("backend").Used(cluster.Connections); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if r, _ := dial(t, p.Addr).say("CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n").response("CONNECT"); r.StatusCode != 404 {
		t.Errorf("an unknown host is answered %d", r.StatusCode)
	}
	p.Change(func(s *conf.Snapshot) { s.Endpoints["backend"] = proxytest.To("127.0.0.1:1") })
	if r, _ := dial(t, p.Addr).say("CONNECT db.shop:443 HTTP/1.1\r\nhost: db.shop:443\r\n\r\n").response("CONNECT"); r.StatusCode != 503 {
		t.Errorf("a dead endpoint is answered %d", r.StatusCode)
	}
	idle(t, p)
}
