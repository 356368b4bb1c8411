package feed

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// everything is what a control plane sends that looks nothing up: to the first
// requests, and to those for what is named then.
func (s *fakeStream) everything() {
	s.push("1", cds, nil, edsCluster("a"))
	s.push("1", lds, nil, listener("virtualOutbound", "none"), at("10.0.0.9"))
	s.push("1", eds, nil, load("a", "10.0.0.1"))
	s.push("1", rds, nil, routes("none", "a"))
}

// A control plane that has no index for us, because it says so or because it
// never heard of one, is asked for everything, and everything is used. When it
// has one, on this stream or on the next, what was not asked for goes.
func TestDemandOff(t *testing.T) {
	for name, says := range map[string]bool{"told": true, "by silence": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLoops()
				p := newPlane(t)
				w, s := onDemand(t, p, l, func(c *Config) { c.Names = true })
				defer w.stop()
				if n := len(of(s.requests(), conf.NDSType)); n != 0 {
					t.Error("the names are asked for before it is known that there is no index")
				}
				if says {
					s.answer("1", ext.IndexType, answer{name: ext.IndexName})
				}
				s.everything()
				if snap, _ := w.last(); snap == nil || snap.Listeners["10.0.0.9_3306"] == nil || snap.Endpoints["a"] == nil || l.learnt != nil {
					t.Fatalf("%+v, learnt %v", snap, l.learnt)
				}
				rs := s.requests()
				sub, unsub := names(of(rs, conf.EDSType))
				equal(t, "endpoints", append(sub, unsub...), "a", "*")
				sub, unsub = names(of(rs, conf.RDSType))
				equal(t, "routes", append(sub, unsub...), "none", "*")
				if n := len(of(rs, conf.NDSType)); n != 1 {
					t.Errorf("the names are asked for %d times", n)
				}

				close(s.gone) // the next stream begins as one without lookups, but for the index
				time.Sleep(time.Second)
				s = w.stream(t)
				rs = s.requests()
				if rs[0].TypeUrl != ext.IndexType {
					t.Errorf("first %v", rs[0])
				}
				sub, _ = names(of(rs, conf.LDSType))
				equal(t, "listeners", sub)
				sub, _ = names(of(rs, conf.RDSType))
				equal(t, "routes", sub, "none")

				s.begin()
				if snap, _ := w.last(); snap.Listeners["10.0.0.9_3306"] != nil || snap.Listeners["virtualOutbound"] == nil || l.learnt == nil {
					t.Errorf("%v, learnt %v", snap.Listeners, l.learnt)
				}
				rs = s.requests()
				sub, unsub = names(of(rs, conf.RDSType))
				equal(t, "routes", append(sub, unsub...), "*", "none")
				sub, _ = names(of(rs, conf.LDSType))
				equal(t, "listeners", sub, "*")
				l.ask("10.0.0.9_3306")
				s.answer("2", conf.LDSType, of1(at("10.0.0.9")))
				equal(t, "answered", l.take(), "10.0.0.9_3306")
			})
		})
	}
}

