package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

const second = int64(time.Second)

// eps makes endpoints 10.0.0.1, 10.0.0.2, … with the given weights.
func eps(weights ...uint32) []conf.Endpoint {
	var out []conf.Endpoint
	for i, w := range weights {
		out = append(out, conf.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80), Weight: w})
	}
	return out
}

func cla(locs ...conf.Locality) *conf.Endpoints {
	return &conf.Endpoints{Cluster: "c", Localities: locs}
}

func snapshot(c *conf.Cluster, e *conf.Endpoints) *conf.Snapshot {
	c.Name = "c"
	return &conf.Snapshot{Clusters: map[string]*conf.Cluster{"c": c}, Endpoints: map[string]*conf.Endpoints{"c": e}}
}

// one makes a registry with one EDS cluster.
func one(t *testing.T, c conf.Cluster, e *conf.Endpoints) (*Registry, *Handle) {
	t.Helper()
	c.Type = conf.ClusterEDS
	r := New(Options{Loops: 2})
	t.Cleanup(r.Close)
	r.Apply(snapshot(&c, e), 0)
	return r, r.Get("c")
}

// picks counts the last byte of the addresses of n picks.
func picks(t *testing.T, h *Handle, n int) map[int]int {
	t.Helper()
	out := map[int]int{}
	for i := range n {
		e, err := h.Pick(&PickContext{Random: uint64(i) * 7919}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out[last(e)]++
	}
	return out
}

func last(e *Endpoint) int { b := e.Addr.Addr().As4(); return int(b[3]) }

func near(t *testing.T, what string, got, want, off int) {
	t.Helper()
	if got < want-off || got > want+off {
		t.Errorf("%s: %d, want about %d", what, got, want)
	}
}

func TestAlgorithmsSpread(t *testing.T) {
	for _, b := range []conf.Balance{conf.BalanceLeastRequest, conf.BalanceRoundRobin, conf.BalanceRandom, conf.BalanceRingHash, conf.BalanceMaglev} {
		_, h := one(t, conf.Cluster{Balance: b}, cla(conf.Locality{Endpoints: eps(1, 1, 1, 1)}))
		got := picks(t, h, 4000)
		off := 120
		if b == conf.BalanceRoundRobin {
			off = 1
		}
		if b == conf.BalanceRingHash {
			off = 250
		}
		for i := 1; i <= 4; i++ {
			near(t, fmt.Sprintf("algorithm %d endpoint %d", b, i), got[i], 1000, off)
		}
	}
}

func TestWeights(t *testing.T) {
	for _, b := range []conf.Balance{conf.BalanceLeastRequest, conf.BalanceRoundRobin, conf.BalanceRingHash, conf.BalanceMaglev} {
		_, h := one(t, conf.Cluster{Balance: b}, cla(conf.Locality{Endpoints: eps(1, 3)}))
		got := picks(t, h, 4000)
		off := 150
		if b == conf.BalanceRoundRobin {
			off = 1
		}
		near(t, fmt.Sprintf("algorithm %d", b), got[2], 3000, off)
	}
	// random ignores weights, as Envoy's does
	_, h := one(t, conf.Cluster{Balance: conf.BalanceRandom}, cla(conf.Locality{Endpoints: eps(1, 3)}))
	near(t, "random", picks(t, h, 4000)[2], 2000, 120)
}

func TestWeightedRoundRobinIsSmooth(t *testing.T) {
	order := newOrder([]*Endpoint{{Weight: 5}, {Weight: 1}, {Weight: 1}})
	if got := fmt.Sprint(order); got != "[0 0 1 0 2 0 0]" {
		t.Error(got)
	}
	if n := len(newOrder([]*Endpoint{{Weight: 1e9}, {Weight: 1}, {Weight: 7}})); n > maxOrder+3 {
		t.Errorf("order of %d places", n)
	}
	if n := len(newOrder([]*Endpoint{{Weight: 200}, {Weight: 300}})); n != 5 {
		t.Errorf("order of %d places", n)
	}
}

func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	_, h := one(t, conf.Cluster{}, cla(conf.Locality{Endpoints: eps(1, 1, 1)}))
	busy := h.Endpoints()[0]
	for range 10 {
		h.Begin(busy)
	}
	got := picks(t, h, 3000)
	near(t, "busy one", got[1], 333, 80) // only when drawn twice
	for range 10 {
		h.Done(busy, Outcome{Status: 200}, 0)
	}
	if busy.Active() != 0 {
		t.Errorf("active %d", busy.Active())
	}
	// by weight: 10 active of weight 10 is as busy as 1 of weight 1
	_, h = one(t, conf.Cluster{}, cla(conf.Locality{Endpoints: eps(10, 1)}))
	for range 10 {
		h.Begin(h.Endpoints()[0])
	}
	h.Begin(h.Endpoints()[1])
	near(t, "weighted", picks(t, h, 3000)[1], 2727, 120)
}

