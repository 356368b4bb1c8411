package feed

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// loops is what the loops of a proxy see.
type loops struct {
	questions chan conf.Lookup
	learnt    *conf.Learnt
	answered  []conf.Lookup
	counts    Counts
}

func (l *loops) demand() *Demand {
	return &Demand{Lookups: l.questions, Learn: func(k *conf.Learnt) { l.learnt = k },
		Answered: func(q []conf.Lookup) { l.answered = append(l.answered, q...) }, Counts: &l.counts}
}

func newLoops() *loops { return &loops{questions: make(chan conf.Lookup, 1024)} }

// take is what was answered since the last call.
func (l *loops) take() []string {
	synctest.Wait()
	var out []string
	for _, q := range l.answered {
		out = append(out, q.Name)
	}
	l.answered = nil
	slices.Sort(out)
	return out
}

// ask looks names up: those with a slash of route tables, others of listeners.
func (l *loops) ask(names ...string) {
	for _, n := range names {
		k := conf.LookupListener
		if strings.Contains(n, "/") {
			k = conf.LookupRoutes
		}
		l.questions <- conf.Lookup{Kind: k, Name: n}
	}
	synctest.Wait()
}

// onDemand starts a feed on demand and gives it an index with port 80.
func onDemand(t *testing.T, p *plane, l *loops, edit func(*Config)) (*world, *fakeStream) {
	t.Helper()
	w := run(t, p, func(c *Config) {
		c.Demand = l.demand()
		if edit != nil {
			edit(c)
		}
	})
	return w, w.stream(t)
}

// begin answers the first requests.
func (s *fakeStream) begin(ports ...ext.Port) {
	s.answer("1", ext.IndexType, answer{name: ext.IndexName, body: (&ext.Index{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Ports: ports, EveryName: true, AllowAny: true}).Encode()})
	s.push("1", cds, nil)
	s.push("1", lds, nil, listener("virtualOutbound", "none"))
	s.push("1", rds, nil, routes("none"))
}

// answer is a resource with other names; without a body: there is none.
type answer struct {
	name    string
	aliases []string
	body    []byte
}

func of1(m proto.Message, aliases ...string) answer {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return answer{nameOf(m), aliases, b}
}

func (s *fakeStream) answer(version, url string, all ...answer) {
	s.t.Helper()
	r := &discoverypb.DeltaDiscoveryResponse{TypeUrl: url, Nonce: "x" + version}
	for _, a := range all {
		if a.body == nil {
			r.RemovedResources = append(r.RemovedResources, a.name)
			continue
		}
		r.Resources = append(r.Resources, &discoverypb.Resource{Name: a.name, Aliases: a.aliases, Version: version,
			Resource: &anypb.Any{TypeUrl: url, Value: a.body}})
	}
	b, err := proto.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.out <- b
	synctest.Wait()
}

func at(addr string) *listenerpb.Listener {
	l := listener(addr+"_3306", "none")
	l.Address = socket(addr, 3306)
	return l
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// The index is asked for first, then everything that comes unasked, and nothing
// is published before the index is there. The ports' own listeners are asked for
// ahead.
func TestDemandFirstRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, nil)
		defer w.stop()
		var got []string
		for _, r := range s.requests() {
			got = append(got, conf.ShortType(r.TypeUrl)+" "+strings.Join(r.ResourceNamesSubscribe, ","))
		}
		equal(t, "first requests", got, "Index index", "Cluster *", "ClusterLoadAssignment *", "Listener *", "RouteConfiguration *")
		s.begin(ext.Port{Number: 80, ByHost: true})
		if snap, _ := w.last(); snap == nil || snap.Listeners["virtualOutbound"] == nil || l.learnt == nil || !l.learnt.Index.AllowAny {
			t.Fatal("not published with the index")
		}
		sub, _ := names(of(s.requests(), conf.LDSType))
		equal(t, "asked ahead", sub, "0.0.0.0_80")
	})
}

