package link

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// site is where a rule is written for: one client at one of its listeners.
type site struct {
	m       *Mesh
	who     who
	gateway string // "mesh" or ns/name
	port    uint16 // of the listener; for gateways the port in the Gateway
	tls     bool   // requests arrive over TLS that is opened here
	used    *usage // clusters that were named; may be nil
}

// usage collects the clusters that routes name, for gateways.
type usage map[string]bool

func (u *usage) add(name string) {
	if u != nil {
		(*u)[name] = true
	}
}

// httpRoutes settles the HTTP rules of a route set for a site. Rules after one
// that matches everything are dropped.
func (s *site) httpRoutes(r *routeSet) []*model.Route {
	var out []*model.Route
	for i := range r.http {
		h := &r.http[i]
		if len(h.Matches) == 0 {
			return append(out, s.route(r, h, nil))
		}
		for j := range h.Matches {
			mt := &h.Matches[j]
			if !s.applies(mt.Port, mt.Gateways, mt.SourceLabels, mt.SourceNamespace) {
				continue
			}
			out = append(out, s.route(r, h, mt))
			if catchAll(mt) {
				return out
			}
		}
	}
	return out
}

// applies settles the parts of an HTTP match that choose clients and listeners;
// gateways replace the source conditions.
func (s *site) applies(port uint16, gateways []string, labels map[string]string, ns string) bool {
	if port != 0 && port != s.port {
		return false
	}
	if len(gateways) > 0 {
		return slices.Contains(gateways, s.gateway)
	}
	return s.source(labels, ns)
}

// appliesL4 does the same for TLS and TCP, where all must hold; gateways do not
// look at the source.
func (s *site) appliesL4(mt *model.L4Match) bool {
	if mt.Port != 0 && mt.Port != s.port || len(mt.Gateways) > 0 && !slices.Contains(mt.Gateways, s.gateway) {
		return false
	}
	return s.gateway != "mesh" || s.source(mt.SourceLabels, mt.SourceNamespace)
}

func (s *site) source(labels map[string]string, ns string) bool {
	return subset(labels, s.who.labels) && (ns == "" || ns == s.who.ns)
}

// catchAll reports whether a match, once chosen for a site, holds for every
// request.
func catchAll(m *model.HTTPMatch) bool {
	if m.Scheme != nil || m.Method != nil || m.Authority != nil || len(m.Headers)+len(m.WithoutHeaders)+len(m.Query) > 0 {
		return false
	}
	return m.Path == nil || anyPath(*m.Path)
}

func anyPath(p model.StringMatch) bool {
	switch p.Kind {
	case model.Prefix, model.PathPrefix:
		return p.Value == "/" || p.Value == ""
	case model.Regex:
		return p.Value == ".*" || p.Value == "/.*"
	}
	return false
}

func (s *site) route(r *routeSet, h *model.HTTPRule, mt *model.HTTPMatch) *model.Route {
	out := &model.Route{
		Name: h.Name, Redirect: h.Redirect, Direct: h.Direct, Rewrite: h.Rewrite,
		Fault: h.Fault, CORS: h.CORS, Headers: h.Headers, Origin: h.Origin,
	}
	if mt != nil {
		out.Match = *mt
		out.Match.Port, out.Match.SourceLabels, out.Match.SourceNamespace, out.Match.Gateways = 0, nil, "", nil
		out.Match.Name = ""
		if mt.Name != "" {
			out.Name += "." + mt.Name
		}
	}
	if h.Timeout != nil {
		out.Timeout = *h.Timeout
	}
	defer func() { out.Operation = operation(r, out, s.port) }()
	s.authority(out)
	if out.Redirect != nil {
		out.Redirect = s.redirect(*out.Redirect)
		return out
	}
	if out.Direct != nil {
		return out
	}
	out.Retry = retry(cmp.Or(h.Retry, s.m.Settings.Retry))
	out.Backends, out.Hash = s.backends(h.Backends, h.Origin)
	if slices.ContainsFunc(h.Backends, func(b model.Backend) bool { return b.Invalid }) {
		out.NotFound = 500
	}
	if len(out.Backends) == 0 {
		out.Direct = &model.DirectResponse{Status: 500}
		out.Retry = nil
		return out
	}
	s.hoist(out)
	for _, mi := range h.Mirrors {
		if mi.Percent <= 0 {
			continue
		}
		b, _ := s.backend(&mi.Backend)
		out.Mirrors = append(out.Mirrors, model.RouteMirror{Cluster: b.Cluster, Percent: mi.Percent})
	}
	return out
}

// operation names the route for traces, as Istio does: by its only destination,
// else by the route set.
func operation(r *routeSet, out *model.Route, port uint16) string {
	path := "/*"
	if p := out.Match.Path; p != nil {
		switch p.Kind {
		case model.Exact, model.Regex:
			path = p.Value
		case model.Prefix, model.PathPrefix:
			path = p.Value + "*"
		}
	}
	if len(out.Backends) == 1 {
		parts := strings.Split(out.Backends[0].Cluster, "|")
		return parts[3] + ":" + parts[1] + path
	}
	return r.Name + ":" + strconv.Itoa(int(port)) + path
}

// authority moves a Host header that is set at the route into its rewrite; an
// explicit rewrite wins.
func (s *site) authority(out *model.Route) {
	if out.Headers == nil {
		return
	}
	req, host := withoutHost(out.Headers.Request)
	if host == "" {
		return
	}
	out.Headers = headerOps(req, out.Headers.Response)
	rewriteHost(out, host)
}