func TestConsistentHashing(t *testing.T) {
	for _, b := range []conf.Balance{conf.BalanceRingHash, conf.BalanceMaglev} {
		r, h := one(t, conf.Cluster{Balance: b}, cla(conf.Locality{Endpoints: eps(1, 1, 1, 1)}))
		where := func() map[uint64]int {
			out := map[uint64]int{}
			for k := range uint64(1000) {
				hash := mix(k, 1)
				e, err := h.Pick(&PickContext{Random: k * 31, Hash: hash, HasHash: true}, nil)
				if err != nil {
					t.Fatal(err)
				}
				out[hash] = last(e)
			}
			return out
		}
		before := where()
		for k, v := range where() {
			if before[k] != v {
				t.Fatalf("hash %d moved from %d to %d", k, before[k], v)
			}
		}
		r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS, Balance: b}, cla(conf.Locality{Endpoints: eps(1, 1, 1)})), 0)
		moved := 0
		for k, v := range where() {
			if before[k] != 4 && before[k] != v {
				moved++
			}
		}
		if moved > 160 { // a ring of fixed size gives those who stay more points
			t.Errorf("algorithm %d: %d of 1000 keys moved without need", b, moved)
		}
		// a retry turns the hash
		other := 0
		for k := range before {
			a, _ := h.Pick(&PickContext{Hash: k, HasHash: true}, nil)
			b, _ := h.Pick(&PickContext{Hash: k, HasHash: true, Attempt: 1}, nil)
			if a != b {
				other++
			}
		}
		if other < 400 {
			t.Errorf("algorithm %d: a retry went elsewhere only %d times", b, other)
		}
	}
}

func TestPreviousHostsAreAvoided(t *testing.T) {
	for _, b := range []conf.Balance{conf.BalanceLeastRequest, conf.BalanceRoundRobin, conf.BalanceRandom, conf.BalanceRingHash} {
		_, h := one(t, conf.Cluster{Balance: b}, cla(conf.Locality{Endpoints: eps(1, 1)}))
		again := 0
		for i := range 1000 {
			a, _ := h.Pick(&PickContext{Random: uint64(i)}, nil)
			e, err := h.Pick(&PickContext{Random: uint64(i), Previous: []*Endpoint{a}, Tries: 5, Attempt: 1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if e == a {
				again++
			}
		}
		if again > 40 {
			t.Errorf("algorithm %d: %d of 1000 retries met the same endpoint", b, again)
		}
	}
	// with nobody else the same one is taken
	_, h := one(t, conf.Cluster{}, cla(conf.Locality{Endpoints: eps(1)}))
	e, _ := h.Pick(&PickContext{}, nil)
	if o, err := h.Pick(&PickContext{Previous: []*Endpoint{e}, Tries: 5}, nil); o != e || err != nil {
		t.Errorf("%v %v", o, err)
	}
}

func TestFailures(t *testing.T) {
	r, h := one(t, conf.Cluster{}, cla())
	var w why.Why
	if _, err := h.Pick(&PickContext{}, &w); !errors.Is(err, NoHealthy) || !strings.Contains(w.Steps[0].Text, "0 endpoints") {
		t.Errorf("%v %v", err, w.Steps)
	}
	sick := eps(1, 1)
	sick[0].Health, sick[1].Health = conf.Unhealthy, conf.Draining
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS}, cla(conf.Locality{Endpoints: sick})), 0)
	if _, err := h.Pick(&PickContext{}, nil); !errors.Is(err, NoHealthy) {
		t.Errorf("%v", err)
	}
	if r.Apply(&conf.Snapshot{}, 0); r.Get("c") != nil {
		t.Error("the cluster is still there")
	}
	if _, err := h.Pick(&PickContext{}, nil); !errors.Is(err, NoCluster) {
		t.Errorf("%v", err)
	}
	if r.GetBytes([]byte("nope")) != nil {
		t.Error("nope is there")
	}
}

