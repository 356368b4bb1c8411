package judge

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// plane starts a control plane on files; it ends with the test.
func plane(t testing.TB, files ...string) *control.Plane {
	t.Helper()
	snap, err := file.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return planeOf(t, fixed{snap})
}

// planeOf is a control plane on a source.
func planeOf(t testing.TB, src source.Source) *control.Plane {
	t.Helper()
	settings := link.Defaults()
	settings.AccessLog = model.AccessLog{Enabled: true, JSON: true, Format: logFormat}
	p, err := control.New(control.Options{
		Dir: t.TempDir(), Source: src, Socket: filepath.Join(shortDir(t), "xds"), Log: t.Logf, Settings: &settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("control plane: %v", err)
		}
	})
	_, _, newer := p.Changed()
	if p.Compiled() == nil {
		within(t, "the first configuration", newer)
	}
	for _, n := range p.Notices() {
		if n.Severity == model.Error {
			t.Errorf("the test's own configuration: %s %s", n.Severity, n)
		}
	}
	return p
}

// fixed is a source that never changes.
type fixed struct{ snap source.Snapshot }

// Watch implements source.Source.
func (f fixed) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	emit(f.snap)
	<-ctx.Done()
	return ctx.Err()
}

// shortDir is a directory whose path a unix socket can have.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "judge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func within(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited 20 s for %s", what)
	}
}

// meshFile is testdata/mesh.yaml with the addresses of this run.
func meshFile(t testing.TB, values map[string]string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for k, v := range values {
		text = strings.ReplaceAll(text, "{{"+k+"}}", v)
	}
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// place registers a workload that is ready at once.
func place(t testing.TB, p *control.Plane, spec control.WorkloadSpec) *control.Registration {
	t.Helper()
	spec.Ready = true
	r, err := p.Register(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// placed waits until the mesh holds what was registered: names resolve to it.
func placed(t testing.TB, p *control.Plane, regs ...*control.Registration) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		_, _, newer := p.Changed()
		missing := ""
		for _, r := range regs {
			found := false
			for _, w := range p.Compiled().Fragment.Workloads {
				found = found || w.Namespace == r.Namespace && w.Name == r.Name && !w.Template
			}
			if !found {
				missing = r.ID
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-newer:
		case <-time.After(time.Until(deadline)):
			t.Fatalf("workload %s never came into the mesh", missing)
		}
	}
}

// app is where a workload's program listens, for its registration.
func app(port uint16, at netip.AddrPort) []control.PortSpec {
	return []control.PortSpec{{Port: port, App: at}}
}

func nodeID(r *control.Registration) string {
	role := "sidecar"
	if r.Gateway {
		role = "router"
	}
	return fmt.Sprintf("%s~%s~%s.%s~%s.svc.cluster.local", role, r.IP, r.Name, r.Namespace, r.Namespace)
}
