package gatewayapi

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/model"
)

// emit writes gateways, route sets and the status of who listens.
func (w *world) emit() {
	for _, g := range w.order {
		out := &model.Gateway{
			Name: g.ref.Name, Namespace: g.ref.Namespace, Closed: true,
			Selector: map[string]string{NameLabel: g.ref.Name}, Origin: g.Object.Origin(""),
		}
		for _, l := range g.listeners {
			if !l.serves() {
				continue
			}
			if l.spec.Protocol == v1.TLSProtocolType && l.mode() == v1.TLSModeTerminate {
				w.terminated(out, l)
				continue
			}
			out.Servers = append(out.Servers, l.server())
			w.listenerRoutes(l)
		}
		w.out.Gateways = append(w.out.Gateways, out)
		w.gatewayStatus(g)
	}
	for _, s := range slices.SortedFunc(maps.Values(w.sets), func(a, b *listenerSet) int { return byAge(a.Object, b.Object) }) {
		if len(s.listeners) > 0 {
			w.setStatus(s)
		}
	}
	keys := slices.SortedFunc(maps.Keys(w.mesh), func(a, b meshKey) int {
		return cmp.Or(cmp.Compare(a.service.Namespace, b.service.Namespace), cmp.Compare(a.service.Name, b.service.Name), cmp.Compare(a.consumer, b.consumer))
	})
	for _, k := range keys {
		w.meshRoutes(k, w.mesh[k])
	}
}

func rules(list []httpRule) []model.HTTPRule {
	slices.SortStableFunc(list, precedes)
	var out []model.HTTPRule
	for _, x := range list {
		r := x.rule
		r.Matches = []model.HTTPMatch{x.match}
		out = append(out, r)
	}
	return out
}

// routeSet of a host at a listener.
func (l *listener) routeSet(host string) *model.RouteSet {
	g := l.gateway.ref
	return &model.RouteSet{
		Name: g.Name + "~" + l.name + "~" + host, Namespace: g.Namespace, Hosts: []string{host},
		Gateways: []string{g.Namespace + "/" + g.Name + "/" + l.name}, Settled: true, Origin: l.Object.Origin(l.path),
	}
}

