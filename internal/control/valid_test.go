package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// told is a source that says what it is told to, as a cluster's objects are: of no
// file.
type told chan string

func (c told) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case text := <-c:
			objects, notices := file.Parse("", []byte(text))
			for _, o := range objects {
				o.File, o.Line, o.Lines = "", 0, nil
			}
			emit(source.Snapshot{Objects: objects, Notices: notices})
		}
	}
}

// A policy with a slip stays what it was, and says so; a control plane that begins
// with the slip has nothing to go back to, and closes. From files and from a
// cluster alike.
func TestASlipSwitchesNothingOff(t *testing.T) {
	text := func(mode, action string) string {
		return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p, namespace: shop}
spec: {mtls: {mode: %s}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {action: %s, rules: [{to: [{operation: {paths: [/admin]}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec: {hosts: [a], http: [{timeout: %s, route: [{destination: {host: a}}]}]}
`, mode, action, map[bool]string{true: "1s", false: "soon"}[mode == "STRICT"])
	}
	good, bad := text("STRICT", "DENY"), text("strict", "DENI")
	state := func(p *Plane) string {
		f := p.Compiled().Fragment
		out := fmt.Sprint("routes ", len(f.RouteSets))
		for _, m := range f.MTLS {
			out += fmt.Sprint(", ", m.Mode)
		}
		for _, a := range f.Authz {
			out += fmt.Sprint(", ", a.Action, " ", len(a.Rules))
		}
		for _, n := range p.Notices() {
			switch {
			case n.Severity == model.Error && n.Reason == model.Invalid && n.Origin.Field != "":
				out += ", " + n.Origin.Name + " wrong"
			case strings.Contains(n.Text, "stays in effect"):
				out += ", " + n.Origin.Name + " kept"
			case strings.Contains(n.Text, "not in effect"):
				out += ", " + n.Origin.Name + " out"
			}
		}
		return out
	}
	const whole, kept, fresh = "routes 1, STRICT, DENY 1", "routes 1, STRICT, DENY 1, p kept, p wrong, a kept, a wrong, v kept, v wrong", "routes 0, STRICT, ALLOW 0, p wrong, a wrong, v out, v wrong"
	check := func(t *testing.T, p *Plane, until func(string, func() bool), want string) {
		t.Helper()
		sorted := func(s string) []string { l := strings.Split(s, ", "); slices.Sort(l); return l }
		until(want, func() bool {
			got := state(p)

			return slices.Equal(sorted(got), sorted(want))
		})
	}
	t.Run("files", func(t *testing.T) {
		r := run(t, map[string]string{"mesh.yaml": good})
		check(t, r.Plane, r.until, whole)
		r.write("mesh.yaml", bad)
		check(t, r.Plane, r.until, kept)
		r.write("mesh.yaml", "# the same\n"+bad)
		r.write("other.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: later}\n")
		r.until("another change", func() bool { return len(r.Compiled().Fragment.Namespaces) > 0 })
		check(t, r.Plane, r.until, kept)
		r.write("mesh.yaml", good)
		check(t, r.Plane, r.until, whole)
		again := run(t, map[string]string{"mesh.yaml": bad})
		check(t, again.Plane, again.until, fresh)
	})
	t.Run("cluster", func(t *testing.T) {
		begin := func() (*Plane, told, func(string, func() bool)) {
			c := make(told)
			p, err := New(Options{Dir: shortDir(t), Source: c, Version: "test"})
			ok(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-done })
			return p, c, func(_ string, cond func() bool) {
				for {
					_, _, newer := p.Changed()
					if p.Compiled() != nil && cond() {
						return
					}
					<-newer
				}
			}
		}
		p, c, until := begin()
		for _, s := range []struct{ text, want string }{{good, whole}, {bad, kept}, {bad + "\n", kept}, {good, whole}} {
			c <- s.text
			check(t, p, until, s.want)
		}
		p, c, until = begin()
		c <- bad
		check(t, p, until, fresh)
	})
}