// A new endpoint's share grows with its age; those of the beginning are all of
// the same age, and share evenly.
func TestWarmup(t *testing.T) {
	w := &conf.Warmup{Window: 100 * time.Second, Min: .1, Aggression: 1}
	fast := &conf.Warmup{Window: 100 * time.Second, Min: .2, Aggression: 2}
	for _, tc := range []struct {
		balance conf.Balance
		warmup  *conf.Warmup
		age     int64 // of the new one, in seconds
		want    float64
	}{
		{conf.BalanceRoundRobin, w, 0, .1}, {conf.BalanceRoundRobin, w, 10, .1}, {conf.BalanceRoundRobin, w, 50, .5},
		{conf.BalanceRoundRobin, w, 100, 1}, {conf.BalanceLeastRequest, w, 50, .5}, {conf.BalanceLeastRequest, w, 200, 1},
		{conf.BalanceLeastRequest, fast, 1, .2}, {conf.BalanceLeastRequest, fast, 25, .5},
		{conf.BalanceRandom, nil, 1, 1},
	} {
		c := conf.Cluster{Balance: tc.balance, Warmup: tc.warmup}
		r, h := one(t, c, cla(conf.Locality{Endpoints: eps(1, 1, 1)}))
		for i := 1; i <= 3; i++ {
			near(t, "together", picks(t, h, 3000)[i], 1000, 120)
		}
		c.Type = conf.ClusterEDS
		r.Apply(snapshot(&c, cla(conf.Locality{Endpoints: eps(1, 1, 1, 1)})), 1000*second)
		r.Tick((1000 + tc.age) * second)
		got := picks(t, h, 10_000)[4]
		near(t, fmt.Sprintf("%v after %d s", tc.balance, tc.age), got, int(10_000*tc.want/(3+tc.want)), 200)
	}
}

func TestPanicThreshold(t *testing.T) {
	list := eps(1, 1, 1, 1)
	for i := range 3 {
		list[i].Health = conf.Unhealthy
	}
	_, h := one(t, conf.Cluster{Panic: 50, Balance: conf.BalanceRoundRobin}, cla(conf.Locality{Endpoints: list}))
	if got := picks(t, h, 400); len(got) != 4 {
		t.Errorf("in panic only %v", got)
	}
	_, h = one(t, conf.Cluster{Panic: 20, Balance: conf.BalanceRoundRobin}, cla(conf.Locality{Endpoints: list}))
	if got := picks(t, h, 400); len(got) != 1 {
		t.Errorf("without panic %v", got)
	}
	list[3].Health = conf.Unhealthy
	_, h = one(t, conf.Cluster{Panic: 20, Balance: conf.BalanceRoundRobin}, cla(conf.Locality{Endpoints: list}))
	if got := picks(t, h, 400); len(got) != 4 {
		t.Errorf("all sick, in panic %v", got)
	}
}

func TestPriorities(t *testing.T) {
	a, b := eps(1, 1, 1, 1), eps(1, 1, 1, 1, 1, 1)[4:]
	_, h := one(t, conf.Cluster{}, cla(conf.Locality{Endpoints: a}, conf.Locality{Priority: 1, Endpoints: b}))
	if got := picks(t, h, 1000); got[5]+got[6] != 0 {
		t.Errorf("healthy first priority, yet %v", got)
	}
	// 2 of 4 healthy: 140*2/4 = 70 % stay
	a[0].Health, a[1].Health = conf.Unhealthy, conf.Unhealthy
	_, h = one(t, conf.Cluster{}, cla(conf.Locality{Endpoints: a}, conf.Locality{Priority: 1, Endpoints: b}))
	got := picks(t, h, 10000)
	near(t, "second priority", got[5]+got[6], 3000, 200)
}

