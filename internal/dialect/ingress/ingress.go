package ingress

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Controllers of IngressClasses that are ours.
const (
	Controller      = "tulle.dev/ingress-controller"
	istioController = "istio.io/ingress-controller"
)

// classAnnotation is how a class was named before the field existed.
const classAnnotation = "kubernetes.io/ingress.class"

const apiVersion = "networking.k8s.io/v1"

// Reader reads Ingresses.
type Reader struct {
	// Domain of the cluster's DNS; empty is cluster.local.
	Domain string
}

var _ dialect.Reader = Reader{}

// Name implements dialect.Reader.
func (Reader) Name() string { return "ingress" }

// Claims implements dialect.Reader.
func (Reader) Claims(version, kind string) bool {
	return version == "v1" && kind == "Service" || dialect.Group(version) == "networking.k8s.io" && (kind == "Ingress" || kind == "IngressClass")
}

// ingress is one Ingress of ours.
type ingress struct {
	*dialect.Report
	spec networkingv1.IngressSpec
}

// world is all that one call of Read sees.
type world struct {
	domain   string
	services map[model.Ref]*corev1.Service
	classes  map[string]*networkingv1.IngressClass
	list     []*ingress
	hosts    map[string][]rule
	tls      map[string]*model.Server // by host
}

// rule is one path of a host.
type rule struct {
	rank  int // 2 exact, 1 prefix, 0 default backend
	match model.HTTPMatch
	rule  model.HTTPRule
}

// Read implements dialect.Reader.
func (k Reader) Read(objects []*source.Object) (out model.Fragment, notices []model.Notice) {
	if !slices.ContainsFunc(objects, func(o *source.Object) bool { return o.Kind != "Service" }) {
		return out, nil
	}
	w := &world{
		domain: cmp.Or(k.Domain, "cluster.local"), services: map[model.Ref]*corev1.Service{},
		classes: map[string]*networkingv1.IngressClass{}, hosts: map[string][]rule{}, tls: map[string]*model.Server{},
	}
	var reports []*dialect.Report
	for _, o := range objects {
		r := &dialect.Report{Object: o}
		if o.Kind == "Service" { // its own reader tells what is wrong with it
			if s := new(corev1.Service); json.Unmarshal(o.JSON, s) == nil {
				w.services[model.Ref{Namespace: o.Namespace, Name: o.Name}] = s
			}
			continue
		}
		reports = append(reports, r)
		w.object(r)
	}
	slices.SortStableFunc(w.list, func(a, b *ingress) int {
		return cmp.Or(a.Object.Created.Compare(b.Object.Created), cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Name, b.Object.Name))
	})
	w.list = slices.DeleteFunc(w.list, func(i *ingress) bool { return !w.ours(i) })
	for _, i := range w.list {
		w.ingress(i)
		out.Statuses = append(out.Statuses, &model.Status{APIVersion: i.Object.APIVersion, Origin: i.Object.Origin("")})
	}
	if len(w.list) > 0 {
		w.emit(&out)
	}
	for _, r := range reports {
		notices = append(notices, r.Notices...)
	}
	return out, notices
}

func (w *world) object(r *dialect.Report) {
	if r.Object.APIVersion != apiVersion {
		r.Add(model.Error, model.UnknownKind, "apiVersion", "%s %s is not a version that is served; use %s", r.Object.APIVersion, r.Object.Kind, apiVersion)
		return
	}
	if r.Object.Kind == "IngressClass" {
		c := new(networkingv1.IngressClass)
		if dialect.Decode(r, c) {
			w.classes[c.Name] = c
		}
		return
	}
	var i networkingv1.Ingress
	if dialect.Decode(r, &i) {
		w.list = append(w.list, &ingress{r, i.Spec})
	}
}

// ours reports whether an Ingress is of a class of ours: by name, by the class's
// controller, or by the default class where it names none.
func (w *world) ours(i *ingress) bool {
	class := cmp.Or(or(i.spec.IngressClassName, ""), i.Object.Annotations[classAnnotation])
	if class == "" {
		for name, c := range w.classes {
			if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				class = name
			}
		}
	}
	c := w.classes[class]
	mine := class == "tulle" || class == "istio"
	if c != nil {
		mine = c.Spec.Controller == Controller || c.Spec.Controller == istioController
	}
	switch {
	case mine:
	case class == "":
		i.Add(model.Warning, model.UnknownKind, "spec", "it names no class and there is no default one: ignored (ingressClassName tulle is read)")
	default:
		i.Add(model.Info, model.UnknownKind, "spec.ingressClassName", "class %q is not tulle or istio: ignored", class)
	}
	return mine
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// ingress adds the rules of one object.
func (w *world) ingress(i *ingress) {
	if b := i.spec.DefaultBackend; b != nil {
		w.add(i, "*", "spec.defaultBackend", rule{match: path(model.PathPrefix, "/")}, *b)
	}
	for n, r := range i.spec.Rules {
		at := "spec.rules[" + strconv.Itoa(n) + "]"
		host := cmp.Or(strings.ToLower(r.Host), "*")
		if r.HTTP == nil || len(r.HTTP.Paths) == 0 {
			if b := i.spec.DefaultBackend; b != nil {
				w.add(i, host, at, rule{match: path(model.PathPrefix, "/")}, *b)
			}
			continue
		}
		for m, p := range r.HTTP.Paths {
			x := rule{rank: 1, match: path(model.PathPrefix, cmp.Or(strings.TrimRight(p.Path, "/"), "/"))}
			if or(p.PathType, "") == networkingv1.PathTypeExact {
				x.rank, x.match = 2, path(model.Exact, p.Path)
			}
			if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
				i.Invalid(at+".http.paths["+strconv.Itoa(m)+"].path", "does not begin with /")
				continue
			}
			w.add(i, host, at+".http.paths["+strconv.Itoa(m)+"]", x, p.Backend)
		}
	}
	for n, t := range i.spec.TLS {
		w.secure(i, "spec.tls["+strconv.Itoa(n)+"]", t)
	}
}

