package dialect

import (
	"reflect"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
)

// TestEveryKindIsCarried: what a Fragment can hold is merged, and replaced in
// place.
func TestEveryKindIsCarried(t *testing.T) {
	for i := range reflect.TypeFor[model.Fragment]().NumField() {
		name := reflect.TypeFor[model.Fragment]().Field(i).Name
		one := func() (f model.Fragment, at uintptr) {
			list := reflect.ValueOf(&f).Elem().Field(i)
			p := reflect.New(list.Type().Elem().Elem())
			list.Set(reflect.Append(list, p))
			return f, p.Pointer()
		}
		has := func(f model.Fragment) uintptr {
			if list := reflect.ValueOf(f).Field(i); list.Len() == 1 {
				return list.Index(0).Pointer()
			}
			return 0
		}
		old, _ := one()
		now, want := one()
		if now.Empty() || !new(model.Fragment).Empty() {
			t.Errorf("%s does not count", name)
		}
		f := old
		if !exchange(&f, &old, &old, &now) || has(f) != want {
			t.Errorf("%s is not replaced", name)
		}
		var all model.Fragment
		if all.Merge(now); has(all) != want {
			t.Errorf("%s is not merged", name)
		}
	}
}
