package judge

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/test/judge/generate"
)

// arena is a mesh whose configuration is replaced again and again: a calling
// sidecar and a gateway, each once as Envoy and once as tulle-proxy, before the
// same backends.
type arena struct {
	plane *control.Plane
	turn  *turning
	world generate.World
	echos []*echo
	teams [2]team // Envoy, tulle-proxy
	turns int
	asked int
}

// team is one kind of proxy in both places.
type team struct {
	name    string
	proxy   netip.AddrPort            // of the sidecar, for HTTP clients
	edges   map[uint16]netip.AddrPort // of the gateway
	output  map[string]func() string  // by place
	ids     []string
	sidecar string // namespace/name
	lines   map[string]map[string][]map[string]any
	read    map[string]int
}

// turning is a source whose snapshot is replaced.
type turning struct{ next chan source.Snapshot }

// Watch implements source.Source.
func (s *turning) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	for {
		select {
		case snap := <-s.next:
			emit(snap)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openArena starts everything.
func openArena(t *testing.T) *arena {
	t.Helper()
	a := &arena{turn: &turning{next: make(chan source.Snapshot, 1)}}
	for i := range 3 {
		e := startEcho(t, "e"+strconv.Itoa(i+1))
		a.echos = append(a.echos, e)
		a.world.Backends = append(a.world.Backends, e.addr.Port())
	}
	a.world.Client, a.world.Account, a.world.Dead = "shop", "web", 1
	a.world.Labels, a.world.Edge = map[string]string{"app": "web"}, map[string]string{"istio": "edge"}
	a.world.EdgePorts = []uint16{80, 81}
	a.turn.next <- a.snapshot(t, nil)
	a.plane = planeOf(t, a.turn)
	for i, e := range []Engine{envoyEngine(true), tulleEngine(true)} {
		suffix := []string{"-envoy", "-tulle"}[i]
		spec := control.WorkloadSpec{Name: "web" + suffix, Namespace: a.world.Client, Account: a.world.Account, Labels: a.world.Labels}
		web := place(t, a.plane, spec)
		edge := control.WorkloadSpec{Name: "edge" + suffix, Namespace: a.world.Client, Account: "edge", Labels: a.world.Edge, Gateway: true}
		for _, p := range a.world.EdgePorts {
			edge.Ports = append(edge.Ports, control.PortSpec{Port: p})
		}
		door := place(t, a.plane, edge)
		placed(t, a.plane, web, door)
		tm := team{name: e.name, proxy: web.HTTPProxy, edges: map[uint16]netip.AddrPort{}, output: map[string]func() string{},
			ids: []string{web.ID, door.ID}, sidecar: web.ID, lines: map[string]map[string][]map[string]any{}, read: map[string]int{}}
		for _, p := range door.Ports {
			tm.edges[p.Port] = p.Listen
		}
		tm.output["web"], tm.output["edge"] = e.start(t, a.plane, web), e.start(t, a.plane, door)
		a.teams[i] = tm
	}
	return a
}

// stand is a configuration in its turn: its name, and what it asks.
type stand struct {
	*generate.Config
	name   string
	origin *generate.Config // of which Config has some of the requests
}

// snapshot of the mesh with these configurations, under names of this turn.
func (a *arena) snapshot(t testing.TB, stands []stand, more ...string) source.Snapshot {
	t.Helper()
	dir := t.TempDir()
	base := strings.NewReplacer("{{turn}}", strconv.Itoa(a.turns), "{{client}}", a.world.Client).Replace(arenaBase)
	files := map[string][]byte{"base.yaml": []byte(base + strings.Join(more, ""))}
	for _, s := range stands {
		b, err := s.YAML(s.name)
		if err != nil {
			t.Fatal(err)
		}
		files[s.name+".yaml"] = b
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := file.Load([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// arenaBase is what stands in every turn. The host "turn" tells which turn a
// proxy is at.
const arenaBase = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: turn, namespace: {{client}}}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 80, name: http-80, protocol: HTTP}
    hosts: ["turn.example"]
  - port: {number: 81, name: http-81, protocol: HTTP}
    hosts: ["turn.example"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: turn, namespace: {{client}}}
spec:
  hosts: [turn.example]
  gateways: [mesh, turn]
  http:
  - directResponse: {status: 200, body: {string: "turn {{turn}}"}}
`

// arenaCallers are the workloads of the arena for explain, which knows of no
// registered ones.
const arenaCallers = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: web, containers: [{name: c, image: c}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: edge, namespace: shop}
spec:
  selector: {matchLabels: {istio: edge}}
  template:
    metadata: {labels: {istio: edge}}
    spec: {serviceAccountName: edge, containers: [{name: c, image: c}]}
`

// play gives the mesh these configurations, asks their requests, and tells for
// each what is not as it should be.
func (a *arena) play(t *testing.T, configs []*generate.Config, whole bool) []finding {
	t.Helper()
	a.turns++
	var stands []stand
	for i, c := range configs {
		stands = append(stands, stand{c, fmt.Sprintf("t%dk%d", a.turns, i), c}) // nothing is left of the last turn
	}
	_, _, newer := a.plane.Changed()
	a.turn.next <- a.snapshot(t, stands)
	within(t, "the next turn", newer)
	if whole {
		for _, n := range a.plane.Notices() {
			if n.Severity == model.Error && n.Reason == model.Invalid {
				t.Errorf("a generated configuration is wrong: %s", n)
			}
		}
	}
	for _, tm := range a.teams {
		for _, id := range tm.ids {
			accepted(t, a.plane, id)
		}
		a.arrived(t, tm)
	}
	findings := a.ask(t, stands)
	// A proxy may still have been at work on what is new: only what differs again
	// differs.
	for range 2 {
		if len(findings) > 0 {
			findings = a.ask(t, again(stands, findings))
		}
	}
	return findings
}

// again are the configurations with the requests on which not all agreed.
func again(stands []stand, findings []finding) []stand {
	var out []stand
	for _, s := range stands {
		less := *s.Config
		less.Requests = nil
		for _, f := range findings {
			if f.config == s.origin {
				less.Requests = append(less.Requests, f.request)
			}
		}
		if less.Requests != nil {
			out = append(out, stand{&less, s.name, s.origin})
		}
	}
	return out
}

// arrived waits until a team's proxies act by the present turn.
func (a *arena) arrived(t *testing.T, tm team) {
	t.Helper()
	want := "turn " + strconv.Itoa(a.turns)
	doors := []door{{tm.proxy, true}}
	for _, e := range tm.edges {
		doors = append(doors, door{e, false})
	}
	for _, d := range doors {
		deadline := time.Now().Add(patience)
		for {
			r := request{method: "GET", host: "turn.example", target: "/"}
			got, err := r.send(d, "turn")
			if err == nil && got.Text == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s at %s is not at %s: %+v %v", tm.name, d.addr, want, got, err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// told collects the access log lines by key and place.
func (tm *team) told() int {
	n := 0
	for place, output := range tm.output {
		text := output()
		end := strings.LastIndexByte(text, '\n') + 1
		for line := range strings.Lines(text[tm.read[place]:end]) {
			var l map[string]any
			if json.Unmarshal([]byte(line), &l) != nil {
				continue
			}
			key, _ := l["key"].(string)
			if tm.lines[key] == nil {
				tm.lines[key] = map[string][]map[string]any{}
			}
			tm.lines[key][place] = append(tm.lines[key][place], l)
			n++
		}
		tm.read[place] = end
	}
	return n
}

// each runs f for 0..n-1, some at a time.
func each(n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