// listenerRoutes makes a route set for each host of a listener. A host has the
// rules of wider ones behind its own. A host that a narrower listener of the
// port has is that one's alone, even where it has no route for it.
func (w *world) listenerRoutes(l *listener) {
	hosts := slices.SortedFunc(maps.Keys(l.hosts), func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	for _, h := range hosts {
		if l.isolated(h) {
			continue
		}
		s := l.routeSet(h)
		for _, wider := range hosts {
			if under(wider, h) {
				s.HTTP = append(s.HTTP, rules(l.hosts[wider])...)
			}
		}
		w.out.RouteSets = append(w.out.RouteSets, s)
	}
	if l.spec.Protocol == v1.HTTPProtocolType && len(l.hosts[l.host]) == 0 && l.narrower() {
		s := l.routeSet(l.host)
		s.HTTP = []model.HTTPRule{{Name: "no-route", Direct: &model.DirectResponse{Status: 404}, Origin: s.Origin}}
		w.out.RouteSets = append(w.out.RouteSets, s)
	}
	w.l4Routes(l)
}

// isolated reports whether a narrower listener of the port has a host.
func (l *listener) isolated(host string) bool {
	return slices.ContainsFunc(l.gateway.listeners, func(o *listener) bool {
		return o != l && o.serves() && o.spec.Port == l.spec.Port && o.host != l.host && under(l.host, o.host) && under(o.host, host)
	})
}

// narrower reports whether a listener of the port has hosts around this one's.
func (l *listener) narrower() bool {
	return slices.ContainsFunc(l.gateway.listeners, func(o *listener) bool {
		return o != l && o.serves() && o.spec.Port == l.spec.Port && o.host != l.host && under(o.host, l.host)
	})
}

// l4Routes of a listener: by server name where TLS passes, else the oldest
// route has every connection.
func (w *world) l4Routes(l *listener) {
	for _, a := range l.l4 {
		for _, x := range a.route.l4 {
			s := l.routeSet(l.host)
			s.Name += fmt.Sprintf("~%s~%s", a.route.Object.Namespace, a.route.Object.Name)
			s.Origin = a.route.Object.Origin(x.path)
			if a.route.Object.Kind == "TLSRoute" {
				s.TLS = []model.TLSRule{{Matches: []model.L4Match{{SNI: a.hosts, Origin: s.Origin}}, Backends: usable(x.backends), Origin: s.Origin}}
			} else {
				s.TCP = []model.TCPRule{{Backends: usable(x.backends), Origin: s.Origin}}
			}
			w.out.RouteSets = append(w.out.RouteSets, s)
		}
	}
}

// usable leaves out backends of weight 0; those that lead nowhere stay, and
// their share of the connections is refused.
func usable(list []model.Backend) []model.Backend {
	return slices.DeleteFunc(slices.Clone(list), func(b model.Backend) bool { return b.Weight == 0 })
}

// terminated makes a server for every host of a listener that opens TLS for
// bytes: which route has a connection is told by its server name.
func (w *world) terminated(out *model.Gateway, l *listener) {
	taken := map[string]bool{}
	for _, a := range l.l4 {
		for _, h := range a.hosts {
			if taken[h] {
				continue
			}
			taken[h] = true
			srv := l.server()
			srv.Name += "~" + h
			srv.Port.Name, srv.Hosts = srv.Name, []string{h}
			out.Servers = append(out.Servers, srv)
			for _, x := range a.route.l4 {
				s := l.routeSet(h)
				s.Gateways[0] += "~" + h
				s.Origin = a.route.Object.Origin(x.path)
				s.TCP = []model.TCPRule{{Backends: usable(x.backends), Origin: s.Origin}}
				w.out.RouteSets = append(w.out.RouteSets, s)
			}
		}
	}
}

// meshRoutes makes the route set of a Service that routes have as parent.
func (w *world) meshRoutes(k meshKey, h *meshHost) {
	s := &model.RouteSet{Name: k.service.Name, Namespace: cmp.Or(k.consumer, k.service.Namespace), Hosts: []string{w.fqdn(k.service)}, Gateways: []string{"mesh"}, Settled: true}
	if k.consumer != "" {
		s.ExportTo = []string{"."}
	}
	s.HTTP = rules(h.http)
	if len(h.http) > 0 {
		s.Origin = h.http[0].route.Object.Origin("")
	}
	for _, x := range h.l4 {
		o := x.route.Object.Origin("")
		if s.Origin.Kind == "" {
			s.Origin = o
		}
		for _, r := range x.route.l4 {
			m := model.L4Match{Port: x.port, Origin: o}
			if x.route.Object.Kind == "TLSRoute" {
				m.SNI = x.route.hosts
				s.TLS = append(s.TLS, model.TLSRule{Matches: []model.L4Match{m}, Backends: usable(r.backends), Origin: o})
			} else {
				s.TCP = append(s.TCP, model.TCPRule{Matches: []model.L4Match{m}, Backends: usable(r.backends), Origin: o})
			}
		}
	}
	w.out.RouteSets = append(w.out.RouteSets, s)
}

func (l *listener) status() model.StatusPart {
	p := model.StatusPart{Listener: string(l.spec.Name), Attached: l.attached}
	for _, k := range l.kinds {
		p.Kinds = append(p.Kinds, group+"/"+k)
	}
	conflict := isNot("Conflicted", "NoConflicts", "")
	if l.conflict.reason != "" {
		conflict = is("Conflicted", l.conflict.reason, "%s", l.conflict.text)
	}
	programmed := is("Programmed", "Programmed", "")
	if !l.serves() {
		programmed = isNot("Programmed", cmp.Or(l.conflict.reason, "Invalid"), "%s", cmp.Or(l.accepted.text, l.refs.text))
	}
	p.Conditions = []model.Condition{l.accepted.condition("Accepted"), conflict, programmed, l.refs.condition("ResolvedRefs")}
	return p
}

// listening is the condition Accepted of who has listeners: it needs one that is.
func listening(list []*listener) model.Condition {
	bad := ""
	good := false
	for _, l := range list {
		if l.accepted.reason != "" {
			bad = fmt.Sprintf("listener %s: %s", l.spec.Name, l.accepted.text)
		} else {
			good = true
		}
	}
	switch {
	case bad == "":
		return is("Accepted", "Accepted", "")
	case good:
		return is("Accepted", "ListenersNotValid", "%s", bad)
	}
	return isNot("Accepted", "ListenersNotValid", "%s", bad)
}

func programmed(list []*listener) model.Condition {
	if slices.ContainsFunc(list, (*listener).serves) {
		return is("Programmed", "Programmed", "")
	}
	return isNot("Programmed", "Invalid", "none of its listeners can serve")
}

func (w *world) gatewayStatus(g *gateway) {
	own := slices.DeleteFunc(slices.Clone(g.listeners), func(l *listener) bool { return l.set != nil })
	s := &model.Status{APIVersion: g.Object.APIVersion, Origin: g.Object.Origin("")}
	s.Conditions = []model.Condition{listening(own), programmed(g.listeners)}
	if g.params.reason != "" {
		s.Conditions[0] = g.params.condition("Accepted")
	}
	if g.insecureFrontend() {
		s.Conditions = append(s.Conditions, is("InsecureFrontendValidationMode", "ConfigurationChanged", "clients without a valid certificate are let in"))
	}
	for _, l := range own {
		s.Parts = append(s.Parts, l.status())
	}
	w.out.Statuses = append(w.out.Statuses, s)
}

func (w *world) setStatus(x *listenerSet) {
	s := &model.Status{APIVersion: x.Object.APIVersion, Origin: x.Object.Origin("")}
	s.Conditions = []model.Condition{listening(x.listeners), programmed(x.listeners)}
	if p := &s.Conditions[1]; !p.Holds { // one that nobody serves is not accepted either, unlike a Gateway
		p.Reason = "ListenersNotValid"
		s.Conditions[0] = isNot("Accepted", p.Reason, "%s", cmp.Or(s.Conditions[0].Text, p.Text))
	}
	for _, l := range x.listeners {
		s.Parts = append(s.Parts, l.status())
	}
	w.out.Statuses = append(w.out.Statuses, s)
}
