//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/standalone"
)

// Options of a demo.
type Options struct {
	Program  string // the tulle program: it is every program of the shop too
	Proxy    string
	Dir      string // where the YAML is put, and the mesh's state
	Out      io.Writer
	ProxyOut io.Writer // access logs and messages of the proxies
	Check    bool      // do every story and end
	NoLoad   bool
	Mode     standalone.Mode
}

// programs of the shop, by Deployment.
var programs = []struct{ deployment, name, version string }{
	{"users", "users", "v1"}, {"products", "products", "v1"}, {"orders", "orders", "v1"},
	{"payments", "payments", "v1"}, {"reviews-v1", "reviews", "v1"}, {"reviews-v2", "reviews", "v2"},
	{"recommendations", "recommendations", "v1"}, {"ledger", "ledger", "v1"},
}

// ErrFailed says that a story did not go as told.
var ErrFailed = errors.New("a story failed")

// Write puts the shop's YAML into a directory.
func Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files, err := fs.Glob(Mesh, "mesh/*.yaml")
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := Mesh.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Run opens the shop on a mesh that has just been started, and tells its
// stories until ctx ends, or checks them.
func Run(ctx context.Context, m *standalone.Mesh, o Options) error {
	began := time.Now()
	if err := m.Opening().Free(80); err != nil {
		return fmt.Errorf("%s is taken: %w (--gateway-port moves it)", m.Opening().At(80), errors.Unwrap(err))
	}
	if err := m.Wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	mode, why := o.Mode.Settled(o.Proxy)
	if why != nil && mode == o.Mode {
		return why
	}
	env, ledger, how := os.Environ(), "{{tulle.addr ledger 5432}}", "each finds the others through HTTP_PROXY and local ports"
	if mode == standalone.InNamespaces {
		env, ledger, how = withoutProxies(env), "ledger:5432", "each in namespaces of its own, where the others have their names"
	}
	if why != nil {
		how += fmt.Sprintf(" (namespaces of their own are not to be had: %v)", why)
	}
	fmt.Fprintf(o.Out, "Programs, mode %s: %s.\n", mode, how)
	shop := &Shop{Dir: filepath.Join(o.Dir, "mesh"), Program: o.Program}
	started := make(chan *standalone.Replica, len(programs))
	failed := make(chan error, len(programs))
	for _, p := range programs {
		r := standalone.Run{
			Spec:    control.WorkloadSpec{Namespace: "shop", Deployment: p.deployment},
			Command: []string{o.Program, "demo-app", "--name", p.name, "--app-version", p.version, "--ledger", ledger},
			Dir:     m.Scratch(), Proxy: o.Proxy, Loops: 1, Mode: mode, Env: env, Stdout: o.Out, Stderr: o.Out, ProxyOut: o.ProxyOut,
			Started: func(rep *standalone.Replica) { started <- rep },
		}
		wg.Go(func() {
			if err := r.Do(ctx, m.Client()); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", p.deployment, err)
			}
		})
	}
	for range programs {
		select {
		case rep := <-started:
			fmt.Fprintf(o.Out, "  %-24s %-14s sidecar at %s\n", rep.ID, rep.IP, rep.Ports[0].Listen)
			if rep.Account == "users" {
				shop.Users = rep.Ports[0].Listen.String()
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
	shop.Gateway = m.Opening().At(80).String()
	if err := shop.open(ctx); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "\nThe shop is open after %.1f s: http://%s (Host: %s)\n", time.Since(began).Seconds(), shop.Gateway, Host)
	if o.Check {
		return check(ctx, shop, o.Out)
	}
	tell(shop, o.Out)
	if !o.NoLoad {
		wg.Go(func() { load(ctx, shop, o.Out) })
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// withoutProxies is an environment without proxy variables: in namespaces the
// programs need none.
func withoutProxies(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(strings.ToLower(v), "=")
		return name == "http_proxy" || name == "https_proxy" || name == "all_proxy" || name == "no_proxy"
	})
}

// open waits until every program answers through the whole chain.
func (s *Shop) open(ctx context.Context) error {
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if err = s.allAnswer(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("the shop does not open: %w", err)
}

// allAnswer asks every program once; of the canary both sides.
func (s *Shop) allAnswer(ctx context.Context) error {
	for _, path := range []string{"/api/orders", "/api/products"} {
		a, err := s.want(ctx, path, "", "")
		if err != nil {
			return err
		}
		for _, c := range a.Calls {
			if c.Status != 200 {
				return fmt.Errorf("%s answers, but its calls do not: %+v", a.Service, a.Calls)
			}
		}
	}
	if _, err := s.want(ctx, "/api/reviews", "x-gray", "true"); err != nil {
		return err
	}
	for range 100 { // nine in ten are v1
		a, err := s.want(ctx, "/api/reviews", "", "")
		if err != nil || a.Version == "v1" {
			return err
		}
	}
	return errors.New("reviews v1 never answers")
}

// check does every story and prints a line each.
func check(ctx context.Context, s *Shop, out io.Writer) error {
	bad := 0
	for i := range Stories {
		st := &Stories[i]
		seen, err := st.Check(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			bad++
			fmt.Fprintf(out, "FAIL  %-12s %v\n", st.Name, err)
			continue
		}
		fmt.Fprintf(out, "ok    %-12s %s\n", st.Name, seen)
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", len(Stories)-bad, bad)
	if bad > 0 {
		return ErrFailed
	}
	return nil
}

// tell prints what to try.
func tell(s *Shop, out io.Writer) {
	fmt.Fprintf(out, "\nTry:\n")
	for i := range Stories {
		st := &Stories[i]
		fmt.Fprintf(out, "\n  %s: %s\n    %s\n", st.Name, st.Text, st.Try(s))
	}
	fmt.Fprintf(out, "\nIts configuration is in %s; change it and see. Ctrl-C ends everything.\n\n", s.Dir)
}

// load keeps a little traffic going and prints live numbers.
func load(ctx context.Context, s *Shop, out io.Writer) {
	paths := []string{"/api/orders", "/api/products", "/api/reviews", "/api/users"}
	var sent, bad, v2, reviews int
	var slowest time.Duration
	report := time.NewTicker(5 * time.Second)
	defer report.Stop()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-report.C:
			line := fmt.Sprintf("live: %3d requests in 5 s, %d failed, slowest %s, canary %d of %d", sent, bad, slowest.Round(time.Millisecond), v2, reviews)
			fmt.Fprintln(out, line)
			sent, bad, v2, reviews, slowest = 0, 0, 0, 0, 0
		case <-pace.C:
			begun := time.Now()
			path := paths[i%len(paths)]
			a, err := s.want(ctx, path, "", "")
			sent++
			slowest = max(slowest, time.Since(begun))
			if err != nil {
				bad++
				continue
			}
			if strings.HasSuffix(path, "reviews") {
				reviews++
				if a.Version == "v2" {
					v2++
				}
			}
		}
	}
}
