package demand

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

func boot(p *plane) proxy.Bootstrap {
	return proxy.Bootstrap{XDS: "unix://" + p.socket, OnDemand: true}
}

// Everything that a program does finds its way, after a lookup at most; what the
// index excludes without one.
func TestFirstUse(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.wait("the ports' listeners are asked for ahead", func() bool { return slices.Equal(p.asked(), []string{"0.0.0.0_443", "0.0.0.0_80"}) })
	for range 2 { // the second time nothing is asked
		s.is("a host", s.get("10.0.0.1:80", "A.shop:80"), "200 a!")
		s.is("by HTTP/2", s.request("10.0.0.1:80", "a.shop", true), "200 a!")
		s.is("a wildcard host", s.get("10.0.0.1:80", "x.wild.shop"), "200 wild!")
		s.is("no such host", s.get("10.0.0.1:80", "none.shop"), "200 outside!")
		s.is("an address", s.tcp("10.0.0.9:3306"), "db")
		s.is("an address without such a port", s.tcp("10.0.0.9:3307"), "outside")
		s.is("a server name", s.sni("192.0.2.1:443", "db.shop"), "tls")
		s.is("no such server name", s.sni("192.0.2.1:443", "none.shop"), "outside")
	}
	want := []string{"0.0.0.0_443", "0.0.0.0_443/db.shop", "0.0.0.0_443/none.shop", "0.0.0.0_80", "0.0.0.0_80/a.shop", "0.0.0.0_80/none.shop",
		"0.0.0.0_80/x.wild.shop", "10.0.0.1_80", "10.0.0.9_3306", "10.0.0.9_3307"}
	if got := p.asked(); !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	s.is("a host elsewhere", s.get("192.0.2.1:80", "example.com"), "200 outside!")
	s.is("an address elsewhere", s.tcp("192.0.2.1:3306"), "outside")
	s.is("a server name elsewhere", s.sni("192.0.2.1:443", "example.com"), "outside")
	if got := p.asked(); !slices.Equal(got, want) {
		t.Errorf("what the index excludes was asked for: %q", got)
	}
}

// The host of a request is asked for together with the address of its connection:
// one answer of the control plane's is waited for, not two.
func TestAskedTogether(t *testing.T) {
	p, b := shop(t)
	w := newWire(t, p.socket)
	s := newSidecar(t, proxy.Bootstrap{XDS: "unix://" + w.socket, OnDemand: true}, b["outside"].addr).ready()
	s.wait("the ports' listeners are asked for ahead", func() bool { return len(p.asked()) == 2 })
	before := s.metric("tulle_proxy_lookups_names")
	w.stick(true)
	got := make(chan string, 1)
	go func() { got <- s.get("10.0.0.1:80", "X.wild.shop:80") }()
	s.wait("both are asked for", func() bool { return s.metric("tulle_proxy_lookups_names") == before+2 })
	w.stick(false)
	<-got // in time or not
	s.is("it", s.get("10.0.0.1:80", "x.wild.shop"), "200 wild!")
	if got, want := p.asked(), []string{"0.0.0.0_443", "0.0.0.0_80", "0.0.0.0_80/x.wild.shop", "10.0.0.1_80"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// What the control plane changes reaches who uses it; "there is no such" is
// revoked, and so is what there was.
func TestChanges(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.is("no such host", s.get("10.0.0.1:80", "new.shop"), "200 outside!")
	p.set(routes, map[string]proto.Message{"0.0.0.0_80/new.shop": table("0.0.0.0_80/new.shop", "a", "new.shop")})
	s.wait("a host that came to be", func() bool { return s.get("10.0.0.1:80", "new.shop") == "200 a!" })
	p.set(routes, map[string]proto.Message{"0.0.0.0_80/new.shop": table("0.0.0.0_80/new.shop", "wild", "new.shop")})
	s.wait("a host that leads elsewhere", func() bool { return s.get("10.0.0.1:80", "new.shop") == "200 wild!" })
	p.set(routes, map[string]proto.Message{"0.0.0.0_80/new.shop": nil})
	s.wait("a host that is gone", func() bool { return s.get("10.0.0.1:80", "new.shop") == "200 outside!" })
	s.is("no such address", s.tcp("10.0.0.8:3306"), "outside")
	p.set(listeners, map[string]proto.Message{"10.0.0.8_3306": listener("10.0.0.8_3306", "10.0.0.8:3306", tcpTo("db"))})
	s.wait("an address that came to be", func() bool { return s.tcp("10.0.0.8:3306") == "db" })
}
