package gatewayapi

import (
	"strings"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

// route is a route object of any kind.
type route struct {
	*dialect.Report
	rank    int // by age
	parents []v1.ParentReference
	hosts   []string // lower-case; none: every
	http    []httpRule
	l4      []l4Rule
	value   problem // of Accepted: a value that is not supported
	partly  problem // rules that are not in effect while others are
	refs    problem
	used    []model.Ref // Services of its backends
}

// inMesh reports whether only clients in the mesh follow a route. They could
// reach every backend without it, so that nobody has to grant it theirs.
func (r *route) inMesh() bool {
	for _, p := range r.parents {
		if string(or(p.Group, group)) != "" || or(p.Kind, "Gateway") != "Service" {
			return false
		}
	}
	return len(r.parents) > 0
}

// l4Rule of a TLSRoute or TCPRoute.
type l4Rule struct {
	path     string
	refs     []v1.BackendRef
	backends []model.Backend
}

type l4Attached struct {
	route *route
	hosts []string
}

// meshKey is a Service as parent, and the namespace whose clients follow the
// routes; empty: all.
type meshKey struct {
	service  model.Ref
	consumer string
}

type meshHost struct {
	http []httpRule
	l4   []meshL4
}

type meshL4 struct {
	route *route
	port  uint16
}

func (w *world) route(r *dialect.Report, c v1.CommonRouteSpec, hosts []v1.Hostname) *route {
	x := &route{Report: r, parents: c.ParentRefs}
	for _, h := range hosts {
		x.hosts = append(x.hosts, strings.ToLower(string(h)))
	}
	w.routes = append(w.routes, x)
	return x
}

// attach settles a route's references, then its parents.
func (w *world) attach(r *route) {
	for i := range r.http {
		w.settle(r, &r.http[i])
	}
	for i := range r.l4 {
		l := &r.l4[i]
		l.backends = w.backends(r, l.path+".backendRefs", l.refs)
	}
	st := &model.Status{APIVersion: r.Object.APIVersion, Origin: r.Object.Origin("")}
	for i, p := range r.parents {
		accepted, mine := w.parent(r, at("spec.parentRefs", i), p)
		if !mine {
			continue
		}
		if accepted.reason == "" {
			accepted = r.value
		}
		part := parentPart(p)
		part.Conditions = []model.Condition{accepted.condition("Accepted"), r.refs.condition("ResolvedRefs")}
		if r.partly.reason != "" {
			part.Conditions = append(part.Conditions, is("PartiallyInvalid", r.partly.reason, "%s", r.partly.text))
		}
		st.Parts = append(st.Parts, part)
	}
	if len(st.Parts) > 0 {
		w.out.Statuses = append(w.out.Statuses, st)
	}
}

func parentPart(p v1.ParentReference) model.StatusPart {
	return model.StatusPart{
		Group: string(or(p.Group, "")), Kind: string(or(p.Kind, "")), Namespace: string(or(p.Namespace, "")),
		Name: string(p.Name), Section: string(or(p.SectionName, "")), Port: uint16(or(p.Port, 0)),
	}
}

// parent attaches a route to one parent. mine: the parent is ours to speak of.
func (w *world) parent(r *route, path string, p v1.ParentReference) (why problem, mine bool) {
	ref := model.Ref{Namespace: string(or(p.Namespace, v1.Namespace(r.Object.Namespace))), Name: string(p.Name)}
	g, kind := string(or(p.Group, group)), string(or(p.Kind, "Gateway"))
	var from []*listener
	switch {
	case g == "" && kind == "Service":
		return w.meshParent(r, path, ref, p), true
	case g == group && kind == "Gateway" && w.gateways[ref] != nil:
		for _, l := range w.gateways[ref].listeners {
			if l.set == nil {
				from = append(from, l)
			}
		}
	case (g == group || g == groupX) && (kind == "ListenerSet" || kind == "XListenerSet") && w.sets[ref] != nil && w.sets[ref].gateway != nil:
		from = w.sets[ref].listeners
	default:
		r.Add(model.Warning, model.NotFound, path, "there is no %s %s/%s of ours: not attached to it", kind, ref.Namespace, ref.Name)
		return why, false
	}
	why = w.attachTo(r, from, p)
	if why.reason != "" {
		r.Add(model.Error, model.Invalid, path, "not attached to %s %s/%s: %s", kind, ref.Namespace, ref.Name, why.text)
	}
	return why, true
}

// attachTo attaches a route to those of the listeners that the reference means
// and that take it.
func (w *world) attachTo(r *route, from []*listener, p v1.ParentReference) (why problem) {
	const (
		noParent = iota
		notAllowed
		noHost
		done
	)
	best := noParent
	for _, l := range from {
		if p.SectionName != nil && *p.SectionName != "" && *p.SectionName != l.spec.Name || p.Port != nil && *p.Port != l.spec.Port {
			continue
		}
		if !w.takes(l, r) {
			best = max(best, notAllowed)
			continue
		}
		hosts := l.common(r)
		if len(hosts) == 0 {
			best = max(best, noHost)
			continue
		}
		best = done
		l.attached++
		if l.conflict.reason != "" || r.value.reason != "" {
			continue
		}
		if len(r.http) > 0 {
			for _, h := range hosts {
				l.hosts[h] = append(l.hosts[h], r.http...)
			}
		}
		if len(r.l4) > 0 {
			l.l4 = append(l.l4, l4Attached{r, hosts})
		}
	}
	switch best {
	case noParent:
		why.set("NoMatchingParent", "it has no such listener")
	case notAllowed:
		why.set("NotAllowedByListeners", "no listener takes %s of namespace %s", r.Object.Kind, r.Object.Namespace)
	case noHost:
		why.set("NoMatchingListenerHostname", "no listener has one of its hostnames %s", strings.Join(r.hosts, ", "))
	}
	return why
}

// takes reports whether a listener takes routes of this kind and namespace.
func (w *world) takes(l *listener, r *route) bool {
	kind := false
	for _, k := range l.kinds {
		kind = kind || k == r.Object.Kind
	}
	if !kind {
		return false
	}
	a := l.spec.AllowedRoutes
	if a == nil || a.Namespaces == nil {
		return l.Object.Namespace == r.Object.Namespace
	}
	return w.allows(or(a.Namespaces.From, v1.NamespacesFromSame), a.Namespaces.Selector, l.Object.Namespace, r.Object.Namespace)
}

// common is the hosts of a route at a listener.
func (l *listener) common(r *route) []string {
	if len(r.hosts) == 0 || r.Object.Kind == "TCPRoute" {
		return []string{l.host}
	}
	var out []string
	for _, h := range r.hosts {
		if o := overlap(l.host, h); o != "" {
			out = append(out, o)
		}
	}
	return out
}

// meshParent attaches a route to a Service: routes of the Service's namespace
// act at all clients, others at those of their own.
func (w *world) meshParent(r *route, path string, ref model.Ref, p v1.ParentReference) (why problem) {
	s := w.services[ref]
	port := uint16(or(p.Port, 0))
	switch {
	case s == nil:
		why.set("NoMatchingParent", "there is no Service %s/%s", ref.Namespace, ref.Name)
	case port != 0 && !hasPort(s, int32(port)):
		why.set("NoMatchingParent", "Service %s/%s has no port %d", ref.Namespace, ref.Name, port)
	}
	if why.reason != "" {
		r.Add(model.Error, model.NotFound, path, "%s", why.text)
		return why
	}
	if r.value.reason != "" {
		return why
	}
	k := meshKey{service: ref}
	if ref.Namespace != r.Object.Namespace {
		k.consumer = r.Object.Namespace
	}
	h := w.mesh[k]
	if h == nil {
		h = &meshHost{}
		w.mesh[k] = h
	}
	for _, x := range r.http {
		x.match.Port = port
		h.http = append(h.http, x)
	}
	if len(r.l4) > 0 {
		h.l4 = append(h.l4, meshL4{r, port})
	}
	return why
}