func path(kind model.MatchKind, value string) model.HTTPMatch {
	return model.HTTPMatch{Path: &model.StringMatch{Kind: kind, Value: value}}
}

// add a path of a host. A backend that is not there is answered with 500.
func (w *world) add(i *ingress, host, field string, x rule, b networkingv1.IngressBackend) {
	o := i.Object.Origin(field)
	x.match.Origin, x.rule = o, model.HTTPRule{Origin: o}
	to, why := w.backend(i, b)
	if why != "" {
		i.Add(model.Error, model.NotFound, field+".backend", "%s: its requests are answered with 500", why)
		x.rule.Direct = &model.DirectResponse{Status: 500}
	} else {
		to.Origin = o
		x.rule.Backends = []model.Backend{to}
	}
	w.hosts[host] = append(w.hosts[host], x)
}

func (w *world) backend(i *ingress, b networkingv1.IngressBackend) (out model.Backend, why string) {
	if b.Service == nil {
		return out, "a backend that is no Service is not supported"
	}
	ref := model.Ref{Namespace: i.Object.Namespace, Name: b.Service.Name}
	s := w.services[ref]
	if s == nil {
		return out, "Service " + ref.Namespace + "/" + ref.Name + " is not there"
	}
	for _, p := range s.Spec.Ports {
		if n := b.Service.Port; n.Name != "" && p.Name == n.Name || n.Name == "" && p.Port == n.Number {
			return model.Backend{Host: ref.Name + "." + ref.Namespace + ".svc." + w.domain, Port: uint16(p.Port), Weight: 1}, ""
		}
	}
	return out, "Service " + ref.Namespace + "/" + ref.Name + " has no port " + cmp.Or(b.Service.Port.Name, strconv.Itoa(int(b.Service.Port.Number)))
}

// secure opens TLS for hosts, with a Secret of the Ingress's own namespace. Of
// two for one host the older one is in effect.
func (w *world) secure(i *ingress, field string, t networkingv1.IngressTLS) {
	if t.SecretName == "" {
		i.Invalid(field+".secretName", "is missing: its hosts are not served over TLS")
		return
	}
	hosts := t.Hosts
	if len(hosts) == 0 {
		hosts = []string{"*"}
	}
	for _, h := range hosts {
		h = strings.ToLower(h)
		if w.tls[h] != nil {
			i.Add(model.Warning, model.Conflict, field, "host %s has its certificate from another tls entry", h)
			continue
		}
		o := i.Object.Origin(field)
		w.tls[h] = &model.Server{
			Port: model.Port{Number: 443, Name: "https-" + h, Protocol: model.HTTPS}, Hosts: []string{h}, Origin: o,
			TLS: &model.ServerTLS{Mode: model.ServerSimple, Granted: []model.Ref{{Namespace: i.Object.Namespace, Name: t.SecretName}}, Origin: o},
		}
	}
}

// emit writes the gateway and its route sets: exact paths first, then the longest.
func (w *world) emit(out *model.Fragment) {
	const space, name = "istio-system", "ingress"
	o := w.list[0].Object.Origin("")
	g := &model.Gateway{Name: name, Namespace: space, Selector: map[string]string{"istio": "ingressgateway"}, Origin: o}
	g.Servers = append(g.Servers, model.Server{Port: model.Port{Number: 80, Name: "http", Protocol: model.HTTP}, Hosts: []string{"*"}, Origin: o})
	for _, h := range slices.Sorted(maps.Keys(w.tls)) {
		g.Servers = append(g.Servers, *w.tls[h])
	}
	out.Gateways = append(out.Gateways, g)
	for _, h := range slices.Sorted(maps.Keys(w.hosts)) {
		list := w.hosts[h]
		slices.SortStableFunc(list, func(a, b rule) int {
			return cmp.Or(b.rank-a.rank, len(b.match.Path.Value)-len(a.match.Path.Value))
		})
		s := &model.RouteSet{Name: "ingress~" + h, Namespace: space, Hosts: []string{h}, Gateways: []string{space + "/" + name}, Settled: true, Origin: list[0].match.Origin}
		for _, x := range list {
			x.rule.Matches = []model.HTTPMatch{x.match}
			s.HTTP = append(s.HTTP, x.rule)
		}
		out.RouteSets = append(out.RouteSets, s)
	}
}
