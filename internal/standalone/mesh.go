//go:build linux

package standalone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// MeshOptions say what mesh to run.
type MeshOptions struct {
	Paths     []string // directories or files of YAML
	State     string   // certificate authority, sockets
	Proxy     string   // path of tulle-proxy
	Loops     int      // of each gateway
	Runtime   Runtime  // of each gateway
	Opening   Opening
	AccessLog bool
	Version   string
	ProxyOut  io.Writer
	Log       func(format string, args ...any)
	Notice    func(model.Notice) // called once for each notice that is new
}

// Mesh is a running standalone mesh.
type Mesh struct {
	o       MeshOptions
	state   *state
	plane   *control.Plane
	client  *api.Client
	started chan struct{} // closed when the first configuration is served
}

// virtualIPs are given to services without an address, so that two of them may
// use one TCP port; it is what Istio gives to ServiceEntries.
var virtualIPs = netip.MustParsePrefix("240.240.0.0/16")

// NewMesh opens state, sockets and configuration; Run serves.
func NewMesh(o MeshOptions) (*Mesh, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	for _, p := range o.Paths {
		if _, err := os.Stat(p); err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				err = pe.Err
			}
			return nil, fmt.Errorf("configuration %s: %w; -f wants a directory (or a file) of YAML", p, err)
		}
	}
	st, err := openState(o.State)
	if err != nil {
		return nil, err
	}
	o.State = st.dir
	settings := link.Defaults()
	settings.AccessLog.Enabled = o.AccessLog
	settings.VirtualIPs = virtualIPs
	plane, err := control.New(control.Options{Dir: o.State, Source: &file.Watcher{Paths: o.Paths}, Settings: &settings,
		Registry: filepath.Join(o.State, "workloads.json"), Version: o.Version, Log: o.Log})
	if err != nil {
		st.release()
		return nil, err
	}
	return &Mesh{o: o, state: st, plane: plane, client: api.NewClient(filepath.Join(o.State, api.Socket)), started: make(chan struct{})}, nil
}

// Client talks to this mesh's admin API.
func (m *Mesh) Client() *api.Client { return m.client }

// Opening says where gateways listen.
func (m *Mesh) Opening() Opening { return m.o.Opening }

// Scratch is where replicas keep their sockets and bootstrap files.
func (m *Mesh) Scratch() string { return filepath.Join(m.o.State, "run") }

// Wait returns when the first configuration is served.
func (m *Mesh) Wait(ctx context.Context) error {
	select {
	case <-m.started:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run serves until ctx ends or something fails; then nothing is left running.
func (m *Mesh) Run(ctx context.Context) error {
	defer m.state.release()
	defer m.client.Close()
	socket, err := control.ListenUnix(filepath.Join(m.o.State, api.Socket))
	if err != nil {
		m.plane.Close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What serves must outlive what is served: gateways end first.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	start := func(f func() error) {
		wg.Go(func() { errs <- f(); cancel() })
	}
	start(func() error { return m.plane.Run(serving) })
	server := api.NewServer(m.plane, m.o.Version, m.o.Log)
	start(func() error { return server.Serve(serving, socket) })
	m.follow(ctx)
	stop()
	wg.Wait()
	close(errs)
	var out error
	for e := range errs {
		out = errors.Join(out, e)
	}
	return out
}

// follow tells what is new and keeps the gateways, until ctx ends.
func (m *Mesh) follow(ctx context.Context) {
	g := &Gateways{Plane: m.plane, Control: m.client, Dir: m.Scratch(), Proxy: m.o.Proxy, Loops: m.o.Loops, Runtime: m.o.Runtime, Opening: m.o.Opening,
		Out: m.o.ProxyOut, Log: m.o.Log}
	var wg sync.WaitGroup
	defer wg.Wait()
	seen := map[string]bool{}
	first := true
	for {
		version, _, newer := m.plane.Changed()
		if version != "" {
			m.tell(seen)
			if first {
				first = false
				m.greet()
				close(m.started)
				wg.Go(func() { g.Run(ctx) })
				wg.Go(func() { m.missing(ctx) })
				wg.Go(func() { keepSwept(ctx, m.Scratch()) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-newer:
		}
	}
}

// greet says what is served, when it is for the first time.
func (m *Mesh) greet() {
	c := m.plane.Compiled()
	if c == nil {
		return
	}
	f := &c.Fragment
	templates, back := 0, 0
	for _, w := range f.Workloads {
		switch {
		case w.Template:
			templates++
		case w.Origin.Kind == "Process":
			back++
		}
	}
	old := "new state"
	if m.state.old {
		old = "state of an earlier run"
	}
	m.o.Log("the mesh is served: %s, %s, %s from %s; %s in %s", count(len(f.Services), "service"),
		count(templates, "Deployment"), count(len(f.Gateways), "Gateway"), strings.Join(m.o.Paths, ", "), old, m.o.State)
	if back > 0 {
		m.o.Log("of the earlier run %s may come back", count(back, "program"))
	}
	if len(f.Services)+templates+len(f.Gateways) == 0 {
		m.o.Log("there is no service in %s yet; what is put there takes effect at once", strings.Join(m.o.Paths, ", "))
	}
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// tell passes on notices that were not told before; one that went away is told
// again when it comes back.
func (m *Mesh) tell(seen map[string]bool) {
	if m.o.Notice == nil {
		return
	}
	now := map[string]bool{}
	notices := m.plane.Notices()
	slices.SortStableFunc(notices, func(a, b model.Notice) int { return cmp.Compare(b.Severity, a.Severity) })
	for _, n := range notices {
		k := n.String()
		now[k] = true
		if !seen[k] {
			seen[k] = true
			m.o.Notice(n)
		}
	}
	for k := range seen {
		if !now[k] {
			delete(seen, k)
		}
	}
}

// missing lists, once things have settled, Deployments nobody runs.
func (m *Mesh) missing(ctx context.Context) {
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return
	case <-t.C:
	}
	ds, err := m.client.Deployments(ctx)
	if err != nil {
		return
	}
	for _, d := range ds {
		if d.Running == 0 {
			m.o.Log("no process runs for Deployment %s/%s; start one with: tulle run -n %s --deployment %s -- COMMAND",
				d.Namespace, d.Name, d.Namespace, d.Name)
		}
	}
}