// Under a feed that has learnt, the control plane is replaced by one that knows
// nothing of lookups. What was learnt is in force until the whole mesh is there,
// what waits finds its way then, and a restart begins with the whole mesh.
func TestDemandReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		p := newPlane(t)
		dir := t.TempDir()
		keep := func(c *Config) { c.StateDir = dir }
		w, s := onDemand(t, p, l, keep)
		s.begin()
		l.ask("0.0.0.0_80/x.shop", "10.0.0.9_3306")
		l.questions <- conf.Lookup{Kind: conf.LookupListener, Name: "0.0.0.0_443/db.shop"}
		synctest.Wait()
		named := listener("0.0.0.0_443/db.shop", "none")
		s.answer("2", conf.LDSType, of1(at("10.0.0.9")), of1(named))
		s.answer("2", conf.RDSType, of1(routes("0.0.0.0_80/*.shop"), "0.0.0.0_80/x.shop"))
		equal(t, "answered", l.take(), "0.0.0.0_443/db.shop", "0.0.0.0_80/*.shop", "0.0.0.0_80/x.shop", "10.0.0.9_3306")
		l.ask("10.0.0.8_3306")
		close(s.gone)
		time.Sleep(time.Second)
		s = w.stream(t)
		s.answer("1", ext.IndexType, answer{name: ext.IndexName})
		s.answer("1", conf.LDSType) // nothing yet
		s.answer("1", conf.RDSType, answer{name: "0.0.0.0_80/x.shop"}, answer{name: "0.0.0.0_80/*.shop"})
		if a := l.learnt.Route(80, []byte("x.shop")); a == nil || a.Routes == nil {
			t.Errorf("before the mesh is there: %+v", a)
		}
		equal(t, "answered", l.take())
		s.push("1", cds, nil, edsCluster("a"))
		s.push("1", lds, nil, listener("virtualOutbound", "none"), at("10.0.0.8"), at("10.0.0.9"))
		s.push("1", eds, nil, load("a", "10.0.0.1"))
		s.push("1", rds, nil, routes("none", "a"))
		if l.learnt != nil {
			t.Fatal("lookups go on")
		}
		if list := l.take(); len(list) == 0 || list[len(list)-1] != "10.0.0.9_3306" || list[len(list)-2] != "10.0.0.8_3306" {
			t.Errorf("answered: %q", list)
		}
		whole := func(w *world) {
			t.Helper()
			if snap, _ := w.last(); snap == nil || len(snap.Listeners) != 3 || len(snap.Routes) != 1 || snap.Listeners["10.0.0.9_3306"] == nil || len(snap.Endpoints) != 1 {
				t.Errorf("%+v", snap)
			}
		}
		whole(w)
		time.Sleep(10 * time.Second) // written
		p.setDown(true)
		w.stop()
		l = newLoops()
		w = run(t, p, func(c *Config) { c.Demand = l.demand(); keep(c) })
		defer w.stop()
		whole(w)
		if l.learnt != nil {
			t.Error("after the restart it looks up")
		}
	})
}

// An index that is refused is not taken for none: nothing is served before there
// is a good one, and a bad one later leaves the good one in force.
func TestDemandBadIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoops()
		w, s := onDemand(t, newPlane(t), l, nil)
		defer w.stop()
		bad := answer{name: ext.IndexName, body: []byte{0xff}}
		s.answer("1", ext.IndexType, bad)
		s.push("1", cds, nil)
		s.push("1", lds, nil, listener("virtualOutbound", "none"))
		s.push("1", rds, nil, routes("none"))
		if _, n := w.last(); n != 0 || l.learnt != nil {
			t.Fatal("published without an index")
		}
		s.begin(ext.Port{Number: 80})
		if snap, _ := w.last(); snap == nil || l.learnt == nil {
			t.Fatal("not published with a good one")
		}
		s.answer("3", ext.IndexType, bad)
		if l.learnt == nil || !l.learnt.Index.Holds(netip.MustParseAddr("10.0.0.1")) {
			t.Error("the good one is gone")
		}
	})
}

// What was learnt a moment ago is there for a process that begins now, without a
// control plane.
func TestDemandKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		p := newPlane(t)
		l := newLoops()
		keep := func(c *Config) { c.StateDir = dir }
		w, s := onDemand(t, p, l, keep)
		defer w.stop()
		s.begin()
		l.ask("10.0.0.9_3306")
		s.answer("2", conf.LDSType, of1(at("10.0.0.9")))
		l.take()
		if err := w.Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.setDown(true)
		after := newLoops()
		w2 := run(t, p, func(c *Config) { c.Demand = after.demand(); keep(c) })
		defer w2.stop()
		synctest.Wait()
		if a := after.learnt.At(netip.MustParseAddrPort("10.0.0.9:3306")); a == nil || a.Listener == nil {
			t.Errorf("the next process knows %v", a)
		}
	})
}