func TestLocalityWeights(t *testing.T) {
	a, b := eps(1, 1), eps(1, 1, 1, 1)[2:]
	_, h := one(t, conf.Cluster{LocalityWeighted: true}, cla(conf.Locality{Weight: 80, Endpoints: a}, conf.Locality{Weight: 20, Endpoints: b}))
	got := picks(t, h, 10000)
	near(t, "first locality", got[1]+got[2], 8000, 300)
	_, h = one(t, conf.Cluster{}, cla(conf.Locality{Weight: 80, Endpoints: a}, conf.Locality{Weight: 20, Endpoints: b}))
	got = picks(t, h, 10000)
	near(t, "weights that do not count", got[1]+got[2], 5000, 300)
}

// Hashing with weighted localities: a locality has its share of the keys.
func TestLocalityWeightsOfHashes(t *testing.T) {
	for _, b := range []conf.Balance{conf.BalanceRingHash, conf.BalanceMaglev} {
		x, y, z := eps(1), eps(1, 1, 1, 1)[1:], eps(1, 1, 1, 1, 1)[4:]
		_, h := one(t, conf.Cluster{LocalityWeighted: true, Balance: b}, cla(conf.Locality{Weight: 80, Endpoints: x}, conf.Locality{Weight: 20, Endpoints: y}, conf.Locality{Endpoints: z}))
		got := picks(t, h, 10000)
		near(t, "first locality", got[1], 8000, 400)
		near(t, "no weight", got[5], 0, 0)
	}
}

func TestLimits(t *testing.T) {
	r, h := one(t, conf.Cluster{Limits: conf.Limits{Connections: 1, Pending: 2, Requests: 3, Retries: 0}}, cla())
	if !h.TryAcquire(Connections) || h.TryAcquire(Connections) || h.Used(Connections) != 1 {
		t.Error("connections")
	}
	if h.TryAcquire(Retries) {
		t.Error("a retry although none are allowed")
	}
	// a new limit counts at once, also for what is already taken
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS, Limits: conf.Limits{Connections: 2, BudgetPercent: 50, BudgetMin: 1}}, cla()), 0)
	if r.Get("c") != h || !h.TryAcquire(Connections) || h.TryAcquire(Connections) {
		t.Error("connections after the change")
	}
	for range 6 {
		h.Acquire(Requests)
	}
	n := 0
	for h.TryAcquire(Retries) {
		n++
	}
	if n != 3 {
		t.Errorf("%d retries of 6 requests with a budget of 50 %%", n)
	}
	if h.Release(Retries); !h.TryAcquire(Retries) {
		t.Error("a released slot")
	}
}

func TestLimitsUnderContention(t *testing.T) {
	_, h := one(t, conf.Cluster{Limits: conf.Limits{Requests: 10}}, cla())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				if h.TryAcquire(Requests) {
					if h.Used(Requests) > 10+4 { // others may be in the middle of trying
						t.Error("limit broken")
					}
					h.Release(Requests)
				}
			}
		})
	}
	wg.Wait()
	if h.Used(Requests) != 0 {
		t.Errorf("used %d", h.Used(Requests))
	}
}

func TestStateSurvivesUpdates(t *testing.T) {
	r, h := one(t, conf.Cluster{}, cla(conf.Locality{Endpoints: eps(1, 1)}))
	a, b := h.Endpoints()[0], h.Endpoints()[1]
	h.Begin(a)
	list := eps(1, 5, 1)[:3]
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS}, cla(conf.Locality{Endpoints: list})), 0)
	now := h.Endpoints()
	if now[0] != a {
		t.Error("an unchanged endpoint is another one")
	}
	if now[1] == b || !now[1].Same(b) || now[1].Weight != 5 {
		t.Error("a changed endpoint is not the same address with other facts")
	}
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS}, cla(conf.Locality{Endpoints: list[1:]})), 0)
	if !a.Removed() || now[1].Removed() || a.Active() != 1 {
		t.Errorf("removed %v %v, active %d", a.Removed(), now[1].Removed(), a.Active())
	}
	h.Done(a, Outcome{Status: 200}, 0) // a late answer harms nobody
	// a cluster that goes and comes back while a stream runs keeps its counts
	h.Acquire(Requests)
	r.Apply(&conf.Snapshot{}, 0)
	r.Tick(second)
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS}, cla()), 0)
	if r.Get("c") != h || h.Used(Requests) != 1 {
		t.Error("the handle is another one")
	}
	h.Release(Requests)
	r.Apply(&conf.Snapshot{}, 0)
	r.Tick(2 * second)
	if len(r.retired) != 0 {
		t.Error("an idle retired handle is kept")
	}
}

