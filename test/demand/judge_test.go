package demand

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/source"
)

var (
	seeds = flag.Uint64("seeds", 2, "meshes that are made")
	first = flag.Uint64("first", 1, "the first mesh's seed")
	steps = flag.Int("steps", 14, "times that each mesh changes, by up to eight objects")
	show  = flag.Bool("show", false, "tell what was tried and what came of it")
	uses  = flag.Int("uses", 10, "what is tried after each change")
)

// Whatever a program does, a sidecar that looks up and one that knows everything
// do the same, while objects change at random: the destination, the status, and
// the flags of what fails.
func TestLikeWildcard(t *testing.T) {
	for i := range *seeds {
		seed := *first + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) { likeWildcard(t, newWorld(t, seed)) })
	}
}

func likeWildcard(t *testing.T, w *world) {
	p := real(t, w)
	ends := &ends{t: t, all: map[string]*backend{}}
	know := ends.sidecar(p, "know", proxy.Bootstrap{})
	look := ends.sidecar(p, "look", proxy.Bootstrap{OnDemand: true})
	defer look.always("a host that is always there", func() string { return look.get("192.0.2.1:80", "mark.mesh") }, "200 ")()
	for step := range *steps {
		what := "the first"
		if step > 0 {
			what = w.change()
			for range w.r.IntN(8) {
				what += ", " + w.change()
			}
			w.emit()
		}
		mark := fmt.Sprint("200 ", w.step)
		for _, s := range []*sidecar{know, look} {
			s.wait(fmt.Sprintf("step %d (%s) arrives", step, what), func() bool { return s.get("192.0.2.1:80", "mark.mesh") == mark })
		}
		for range *uses {
			u := w.use()
			if err := same(know, look, u); err != nil {
				anew := ends.sidecar(p, "anew", proxy.Bootstrap{OnDemand: true}).try(u)
				t.Fatalf("step %d (%s), %s: %v; one that begins now %s\n%s\n%s", step, what, u, err, anew, look.lookups(), w.yaml())
			}
			if *show {
				t.Logf("step %d, %s: %s", step, u, know.try(u))
			}
		}
	}
	if look.Learnt() == nil || know.Learnt() != nil {
		t.Error("they are not what they should be")
	}
}

// always has a sidecar's program use something again and again until the caller
// says stop: it must come of it what should, whatever happens to others.
func (s *sidecar) always(what string, use func() string, want string) (stop func()) {
	s.wait(what, func() bool { return strings.HasPrefix(use(), want) })
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if got := use(); !strings.HasPrefix(got, want) {
				s.t.Errorf("%s, all the time: %q, want %q", what, got, want)
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(end); wg.Wait() })
}

// same tries u on both until they do the same: what has changed just now may
// reach one of them a moment later.
func same(know, look *sidecar, u use) error {
	for end := time.Now().Add(patience / 3); ; time.Sleep(5 * time.Millisecond) {
		want, got := know.try(u), look.try(u)
		if got == want {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("on demand " + got + ", with everything known " + want)
		}
	}
}

// try does u and says what came of it: the status, who answered, and the flags of
// what did not succeed.
func (s *sidecar) try(u use) string {
	before := s.flags()
	var out string
	switch u.kind {
	case "http", "http2":
		out = s.request(u.to, u.host+u.path, u.kind == "http2")
	case "tcp":
		out = s.tcp(u.to)
	case "tls":
		out = s.sni(u.to, u.host)
	case "dns":
		return s.resolve(u.host)
	}
	flags := ""
	for k, n := range s.flags() {
		if n != before[k] {
			flags += " " + k
		}
	}
	return out + flags
}

// real is our own control plane on a mesh.
func real(t testing.TB, w source.Source) *control.Plane {
	dir, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, stop := start(t, dir, w)
	t.Cleanup(stop)
	return p
}

// start runs a control plane whose state is in dir.
func start(t testing.TB, dir string, w source.Source) (p *control.Plane, stop func()) {
	p, err := control.New(control.Options{Dir: dir, Registry: filepath.Join(dir, "workloads.json"), Source: w, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("control plane: %v", err)
		}
	})
	for p.Compiled() == nil {
		_, _, newer := p.Changed()
		select {
		case <-newer:
		case <-time.After(patience):
			stop()
			t.Fatal("nothing was compiled")
		}
	}
	return p, stop
}

// ends are backends, each for an endpoint of a cluster, which say whose they are.
type ends struct {
	t   testing.TB
	one *backend // for all endpoints, when it is set
	mu  sync.Mutex
	all map[string]*backend
}

func (e *ends) at(cluster string, ep netip.AddrPort) netip.AddrPort {
	if e.one != nil {
		return netip.MustParseAddrPort(e.one.addr)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	name := cluster + " " + ep.String()
	if e.all[name] == nil {
		e.all[name] = newBackend(e.t, name)
	}
	return netip.MustParseAddrPort(e.all[name].addr)
}

// sidecar registers a workload and starts its proxy, whose connections end at e.
func (e *ends) sidecar(p *control.Plane, name string, at proxy.Bootstrap) *sidecar {
	e.t.Helper()
	r, err := p.Register(control.WorkloadSpec{Namespace: "shop", Name: name, Labels: map[string]string{"app": "client"}, Redirected: true, Ready: true, PID: os.Getpid()}, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	at.XDS, at.TokenFile = "unix://"+p.Socket(), filepath.Join(e.t.TempDir(), "token")
	if err := os.WriteFile(at.TokenFile, []byte(r.Token), 0o600); err != nil {
		e.t.Fatal(err)
	}
	at.Workload = proxy.Workload{Name: "client", Namespace: "shop"}
	s := newSidecar(e.t, at, "")
	s.ends = e
	return s.ready()
}
