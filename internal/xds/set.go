package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"

	"google.golang.org/grpc/mem"

	"github.com/tulle-mesh/tulle/internal/ext"
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

// DemandTypes are the types of which a client that asks for what it uses asks by
// name; see Feed.Ask.
var DemandTypes = []string{ext.HostType, ListenerType, RouteType}

// order in which news is sent: what is referred to goes before what refers to
// it. Secrets come last because clients ask for them by name, after they have
// seen who needs them.
var order = []string{ext.IndexType, ext.HostType, ClusterType, EndpointType, ListenerType, RouteType, SecretType}

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

	wire   []byte     // as a field of a delta response, of which Body is the end; nil: not yet made
	inner  int        // where in wire the discovery Resource begins
	shared mem.Buffer // wire, so that none has to be made for each client
}

// NewResource makes a Resource with its version, encoded as it goes to every
// client. The body is copied.
func NewResource(typeURL, name string, body []byte) *Resource {
	r := &Resource{Type: typeURL, Name: name, Version: Hash(body), Body: body}
	r.wire, r.inner = r.encode()
	r.Body = r.wire[len(r.wire)-len(body):]
	r.shared = mem.SliceBuffer(r.wire)
	return r
}

// Hash is the version of a body.
func Hash(body []byte) string {
	h := sha256.Sum256(body)
	return hex.EncodeToString(h[:8])
}

// Set is all that one client may have at one moment: what is its own, and of a
// Catalog that it shares with others what it has not itself. Immutable; a nil
// Set is empty.
type Set struct {
	Version string // told to clients, and shown in status; not compared
	base    *Catalog
	own     map[string]map[string]*Resource // by type URL and name
	mine    *byte                           // the same in Sets with the same own
}

// NewSet makes a Set that shares nothing with other clients. What prev (which
// may be nil) holds with the same version is shared with it, so that unchanged
// bodies are kept once. Of resources with the same type and name the last one
// stands. The bodies are the Set's from now on.
func NewSet(version string, prev *Set, resources []Resource) *Set {
	return (*Catalog)(nil).With(version, prev, resources)
}

// With is the catalog and more resources, which win over those of it. prev is as
// in NewSet.
func (c *Catalog) With(version string, prev *Set, more []Resource) *Set {
	out := &Set{Version: version, base: c, own: map[string]map[string]*Resource{}, mine: new(byte)}
	for i := range more {
		r := &more[i]
		if r.Version == "" {
			r.Version = Hash(r.Body)
		}
		var old *Resource
		if prev != nil {
			old = prev.own[r.Type][r.Name]
		}
		if old == nil || old.Version != r.Version {
			copied := *r
			old = &copied
		}
		if out.own[r.Type] == nil {
			out.own[r.Type] = map[string]*Resource{}
		}
		out.own[r.Type][r.Name] = old
	}
	return out
}

// Over is the Set with another catalog below what is its own.
func (s *Set) Over(version string, c *Catalog) *Set {
	return &Set{Version: version, base: c, own: s.own, mine: s.mine}
}

// Find is a resource of the Set; nil when it has none of that name.
func (s *Set) Find(typeURL, name string) *Resource {
	if s == nil {
		return nil
	}
	if r := s.own[typeURL][name]; r != nil {
		return r
	}
	return s.base.Find(typeURL, name)
}

// Names of the resources of a type, sorted. The caller must not change them.
func (s *Set) Names(typeURL string) []string {
	if s == nil {
		return nil
	}
	shared, own := s.base.Names(typeURL), s.own[typeURL]
	if len(own) == 0 {
		return shared
	}
	out := make([]string, 0, len(shared)+len(own))
	for _, n := range shared {
		if own[n] == nil {
			out = append(out, n)
		}
	}
	for n := range own {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Same reports whether both Sets hold the same resources.
func (s *Set) Same(o *Set) bool {
	if s == nil || o == nil {
		return s == o
	}
	if s.base == o.base && s.mine == o.mine {
		return true
	}
	for _, url := range s.types(o) {
		if names, ok := s.since(o, url); ok {
			if len(names) > 0 {
				return false
			}
			continue
		}
		a, b := s.Names(url), o.Names(url)
		if !slices.Equal(a, b) || slices.ContainsFunc(a, func(n string) bool { return differs(s.Find(url, n), o.Find(url, n)) }) {
			return false
		}
	}
	return true
}

// types of both sets.
func (s *Set) types(o *Set) []string {
	all := map[string]bool{}
	for _, x := range []*Set{s, o} {
		for url := range x.own {
			all[url] = true
		}
		if x.base != nil {
			for url := range x.base.types {
				all[url] = true
			}
		}
	}
	return slices.Collect(maps.Keys(all))
}

func differs(a, b *Resource) bool {
	return a != b && (a == nil || b == nil || a.Version != b.Version || a.Name != b.Name)
}

// since lists the names of a type that are not the same in old; false when that
// is not known without comparing everything.
func (s *Set) since(old *Set, url string) ([]string, bool) {
	if s == nil || old == nil {
		return nil, s == old
	}
	var all []string
	if s.base != old.base {
		log, ok := s.base.since(old.base)
		if !ok {
			return nil, false
		}
		for _, e := range log {
			all = append(all, e.names[url]...)
		}
	}
	if s.mine != old.mine {
		for _, list := range []map[string]*Resource{s.own[url], old.own[url]} {
			for n := range list {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(n string) bool { return !differs(s.Find(url, n), old.Find(url, n)) }), true
}