// hoist does the same for the only destination of a route.
func (s *site) hoist(out *model.Route) {
	for i := range out.Backends {
		b := &out.Backends[i]
		if b.Headers == nil {
			continue
		}
		req, host := withoutHost(b.Headers.Request)
		if host == "" {
			continue
		}
		b.Headers = headerOps(req, b.Headers.Response)
		if len(out.Backends) == 1 {
			rewriteHost(out, host)
			continue
		}
		if out.Rewrite == nil || out.Rewrite.Authority == "" {
			b.Authority = host
		}
	}
}

// headerOps is nil when nothing is left to do.
func headerOps(request, response model.HeaderEdit) *model.HeaderOps {
	left := func(e model.HeaderEdit) int { return len(e.Set) + len(e.Add) + len(e.Remove) }
	if left(request)+left(response) == 0 {
		return nil
	}
	return &model.HeaderOps{Request: request, Response: response}
}

func withoutHost(e model.HeaderEdit) (model.HeaderEdit, string) {
	i := slices.IndexFunc(e.Set, func(h model.Header) bool { return h.Name == "host" || h.Name == ":authority" })
	if i < 0 {
		return e, ""
	}
	host := e.Set[i].Value
	e.Set = slices.Delete(slices.Clone(e.Set), i, i+1)
	return e, host
}

func rewriteHost(out *model.Route, host string) {
	var rw model.Rewrite
	if out.Rewrite != nil {
		rw = *out.Rewrite
	}
	if rw.Authority == "" {
		rw.Authority = host
		out.Rewrite = &rw
	}
}

// redirect settles the port, which is left out where it is the scheme's own.
func (s *site) redirect(r model.Redirect) *model.Redirect {
	if r.Code == 0 {
		r.Code = 301
	}
	if r.FromRequestPort {
		r.Port, r.FromRequestPort = s.port, false
	}
	scheme := r.Scheme
	if scheme == "" {
		scheme = "http"
		if s.tls {
			scheme = "https"
		}
	}
	if r.Port == 80 && scheme == "http" || r.Port == 443 && scheme == "https" {
		r.Port = 0
	}
	return &r
}

// defaultRetryOn is what Istio retries when nothing else is said. The list of
// status codes that goes with it is empty.
var defaultRetryOn = []string{"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}

func defaultRetry() *model.Retry {
	return &model.Retry{Attempts: 2, On: defaultRetryOn, FromMeshDefault: true}
}

func retry(r *model.Retry) *model.Retry {
	if r == nil {
		return defaultRetry()
	}
	if r.Attempts <= 0 {
		return nil
	}
	out := *r
	if len(out.On) == 0 {
		out.On = defaultRetryOn
	}
	if len(out.Codes) > 0 && !slices.Contains(out.On, "retriable-status-codes") {
		out.On = append(slices.Clone(out.On), "retriable-status-codes")
	}
	return &out
}

// backends settles weighted destinations: one alone takes everything, of
// several those with weight 0 are left out.
func (s *site) backends(list []model.Backend, o model.Origin) ([]model.RouteBackend, *model.HashKey) {
	var out []model.RouteBackend
	var hash *model.HashKey
	for i := range list {
		b := &list[i]
		if len(list) > 1 && b.Weight == 0 {
			continue
		}
		x, k := s.backend(b)
		if len(list) == 1 {
			x.Weight = 100
		}
		if x.Origin.Kind == "" {
			x.Origin = o
		}
		out = append(out, x)
		if hash == nil {
			hash = k
		}
	}
	return out, hash
}

// backend resolves one destination to its cluster.
func (s *site) backend(b *model.Backend) (model.RouteBackend, *model.HashKey) {
	out := model.RouteBackend{Weight: b.Weight, Headers: b.Headers, Origin: b.Origin}
	if b.Invalid {
		out.Cluster, out.Missing = clusterName(0, "", "invalid"), true
		return out, nil
	}
	svc := s.m.lookup(s.who.eyes(), b.Host)
	port := b.Port
	if port == 0 && svc != nil {
		port = svc.only()
	}
	if port == 0 {
		port = s.port
	}
	host := b.Host
	if svc != nil {
		host = svc.Host // what an alias stands for
	}
	out.Cluster = clusterName(port, b.Subset, host)
	s.used.add(out.Cluster)
	if svc == nil {
		out.Missing = true
		return out, nil
	}
	if _, ok := svc.port(port); !ok {
		out.Missing = true
		return out, nil
	}
	d := s.m.destinationFor(s.who, svc)
	var sub *model.Subset
	if b.Subset != "" {
		if sub = d.subset(b.Subset); sub == nil {
			out.Missing = true
			return out, nil
		}
	}
	if lb := d.policyFor(port, sub).LoadBalancer; lb != nil {
		return out, lb.Hash
	}
	return out, nil
}

// serviceRoute is the route of a service that no route set speaks of.
func (s *site) serviceRoute(svc *service) []*model.Route {
	b, hash := s.backend(&model.Backend{Host: svc.Host, Port: s.port, Weight: 100})
	b.Origin = svc.Origin
	return []*model.Route{{
		Name:      "default",
		Match:     model.HTTPMatch{Path: &model.StringMatch{Kind: model.Prefix, Value: "/"}},
		Backends:  []model.RouteBackend{b},
		Retry:     retry(s.m.Settings.Retry),
		Hash:      hash,
		Operation: svc.Host + ":" + strconv.Itoa(int(s.port)) + "/*",
		Origin:    svc.Origin,
	}}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
