package link_test

import (
	"flag"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/link/linktest"
)

var (
	steps = flag.Int("steps", 150, "changes per world")
	seeds = flag.Uint64("seeds", 4, "worlds")
)

// What is kept up to date step by step is what would be made anew.
func TestStepsAreLikeAnew(t *testing.T) {
	for seed := range *seeds {
		w := linktest.New(seed, int(1+seed%4))
		live := link.New(link.Defaults(), nil)
		for step := range *steps {
			what := w.Step()
			f := w.Fragment()
			live.Set(f)
			anew, _ := link.Link(f, link.Defaults())
			for i, c := range linktest.Clients() {
				if (step+i)%3 == 0 {
					continue // not everybody asks after every step
				}
				want, got := anew.View(c), live.View(c)
				if reflect.DeepEqual(want, got) {
					continue
				}
				if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); d != "" {
					t.Fatalf("seed %d, step %d (%s), client %s/%s: -anew +live\n%s", seed, step, what, c.Namespace, c.Name, d)
				}
			}
			if step%50 == 49 {
				live.Book().Do(func() { live.Sweep() })
			}
		}
	}
}
