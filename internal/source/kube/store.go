package kube

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"

	"github.com/tulle-mesh/tulle/internal/source"
)

// store holds the objects of one kind. A reflector writes it.
type store struct {
	resource *resource
	changed  func() // called after every change that a snapshot shows

	mu      sync.Mutex
	objects map[string]*source.Object // by namespace/name
	sorted  []*source.Object          // nil: to be made; never changed itself
	edits   []string                  // keys that changed since sorted was made
	listed  bool                      // all of the kind is in objects
	err     error                     // why the API server cannot be heard
}

var _ cache.TransformingStore = (*store)(nil)

func newStore(r *resource, changed func()) *store {
	return &store{resource: r, changed: changed, objects: map[string]*source.Object{}}
}

// Add implements cache.ReflectorStore.
func (s *store) Add(obj any) error {
	o, err := s.convert(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.objects[id(o)]; !same(old, o) {
		s.objects[id(o)] = o
		s.note(id(o))
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("%s: deleted a %T", s.resource, obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := u.GetNamespace() + "/" + u.GetName()
	if _, ok := s.objects[key]; ok {
		delete(s.objects, key)
		s.note(key)
	}
	return nil
}

// Replace implements cache.ReflectorStore: the API server's list, after the
// start or when events were missed. What did not change keeps its pointer.
func (s *store) Replace(list []any, _ string) error {
	fresh := make(map[string]*source.Object, len(list))
	for _, obj := range list {
		o, err := s.convert(obj)
		if err != nil {
			return err
		}
		fresh[id(o)] = o
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	differs := !s.listed || len(fresh) != len(s.objects)
	for key, o := range fresh {
		if old := s.objects[key]; same(old, o) {
			fresh[key] = old
		} else {
			differs = true
		}
	}
	s.objects, s.listed = fresh, true
	if differs {
		s.sorted = nil
		s.changed()
	}
	return nil
}

// Resync implements cache.ReflectorStore: there is nothing to do again.
func (s *store) Resync() error { return nil }

// Transformer implements cache.TransformingStore: while the first list streams
// in, it is held without what we do not read.
func (s *store) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if u, ok := obj.(*unstructured.Unstructured); ok {
			s.resource.stripped(u)
		}
		return obj, nil
	}
}

func (s *store) convert(obj any) (*source.Object, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%s: the API server gave a %T", s.resource, obj)
	}
	return s.resource.object(u)
}

// note a change of an object; s.mu is held.
func (s *store) note(key string) {
	if s.edits = append(s.edits, key); len(s.edits) > manyEdits {
		s.sorted, s.edits = nil, nil
	}
	s.changed()
}

// manyEdits of a list cost more than to sort it anew.
const manyEdits = 64

// heard whether the API server answers for this kind.
func (s *store) heard(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (err == nil) != (s.err == nil) || err != nil && err.Error() != s.err.Error() {
		s.err = err
		s.changed()
	}
}

// state is the objects in order, whether they are all, and what is wrong.
func (s *store) state() ([]*source.Object, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		s.sorted = inOrder(slices.Collect(maps.Values(s.objects)))
	} else if len(s.edits) > 0 {
		s.sorted = s.edited()
	}
	s.edits = nil
	return s.sorted, s.listed, s.err
}

// edited is sorted with what the changes since say.
func (s *store) edited() []*source.Object {
	out := slices.Clone(s.sorted)
	for _, key := range s.edits {
		ns, name, _ := strings.Cut(key, "/")
		i, there := slices.BinarySearchFunc(out, &source.Object{Namespace: ns, Name: name}, byName)
		switch o := s.objects[key]; {
		case o != nil && there:
			out[i] = o
		case o != nil:
			out = slices.Insert(out, i, o)
		case there:
			out = slices.Delete(out, i, i+1)
		}
	}
	return out
}

// inOrder sorts by namespace, then name.
func inOrder(objects []*source.Object) []*source.Object {
	slices.SortFunc(objects, byName)
	return objects
}

func byName(a, b *source.Object) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func id(o *source.Object) string { return o.Namespace + "/" + o.Name }

func same(a, b *source.Object) bool { return a != nil && bytes.Equal(a.JSON, b.JSON) }