// What is asked for is answered with its closure, under all its names; what there
// is not is remembered until the control plane says otherwise, and what goes is
// gone.
func TestDemandAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, nil)
		defer w.stop()
		s.begin()
		s.requests()
		l.take()
		l.ask("0.0.0.0_80/a.shop", "0.0.0.0_80/x.shop", "10.0.0.9_3306")
		sub, _ := names(of(s.requests(), conf.RDSType))
		equal(t, "asked", sub, "0.0.0.0_80/a.shop", "0.0.0.0_80/x.shop")
		l.ask("0.0.0.0_80/a.shop")
		if rs := s.requests(); len(rs) > 0 {
			t.Errorf("asked again: %v", rs)
		}
		s.push("2", cds, nil, edsCluster("a"))
		s.push("2", eds, nil, load("a", "10.0.0.1"))
		s.answer("2", conf.RDSType, of1(routes("0.0.0.0_80/*.shop", "a"), "0.0.0.0_80/a.shop"), answer{name: "0.0.0.0_80/x.shop"})
		equal(t, "answered", l.take(), "0.0.0.0_80/*.shop", "0.0.0.0_80/a.shop", "0.0.0.0_80/x.shop")
		yes, no := l.learnt.Route(80, []byte("a.shop")), l.learnt.Route(80, []byte("x.shop"))
		if yes == nil || yes.Routes == nil || no == nil || !no.None() || l.learnt.Route(80, []byte("y.shop")) != nil {
			t.Fatalf("learnt %v, %v", yes, no)
		}
		if snap, _ := w.last(); snap.Routes["0.0.0.0_80/*.shop"] != yes.Routes || snap.Clusters["a"] == nil || snap.Endpoints["a"] == nil {
			t.Error("the closure is not published")
		}
		l.ask("0.0.0.0_80/x.shop")
		equal(t, "known", l.take(), "0.0.0.0_80/x.shop")

		// it comes to be, by the name of another
		s.answer("3", conf.RDSType, of1(routes("0.0.0.0_80/*.shop", "a"), "0.0.0.0_80/a.shop", "0.0.0.0_80/x.shop"))
		if a := l.learnt.Route(80, []byte("x.shop")); a == nil || a.Routes == nil || a != l.learnt.Route(80, []byte("a.shop")) {
			t.Errorf("what came to be: %+v", a)
		}
		// a name leads elsewhere
		s.answer("4", conf.RDSType, of1(routes("0.0.0.0_80/x.shop", "a")))
		if a, x := l.learnt.Route(80, []byte("a.shop")), l.learnt.Route(80, []byte("x.shop")); x.Routes.Name != "0.0.0.0_80/x.shop" || a.Routes.Name != "0.0.0.0_80/*.shop" {
			t.Errorf("a %s, x %s", a.Routes.Name, x.Routes.Name)
		}
		// and goes
		s.answer("5", conf.RDSType, answer{name: "0.0.0.0_80/a.shop"})
		if snap, _ := w.last(); !l.learnt.Route(80, []byte("a.shop")).None() || snap.Routes["0.0.0.0_80/*.shop"] != nil || snap.Routes["0.0.0.0_80/x.shop"] == nil {
			t.Error("what went is still there, or what did not is gone")
		}
		if n := len(w.stores[rds].entries); n != 2 { // "none" and x.shop
			t.Errorf("%d tables are kept", n)
		}
	})
}

// What an answer names comes before it and is published with it, or a little later
// alone; what is in force already is brought up to date at once. None of it waits
// at the gate.
func TestDemandOneSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, func(c *Config) {
			c.Gate = func(context.Context, func()) error { t.Error("waits at the gate"); return nil }
		})
		defer w.stop()
		s.begin()
		published := func(what string, want int) *conf.Snapshot {
			t.Helper()
			snap, n := w.last()
			if n != want {
				t.Fatalf("%s: %d snapshots, want %d", what, n, want)
			}
			return snap
		}
		_, n := w.last()
		l.ask("0.0.0.0_80/a.shop")
		s.push("2", cds, nil, edsCluster("a"))
		s.push("2", eds, nil, load("a", "10.0.0.1"))
		published("before the answer", n)
		s.answer("2", conf.RDSType, of1(routes("0.0.0.0_80/a.shop", "a")))
		if snap := published("with the answer", n+1); snap.Routes["0.0.0.0_80/a.shop"] == nil || snap.Clusters["a"] == nil || snap.Endpoints["a"] == nil {
			t.Error("not all of it")
		}
		l.ask("0.0.0.0_80/b.shop")
		s.push("3", eds, nil, load("a", "10.0.0.2"))
		published("of what is in force", n+2)
		s.push("3", cds, nil, edsCluster("b"))
		s.push("3", eds, nil, load("b", "10.0.0.3"))
		published("of what may be named soon", n+2)
		time.Sleep(anticipation)
		if snap := published("alone", n+3); snap.Clusters["b"] == nil {
			t.Error("a cluster that nothing names is not there")
		}
	})
}

