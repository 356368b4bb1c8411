package cluster

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

func TestHash(t *testing.T) {
	h := &stream.Head{Path: []byte("/?u=a%20b&v=x"), Authority: []byte("shop")}
	h.AddString("x-user", "ann")
	h.AddString("cookie", `a=1; session="s1"; b=2`)
	ip := netip.MustParseAddr("fd00::1")
	x := xxhash.Sum64String
	rot := func(a, b uint64) uint64 { return (a<<1 | a>>63) ^ b }
	for i, c := range []struct {
		ps   []conf.HashPolicy
		want uint64
		ok   bool
	}{
		{nil, 0, false},
		{[]conf.HashPolicy{{Header: "x-user"}}, x("ann"), true},
		{[]conf.HashPolicy{{Header: ":authority"}}, x("shop"), true},
		{[]conf.HashPolicy{{Header: "none"}}, 0, false},
		{[]conf.HashPolicy{{Query: "u"}}, x("a b"), true},
		{[]conf.HashPolicy{{Query: "v"}}, x("x"), true},
		{[]conf.HashPolicy{{Cookie: "session"}}, x("s1"), true},
		{[]conf.HashPolicy{{SourceIP: true}}, x("fd00::1"), true},
		{[]conf.HashPolicy{{Header: "none"}, {Header: "x-user"}, {Query: "v"}}, rot(x("ann"), x("x")), true},
		{[]conf.HashPolicy{{Header: "x-user", Terminal: true}, {Query: "v"}}, x("ann"), true},
		{[]conf.HashPolicy{{Header: "none", Terminal: true}, {Query: "v"}}, x("x"), true},
	} {
		got, ok, made := Hash(c.ps, h, ip, 1)
		if got != c.want || ok != c.ok || made != (Cookie{}) {
			t.Errorf("%d: %x %v %v, want %x %v", i, got, ok, made, c.want, c.ok)
		}
	}
	_, ok, made := Hash([]conf.HashPolicy{{Cookie: "new", CookiePath: "/p", CookieTTL: time.Minute, MakeCookie: true}}, h, ip, 1)
	if got := string(made.Append(nil)); !ok || got != `new="`+made.Value+`"; Max-Age=60; Path=/p; HttpOnly` || made.Value == "" {
		t.Errorf("%v %s", ok, got)
	}
	_, _, other := Hash([]conf.HashPolicy{{Cookie: "new", MakeCookie: true}}, h, ip, 2)
	if other.Value == made.Value {
		t.Error("two clients get the same cookie")
	}
	ps := []conf.HashPolicy{{Header: "x-user"}, {Cookie: "session"}, {SourceIP: true}, {Query: "v"}}
	if n := testing.AllocsPerRun(100, func() { Hash(ps, h, ip, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRingIsEnvoys(t *testing.T) {
	list := []*Endpoint{{Addr: netip.MustParseAddrPort("127.0.0.1:90"), Weight: 1}, {Addr: netip.MustParseAddrPort("[fd00::1]:91"), Weight: 2}}
	ring := newRing(list, nil, 6)
	if len(ring) != 6 {
		t.Fatalf("%d points", len(ring))
	}
	n := [2]int{}
	for _, p := range ring {
		n[p.ep]++
	}
	if n != [2]int{2, 4} {
		t.Errorf("points per endpoint %v", n)
	}
	found := false
	for _, p := range ring {
		found = found || p.hash == xxhash.Sum64String("127.0.0.1:90_1") && p.ep == 0
	}
	if !found {
		t.Error("keys are not ADDRESS_INDEX")
	}
	for i, p := range ring {
		if onRing(ring, p.hash) != p.ep {
			t.Errorf("point %d is not its own", i)
		}
	}
	if onRing(ring, ring[5].hash+1) != ring[0].ep && ring[5].hash != ^uint64(0) {
		t.Error("the ring does not close")
	}
}

func TestMaglevFillsEverySlot(t *testing.T) {
	list := []*Endpoint{{Addr: netip.MustParseAddrPort("127.0.0.1:90"), Weight: 1}, {Addr: netip.MustParseAddrPort("127.0.0.1:91"), Weight: 3}}
	n := [2]int{}
	for _, i := range newMaglev(list, nil, 1009) {
		n[i]++
	}
	near(t, "light", n[0], 252, 5)
	near(t, "heavy", n[1], 757, 5)
}
