package recall

import "weak"

// Alike keeps one of values that are equal, as long as somebody has it: functions
// of different scopes often come to the same. The zero value is ready. It is used
// within a Book's Do.
type Alike[K comparable, V any] struct {
	by map[K][]weak.Pointer[V]
}

// mostAlike of a key are compared.
const mostAlike = 8

// One is the value that stands for those equal to v under a key: v itself when
// there was none.
func (a *Alike[K, V]) One(k K, v *V, same func(a, b *V) bool) *V {
	list := a.by[k][:0:0]
	for _, w := range a.by[k] {
		x := w.Value()
		if x == nil {
			continue
		}
		if same(x, v) {
			return x
		}
		list = append(list, w)
	}
	if len(list) >= mostAlike {
		list = list[1:]
	}
	if a.by == nil {
		a.by = map[K][]weak.Pointer[V]{}
	}
	a.by[k] = append(list, weak.Make(v))
	return v
}

// Sweep forgets what nobody has any more.
func (a *Alike[K, V]) Sweep() {
	for k, list := range a.by {
		kept := list[:0:0]
		for _, w := range list {
			if w.Value() != nil {
				kept = append(kept, w)
			}
		}
		if len(kept) == 0 {
			delete(a.by, k)
		} else {
			a.by[k] = kept
		}
	}
}
