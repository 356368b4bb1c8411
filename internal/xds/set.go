package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
)

// Type URLs that the server knows something about: their order, and which of
// them refer to which.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// order in which news is sent: what is referred to goes before what refers to
// it. Secrets come last because clients ask for them by name, after they have
// seen who needs them.
var order = []string{ClusterType, EndpointType, ListenerType, RouteType, SecretType}

// users lists the types whose resources refer to those of the key. A resource
// is removed only when its users have been brought up to date.
var users = map[string][]string{
	ClusterType:  {ListenerType, RouteType},
	EndpointType: {ClusterType},
	RouteType:    {ListenerType},
	SecretType:   {ClusterType, ListenerType},
}

// needs lists the types that a client should have digested before it is told
// news of the key.
var needs = map[string][]string{
	ListenerType: {ClusterType, EndpointType},
	RouteType:    {ClusterType, EndpointType},
}

// Resource is one named resource. Immutable.
type Resource struct {
	Type    string // type URL
	Name    string
	Version string // equal versions mean equal bodies; see Hash
	Body    []byte // the encoded message, as the value of its Any; never logged
}

// Hash is the version of a body.
func Hash(body []byte) string {
	h := sha256.Sum256(body)
	return hex.EncodeToString(h[:8])
}

// Set is all that one client may have at one moment. Immutable; a nil Set is
// empty.
type Set struct {
	Version string // told to clients, and shown in status; not compared
	types   map[string]*typeSet
}

// typeSet is the resources of one type: those of by, and those of base that
// are not in by.
type typeSet struct {
	names []string // all, sorted
	by    map[string]*Resource
	base  *typeSet // nil: none; has no base itself
}

var emptyType = &typeSet{}

func (t *typeSet) get(name string) *Resource {
	if r := t.by[name]; r != nil || t.base == nil {
		return r
	}
	return t.base.by[name]
}

// NewSet makes a Set. What prev (which may be nil) holds with the same version
// is shared with it, so that unchanged types are recognised by their pointer
// and unchanged bodies are kept once. Of resources with the same type and name
// the last one stands. The bodies are the Set's from now on.
func NewSet(version string, prev *Set, resources []Resource) *Set {
	return (*Set)(nil).With(version, prev, resources)
}

// With is s and more resources, which win over those of s. s should be a Set
// of NewSet that many clients share: it is referred to, not copied. prev is as
// in NewSet.
func (s *Set) With(version string, prev *Set, more []Resource) *Set {
	out := &Set{Version: version, types: map[string]*typeSet{}}
	for i := range more {
		r := &more[i]
		if r.Version == "" {
			r.Version = Hash(r.Body)
		}
		if old := prev.of(r.Type).get(r.Name); old != nil && old.Version == r.Version {
			r = old
		} else {
			r = &Resource{r.Type, r.Name, r.Version, r.Body}
		}
		t := out.types[r.Type]
		if t == nil {
			t = &typeSet{by: map[string]*Resource{}}
			out.types[r.Type] = t
		}
		t.by[r.Name] = r
	}
	if s != nil {
		for url, b := range s.types {
			if t := out.types[url]; t != nil {
				t.base = b
			} else {
				out.types[url] = b
			}
		}
	}
	for url, t := range out.types {
		if t.names == nil {
			t.sort()
		}
		if old := prev.of(url); t.same(old) {
			out.types[url] = old
		}
	}
	return out
}

// sort fills names.
func (t *typeSet) sort() {
	if t.base == nil {
		t.names = slices.Sorted(maps.Keys(t.by))
		return
	}
	t.names = make([]string, 0, len(t.by)+len(t.base.names))
	for _, n := range t.base.names {
		if t.by[n] == nil {
			t.names = append(t.names, n)
		}
	}
	for n := range t.by {
		t.names = append(t.names, n)
	}
	slices.Sort(t.names)
}

// Find is a resource of the Set; nil when it has none of that name.
func (s *Set) Find(typeURL, name string) *Resource { return s.of(typeURL).get(name) }

// Names of the resources of a type, sorted. The caller must not change them.
func (s *Set) Names(typeURL string) []string { return s.of(typeURL).names }

// Same reports whether both Sets hold the same resources.
func (s *Set) Same(o *Set) bool {
	if s == nil || o == nil {
		return s == o
	}
	if len(s.types) != len(o.types) {
		return false
	}
	for url, t := range s.types {
		if !t.same(o.of(url)) {
			return false
		}
	}
	return true
}

func (s *Set) of(typeURL string) *typeSet {
	if s == nil || s.types[typeURL] == nil {
		return emptyType
	}
	return s.types[typeURL]
}

func (t *typeSet) same(o *typeSet) bool {
	if t == o {
		return true
	}
	if len(t.names) != len(o.names) {
		return false
	}
	if t.base != nil && t.base == o.base && len(t.by) == len(o.by) {
		for n, r := range t.by { // the rest is shared
			if x := o.by[n]; x == nil || x.Version != r.Version {
				return false
			}
		}
		return true
	}
	for i, n := range t.names {
		if n != o.names[i] || t.get(n).Version != o.get(n).Version {
			return false
		}
	}
	return true
}
