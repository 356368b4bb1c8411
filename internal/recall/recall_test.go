package recall

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// What was computed is computed again only when something that it read has
// changed, absent facts and indirect ones too, and not when a value on the way
// came out the same.
func TestOnlyWhatChanged(t *testing.T) {
	b := New()
	facts := NewFacts[string, int](b)
	var ran []string
	parity := NewTable(b, func(k string, _ int) int { ran = append(ran, "parity "+k); return facts.Get(k) % 2 }, func(a, b int) bool { return a == b })
	sum := NewTable(b, func(k string, _ string) string {
		ran = append(ran, "sum "+k)
		if parity.Get(k) == 0 {
			return fmt.Sprint("even, other ", facts.Get("other"))
		}
		return "odd"
	}, nil)
	woken := 0
	b.Do(func() {
		sum.Watch("a", func() { woken++ })
		get := func(want string, runs ...string) {
			t.Helper()
			ran = nil
			if got := sum.Get("a"); got != want || !slices.Equal(ran, runs) {
				t.Errorf("got %q by %v, want %q by %v", got, ran, want, runs)
			}
		}
		get("even, other 0", "sum a", "parity a")
		get("even, other 0")
		facts.Set("a", 2) // still even
		b.Woken()
		get("even, other 0", "parity a")
		facts.Set("other", 7) // was absent
		facts.Set("other", 8)
		b.Woken()
		get("even, other 8", "sum a")
		facts.Set("a", 3)
		get("odd", "parity a", "sum a")
		facts.Set("other", 9) // not read any more
		get("odd")
		facts.Set("unread", 1)
		facts.Delete("a")
		get("even, other 9", "parity a", "sum a")
	})
	if woken != 2 {
		t.Errorf("woken %d times", woken)
	}
}

// Sweep keeps what is asked for, watched, or read by such, and forgets the rest.
func TestSweep(t *testing.T) {
	b := New()
	facts := NewFacts[int, int](b)
	double := NewTable(b, func(k int, _ int) int { return 2 * facts.Get(k) }, nil)
	quad := NewTable(b, func(k int, _ int) int { return 2 * double.Get(k) }, nil)
	b.Do(func() {
		facts.Set(1, 5)
		quad.Watch(1, func() {})
		quad.Get(1)
		for k := range 100 {
			quad.Get(1000 + k)
		}
		b.Sweep()
		b.Sweep()
		if n := b.Size(); n != 3 {
			t.Errorf("%d remembered, want the fact and what is watched", n)
		}
		if quad.Get(1) != 20 || quad.Get(1005) != 0 {
			t.Error("values after a sweep")
		}
	})
}

// Random graphs: after random changes every value is what it would be anew.
func TestLikeAnew(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := New()
	facts := NewFacts[int, int](b)
	plain := map[int]int{}
	var rows *Table[int, int]
	// Row k reads facts, rows below it, and chooses by what it reads.
	of := func(k int, fact, row func(int) int) int {
		v := fact(k % 7)
		if k > 3 {
			v += row(k - 1 - (v&1+1)%3)
		}
		if v%3 == 0 {
			v += fact(7 + k%5)
		}
		return v % 11
	}
	rows = NewTable(b, func(k int, _ int) int { return of(k, facts.Get, rows.Get) }, func(a, b int) bool { return a == b })
	var anew func(k int) int
	anew = func(k int) int { return of(k, func(k int) int { return plain[k] }, anew) }
	b.Do(func() {
		for step := range 3000 {
			k, v := r.IntN(12), r.IntN(50)
			facts.Set(k, v)
			plain[k] = v
			if k := r.IntN(25); rows.Get(k) != anew(k) {
				t.Fatalf("step %d: row %d", step, k)
			}
			if step%500 == 0 {
				b.Sweep()
			}
		}
	})
}

// A panic leaves the value stale and the Book usable.
func TestPanic(t *testing.T) {
	b := New()
	facts := NewFacts[int, int](b)
	inverse := NewTable(b, func(k int, _ int) int { return 10 / facts.Get(k) }, nil)
	func() {
		defer func() { _ = recover() }()
		b.Do(func() { inverse.Get(1) })
		t.Error("no panic")
	}()
	b.Do(func() {
		facts.Set(1, 5)
		if inverse.Get(1) != 2 {
			t.Error("value after a panic")
		}
	})
}
