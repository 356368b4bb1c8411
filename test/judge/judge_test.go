package judge

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
)

// patience of everything that a test waits for.
const patience = time.Minute

// stage is a whole mesh: a client's sidecar, a gateway, and the sidecars of
// four workloads.
type stage struct {
	doors   map[string]door           // by role
	sockets map[string]netip.AddrPort // of the client's dependencies, by host:port
	edges   map[uint16]netip.AddrPort // of the gateway, by port
	echos   []*echo
	misc    *echo
	ca      *authority
	logs    map[string]func() string // by workload
}

// casting says which engine stands where: before requests enter the mesh's own
// connections (client and gateway), and behind.
type casting struct{ front, back Engine }

func everywhere(e Engine) casting { return casting{e, e} }

// TestEnvoy holds Envoy, on our control plane, to the written expectations:
// that proves the configuration we write, and the table itself.
func TestEnvoy(t *testing.T) {
	for name, e := range map[string]Engine{"delta": envoyEngine(true), "state-of-the-world": envoyEngine(false)} {
		if testing.Short() && name == "state-of-the-world" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := setStage(t, everywhere(e))
			run(t, s)
			do(t, s)
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
func setStage(t *testing.T, c casting) *stage {
	t.Helper()
	s := &stage{doors: map[string]door{}, logs: map[string]func() string{}}
	backend := map[string]*echo{}
	for _, n := range []string{"v1", "v2", "quiet", "guarded", "plain", "misc"} {
		backend[n] = startEcho(t, n)
		s.echos = append(s.echos, backend[n])
	}
	s.misc, s.ca = backend["misc"], newAuthority(t)
	cert, key := s.ca.issue(t, "*.example")
	b64 := base64.StdEncoding.EncodeToString
	p := plane(t, meshFile(t, map[string]string{
		"cert": b64(cert), "key": b64(key), "ca": b64(s.ca.pem),
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
		Ports: []control.PortSpec{{Port: 80}, {Port: 81}, {Port: 443}, {Port: 9000}},
	})
	pass := s.ca.pair(t, "pass.example")
	add(control.WorkloadSpec{Name: "misc", Account: "misc", Labels: map[string]string{"app": "misc"}, Ports: []control.PortSpec{
		{Port: 8080, App: s.misc.addr},
		{Port: 9000, App: serveTCP(t, byteEcho)},
		{Port: 9001, App: serveGRPC(t)},
		{Port: 9002, App: serveTCP(t, banner)},
		{Port: 9003, App: serveTCP(t, func(c net.Conn) { byteEcho(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pass}})) })},
	}})
	for _, w := range []struct{ name, app, version string }{
		{"v1", "orders", "v1"}, {"v2", "orders", "v2"}, {"quiet", "quiet", "v1"}, {"guarded", "guarded", "v1"},
	} {
		add(control.WorkloadSpec{
			Name: w.name, Account: w.app, Labels: map[string]string{"app": w.app, "version": w.version}, Ports: app(8080, backend[w.name].addr),
		})
	}
	placed(t, p, regs...)
	for _, r := range regs {
		e := c.back
		if r == web || r == edge {
			e = c.front
		}
		s.logs[r.Name] = e.start(t, p, r)
	}
	var ok bool
	if s.sockets, ok = p.Local(web.ID); !ok {
		t.Fatal("the client has no sockets")
	}
	s.edges = map[uint16]netip.AddrPort{}
	for _, x := range edge.Ports {
		s.edges[x.Port] = x.Listen
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
