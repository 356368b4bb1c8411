package kube

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/source"
)

// Whatever comes and goes, singly, in bursts or as a new list, the store gives what
// there is, in order and each once; what did not change keeps its pointer, and a
// list that was given stays as it was.
func TestStoreSteps(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	stirred := 0
	s := newStore(kindOf(t, "Service"), func() { stirred++ })
	there := map[string]string{} // what there is: the version, by key
	object := func(key, version string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Service",
			"metadata": map[string]any{"namespace": key[:1], "name": key[2:]}, "spec": map[string]any{"clusterIP": version}}}
	}
	var last []*source.Object
	for step := range 800 {
		// now and then more at once than are put into their places singly
		for range 1 + r.IntN(4) + r.IntN(50)/49*2*manyEdits {
			key, version := fmt.Sprintf("%c/%s", 'a'+r.IntN(3), []string{"x", "x-1", "x-10", "xa", "y", "y.z"}[r.IntN(6)]+fmt.Sprint(r.IntN(9))), fmt.Sprint(r.IntN(3))
			before, was := stirred, there[key]
			switch what := r.IntN(100); {
			case what == 0:
				list := []any{}
				clear(there)
				for i := range 40 {
					key := fmt.Sprintf("%c/x%d", 'a'+i%3, i)
					there[key] = version
					list = append(list, object(key, version))
				}
				ok(t, s.Replace(list, ""))
				continue
			case what < 60:
				there[key] = version
				held := s.objects[key]
				ok(t, s.Update(object(key, version)))
				if was == version && s.objects[key] != held {
					t.Fatalf("step %d: %s is another, and the same", step, key)
				}
			default:
				delete(there, key)
				ok(t, s.Delete(object(key, "")))
			}
			if (stirred > before) != (there[key] != was) {
				t.Fatalf("step %d: %s from %q to %q stirred %d", step, key, was, there[key], stirred-before)
			}
		}
		was := slices.Clone(last)
		now, _, err := s.state()
		ok(t, err)
		if !slices.Equal(was, last) {
			t.Fatalf("step %d: a list that was given has changed", step)
		}
		last = now
		if !slices.IsSortedFunc(now, byName) || len(now) != len(there) {
			t.Fatalf("step %d: %d objects of %d, sorted %v", step, len(now), len(there), slices.IsSortedFunc(now, byName))
		}
		for _, o := range now {
			var in struct{ Spec struct{ ClusterIP string } }
			ok(t, json.Unmarshal(o.JSON, &in))
			if there[id(o)] != in.Spec.ClusterIP || there[id(o)] == "" {
				t.Fatalf("step %d: %s is %q, not %q", step, id(o), in.Spec.ClusterIP, there[id(o)])
			}
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
