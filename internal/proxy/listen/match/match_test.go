package match

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

func prefixes(ps ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func chain(name string, m conf.ChainMatch) *conf.Chain { return &conf.Chain{Name: name, Match: m} }

func TestSelect(t *testing.T) {
	sni := func(names ...string) conf.ChainMatch { return conf.ChainMatch{ServerNames: names} }
	for _, tc := range []struct {
		why    string
		chains []*conf.Chain
		in     Info
		want   string // "": none
	}{
		{"no criteria match everything",
			[]*conf.Chain{chain("all", conf.ChainMatch{})}, Info{}, "all"},
		{"the port is decided first",
			[]*conf.Chain{chain("any", conf.ChainMatch{}), chain("port", conf.ChainMatch{DestinationPort: 80})},
			Info{Destination: netip.MustParseAddrPort("10.0.0.1:80")}, "port"},
		{"a port that is named is not given up for the catch-all",
			[]*conf.Chain{chain("any", conf.ChainMatch{}), chain("port", conf.ChainMatch{DestinationPort: 80, Transport: "tls"})},
			Info{Destination: netip.MustParseAddrPort("10.0.0.1:80")}, ""},
		{"other ports go to the catch-all",
			[]*conf.Chain{chain("any", conf.ChainMatch{}), chain("port", conf.ChainMatch{DestinationPort: 80})},
			Info{Destination: netip.MustParseAddrPort("[fd00::1]:81")}, "any"},
		{"the longest prefix wins",
			[]*conf.Chain{chain("8", conf.ChainMatch{Prefixes: prefixes("10.0.0.0/8")}),
				chain("24", conf.ChainMatch{Prefixes: prefixes("192.168.0.0/16", "10.0.0.0/24")}), chain("0", conf.ChainMatch{})},
			Info{Destination: netip.MustParseAddrPort("10.0.0.1:80")}, "24"},
		{"and is not given up",
			[]*conf.Chain{chain("8", conf.ChainMatch{Prefixes: prefixes("10.0.0.0/8")}),
				chain("24", conf.ChainMatch{Prefixes: prefixes("10.0.0.0/24"), ServerNames: []string{"x"}})},
			Info{Destination: netip.MustParseAddrPort("10.0.0.1:80")}, ""},
		{"IPv6 prefixes",
			[]*conf.Chain{chain("4", conf.ChainMatch{Prefixes: prefixes("0.0.0.0/0")}), chain("6", conf.ChainMatch{Prefixes: prefixes("fd00::/8")})},
			Info{Destination: netip.MustParseAddrPort("[fd00::1]:80")}, "6"},
		{"no prefix holds the address",
			[]*conf.Chain{chain("4", conf.ChainMatch{Prefixes: prefixes("10.0.0.0/8")})},
			Info{Destination: netip.MustParseAddrPort("[fd00::1]:80")}, ""},
		{"exact server name before wildcards",
			[]*conf.Chain{chain("wild", sni("*.example.com")), chain("exact", sni("a.example.com")), chain("none", sni())},
			Info{SNI: "A.example.com"}, "exact"},
		{"the longest wildcard",
			[]*conf.Chain{chain("com", sni("*.com")), chain("example", sni("*.example.com")), chain("none", sni())},
			Info{SNI: "a.b.example.com"}, "example"},
		{"a wildcard is not its own parent",
			[]*conf.Chain{chain("example", sni("*.example.com")), chain("none", sni())},
			Info{SNI: "example.com"}, "none"},
		{"a client that asks for the wildcard itself",
			[]*conf.Chain{chain("example", sni("*.example.com")), chain("none", sni())},
			Info{SNI: "*.example.com"}, "example"},
		{"names with dots at the ends",
			[]*conf.Chain{chain("none", sni()), chain("com", sni("*.com"))}, Info{SNI: ".com."}, "none"},
		{"server name without chain for it",
			[]*conf.Chain{chain("a", sni("a"))}, Info{SNI: "b"}, ""},
		{"transport: named before catch-all, plain when nothing was seen",
			[]*conf.Chain{chain("any", conf.ChainMatch{}), chain("raw", conf.ChainMatch{Transport: Raw}), chain("tls", conf.ChainMatch{Transport: TLS})},
			Info{}, "raw"},
		{"transport tls",
			[]*conf.Chain{chain("raw", conf.ChainMatch{Transport: Raw}), chain("tls", conf.ChainMatch{Transport: TLS})},
			Info{Transport: TLS}, "tls"},
		{"protocols in the order the client offers them",
			[]*conf.Chain{chain("h1", conf.ChainMatch{ALPN: []string{"http/1.1"}}), chain("istio", conf.ChainMatch{ALPN: []string{"istio", "istio-peer-exchange"}}), chain("any", conf.ChainMatch{})},
			Info{ALPN: []string{"foo", "istio-peer-exchange", "http/1.1"}}, "istio"},
		{"permissive: TLS of somebody else is no mesh TLS",
			[]*conf.Chain{chain("mesh", conf.ChainMatch{Transport: TLS, ALPN: []string{"istio"}}), chain("own", conf.ChainMatch{Transport: TLS}), chain("raw", conf.ChainMatch{Transport: Raw})},
			Info{Transport: TLS, ALPN: []string{"h2"}}, "own"},
		{"source prefixes last",
			[]*conf.Chain{chain("any", conf.ChainMatch{}), chain("office", conf.ChainMatch{SourcePrefixes: prefixes("10.1.0.0/16")})},
			Info{Source: netip.MustParseAddrPort("10.1.2.3:4")}, "office"},
		{"mapped addresses are IPv4",
			[]*conf.Chain{chain("4", conf.ChainMatch{Prefixes: prefixes("10.0.0.0/8")})},
			Info{Destination: netip.MustParseAddrPort("[::ffff:10.0.0.1]:80")}, "4"},
	} {
		w := &why.Why{}
		got := ""
		l := &conf.Listener{Name: "l", Chains: tc.chains}
		if c := Select(l, tc.in, w); c != nil {
			got = c.Name
		}
		if got != tc.want {
			t.Errorf("%s: chain %q, want %q\n%+v", tc.why, got, tc.want, w.Steps)
		}
		if len(w.Steps) == 0 {
			t.Errorf("%s: no reason given", tc.why)
		}
		l.Default = chain("default", conf.ChainMatch{})
		if tc.want == "" && Select(l, tc.in, nil) != l.Default {
			t.Errorf("%s: not the default chain", tc.why)
		}
		if len(l.Chains) > 1 && l.Chains[0] == l.Chains[1] {
			t.Errorf("%s: the listener was changed", tc.why)
		}
	}
}

func TestSelectAllocatesNothing(t *testing.T) {
	l := &conf.Listener{Chains: []*conf.Chain{
		chain("tls", conf.ChainMatch{DestinationPort: 80, Transport: TLS, ALPN: []string{"istio"}, ServerNames: []string{"*.x.y"}}),
		chain("raw", conf.ChainMatch{DestinationPort: 80, Prefixes: prefixes("10.0.0.0/8")}),
		chain("other", conf.ChainMatch{}),
	}}
	in := Info{Destination: netip.MustParseAddrPort("10.0.0.1:80"), SNI: "a.b.c", ALPN: []string{"h2"}}
	if n := testing.AllocsPerRun(100, func() { Select(l, in, nil); Needs(l, in) }); n > 4 {
		t.Errorf("%v allocations", n)
	}
}

func TestNeeds(t *testing.T) {
	chains := []*conf.Chain{
		chain("tls", conf.ChainMatch{DestinationPort: 80, Transport: TLS, ALPN: []string{"istio"}}),
		chain("raw", conf.ChainMatch{DestinationPort: 80, Transport: Raw, ALPN: []string{"http/1.1", "h2c"}}),
		chain("sql", conf.ChainMatch{DestinationPort: 3306}),
		chain("mtls", conf.ChainMatch{DestinationPort: 443, Transport: TLS}),
		{Name: "sni rule", Match: conf.ChainMatch{DestinationPort: 9}, RBAC: []*conf.RBAC{{Policies: []conf.RBACPolicy{{
			Permissions: []*conf.RBACRule{{Kind: conf.RBACNot, Children: []*conf.RBACRule{{Kind: conf.RBACServerName}}}}}}}}},
	}
	for _, tc := range []struct {
		port      uint16
		tls, http bool
	}{{80, true, true}, {3306, false, false}, {443, true, false}, {9, true, false}, {1, false, false}} {
		in := Info{Destination: netip.AddrPortFrom(netip.IPv6Loopback(), tc.port)}
		l := &conf.Listener{InspectTLS: true, InspectHTTP: true, Chains: chains}
		if tls, http := Needs(l, in); tls != tc.tls || http != tc.http {
			t.Errorf("port %d: %v %v", tc.port, tls, http)
		}
		l.InspectHTTP, l.InspectTLS = false, false
		if tls, http := Needs(l, in); tls || http {
			t.Errorf("port %d without inspectors: %v %v", tc.port, tls, http)
		}
	}
}

func TestHandover(t *testing.T) {
	at := func(name string, addrs ...string) *conf.Listener {
		l := &conf.Listener{Name: name}
		for _, a := range addrs {
			l.Addresses = append(l.Addresses, netip.MustParseAddrPort(a))
		}
		return l
	}
	out := at("virtualOutbound", "0.0.0.0:15001", "[::]:15001")
	out.OriginalDst = true
	all := map[string]*conf.Listener{}
	for _, l := range []*conf.Listener{out, at("vip", "10.0.0.1:80"), at("vip6", "[fd00::1]:80"), at("port", "0.0.0.0:80"),
		at("port6", "[::]:80"), at("zdup", "10.0.0.1:80")} {
		all[l.Name] = l
	}
	ix := NewIndex(all)
	for dst, want := range map[string]string{
		"10.0.0.1:80": "vip", "10.0.0.2:80": "port", "[fd00::1]:80": "vip6", "[fd00::2]:80": "port6",
		"10.0.0.1:81": "virtualOutbound", "[::ffff:10.0.0.1]:80": "vip", "10.0.0.1:15001": "virtualOutbound",
	} {
		w := &why.Why{}
		if l := ix.Handover(out, netip.MustParseAddrPort(dst), w); l.Name != want {
			t.Errorf("%s: %s, want %s", dst, l.Name, want)
		} else if l != out && (len(w.Steps) != 1 || !strings.Contains(w.Steps[0].Text, want)) {
			t.Errorf("%s: %+v", dst, w.Steps)
		}
	}
	in := at("virtualInbound", "0.0.0.0:15006")
	if l := ix.Handover(in, netip.MustParseAddrPort("10.0.0.1:80"), nil); l != in {
		t.Errorf("handed over to %s", l.Name)
	}
}
