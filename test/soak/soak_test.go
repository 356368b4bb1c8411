package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/test/life"
	"github.com/tulle-mesh/tulle/test/port"
)

var (
	howLong = flag.Duration("for", 2*time.Minute, "how long the soak lasts")
	seed    = flag.Uint64("seed", 1, "of what happens when")
)

func TestMain(m *testing.M) { life.Main(m) }

// TestSoak is the soak.
func TestSoak(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithTimeout(context.Background(), *howLong)
	defer stop()
	t.Cleanup(func() { // before the backends end, whatever has happened
		for _, p := range append(w.retired, values(w.procs)...) {
			_ = p.Kill()
		}
	})
	var wg sync.WaitGroup
	r := rand.New(rand.NewPCG(*seed, 0))
	for i, s := range w.shapes() {
		mine := rand.New(rand.NewPCG(*seed, uint64(i+1)))
		wg.Go(func() { w.traffic(ctx, s, mine) })
	}
	wg.Go(func() { w.heart(ctx) })
	w.chaos(ctx, r)
	wg.Wait()
	w.report()
}

// world is the mesh under the soak: a gateway before two replicas of a backend,
// a caller's sidecar that bridges and one that does not, two sidecars of what
// they call.
type world struct {
	t        testing.TB
	place    *life.Place
	backends []*backend // two behind the gateway, two behind sidecars
	nodes    map[string]*life.Node
	procs    map[string]*life.Process
	retired  []*life.Process
	doors    map[string]string
	readings map[string][]reading
	journal  *journal

	mu     sync.Mutex
	events []event
	counts map[string]int
	failed []failure
}

// event explains failures between its times.
type event struct {
	from, to          time.Time
	what              string
	gateway, sidecars bool // which shapes it concerns
}

type failure struct {
	shape    string
	from, to time.Time
	err      error
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, nodes: map[string]*life.Node{}, procs: map[string]*life.Process{}, doors: map[string]string{},
		readings: map[string][]reading{}, counts: map[string]int{}, journal: &journal{begin: time.Now()}}
	for range 4 {
		w.backends = append(w.backends, startBackend(t))
	}
	w.place = life.New(t, w.yaml(0), logFormat)
	add := func(name string, spec control.WorkloadSpec) {
		spec.Name, spec.Namespace, spec.Account = name, "shop", name
		w.nodes[name] = w.place.Join(spec)
	}
	for i, name := range []string{"orders-1", "orders-2"} {
		b := w.backends[2+i]
		add(name, control.WorkloadSpec{Labels: map[string]string{"app": "orders"}, Ports: []control.PortSpec{
			{Port: 8080, App: netip.MustParseAddrPort(b.web)}, {Port: 9000, App: netip.MustParseAddrPort(b.tcp)}}})
	}
	add("web", control.WorkloadSpec{Labels: map[string]string{"app": "web"}})
	add("plain", control.WorkloadSpec{Labels: map[string]string{"app": "plain"}})
	add("edge", control.WorkloadSpec{Labels: map[string]string{"istio": "edge"}, Gateway: true,
		Ports: []control.PortSpec{{Port: 80, Listen: port.Free(t)}, {Port: 9000, Listen: port.Free(t)}, {Port: 9100, Listen: port.Free(t)}}})
	w.nodes["plain"].Boot.NoBridge = true
	for name, n := range w.nodes {
		w.procs[name] = n.Serve(w.journal.logs(name))
	}
	for _, p := range w.nodes["edge"].Ports {
		w.doors[fmt.Sprint("edge:", p.Port)] = p.Listen.String()
	}
	for _, name := range []string{"web", "plain"} {
		for k, at := range w.place.Sockets(w.nodes[name]) {
			_, port, _ := net.SplitHostPort(k)
			if strings.HasPrefix(k, "orders.") {
				w.doors[name+":"+port] = at
			}
		}
	}
	if len(w.doors) != 9 {
		t.Fatalf("doors: %v", w.doors)
	}
	return w
}