func TestTLSOfEndpoints(t *testing.T) {
	mesh, own := &conf.ClientTLS{Mesh: true}, &conf.ClientTLS{SNI: "own"}
	c := conf.Cluster{TLS: own, TLSMatches: []conf.TLSMatch{{Name: "istio", Labels: map[string]string{"tlsMode": "istio"}, TLS: mesh}, {Name: "off", Labels: map[string]string{"tlsMode": "off"}}}}
	list := eps(1, 1, 1)
	list[0].Match = map[string]string{"tlsMode": "istio", "x": "y"}
	list[1].Match = map[string]string{"tlsMode": "off"}
	_, h := one(t, c, cla(conf.Locality{Endpoints: list}))
	e := h.Endpoints()
	if e[0].TLS != mesh || e[1].TLS != nil || e[2].TLS != own {
		t.Errorf("%v %v %v", e[0].TLS, e[1].TLS, e[2].TLS)
	}
}

func TestOriginalDestination(t *testing.T) {
	r := New(Options{Loops: 1})
	t.Cleanup(r.Close)
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterOriginalDst}, nil), 0)
	h := r.Get("c")
	if _, err := h.Pick(&PickContext{}, nil); !errors.Is(err, NoHealthy) {
		t.Errorf("%v", err)
	}
	for _, s := range []string{"10.1.2.3:4567", "[fd00::1]:80"} {
		to := netip.MustParseAddrPort(s)
		e, err := h.Pick(&PickContext{OriginalDst: to}, nil)
		if err != nil || e.Addr != to {
			t.Fatalf("%v %v", e, err)
		}
		if again, _ := h.Pick(&PickContext{OriginalDst: to}, nil); again != e {
			t.Error("another endpoint for the same address")
		}
	}
	mapped, _ := h.Pick(&PickContext{OriginalDst: netip.MustParseAddrPort("[::ffff:10.1.2.3]:4567")}, nil)
	if mapped.Addr != netip.MustParseAddrPort("10.1.2.3:4567") {
		t.Errorf("%v", mapped.Addr)
	}
	h.Begin(mapped)
	for i := range int64(4) {
		r.Tick((i + 1) * 6 * second)
	}
	if n := h.origin.each(func(*live) {}); n != 1 || mapped.Removed() {
		t.Errorf("%d addresses are remembered", n)
	}
	h.Done(mapped, Outcome{}, 0)
	for i := range int64(4) {
		r.Tick((i + 10) * 6 * second)
	}
	if n := h.origin.each(func(*live) {}); n != 0 || !mapped.Removed() {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	for _, b := range []conf.Balance{conf.BalanceLeastRequest, conf.BalanceRoundRobin, conf.BalanceRandom, conf.BalanceRingHash, conf.BalanceMaglev} {
		r, _ := one(t, conf.Cluster{Balance: b, Outlier: &conf.Outlier{Consecutive5xx: 5}}, cla(conf.Locality{Endpoints: eps(1, 2, 3)}))
		i := uint64(0)
		n := testing.AllocsPerRun(500, func() {
			i++
			h := r.Get("c")
			if !h.TryAcquire(Requests) {
				t.Fatal("full")
			}
			e, err := h.Pick(&PickContext{Random: i}, nil)
			if err != nil {
				t.Fatal(err)
			}
			h.Begin(e)
			h.Done(e, Outcome{Status: 200}, int64(i))
			h.Release(Requests)
		})
		if n != 0 {
			t.Errorf("algorithm %d: %v allocations", b, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	r := New(Options{})
	defer r.Close()
	var list []conf.Endpoint
	for i := range 100 {
		list = append(list, conf.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 80), Weight: 1})
	}
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS, Outlier: &conf.Outlier{Consecutive5xx: 5}}, cla(conf.Locality{Endpoints: list})), 0)
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i++
		h := r.Get("c")
		h.TryAcquire(Requests)
		e, _ := h.Pick(&PickContext{Random: i}, nil)
		h.Begin(e)
		h.Done(e, Outcome{Status: 200}, 1)
		h.Release(Requests)
	}
}

