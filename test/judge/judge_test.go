package judge

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/tulle-mesh/tulle/internal/control"
)

// stage is a whole mesh with one engine at every place: a client's sidecar, a
// gateway, and the sidecars of four workloads.
type stage struct {
	doors map[string]door // by role
	echos []*echo
}

// TestEnvoy holds Envoy, on our control plane, to the written expectations:
// that proves the configuration we write, and the table itself.
func TestEnvoy(t *testing.T) {
	for name, e := range map[string]Engine{"delta": envoyEngine(true), "state-of-the-world": envoyEngine(false)} {
		t.Run(name, func(t *testing.T) {
			run(t, setStage(t, e))
		})
	}
}

func (r *request) roles() []string {
	if r.role != "" {
		return []string{r.role}
	}
	return []string{"sidecar", "gateway"}
}

// setStage starts everything.
func setStage(t *testing.T, e Engine) *stage {
	t.Helper()
	s := &stage{doors: map[string]door{}}
	backend := map[string]*echo{}
	for _, n := range []string{"v1", "v2", "quiet", "guarded", "plain"} {
		backend[n] = startEcho(t, n)
		s.echos = append(s.echos, backend[n])
	}
	p := plane(t, meshFile(t, map[string]string{
		"plain": strconv.Itoa(int(backend["plain"].addr.Port())),
		"dead":  "1", // tcpmux, which nobody serves
	}))
	var regs []*control.Registration
	add := func(spec control.WorkloadSpec) *control.Registration {
		spec.Namespace = "shop"
		r := place(t, p, spec)
		regs = append(regs, r)
		return r
	}
	web := add(control.WorkloadSpec{Name: "web", Account: "web", Labels: map[string]string{"app": "web"}})
	edge := add(control.WorkloadSpec{
		Name: "edge", Account: "edge", Labels: map[string]string{"istio": "edge"}, Gateway: true,
		Ports: []control.PortSpec{{Port: 80}, {Port: 81}},
	})
	for _, w := range []struct{ name, app, version string }{
		{"v1", "orders", "v1"}, {"v2", "orders", "v2"}, {"quiet", "quiet", "v1"}, {"guarded", "guarded", "v1"},
	} {
		add(control.WorkloadSpec{
			Name: w.name, Account: w.app, Labels: map[string]string{"app": w.app, "version": w.version}, Ports: app(8080, backend[w.name].addr),
		})
	}
	placed(t, p, regs...)
	for _, r := range regs {
		e.start(t, p, r)
	}
	s.doors["sidecar"] = door{addr: web.HTTPProxy, proxy: true}
	s.doors["gateway"] = door{addr: edge.Ports[0].Listen}
	return s
}

var serial int

// ask sends a request to a role's door.
func (s *stage) ask(r request, role string) (*answer, error) {
	serial++
	key := fmt.Sprintf("%s-%04d-%06d", role, r.line, serial)
	a, err := r.send(s.doors[role], key)
	if err != nil {
		return nil, err
	}
	for _, e := range s.echos {
		if e.name != "plain" || a.Echo != nil && a.Echo.Backend == "plain" {
			a.Tries += len(e.requests(key))
		}
	}
	return a, nil
}
