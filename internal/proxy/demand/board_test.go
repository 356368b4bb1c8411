package demand

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// desk is that of a loop that runs, and on does something there.
func desk(t *testing.T) (b *Board, d *Desk, on func(func())) {
	g, err := loop.New(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	b = New(g.Loops())
	return b, b.Desk(0), func(f func()) {
		t.Helper()
		done := make(chan struct{})
		if !g.Loops()[0].Post(func() { defer close(done); f() }) {
			t.Fatal("the loop has ended")
		}
		<-done
	}
}

func host(i int) conf.Lookup { return conf.Lookup{Kind: conf.LookupHost, Name: fmt.Sprint("h", i)} }

// So many wait on a loop, and no more; who gives up makes room. All of it is one
// turn of the loop, so that no time passes.
func TestMostWaits(t *testing.T) {
	b, d, on := desk(t)
	on(func() {
		var all []*Wait
		more := func() *Wait {
			w := d.Wait([]conf.Lookup{host(len(all) % 7)}, func(bool) {})
			if w != nil {
				all = append(all, w)
				<-b.Questions()
			}
			return w
		}
		for range maxWaits {
			if more() == nil {
				t.Errorf("no room for more than %d", len(all))
				break
			}
		}
		if more() != nil || b.Waiting() != maxWaits {
			t.Errorf("%d wait, and there is room", b.Waiting())
		}
		all[0].Cancel()
		all[0].Cancel()
		if more() == nil || more() != nil {
			t.Error("there is room for none, or for two, where one gave up")
		}
		for _, w := range all {
			w.Cancel()
		}
		if b.Waiting() != 0 || len(d.waiting) != 0 {
			t.Errorf("%d wait still, for %d", b.Waiting(), len(d.waiting))
		}
	})
}

// Questions that the feed does not take are bounded too; whoever could not ask
// does not wait.
func TestMostQuestions(t *testing.T) {
	b, d, on := desk(t)
	on(func() {
		var last *Wait
		for i := range maxQuestions + 1 {
			last = d.Wait([]conf.Lookup{host(i)}, func(bool) {})
		}
		if _, failed := b.Counts(); last != nil || failed != 1 || b.Waiting() != maxQuestions {
			t.Errorf("%d wait, %d failed", b.Waiting(), failed)
		}
		if err := b.Ask(context.Background(), host(0)); !errors.Is(err, errBusy) {
			t.Errorf("beside the loops: %v", err)
		}
		if len(b.beside) != 0 || b.asking != 0 {
			t.Errorf("%d wait beside the loops", b.asking)
		}
	})
}

// Each is told once, when the last of what it waits for is answered, also by
// answers that come together and twice; who gave up is not told.
func TestTold(t *testing.T) {
	b, d, on := desk(t)
	on(func() {
		told := map[string]int{}
		wait := func(name string, what ...conf.Lookup) *Wait {
			return d.Wait(what, func(bool) { told[name]++ })
		}
		wait("one", host(1))
		wait("same", host(1))
		wait("both", host(1), host(2))
		wait("two", host(2))
		wait("gone", host(1), host(2)).Cancel()
		d.answered([]conf.Lookup{host(1), host(3)})
		if !maps.Equal(told, map[string]int{"one": 1, "same": 1}) {
			t.Errorf("after the first answer: %v", told)
		}
		d.answered([]conf.Lookup{host(2), host(1), host(2)})
		if !maps.Equal(told, map[string]int{"one": 1, "same": 1, "both": 1, "two": 1}) || b.Waiting() != 0 {
			t.Errorf("after both: %v, %d wait", told, b.Waiting())
		}
	})
}