func TestOutlier(t *testing.T) {
	fail := func(n int, o Outcome) func(*Handle, *Endpoint) {
		return func(h *Handle, e *Endpoint) {
			for range n {
				h.Begin(e)
				h.Done(e, o, 11*second)
			}
		}
	}
	ok := fail(1, Outcome{Status: 200})
	all := func(fs ...func(*Handle, *Endpoint)) func(*Handle, *Endpoint) {
		return func(h *Handle, e *Endpoint) {
			for _, f := range fs {
				f(h, e)
			}
		}
	}
	five := conf.Outlier{Consecutive5xx: 5, MaxEjectionPercent: 100}
	gate := conf.Outlier{ConsecutiveGateway: 3, MaxEjectionPercent: 100}
	split := conf.Outlier{Consecutive5xx: 5, ConsecutiveLocal: 2, SplitLocal: true, MaxEjectionPercent: 100}
	for i, c := range []struct {
		o    conf.Outlier
		do   func(*Handle, *Endpoint)
		want bool
	}{
		{five, fail(4, Outcome{Status: 500}), false},
		{five, fail(5, Outcome{Status: 500}), true},
		{five, all(fail(4, Outcome{Status: 500}), ok, fail(4, Outcome{Status: 503})), false},
		{five, all(fail(4, Outcome{Status: 500}), fail(1, Outcome{Status: 404}), fail(1, Outcome{Status: 500})), false},
		{five, fail(5, Outcome{Reset: stream.ConnectFailed}), true},
		{five, fail(5, Outcome{Timeout: true}), true},
		{five, fail(50, Outcome{Reset: stream.Cancelled}), false},
		{five, fail(50, Outcome{Reset: stream.Overflow}), false},
		{five, all(fail(4, Outcome{Status: 500}), fail(3, Outcome{}), fail(1, Outcome{Status: 500})), true}, // a connect says nothing about 5xx
		{gate, fail(3, Outcome{Status: 503}), true},
		{gate, fail(30, Outcome{Status: 500}), false},
		{gate, all(fail(2, Outcome{Status: 503}), fail(1, Outcome{Status: 500}), fail(2, Outcome{Status: 503})), false},
		{split, fail(2, Outcome{Reset: stream.ConnectFailed}), true},
		{split, all(fail(1, Outcome{Reset: stream.ConnectFailed}), fail(1, Outcome{Status: 500}), fail(1, Outcome{Timeout: true})), false},
		{split, fail(4, Outcome{Status: 500}), false},
		{conf.Outlier{Consecutive5xx: 1}, fail(5, Outcome{Status: 500}), false}, // max percent 0
		{conf.Outlier{Consecutive5xx: 1, AlwaysEjectOne: true}, fail(5, Outcome{Status: 500}), true},
		{conf.Outlier{Consecutive5xx: 1, MaxEjectionPercent: 10}, fail(5, Outcome{Status: 500}), false}, // one of three is more than 10 %
	} {
		_, h := one(t, conf.Cluster{Outlier: &c.o}, cla(conf.Locality{Endpoints: eps(1, 1, 1)}))
		e := h.Endpoints()[1]
		c.do(h, e)
		if e.Ejected() != c.want {
			t.Errorf("%d: ejected %v", i, e.Ejected())
		}
		// at once, before anything is rebuilt
		if got := picks(t, h, 300); c.want && got[2] != 0 {
			t.Errorf("%d: an ejected endpoint is picked: %v", i, got)
		}
	}
}

