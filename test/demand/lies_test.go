package demand

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// Packets to the control plane and back vanish, new connections too: what is
// known and what is elsewhere goes on, what is new ends as NC, and when the way
// is free again nobody has to be told.
func TestPartition(t *testing.T) {
	p, b := shop(t)
	w := newWire(t, p.socket)
	s := newSidecar(t, proxy.Bootstrap{XDS: "unix://" + w.socket, OnDemand: true}, b["outside"].addr).ready()
	s.known()
	w.stick(true)
	s.known()
	s.new("lost")
	if n := s.flagged("NC"); n != 2 {
		t.Errorf("%d requests with NC, want 2", n)
	}
	w.stick(false)
	s.wait("a host that was asked for in vain", func() bool { return s.get("10.0.0.1:80", "lost.wild.shop") == "200 wild!" })
	w.stick(true)
	w.cut() // and the next connection gets nowhere
	s.known()
	s.new("nowhere")
	w.stick(false)
	s.wait("a host that was asked for in vain", func() bool { return s.get("10.0.0.1:80", "nowhere.wild.shop") == "200 wild!" })
	s.known()
}

// A control plane far away or overloaded: whoever comes first waits, and comes
// through.
func TestSlow(t *testing.T) {
	p, b := shop(t)
	w := newWire(t, p.socket)
	s := newSidecar(t, proxy.Bootstrap{XDS: "unix://" + w.socket, OnDemand: true}, b["outside"].addr).ready()
	w.slow(200 * time.Millisecond)
	for i := range 5 { // a machine that stands still for two seconds has another try
		var all sync.WaitGroup
		got := make([]string, 4)
		all.Go(func() { got[0] = s.get("10.0.0.1:80", fmt.Sprintf("h%d.wild.shop", i)) })
		all.Go(func() { got[1] = s.tcp(fmt.Sprintf("10.0.7.%d:3306", i)) })
		all.Go(func() { got[2] = s.tcp("10.0.0.9:3306") })
		all.Go(func() { got[3] = s.sni("192.0.2.1:443", "db.shop") })
		all.Wait()
		if slices.Equal(got, []string{"200 wild!", "outside", "db", "tls"}) {
			return
		}
		t.Logf("got %q", got)
	}
	t.Error("none came through")
}

// A control plane that talks nonsense: resources of another type, of no type,
// that cannot be read, that nobody asked for, twice the same, without end. What
// is known stays as it was, what was lied about is not known, nothing of the
// rest is kept, and the truth heals it all.
func TestLies(t *testing.T) {
	p, b := shop(t)
	s := newSidecar(t, boot(p), b["outside"].addr).ready()
	s.known()
	p.hush(true)
	of := func(name string, typeURL string, body []byte) *discoverypb.Resource {
		return &discoverypb.Resource{Name: name, Version: "lie", Resource: &anypb.Any{TypeUrl: typeURL, Value: body}}
	}
	bytesOf := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	trap := bytesOf(listener("10.0.5.1_3306", "10.0.5.1:3306", tcpTo("tls")))
	lies := []*discoverypb.DeltaDiscoveryResponse{
		{TypeUrl: listeners, Resources: []*discoverypb.Resource{of("10.0.5.1_3306", clusters, bytesOf(cluster("10.0.5.1_3306")))}},
		{TypeUrl: listeners, Resources: []*discoverypb.Resource{of("10.0.5.2_3306", listeners, []byte{0xff, 0xff})}},
		{TypeUrl: listeners, Resources: []*discoverypb.Resource{of("10.0.9.1_3306", listeners, trap)}},
		{TypeUrl: listeners, Resources: []*discoverypb.Resource{of("10.0.0.9_3306", listeners, nil), of("10.0.0.9_3306", listeners, trap)}},
		{TypeUrl: listeners, Resources: []*discoverypb.Resource{of("10.0.0.9_3306", listeners, []byte("nonsense"))}},
		{TypeUrl: listeners, Resources: []*discoverypb.Resource{{Name: "10.0.5.3_3306"}}},
		{TypeUrl: routes, Resources: []*discoverypb.Resource{of("0.0.0.0_80/lie.shop", routes, []byte{1, 2, 3})}},
		{TypeUrl: routes, Resources: []*discoverypb.Resource{of("0.0.0.0_80/never.shop", routes, bytesOf(table("0.0.0.0_80/never.shop", "a", "*")))}},
		{TypeUrl: routes, RemovedResources: []string{"0.0.0.0_80/never2.shop", "", "\x00"}},
		{TypeUrl: ext.IndexType, Resources: []*discoverypb.Resource{of(ext.IndexName, ext.IndexType, []byte{0xff})}},
		{TypeUrl: ext.IndexType, Resources: []*discoverypb.Resource{of("another", ext.IndexType, (&ext.Index{AllowAny: true}).Encode())}},
		{TypeUrl: ext.HostType, Resources: []*discoverypb.Resource{of("a.shop", ext.HostType, []byte{0xff})}},
		{TypeUrl: "type.googleapis.com/nobody.knows", Resources: []*discoverypb.Resource{of("x", "y", nil)}},
		{},
	}
	var all sync.WaitGroup
	try := func(what string, use func() string, want string) {
		all.Go(func() { s.is(what, use(), want) })
	}
	for i := range 3 {
		try("an address that was lied about", func() string { return s.tcp(fmt.Sprintf("10.0.5.%d:3306", i+1)) }, "")
	}
	try("a host that was lied about", func() string { return s.get("10.0.0.1:80", "lie.shop") }, "503")
	s.wait("they are asked for", func() bool {
		got := p.asked()
		return slices.Contains(got, "10.0.5.3_3306") && slices.Contains(got, "10.0.5.2_3306") && slices.Contains(got, "10.0.5.1_3306") && slices.Contains(got, "0.0.0.0_80/lie.shop")
	})
	names := s.metric("tulle_proxy_lookups_names")
	for _, r := range lies {
		p.say(r)
	}
	for i := range 200 { // without end
		r := &discoverypb.DeltaDiscoveryResponse{TypeUrl: listeners}
		for k := range 50 {
			r.Resources = append(r.Resources, of(fmt.Sprintf("10.0.%d.%d_99", i, k), listeners, trap))
		}
		p.say(r)
	}
	all.Wait()
	all.Go(s.known)
	try("an address that nobody asked for", func() string { return s.tcp("10.0.9.1:3306") }, "")
	try("a host that nobody asked for", func() string { return s.get("10.0.0.1:80", "never.shop") }, "503")
	try("a host of which it was said, unasked, that there is none", func() string { return s.get("10.0.0.1:80", "never2.shop") }, "503")
	all.Wait()
	if n := s.metric("tulle_proxy_lookups_names"); n != names+3 {
		t.Errorf("%d names are held, want %d", n, names+3)
	}
	if n := len(s.Snapshot().Listeners); n > 5 {
		t.Errorf("%d listeners are held", n)
	}
	p.set(listeners, map[string]proto.Message{"10.0.5.1_3306": listener("10.0.5.1_3306", "10.0.5.1:3306", tcpTo("db"))})
	p.set(routes, map[string]proto.Message{"0.0.0.0_80/lie.shop": table("0.0.0.0_80/lie.shop", "a", "lie.shop")})
	p.hush(false)
	s.wait("an address that was lied about", func() bool { return s.tcp("10.0.5.1:3306") == "db" })
	s.wait("another, of nobody", func() bool { return s.tcp("10.0.5.2:3306") == "outside" })
	s.wait("a host that was lied about", func() bool { return s.get("10.0.0.1:80", "lie.shop") == "200 a!" })
	s.known()
}
