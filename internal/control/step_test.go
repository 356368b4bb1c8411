package control

import (
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/link/linktest"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
)

var (
	steps = flag.Int("steps", 40, "changes per world")
	seeds = flag.Uint64("seeds", 3, "worlds")
)

// Every proxy's resources, kept up to date step by step, are byte for byte what
// would be made anew.
func TestStepsAreLikeAnew(t *testing.T) {
	clients := linktest.Clients()
	for seed := range *seeds {
		w := linktest.New(seed, int(1+seed%4))
		mesh := link.New(link.Defaults(), nil)
		m := newMemo(mesh)
		sessions := make([]*session, len(clients))
		for i := range clients {
			key := fmt.Sprint(i)
			sessions[i] = &session{at: seat{key: key}, own: i%2 == 0, features: clients[i].Features, grpc: i == 2}
			mesh.Book().Do(func() { m.setClient(key, &clients[i]) })
		}
		for step := range *steps {
			what := w.Step()
			f := w.Fragment()
			if !mesh.Set(f) {
				t.Fatal("other settings")
			}
			for i, c := range clients {
				if (step+i)%3 == 0 {
					continue
				}
				var got *made
				mesh.Book().Do(func() { c = m.client(sessions[i]); got = m.made.Get(sessions[i]) })
				want := anew(f, c, sessions[i])
				for name, body := range want {
					r := got.set.Find(name[0], name[1])
					if r == nil || string(r.Body) != string(body) {
						t.Fatalf("seed %d, step %d (%s), client %d: %s is not what it would be", seed, step, what, i, name)
					}
				}
				count := 0
				for _, url := range append(slices.Clone(lower.Types), lower.NameTableType) {
					count += len(got.set.Names(url))
				}
				if count != len(want) {
					t.Fatalf("seed %d, step %d (%s), client %d: %d resources, would be %d", seed, step, what, i, count, len(want))
				}
			}
			if step%20 == 19 {
				mesh.Book().Do(func() { mesh.Sweep() })
			}
		}
	}
}

// anew makes a client's resources without anything remembered.
func anew(f model.Fragment, c model.Client, s *session) map[[2]string][]byte {
	mesh, _ := link.Link(f, link.Defaults())
	v := mesh.View(c)
	out, _ := lower.Lower(v)
	all := map[[2]string][]byte{}
	if s.grpc {
		out, _ = lower.GRPC(v)
	} else {
		r := lower.Roots(nil)
		all[[2]string{r.Type, r.Name}] = r.Body
		if s.own && c.Role == model.Sidecar && c.Capture == model.Redirected {
			r := lower.NameTable(v)
			all[[2]string{r.Type, r.Name}] = r.Body
		}
	}
	for url, list := range out.Resources {
		for _, r := range list {
			all[[2]string{url, r.Name}] = r.Body
		}
	}
	return all
}
