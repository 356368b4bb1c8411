package life

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// Main runs a package's tests, or is tulle-proxy when a Place started it.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == word {
		os.Exit(proxy.Main(os.Args[0], os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const word = "tulle-proxy"

// patience of everything that a test waits for.
const patience = 30 * time.Second

// Place is a control plane with the proxies that it serves.
type Place struct {
	t    testing.TB
	dir  string
	log  string // format
	snap chan source.Snapshot

	joined []*Node

	mu     sync.Mutex
	last   source.Snapshot
	plane  *control.Plane
	cancel context.CancelFunc
	ended  chan error
}

// New starts a control plane on YAML. Access logs go to the proxies' standard
// output, in a format of Envoy's commands.
func New(t testing.TB, yaml, log string) *Place {
	t.Helper()
	dir, err := os.MkdirTemp("", "life") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Place{t: t, dir: dir, log: log, snap: make(chan source.Snapshot, 1)}
	p.load(yaml)
	<-p.snap
	p.Open()
	t.Cleanup(p.Shut)
	return p
}

// Open starts the control plane.
func (p *Place) Open() {
	p.t.Helper()
	settings := link.Defaults()
	settings.AccessLog = model.AccessLog{Enabled: true, Format: p.log}
	c, err := control.New(control.Options{Dir: p.dir, Source: p, Socket: filepath.Join(p.dir, "xds"),
		Registry: filepath.Join(p.dir, "registry"), Settings: &settings})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.mu.Lock()
	p.plane, p.cancel, p.ended = c, cancel, make(chan error, 1)
	p.mu.Unlock()
	go func() { p.ended <- c.Run(ctx) }()
	Wait(p.t, "the first configuration", func() bool { return c.Compiled() != nil })
	for _, n := range p.joined { // as tulle run does when the control plane is back
		s := n.spec
		s.Token, s.IP, s.Ports, s.Labels, s.Local = n.Token, n.IP, n.Ports, n.Labels, n.local
		if _, err := c.Register(s, nil); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, n := range c.Notices() {
		if n.Severity == model.Error {
			p.t.Errorf("the test's own configuration: %s", n)
		}
	}
}

// Shut ends the control plane.
func (p *Place) Shut() {
	for _, n := range p.joined {
		n.local, _ = p.plane.Local(n.ID)
	}
	p.mu.Lock()
	cancel := p.cancel
	p.cancel = nil
	p.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	if err := <-p.ended; err != nil {
		p.t.Errorf("control plane: %v", err)
	}
}

// Change puts other YAML in force, some time after.
func (p *Place) Change(yaml string) {
	p.t.Helper()
	p.load(yaml)
}

func (p *Place) load(yaml string) {
	p.t.Helper()
	path := filepath.Join(p.dir, "mesh.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		p.t.Fatal(err)
	}
	s, err := file.Load([]string{path})
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.last = s
	p.mu.Unlock()
	select {
	case <-p.snap: // nobody has taken the one before
	default:
	}
	p.snap <- s
}

// Watch implements source.Source.
func (p *Place) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	p.mu.Lock()
	s := p.last
	p.mu.Unlock()
	for {
		emit(s)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s = <-p.snap:
		}
	}
}

// Join registers a workload that is ready at once, and waits until the mesh
// holds it.
func (p *Place) Join(spec control.WorkloadSpec) *Node {
	p.t.Helper()
	spec.Ready = true
	r, err := p.plane.Register(spec, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	Wait(p.t, r.ID+" in the mesh", func() bool {
		for _, w := range p.plane.Compiled().Fragment.Workloads {
			if w.Namespace == r.Namespace && w.Name == r.Name && !w.Template {
				return true
			}
		}
		return false
	})
	dir := filepath.Join(p.dir, r.Name)
	token := filepath.Join(dir, "token")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte(r.Token), 0o600); err != nil {
		p.t.Fatal(err)
	}
	role := "sidecar"
	if r.Gateway {
		role = "router"
	}
	n := &Node{Registration: r, place: p, dir: dir, spec: spec, Boot: proxy.Bootstrap{
		ID: fmt.Sprintf("%s~%s~%s.%s~%s.svc.cluster.local", role, r.IP, r.Name, r.Namespace, r.Namespace), XDS: "unix://" + filepath.Join(p.dir, "xds"),
		TokenFile: token, StateDir: filepath.Join(dir, "state"), SecretDir: filepath.Join(dir, "secrets"), Concurrency: 1,
		Admin: "unix://" + filepath.Join(dir, "admin"), RestartSocket: filepath.Join(dir, "restart"),
		Workload: proxy.Workload{Name: r.Name, Namespace: r.Namespace, Gateway: r.Gateway}}}
	p.joined = append(p.joined, n)
	return n
}

// Sockets are where a sidecar's program finds its dependencies, by host:port.
func (p *Place) Sockets(n *Node) map[string]string {
	p.t.Helper()
	all, ok := p.plane.Local(n.ID)
	if !ok {
		p.t.Fatalf("%s has no sockets", n.ID)
	}
	out := map[string]string{}
	for k, a := range all {
		out[k] = a.String()
	}
	return out
}

// Wait waits until something holds.
func Wait(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
		<-tick.C
	}
}
