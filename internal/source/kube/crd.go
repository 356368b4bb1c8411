package kube

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// crdResource says which kinds the cluster has besides its own.
var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// definitions are the CRDs of the cluster that we read objects of. A reflector
// writes it; of each CRD only the served versions are kept.
type definitions struct {
	changed func()

	mu     sync.Mutex
	served map[string][]string // by CRD name, as virtualservices.networking.istio.io
	listed bool
	err    error
}

// known are the CRD names that matter.
var known = func() map[string]*resource {
	m := map[string]*resource{}
	for _, r := range resources {
		if r.custom {
			m[r.String()] = r
		}
	}
	return m
}()

// versionsServed by an established CRD; none before it is.
func versionsServed(u *unstructured.Unstructured) []string {
	established := false
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		established = established || m["type"] == "Established" && m["status"] == "True"
	}
	if !established {
		return nil
	}
	var out []string
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, v := range versions {
		m, _ := v.(map[string]any)
		if name, ok := m["name"].(string); ok && m["served"] == true {
			out = append(out, name)
		}
	}
	return out
}

// best version of a resource among those served; "" if there is none.
func (r *resource) best(served []string) string {
	i := slices.IndexFunc(r.versions, func(v string) bool { return slices.Contains(served, v) })
	if i < 0 {
		return ""
	}
	return r.versions[i]
}

func (d *definitions) set(served map[string][]string, listed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listed == listed && maps.EqualFunc(served, d.served, slices.Equal) {
		return
	}
	d.served, d.listed = served, listed
	d.changed()
}

// Add implements cache.ReflectorStore.
func (d *definitions) Add(obj any) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("custom resource definitions: the API server gave a %T", obj)
	}
	if known[u.GetName()] == nil {
		return nil
	}
	served := maps.Clone(d.served) // only the reflector's goroutine writes
	if served == nil {
		served = map[string][]string{}
	}
	served[u.GetName()] = versionsServed(u)
	d.set(served, d.listed)
	return nil
}

// Update implements cache.ReflectorStore.
func (d *definitions) Update(obj any) error { return d.Add(obj) }

// Delete implements cache.ReflectorStore.
func (d *definitions) Delete(obj any) error {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		served := maps.Clone(d.served)
		delete(served, u.GetName())
		d.set(served, d.listed)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (d *definitions) Replace(list []any, _ string) error {
	served := map[string][]string{}
	for _, obj := range list {
		if u, ok := obj.(*unstructured.Unstructured); ok && known[u.GetName()] != nil {
			served[u.GetName()] = versionsServed(u)
		}
	}
	d.set(served, true)
	return nil
}

// Resync implements cache.ReflectorStore: there is nothing to do again.
func (d *definitions) Resync() error { return nil }

// heard whether the API server answers for CRDs.
func (d *definitions) heard(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if (err == nil) != (d.err == nil) || err != nil && err.Error() != d.err.Error() {
		d.err = err
		d.changed()
	}
}

// state is the served versions by CRD, whether that is all, and what is wrong.
func (d *definitions) state() (map[string][]string, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served, d.listed, d.err
}
