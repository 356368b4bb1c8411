//go:build linux

package loop

import (
	"math/rand/v2"
	"testing"
)

// The wheel is compared with a plain list: every timer fires in its own tick,
// whatever steps time takes.
func TestWheelAgainstList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		w := &wheel{cur: r.Int64N(1 << 40)}
		timers := make([]Timer, 3000)
		want := map[*Timer]int64{}
		for i := range timers {
			d := 1 + r.Int64N(1<<(1+r.IntN(28)))
			w.add(&timers[i], w.cur+d)
			want[&timers[i]] = w.cur + d
		}
		for i := 0; i < len(timers); i += 5 {
			w.remove(&timers[i])
			delete(want, &timers[i])
		}
		for len(want) > 0 {
			next := w.nextTick()
			first := never
			for _, when := range want {
				first = min(first, when)
			}
			if next > first {
				t.Fatalf("next tick %d is after the first timer's %d", next, first)
			}
			to := w.cur + 1 + r.Int64N(1<<(1+r.IntN(27)))
			for tm := w.pop(to); tm != nil; tm = w.pop(to) {
				if want[tm] != w.cur {
					t.Fatalf("fired at %d instead of %d", w.cur, want[tm])
				}
				delete(want, tm)
			}
			if w.cur != to {
				t.Fatalf("stands at %d, not %d", w.cur, to)
			}
			for _, when := range want {
				if when <= to {
					t.Fatalf("one of tick %d was left at %d", when, to)
				}
			}
		}
		if w.count != 0 || w.nextTick() != never {
			t.Errorf("count %d, next %d", w.count, w.nextTick())
		}
	}
}

func BenchmarkTimer(b *testing.B) {
	w := &wheel{}
	var t Timer
	b.ReportAllocs()
	for b.Loop() {
		w.add(&t, w.cur+1500)
		t.Stop()
	}
}