func TestEjectionEndsAndGrows(t *testing.T) {
	o := &conf.Outlier{Consecutive5xx: 1, MaxEjectionPercent: 100, Interval: 10 * time.Second, BaseEjection: 30 * time.Second, MaxEjectionTime: 50 * time.Second}
	r, h := one(t, conf.Cluster{Outlier: o, Balance: conf.BalanceRoundRobin}, cla(conf.Locality{Endpoints: eps(1, 1)}))
	e := h.Endpoints()[0]
	now := int64(0)
	until := func(t1 int64) {
		for ; now <= t1; now += second {
			r.Tick(now)
		}
	}
	until(5 * second)
	h.Judge(e, Outcome{Status: 500}, now) // at 6 s
	until(35 * second)
	if !e.Ejected() || h.Available() != 1 {
		t.Fatal("not ejected")
	}
	if got := picks(t, h, 100); got[1] != 0 {
		t.Errorf("picked %v", got)
	}
	until(40 * second)
	if e.Ejected() {
		t.Fatal("still ejected at 40 s")
	}
	if got := picks(t, h, 100); got[1] != 50 {
		t.Errorf("after coming back %v", got)
	}
	h.Judge(e, Outcome{Status: 500}, now) // the second time, at 41 s: min(60 s, the most)
	until(90 * second)
	if !e.Ejected() {
		t.Fatal("came back too early")
	}
	until(100 * second)
	if e.Ejected() {
		t.Fatal("still ejected at 100 s")
	}
	if e.live.ejections.Load() == 0 {
		t.Error("its ejections are forgotten at once")
	}
	until(200 * second)
	if n := e.live.ejections.Load(); n != 0 {
		t.Errorf("%d ejections are remembered after good behaviour", n)
	}
}

func TestEjectionSurvivesUpdatesAndEndsWithDetection(t *testing.T) {
	o := &conf.Outlier{Consecutive5xx: 1, MaxEjectionPercent: 100}
	r, h := one(t, conf.Cluster{Outlier: o}, cla(conf.Locality{Endpoints: eps(1, 1)}))
	h.Judge(h.Endpoints()[0], Outcome{Status: 500}, second)
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS, Outlier: o}, cla(conf.Locality{Endpoints: eps(1, 7)})), second)
	if !h.Endpoints()[0].Ejected() || picks(t, h, 100)[1] != 0 {
		t.Error("an update ended the ejection")
	}
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS}, cla(conf.Locality{Endpoints: eps(1, 7)})), second)
	r.dirty.Store(true)
	r.Tick(2 * second)
	if h.Endpoints()[0].Ejected() || h.Available() != 2 {
		t.Error("without outlier detection it is still ejected")
	}
	// an ejected endpoint that leaves no longer counts
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS, Outlier: o}, cla(conf.Locality{Endpoints: eps(1, 7)})), second)
	h.Judge(h.Endpoints()[0], Outcome{Status: 500}, second)
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterEDS, Outlier: o}, cla(conf.Locality{Endpoints: eps(1, 7)[1:]})), second)
	if h.ejected.Load() != 0 {
		t.Errorf("%d ejected", h.ejected.Load())
	}
}

// names is a Resolver with answers that tests change.
type names struct {
	mu   sync.Mutex
	m    map[string][]string
	asks int
}

func (n *names) Lookup(_ context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asks++
	as, ok := n.m[host]
	if !ok {
		return nil, errors.New("no such host")
	}
	var out []netip.Addr
	for _, a := range as {
		ip := netip.MustParseAddr(a)
		if network == "ip" || (network == "ip4") == ip.Is4() {
			out = append(out, ip)
		}
	}
	return out, nil
}

func (n *names) set(host string, as ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if as == nil {
		delete(n.m, host)
		return
	}
	n.m[host] = as
}

func addrs(h *Handle) string {
	var out []string
	for _, e := range h.Endpoints() {
		out = append(out, e.String()+"="+e.Hostname)
	}
	return strings.Join(out, " ")
}

