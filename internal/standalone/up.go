//go:build linux

package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Gateways keeps one gateway proxy running for every selector that the
// configuration's Gateways have.
type Gateways struct {
	Plane   *control.Plane
	Control *api.Client
	Dir     string // scratch
	Proxy   string // path of tulle-proxy
	Loops   int
	Runtime Runtime
	Opening Opening
	Out     io.Writer // the proxies' own output
	// Log tells people what runs where; called by several goroutines.
	Log func(format string, args ...any)

	mu      sync.Mutex
	running map[string]*gateway
}

// gateway is one running gateway proxy.
type gateway struct {
	want   wanted
	cancel context.CancelFunc
	done   chan struct{}
	id     string // once it has joined
}

// wanted is a gateway workload that some Gateways select.
type wanted struct {
	key       string
	namespace string
	name      string
	labels    map[string]string
	account   string
	ports     []uint16 // in the Gateways, sorted
}

// lowPorts is added to ports that an ordinary user may not open.
const lowPorts = 8000

// Opening says where a Gateway's ports are opened on this machine.
type Opening struct {
	Bind  netip.Addr        // invalid: 127.0.0.1
	Ports map[uint16]uint16 // by port of the Gateway; absent: see At
}

// At is where a Gateway's port is opened: as Ports says, else the port itself
// or, below 1024, where an ordinary user may not listen, 8000 more.
func (o Opening) At(port uint16) netip.AddrPort {
	if !o.Bind.IsValid() {
		o.Bind = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if p, ok := o.Ports[port]; ok {
		return netip.AddrPortFrom(o.Bind, p)
	}
	if port < 1024 {
		port += lowPorts
	}
	return netip.AddrPortFrom(o.Bind, port)
}

// Run follows the configuration until ctx ends; then no gateway is left.
func (g *Gateways) Run(ctx context.Context) {
	g.running = map[string]*gateway{}
	heed()
	for {
		_, _, newer := g.Plane.Changed()
		if c := g.Plane.Compiled(); c != nil {
			g.settle(ctx, wants(&c.Fragment))
		}
		select {
		case <-ctx.Done():
			g.settle(ctx, nil)
			return
		case <-newer:
		}
	}
}

// settle starts, changes and stops gateways.
func (g *Gateways) settle(ctx context.Context, want map[string]wanted) {
	for _, k := range slices.Sorted(maps.Keys(g.running)) {
		if _, ok := want[k]; !ok {
			r := g.running[k]
			delete(g.running, k)
			r.cancel()
			<-r.done
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		w := want[k]
		r := g.running[k]
		if r == nil {
			g.running[k] = g.start(ctx, w)
			continue
		}
		if !slices.Equal(r.want.ports, w.ports) {
			g.mu.Lock()
			id := r.id
			g.mu.Unlock()
			if id != "" && g.Plane.SetPorts(id, g.specs(w.ports)) {
				g.mu.Lock()
				r.want.ports = w.ports
				g.mu.Unlock()
			}
		}
	}
}

func (g *Gateways) specs(ports []uint16) []control.PortSpec {
	var out []control.PortSpec
	for _, p := range ports {
		out = append(out, control.PortSpec{Port: p, Listen: g.Opening.At(p)})
	}
	return out
}

// start keeps a gateway running; one that ends is started again after a while.
func (g *Gateways) start(parent context.Context, w wanted) *gateway {
	ctx, cancel := context.WithCancel(parent)
	r := &gateway{want: w, cancel: cancel, done: make(chan struct{})}
	run := Run{Dir: g.Dir, Proxy: g.Proxy, Loops: g.Loops, Runtime: g.Runtime, ProxyOut: g.Out, Stderr: g.Out,
		Spec: control.WorkloadSpec{Namespace: w.namespace, Name: w.name, Labels: w.labels, Account: w.account, Gateway: true, Ports: g.specs(w.ports)},
		Started: func(rep *Replica) {
			g.mu.Lock()
			r.id = rep.ID
			g.mu.Unlock()
		},
		joined: func(ctx context.Context, rep *Replica) { g.report(ctx, r, rep) }}
	go func() {
		defer close(r.done)
		for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
			if err := run.Do(ctx, g.Control); err != nil && ctx.Err() == nil {
				g.Log("gateway %s/%s: %v; trying again in %s", w.namespace, w.name, err, wait)
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}()
	return r
}

// reportEvery is how often it is looked which ports of a gateway are open.
const reportEvery = 300 * time.Millisecond

// report tells which ports of a gateway are open and which cannot be, each
// once and when it changes, until ctx ends.
func (g *Gateways) report(ctx context.Context, r *gateway, rep *Replica) {
	c := AdminClient(rep.Admin)
	defer c.CloseIdleConnections()
	told := map[uint16]string{}
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		page, err := adminPage(ctx, c, "/listeners")
		g.mu.Lock()
		ports := r.want.ports
		g.mu.Unlock()
		for _, p := range ports {
			at := g.Opening.At(p)
			now := ""
			switch {
			case err != nil:
			case strings.Contains(page, "::"+at.String()+" bound=true open=true"):
				now = fmt.Sprintf("gateway %s: port %d is open at %s", rep.ID, p, at)
			case strings.Contains(page, "::"+at.String()+" bound=true open=false"):
				if err := g.Opening.Free(p); err != nil {
					now = fmt.Sprintf("gateway %s: %v; it is opened when it is free", rep.ID, err)
				}
			}
			if now != "" && now != told[p] {
				told[p] = now
				g.Log("%s", now)
			}
		}
		for p := range told {
			if !slices.Contains(ports, p) {
				delete(told, p)
				g.Log("gateway %s: port %d is closed: no Gateway names it any more", rep.ID, p)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Free reports whether a Gateway's port can be opened now; the error says what
// to do about it.
func (o Opening) Free(port uint16) error {
	at := o.At(port)
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("a Gateway's port %d cannot be opened at %s: %w (end what uses it, or open it elsewhere with --port %d=OTHER)", port, at, errors.Unwrap(err), port)
	}
	return l.Close()
}

// wants groups the Gateways by selector. A Deployment that has the selector's
// labels says where its gateway belongs; else it stands where Istio installs it.
func wants(f *model.Fragment) map[string]wanted {
	out := map[string]wanted{}
	for _, gw := range f.Gateways {
		key := selectorText(gw.Selector)
		if gw.Closed {
			key = gw.Namespace + "/" + key
		}
		w, ok := out[key]
		if !ok {
			a := control.AssumedGateway(gw, link.Defaults().RootNamespace)
			w = wanted{key: key, namespace: a.Namespace, name: a.Name, labels: a.Labels, account: a.Account}
			for _, d := range f.Workloads {
				if d.Template && len(gw.Selector) > 0 && hasAll(d.Labels, gw.Selector) && (!gw.Closed || d.Namespace == gw.Namespace) {
					w.namespace, w.name, w.account = d.Namespace, d.Name, d.Account
					maps.Copy(w.labels, d.Labels)
					break
				}
			}
		}
		for i := range gw.Servers {
			if p := gw.Servers[i].Port.Number; !slices.Contains(w.ports, p) {
				w.ports = append(w.ports, p)
			}
		}
		slices.Sort(w.ports)
		out[key] = w
	}
	return out
}

func hasAll(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func selectorText(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s,", k, m[k])
	}
	return b.String()
}
