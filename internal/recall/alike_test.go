package recall

import (
	"runtime"
	"testing"
)

// Equal values are one, and nothing is kept that nobody has.
func TestAlike(t *testing.T) {
	var a Alike[string, [2]*int]
	same := func(x, y *[2]*int) bool { return *x[0] == *y[0] }
	value := func(n int) *[2]*int { return &[2]*int{&n, nil} }
	one, two := a.One("k", value(1), same), a.One("k", value(2), same)
	if one == two || a.One("k", value(1), same) != one || a.One("k", value(2), same) != two {
		t.Error("equal values are not one, or others are")
	}
	if a.One("l", value(1), same) == one {
		t.Error("values of different keys are one")
	}
	for n := range 100 {
		a.One("k", value(n), same)
	}
	if n := len(a.by["k"]); n > mostAlike {
		t.Errorf("%d values of a key are compared", n)
	}
	runtime.KeepAlive(one)
	runtime.KeepAlive(two)
	runtime.GC()
	runtime.GC()
	if a.Sweep(); len(a.by) > 1 {
		t.Errorf("%d keys are left", len(a.by))
	}
}