func TestDNS(t *testing.T) {
	n := &names{m: map[string][]string{"a": {"10.0.0.2", "10.0.0.1", "fd00::1"}, "b": {"10.0.0.9"}}}
	r := New(Options{Resolver: n})
	t.Cleanup(r.Close)
	ep := &conf.Endpoints{Localities: []conf.Locality{{Endpoints: []conf.Endpoint{{Host: "a", Port: 80}, {Host: "b", Port: 81}, {Host: "192.0.2.1", Port: 82}}}}}
	c := &conf.Cluster{Type: conf.ClusterDNS, DNSFamily: "v4", Endpoints: ep}
	now := int64(0)
	settle := func() {
		t.Helper()
		now += 6 * second
		r.Tick(now)
		r.asking <- struct{}{} // wait until no question is in flight
		for range cap(r.asking) - 1 {
			r.asking <- struct{}{}
		}
		for range cap(r.asking) {
			<-r.asking
		}
	}
	r.Apply(snapshot(c, nil), now)
	h := r.Get("c")
	if err := r.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	settle()
	if got := addrs(h); got != "10.0.0.1:80=a 10.0.0.2:80=a 10.0.0.9:81=b 192.0.2.1:82=192.0.2.1" {
		t.Error(got)
	}
	keep := h.Endpoints()[0]
	n.set("a", "10.0.0.1", "10.0.0.3")
	n.set("b") // fails now: the last good answer stays
	settle()
	if got := addrs(h); got != "10.0.0.1:80=a 10.0.0.3:80=a 10.0.0.9:81=b 192.0.2.1:82=192.0.2.1" {
		t.Error(got)
	}
	if h.Endpoints()[0] != keep {
		t.Error("an address that stayed is another endpoint")
	}
	// a changed cluster keeps what was resolved
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterDNS, DNSFamily: "v4", Endpoints: ep, Balance: conf.BalanceRandom}, nil), now)
	if got := addrs(h); !strings.HasPrefix(got, "10.0.0.1:80=a 10.0.0.3:80=a") {
		t.Error(got)
	}
	for family, want := range map[string]string{"v6": "[fd00::1]:80=x", "all": "[fd00::1]:80=x 10.0.0.5:80=x", "auto": "[fd00::1]:80=x", "v4": "10.0.0.5:80=x"} {
		n.set("x", "10.0.0.5", "fd00::1")
		e := &conf.Endpoints{Localities: []conf.Locality{{Endpoints: []conf.Endpoint{{Host: "x", Port: 80}}}}}
		r.Apply(&conf.Snapshot{}, now)
		r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterDNS, DNSFamily: family, Endpoints: e}, nil), now)
		if err := r.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := strings.Fields(addrs(r.Get("c")))
		if len(got) == 2 && got[0] > got[1] {
			got[0], got[1] = got[1], got[0]
		}
		fs := strings.Fields(want)
		if len(fs) == 2 && fs[0] > fs[1] {
			fs[0], fs[1] = fs[1], fs[0]
		}
		if strings.Join(got, " ") != strings.Join(fs, " ") {
			t.Errorf("%s: %v, want %v", family, got, fs)
		}
	}
}

func TestLogicalDNSKeepsOneEndpoint(t *testing.T) {
	n := &names{m: map[string][]string{"a": {"10.0.0.2", "10.0.0.1"}}}
	r := New(Options{Resolver: n})
	t.Cleanup(r.Close)
	ep := &conf.Endpoints{Localities: []conf.Locality{{Endpoints: []conf.Endpoint{{Host: "a", Port: 80}}}}}
	r.Apply(snapshot(&conf.Cluster{Type: conf.ClusterLogicalDNS, Endpoints: ep}, nil), 0)
	if err := r.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := r.Get("c")
	first := h.Endpoints()
	if len(first) != 1 || first[0].Hostname != "a" {
		t.Fatal(addrs(h))
	}
	n.set("a", "10.0.0.7")
	h.mu.Lock()
	h.resolved(r, h.dns.names["a"], []netip.Addr{netip.MustParseAddr("10.0.0.7")}, nil)
	h.mu.Unlock()
	if e := h.Endpoints(); len(e) != 1 || e[0].Addr.Addr() != netip.MustParseAddr("10.0.0.7") || !e[0].Same(first[0]) {
		t.Error(addrs(h))
	}
}
