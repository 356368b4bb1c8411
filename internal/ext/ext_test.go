package ext

import (
	"net/netip"
	"reflect"
	"testing"
)

func TestIndex(t *testing.T) {
	x := &Index{
		Prefixes: Prefixes([]netip.Prefix{
			netip.MustParsePrefix("10.96.3.0/24"), netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.0.7.9/32"),
			netip.MustParsePrefix("fd00::/64"),
		}),
		Ports:    []Port{{Number: 80, ByHost: true}, {Number: 443, BySNI: true, Rest: true}},
		Names:    []uint32{Fingerprint("*.svc.cluster.local"), Fingerprint("api.example.com")},
		AllowAny: true,
	}
	if x.Names[0] > x.Names[1] {
		x.Names[0], x.Names[1] = x.Names[1], x.Names[0]
	}
	y, err := ParseIndex(x.Encode())
	if err != nil || !reflect.DeepEqual(x, y) {
		t.Fatalf("got %+v, %v", y, err)
	}
	if len(x.Prefixes) != 3 {
		t.Errorf("prefixes %v", x.Prefixes)
	}
	for a, want := range map[string]bool{
		"10.0.0.0": true, "10.0.255.255": true, "10.1.0.0": false, "10.96.3.4": true, "10.96.4.0": false, "9.9.9.9": false,
		"::ffff:10.0.0.1": true, "fd00::1": true, "fd00:0:0:1::": false,
	} {
		if y.Holds(netip.MustParseAddr(a)) != want {
			t.Errorf("Holds(%s) is %v", a, !want)
		}
	}
	for h, want := range map[string]bool{
		"orders": true, "orders.shop.svc.cluster.local": true, "orders.shop.svc.cluster.local.": true, "svc.cluster.local": false,
		"api.example.com": true, "www.example.com": false, "10.0.1.2": true, "8.8.8.8": false, "[fd00::7]": true, "[::1]": false, "": false,
	} {
		if y.MayName(h) != want {
			t.Errorf("MayName(%s) is %v", h, !want)
		}
	}
	if p, ok := y.Port(443); !ok || !p.Rest || p.ByHost {
		t.Errorf("port 443: %+v", p)
	}
	if _, ok := y.Port(81); ok {
		t.Error("port 81")
	}
}

func TestLookups(t *testing.T) {
	for name, want := range map[string]Lookup{
		AddressListener(netip.MustParseAddrPort("10.0.0.1:80")):  {Address: netip.MustParseAddr("10.0.0.1"), Port: 80},
		AddressListener(netip.MustParseAddrPort("[fd00::1]:80")): {Address: netip.MustParseAddr("fd00::1"), Port: 80},
		PortListener(9000):                           {Port: 9000},
		HostRoute(80, Canonical("Orders.Shop:8080")): {Port: 80, Host: "orders.shop"},
		HostRoute(80, Canonical("[FD00::1]:8080")):   {Port: 80, Host: "[fd00::1]"},
		HostRoute(80, Canonical("[fd00::1]")):        {Port: 80, Host: "[fd00::1]"},
	} {
		if got, ok := ParseLookup(name); !ok || got != want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
	for _, bad := range []string{"", "80", "0.0.0.0", "0.0.0.0_", "0.0.0.0_0", "0.0.0.0_080", "0.0.0.0_65536", "0.0.0.0_80/", "10.0.0.1_80/x", "010.0.0.1_80", "::ffff:1.2.3.4_80", "virtualOutbound", "FD00::1_80"} {
		if l, ok := ParseLookup(bad); ok {
			t.Errorf("%q: %+v", bad, l)
		}
	}
}

func TestHost(t *testing.T) {
	h := &Host{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Listeners: []string{"a"}, Routes: []string{"b", "c"}}
	if got, err := ParseHost(h.Encode()); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Whatever bytes come, a message is refused or means what its encoding means.
func FuzzMessages(f *testing.F) {
	f.Add((&Index{Ports: []Port{{Number: 1, Rest: true}}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Names: []uint32{7}}).Encode())
	f.Add((&Host{Addresses: []netip.Addr{netip.IPv6Loopback()}, Routes: []string{"x"}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := ParseIndex(b); err == nil {
			if y, err := ParseIndex(x.Encode()); err != nil || !reflect.DeepEqual(x, y) && len(x.Names) > 0 {
				t.Errorf("%+v is %+v, %v", x, y, err)
			}
		}
		if x, err := ParseHost(b); err == nil {
			if y, err := ParseHost(x.Encode()); err != nil || !reflect.DeepEqual(x, y) {
				t.Errorf("%+v is %+v, %v", x, y, err)
			}
		}
	})
}