const orders = "orders.shop.svc.cluster.local"

// shapes are the traffic.
func (w *world) shapes() []shape {
	edge, ms := w.doors["edge:80"], time.Millisecond
	out := []shape{
		request("gateway h1", edge, "a", "/", false, 1<<10, 200*ms),
		request("gateway h1 chunked", edge, "a", "/chunked", false, 64<<10, 200*ms),
		request("gateway h1 large", edge, "a", "/", false, 4<<20, 4000*ms),
		request("gateway h2", edge, "a", "/", true, 16<<10, 200*ms),
		request("gateway h2 large", edge, "a", "/", true, 4<<20, 4000*ms),
		session("gateway websocket", edge, "a", true, 200*ms),
		session("gateway tcp", w.doors["edge:9000"], "", false, 200*ms),
		quitter("gateway quitter", edge, "a", 500*ms),
	}
	for _, name := range []string{"web", "plain"} {
		at := w.doors[name+":80"]
		out = append(out,
			request(name+" h1", at, orders, "/", false, 1<<10, 200*ms),
			request(name+" h1 chunked", at, orders, "/chunked", false, 64<<10, 200*ms),
			request(name+" h1 large", at, orders, "/", false, 4<<20, 4000*ms),
			request(name+" h2", at, orders, "/", true, 8<<10, 200*ms),
			grpc(name+" grpc", w.doors[name+":81"], orders+":81", 100*ms),
			session(name+" websocket", at, orders, true, 200*ms),
			session(name+" tcp", w.doors[name+":9000"], "", false, 200*ms),
			quitter(name+" quitter", at, orders, 500*ms))
	}
	return out
}

// traffic is one shape until the end.
func (w *world) traffic(ctx context.Context, s shape, r *rand.Rand) {
	for ctx.Err() == nil {
		from := time.Now()
		// What is under way at the end may end.
		err := s.run(context.WithoutCancel(ctx), r)
		w.mu.Lock()
		w.counts[s.name]++
		if err != nil {
			w.failed = append(w.failed, failure{s.name, from, time.Now(), err})
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(s.pause/2 + time.Duration(r.Int64N(int64(s.pause)))):
		}
	}
}

// chaos makes things happen, one step a second.
func (w *world) chaos(ctx context.Context, r *rand.Rand) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	steps := int(*howLong / time.Second)
	dead := map[int]time.Time{}
	for step := 1; ; step++ {
		select {
		case <-ctx.Done():
			for i := range dead {
				w.raise(dead, i)
			}
			return
		case <-tick.C:
		}
		w.place.Change(w.yaml(step))
		w.journal.note("configuration %d: policy %t, rule %t, endpoints %d of 2, port 9100 %t", step, step%3 == 1, step%6 > 2, 2-len(missing(step)), step%4 < 2)
		for i, since := range dead {
			if time.Since(since) > 2*time.Second {
				w.raise(dead, i)
			}
		}
		switch {
		case step%20 == 10:
			i := r.IntN(len(w.backends))
			if dead[i].IsZero() {
				dead[i] = time.Now()
				w.journal.note("backend %d dies", i)
				w.backends[i].die()
			}
		case step%30 == 25:
			w.restart([]string{"plain", "orders-2"}[step/30%2])
		case step == steps/2:
			w.journal.note("the control plane ends")
			w.place.Shut()
			w.place.Open()
			w.journal.note("it is back")
		}
		if step%5 == 0 {
			w.measure()
		}
	}
}

// raise lets a backend return. What failed while it was dead, or shortly after,
// is explained: pools find out, ejections end. Shortly begins when every proxy has
// answered once more, so that it has had a processor meanwhile.
func (w *world) raise(dead map[int]time.Time, i int) {
	w.backends[i].rise()
	w.journal.note("backend %d is back", i)
	for _, p := range append(values(w.procs), w.retired...) {
		_, _ = p.Page("GET", "/server_info") // none when it has ended
	}
	w.happened(event{dead[i].Add(-50 * time.Millisecond), time.Now().Add(250 * time.Millisecond), fmt.Sprint("backend ", i, " was dead"), i < 2, i >= 2})
	delete(dead, i)
}