// A bad answer is refused, and the name is as if it had not been answered; a good
// one heals it.
func TestDemandBadAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, nil)
		defer w.stop()
		s.begin()
		l.take()
		l.ask("10.0.0.9_3306")
		bad := at("10.0.0.9")
		bad.Transparent = wrap(true)
		s.answer("2", conf.LDSType, of1(bad))
		equal(t, "answered", l.take())
		if st := w.Status(t.Context()); st.Refused["Listener 10.0.0.9_3306"] == "" {
			t.Errorf("refused: %v", st.Refused)
		}
		s.answer("3", conf.LDSType, of1(at("10.0.0.9")))
		equal(t, "answered", l.take(), "10.0.0.9_3306")
		s.answer("4", conf.LDSType, of1(bad))
		if a := l.learnt.At(netip.MustParseAddrPort("10.0.0.9:3306")); a == nil || a.Listener == nil {
			t.Error("the last good one is not kept")
		}
	})
}

// However many names there are: few are in flight, few a second are asked for,
// and the table has its bound; what was not used for longest makes room.
func TestDemandBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, nil)
		defer w.stop()
		s.begin()
		s.requests()
		held := map[string]bool{}
		asked, flight := 0, map[string]bool{}
		serve := func(answers bool) {
			for _, r := range s.requests() {
				for _, n := range r.ResourceNamesUnsubscribe {
					delete(held, n)
				}
				for _, n := range r.ResourceNamesSubscribe {
					asked++
					held[n], flight[n] = true, true
				}
			}
			if len(flight) > maxFlight || len(held) > maxNames {
				t.Fatalf("%d in flight, %d held", len(flight), len(held))
			}
			if answers {
				var no []answer
				for n := range flight {
					no = append(no, answer{name: n})
				}
				clear(flight)
				if len(no) > 0 {
					s.answer("1", conf.RDSType, no...)
				}
			}
		}
		l.ask("0.0.0.0_80/known")
		serve(false)
		clear(flight)
		s.answer("2", conf.RDSType, of1(routes("0.0.0.0_80/known")))
		start := time.Now()
		for i := range 100_000 {
			select {
			case l.questions <- conf.Lookup{Kind: conf.LookupRoutes, Name: fmt.Sprintf("0.0.0.0_80/h%d", i)}:
			default:
			}
			if i%100 == 99 {
				time.Sleep(50 * time.Millisecond) // 2,000 a second
				synctest.Wait()
				if a := l.learnt.Route(80, []byte("known")); a != nil {
					a.Use(time.Now().Unix())
				}
				serve(true)
			}
		}
		seconds := time.Since(start).Seconds()
		if most := int(seconds*perSecond) + atOnce + 1; asked > most || asked < most/2 {
			t.Errorf("%d lookups in %.0f s, want at most %d and not much less", asked, seconds, most)
		}
		if len(w.demand.asked) > maxNames || len(w.demand.told) > maxNames || len(w.stores[rds].entries) > 2 || len(w.demand.to) > 1 {
			t.Errorf("kept: %d names, %d answers, %d tables", len(w.demand.asked), len(w.demand.told), len(w.stores[rds].entries))
		}
		if l.counts.Evicted.Load() == 0 || l.counts.Refused.Load() == 0 {
			t.Errorf("%d evicted, %d refused", l.counts.Evicted.Load(), l.counts.Refused.Load())
		}
		if a := l.learnt.Route(80, []byte("known")); a == nil || a.None() {
			t.Error("what was in use had to make room")
		}
	})
}

