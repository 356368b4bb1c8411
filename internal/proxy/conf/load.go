package conf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// Load makes a Snapshot of encoded resources, by type URL and name; without
// any network, for explain. What is refused is left out, and told in errs, in
// order of type and name. A resource must be named as its key.
func Load(resources map[string]map[string][]byte) (*Snapshot, []error) {
	s := NewSnapshot()
	var errs []error
	for _, url := range sortedKeys(resources) {
		for _, name := range sortedKeys(resources[url]) {
			if err := s.Decode(url, name, resources[url][name]); err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", ShortType(url), name, err))
			}
		}
	}
	return s, errs
}

// NewSnapshot returns one with empty maps.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		Listeners: map[string]*Listener{},
		Routes:    map[string]*RouteTable{},
		Clusters:  map[string]*Cluster{},
		Endpoints: map[string]*Endpoints{},
		Secrets:   map[string]*Secret{},
	}
}

// Decode adds one resource to s, which nobody else may see yet.
func (s *Snapshot) Decode(url, name string, b []byte) error {
	n, err := Decode(url, name, b)
	if err != nil {
		return err
	}
	switch n := n.(type) {
	case *Listener:
		s.Listeners[name] = n
	case *RouteTable:
		s.Routes[name] = n
	case *Cluster:
		s.Clusters[name] = n
	case *Endpoints:
		s.Endpoints[name] = n
	case *Secret:
		s.Secrets[name] = n
	case *NameTable:
		s.Names = n
	case *ext.Index:
		s.Index = n
	}
	return nil
}

// Decode makes the node of one resource: *Listener, *RouteTable, *Cluster,
// *Endpoints, *Secret, *NameTable, *ext.Index or *ext.Host. A resource that is
// not named so is refused.
func Decode(url, name string, b []byte) (any, error) {
	var n any
	var own string
	var err error
	switch url {
	case LDSType:
		var l *Listener
		if l, err = DecodeListener(b); err == nil {
			n, own = l, l.Name
		}
	case RDSType:
		var t *RouteTable
		if t, err = DecodeRoutes(b); err == nil {
			n, own = t, t.Name
		}
	case NDSType:
		var t *NameTable
		if t, err = DecodeNames(b); err == nil {
			n, own = t, name
		}
	case CDSType:
		var c *Cluster
		if c, err = DecodeCluster(b); err == nil {
			n, own = c, c.Name
		}
	case EDSType:
		var e *Endpoints
		if e, err = DecodeEndpoints(b); err == nil {
			n, own = e, e.Cluster
		}
	case SDSType:
		var s *Secret
		if s, err = DecodeSecret(b); err == nil {
			n, own = s, s.Name
		}
	case ext.IndexType:
		n, err = ext.ParseIndex(b)
		own = ext.IndexName
	case ext.HostType:
		n, err = ext.ParseHost(b)
		own = name
	default:
		err = refuse("", "type %s is not known", url)
	}
	if err == nil && own != name {
		err = refuse("name", "%q is not the resource's name %q", own, name)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// ShortType is the last word of a type URL, for messages.
func ShortType(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }

// Needs are the resources that a node names: route tables of a listener,
// clusters of routes and listeners, endpoints and secrets of clusters.
type Needs struct {
	Routes, Clusters, Endpoints, Secrets []string
}

func add(to *[]string, names ...string) {
	for _, n := range names {
		if n != "" && !slices.Contains(*to, n) {
			*to = append(*to, n)
		}
	}
}

// Needs of a listener, inline routes included.
func (l *Listener) Needs() Needs {
	var n Needs
	for _, c := range l.Chains {
		c.needs(&n)
	}
	if l.Default != nil {
		l.Default.needs(&n)
	}
	return n
}

func (c *Chain) needs(n *Needs) {
	if c.TLS != nil {
		add(&n.Secrets, c.TLS.Certificates...)
		add(&n.Secrets, c.TLS.Validation)
	}
	if c.TCP != nil {
		for i := range c.TCP.Clusters {
			add(&n.Clusters, c.TCP.Clusters[i].Name)
		}
	}
	if c.HTTP != nil {
		if add(&n.Routes, c.HTTP.RouteName); c.HTTP.Routes != nil {
			add(&n.Clusters, c.HTTP.Routes.Needs().Clusters...)
		}
	}
}

// Needs of a route table.
func (t *RouteTable) Needs() Needs {
	seen := map[string]bool{}
	var n Needs
	name := func(c string) {
		if !seen[c] {
			seen[c] = true
			n.Clusters = append(n.Clusters, c)
		}
	}
	for _, v := range t.Hosts {
		for _, r := range v.Routes {
			if r.Forward == nil {
				continue
			}
			for i := range r.Forward.Clusters {
				name(r.Forward.Clusters[i].Name)
			}
			for i := range r.Forward.Mirrors {
				name(r.Forward.Mirrors[i].Cluster)
			}
		}
	}
	return n
}

// Needs of a cluster.
func (c *Cluster) Needs() Needs {
	var n Needs
	if c.Type == ClusterEDS {
		if add(&n.Endpoints, c.EDSName); c.EDSName == "" {
			add(&n.Endpoints, c.Name)
		}
	}
	for _, t := range c.tlsContexts() {
		add(&n.Secrets, t.Certificate, t.Validation)
	}
	return n
}