func (w *world) happened(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// still is how long the machine may let us wait for a processor: half of the
// shortest time-out in the configuration.
const still = 1500 * time.Millisecond

// heart notices when the machine stood still: time-outs have passed that nobody
// could keep.
func (w *world) heart(ctx context.Context) {
	for last := time.Now(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
		now := time.Now()
		if now.Sub(last) > still {
			w.happened(event{last, now.Add(250 * time.Millisecond), fmt.Sprintf("no processor for %s", now.Sub(last)), true, true})
			w.t.Logf("the machine stood still for %s", now.Sub(last))
		}
		last = now
	}
}

// restart is a hot restart, which explains nothing.
func (w *world) restart(name string) {
	w.retired = append(w.retired, w.procs[name])
	w.journal.note("a second %s starts", name)
	w.procs[name] = w.nodes[name].Serve(w.journal.logs(name + " (later)"))
	w.journal.note("it serves instead")
}

// explained says which event explains a failure; empty: none.
func (w *world) explained(f *failure) string {
	if strings.Contains(f.err.Error(), "LIE") {
		return ""
	}
	for _, e := range w.events {
		concerns := e.sidecars
		if strings.HasPrefix(f.shape, "gateway") {
			concerns = e.gateway
		}
		if concerns && f.from.Before(e.to) && f.to.After(e.from) {
			return e.what
		}
	}
	return ""
}

// causes counts failures by shape, the event that explains them and their first
// words.
func (w *world) causes() map[string]int {
	out := map[string]int{}
	for _, f := range w.failed {
		e := w.explained(&f)
		if e == "" {
			e = "unexplained"
		}
		out[fmt.Sprintf("%s, %s: %s", f.shape, e, digits.ReplaceAllString(f.err.Error(), "N"))]++
	}
	return out
}

// digits make equal errors look different: ports, sizes.
var digits = regexp.MustCompile(`\d{2,}(:\d+)?`)

// report judges.
func (w *world) report() {
	t, total, unexplained := w.t, 0, 0
	var names []string
	for n, c := range w.counts {
		names = append(names, n)
		total += c
	}
	slices.Sort(names)
	why := map[string]int{}
	for _, f := range w.failed {
		e := w.explained(&f)
		why[f.shape]++
		if e == "" {
			if unexplained++; unexplained < 20 {
				t.Errorf("unexplained: %s, begun at %s, ended %s later: %v\n    around its end:%s", f.shape, w.journal.since(f.from),
					f.to.Sub(f.from), f.err, w.journal.around(f.to, 1500*time.Millisecond, 8))
			}
		}
	}
	for _, n := range names {
		t.Logf("%-20s %7d, %d failed", n, w.counts[n], why[n])
		if w.counts[n] < 5 {
			t.Errorf("%s: only %d", n, w.counts[n])
		}
	}
	for what, n := range w.causes() {
		t.Logf("%5d x %s", n, what)
	}
	t.Logf("%d in all, %d failed, %d of them unexplained; %d events", total, len(w.failed), unexplained, len(w.events))
	if 20*len(w.failed) > total {
		t.Errorf("%d of %d failed: too many to be explained by what died", len(w.failed), total)
	}
	if n := w.journal.lost; n > 0 {
		t.Logf("%d lines of access logs were not kept", n)
	}
	w.flat()
	for name, p := range w.procs {
		if n := p.Metric("tulle_proxy_panics_total", ""); n > 0 {
			t.Errorf("%s: %v internal errors\n%s", name, n, p.Said())
		}
		p.Term()
	}
	for _, p := range append(w.retired, values(w.procs)...) {
		if err := p.End(); err != nil {
			t.Errorf("process %d: %v", p.Pid, err)
		}
	}
}

func values(m map[string]*life.Process) (out []*life.Process) {
	for _, p := range m {
		out = append(out, p)
	}
	return out
}