// While the control plane is away nothing that is known goes, nobody is asked,
// and what waited too long is not asked later; after a restart all of it is there
// and asked for in one request for each type.
func TestDemandAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		l := newLoops()
		p := newPlane(t)
		keep := func(c *Config) { c.StateDir = dir }
		w, s := onDemand(t, p, l, keep)
		s.begin()
		l.ask("0.0.0.0_80/a.shop", "0.0.0.0_80/x.shop", "10.0.0.9_3306")
		s.push("2", cds, nil, edsCluster("a"))
		s.push("2", eds, nil, load("a", "10.0.0.1"))
		s.answer("2", conf.RDSType, of1(routes("0.0.0.0_80/*.shop", "a"), "0.0.0.0_80/a.shop"), answer{name: "0.0.0.0_80/x.shop"})
		s.answer("2", conf.LDSType, of1(at("10.0.0.9")))
		time.Sleep(10 * time.Second) // written
		p.setDown(true)
		close(s.gone)
		l.ask("0.0.0.0_80/new.shop")
		time.Sleep(time.Minute)
		known := func(l *loops) {
			t.Helper()
			synctest.Wait()
			if a, x, at := l.learnt.Route(80, []byte("a.shop")), l.learnt.Route(80, []byte("x.shop")), l.learnt.At(netip.MustParseAddrPort("10.0.0.9:3306")); a == nil || a.Routes == nil ||
				x == nil || !x.None() || at == nil || at.Listener == nil {
				t.Errorf("known: %v %v %v", a, x, at)
			}
		}
		known(l)
		w.stop()

		l = newLoops()
		w2 := run(t, p, func(c *Config) { c.Demand = l.demand(); keep(c) })
		defer w2.stop()
		known(l)
		if snap, _ := w2.last(); snap.Clusters["a"] == nil || snap.Endpoints["a"] == nil || len(snap.Routes) != 2 {
			t.Errorf("after the restart: %+v", snap)
		}
		p.setDown(false)
		time.Sleep(2 * time.Second)
		s = w2.stream(t)
		rs := s.requests()
		sub, _ := names(of(rs, conf.RDSType))
		equal(t, "asked again", sub, "*", "0.0.0.0_80/a.shop", "0.0.0.0_80/x.shop")
		sub, _ = names(of(rs, conf.LDSType))
		equal(t, "asked again", sub, "*", "10.0.0.9_3306")
		for _, r := range of(rs, conf.RDSType) {
			equal(t, "versions", slices.Sorted(maps.Keys(r.InitialResourceVersions)), "0.0.0.0_80/*.shop", "0.0.0.0_80/a.shop", "none")
		}
		if rs[0].TypeUrl != ext.IndexType || rs[0].InitialResourceVersions[ext.IndexName] != "1" {
			t.Errorf("first: %v", rs[0])
		}
	})
}

// A question for a host is answered with its addresses, and what connections to
// it will ask for is asked for.
func TestDemandHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, nil)
		defer w.stop()
		s.begin()
		s.requests()
		l.questions <- conf.Lookup{Kind: conf.LookupHost, Name: "db.shop"}
		sub, _ := names(of(s.requests(), ext.HostType))
		equal(t, "asked", sub, "db.shop")
		h := &ext.Host{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, Listeners: []string{"10.0.0.9_3306"}, Routes: []string{"0.0.0.0_80/db.shop"}}
		s.answer("2", ext.HostType, answer{name: "db.shop", body: h.Encode()})
		if a := l.learnt.Host("db.shop"); a == nil || a.Host == nil || !slices.Equal(a.Host.Addresses, h.Addresses) {
			t.Fatalf("learnt %+v", a)
		}
		sub, _ = names(s.requests())
		equal(t, "asked ahead", sub, "0.0.0.0_80/db.shop", "10.0.0.9_3306")
	})
}

func wrap(v bool) *wrapperspb.BoolValue { return wrapperspb.Bool(v) }
