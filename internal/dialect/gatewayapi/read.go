package gatewayapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Controller is the controllerName of GatewayClasses that are ours.
const Controller = "tulle.dev/gateway-controller"

// NameLabel is on the workloads that serve a Gateway.
const NameLabel = "gateway.networking.k8s.io/gateway-name"

const (
	group  = "gateway.networking.k8s.io"
	groupX = "gateway.networking.x-k8s.io"
)

// Reader reads the Gateway API.
type Reader struct {
	// Domain of the cluster's DNS; empty is cluster.local.
	Domain string
}

var _ dialect.Reader = Reader{}

// Name implements dialect.Reader.
func (Reader) Name() string { return "gateway api" }

// seen are objects of others that references lead to.
var seen = map[string]bool{"Service": true, "Namespace": true, "Secret": true, "ConfigMap": true}

// Claims implements dialect.Reader.
func (Reader) Claims(apiVersion, kind string) bool {
	g := dialect.Group(apiVersion)
	return g == group || g == groupX || apiVersion == "v1" && seen[kind]
}

// versions of the kinds that are read; their Go types are those of v1.
var versions = map[string][]string{
	"GatewayClass": {"v1", "v1beta1"}, "Gateway": {"v1", "v1beta1"}, "HTTPRoute": {"v1", "v1beta1"},
	"GRPCRoute": {"v1", "v1alpha2"}, "TLSRoute": {"v1", "v1alpha3", "v1alpha2"}, "TCPRoute": {"v1", "v1alpha2"},
	"ReferenceGrant": {"v1", "v1beta1", "v1alpha2"}, "BackendTLSPolicy": {"v1", "v1alpha3"},
	"ListenerSet": {"v1"}, "XListenerSet": {"v1alpha1"},
}

// world is all that one call of Read sees.
type world struct {
	domain     string
	services   map[model.Ref]*corev1.Service
	namespaces map[string]map[string]string
	secrets    map[model.Ref]*corev1.Secret
	maps       map[model.Ref]*corev1.ConfigMap
	grants     []grant
	classes    map[string]string // controller by name
	gateways   map[model.Ref]*gateway
	sets       map[model.Ref]*listenerSet
	order      []*gateway
	routes     []*route
	policies   []*policy
	mesh       map[meshKey]*meshHost
	out        model.Fragment
}

// Read implements dialect.Reader.
func (k Reader) Read(objects []*source.Object) (model.Fragment, []model.Notice) {
	if !slices.ContainsFunc(objects, func(o *source.Object) bool { return dialect.Group(o.APIVersion) != "" }) {
		return model.Fragment{}, nil // nothing refers to what else there is
	}
	w := &world{
		domain: cmp.Or(k.Domain, "cluster.local"), services: map[model.Ref]*corev1.Service{},
		namespaces: map[string]map[string]string{}, secrets: map[model.Ref]*corev1.Secret{}, maps: map[model.Ref]*corev1.ConfigMap{},
		classes: map[string]string{}, gateways: map[model.Ref]*gateway{}, sets: map[model.Ref]*listenerSet{}, mesh: map[meshKey]*meshHost{},
	}
	var reports []*dialect.Report
	for _, o := range objects {
		if dialect.Group(o.APIVersion) == "" {
			w.look(o)
			continue
		}
		r := &dialect.Report{Object: o}
		w.object(r)
		reports = append(reports, r)
	}
	w.open()
	slices.SortStableFunc(w.routes, func(a, b *route) int { return byAge(a.Object, b.Object) })
	for i, r := range w.routes {
		r.rank = i
		w.attach(r)
	}
	w.settlePolicies()
	w.emit()
	var notices []model.Notice
	for _, r := range reports {
		notices = append(notices, r.Notices...)
	}
	return w.out, notices
}

// byAge is the order in which objects win: creation time, namespace, name.
func byAge(a, b *source.Object) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// look takes what references may lead to. What is wrong with it its own reader
// tells.
func (w *world) look(o *source.Object) {
	ref := model.Ref{Namespace: o.Namespace, Name: o.Name}
	take := func(into any) bool { return json.Unmarshal(o.JSON, into) == nil }
	switch o.Kind {
	case "Namespace":
		w.namespaces[o.Name] = o.Labels
	case "Service":
		if s := new(corev1.Service); take(s) {
			w.services[ref] = s
		}
	case "Secret":
		if s := new(corev1.Secret); take(s) {
			for k, v := range s.StringData {
				if s.Data == nil {
					s.Data = map[string][]byte{}
				}
				s.Data[k] = []byte(v)
			}
			w.secrets[ref] = s
		}
	case "ConfigMap":
		if c := new(corev1.ConfigMap); take(c) {
			w.maps[ref] = c
		}
	}
}

// labels of a namespace, with the one that every namespace of a cluster has.
func (w *world) labels(ns string) map[string]string {
	out := map[string]string{"kubernetes.io/metadata.name": ns}
	for k, v := range w.namespaces[ns] {
		out[k] = v
	}
	return out
}

func (w *world) object(r *dialect.Report) {
	o := r.Object
	served, ok := versions[o.Kind]
	if !ok {
		r.Add(model.Warning, model.UnknownKind, "", "nothing reads %s %s: ignored", o.APIVersion, o.Kind)
		return
	}
	if !slices.Contains(served, dialect.Version(o.APIVersion)) {
		r.Add(model.Error, model.UnknownKind, "apiVersion", "%s %s is not a version that is served; use %s/%s",
			o.APIVersion, o.Kind, dialect.Group(o.APIVersion), served[0])
		return
	}
	switch o.Kind {
	case "GatewayClass":
		var c v1.GatewayClass
		if dialect.Decode(r, &c) {
			w.class(r, &c)
		}
	case "Gateway":
		var g v1.Gateway
		if dialect.Decode(r, &g) {
			w.gateway(r, &g)
		}
	case "ListenerSet", "XListenerSet":
		var s v1.ListenerSet
		if dialect.Decode(r, &s) {
			w.sets[model.Ref{Namespace: o.Namespace, Name: o.Name}] = &listenerSet{Report: r, spec: s.Spec}
		}
	case "HTTPRoute":
		var x v1.HTTPRoute
		if dialect.Decode(r, &x) {
			w.httpRoute(r, &x)
		}
	case "GRPCRoute":
		var x v1.GRPCRoute
		if dialect.Decode(r, &x) {
			w.grpcRoute(r, &x)
		}
	case "TLSRoute":
		var x v1.TLSRoute
		if dialect.Decode(r, &x) {
			rt := w.route(r, x.Spec.CommonRouteSpec, x.Spec.Hostnames)
			for i, rule := range x.Spec.Rules {
				rt.l4 = append(rt.l4, l4Rule{path: at("spec.rules", i), refs: rule.BackendRefs})
			}
		}
	case "TCPRoute":
		var x v1.TCPRoute
		if dialect.Decode(r, &x) {
			rt := w.route(r, x.Spec.CommonRouteSpec, nil)
			for i, rule := range x.Spec.Rules {
				rt.l4 = append(rt.l4, l4Rule{path: at("spec.rules", i), refs: rule.BackendRefs})
			}
		}
	case "ReferenceGrant":
		var g v1.ReferenceGrant
		if dialect.Decode(r, &g) {
			w.grants = append(w.grants, grant{o.Namespace, g.Spec})
		}
	case "BackendTLSPolicy":
		var p v1.BackendTLSPolicy
		if dialect.Decode(r, &p) {
			w.policies = append(w.policies, &policy{Report: r, spec: p.Spec})
		}
	}
}

func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// grant allows references into its namespace.
type grant struct {
	namespace string
	spec      v1.ReferenceGrantSpec
}

// granted reports whether an object may refer to another one. Within a
// namespace it always may.
func (w *world) granted(fromGroup, fromKind, fromNS, toGroup, toKind string, to model.Ref) bool {
	if fromNS == to.Namespace {
		return true
	}
	for _, g := range w.grants {
		if g.namespace != to.Namespace {
			continue
		}
		from := slices.ContainsFunc(g.spec.From, func(f v1.ReferenceGrantFrom) bool {
			return string(f.Group) == fromGroup && string(f.Kind) == fromKind && string(f.Namespace) == fromNS
		})
		if from && slices.ContainsFunc(g.spec.To, func(t v1.ReferenceGrantTo) bool {
			return string(t.Group) == toGroup && string(t.Kind) == toKind && (t.Name == nil || *t.Name == "" || string(*t.Name) == to.Name)
		}) {
			return true
		}
	}
	return false
}

// or is what a pointer of the API points at, or its default.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// fqdn of a Service.
func (w *world) fqdn(s model.Ref) string { return s.Name + "." + s.Namespace + ".svc." + w.domain }

// under reports whether every name that b stands for is one of a's.
func under(a, b string) bool {
	if a == "*" || a == b {
		return true
	}
	return strings.HasPrefix(a, "*") && len(b) >= len(a) && strings.HasSuffix(strings.TrimPrefix(b, "*"), a[1:])
}

// overlap is the narrower of two host names when one covers the other, else "".
func overlap(a, b string) string {
	switch {
	case under(a, b):
		return b
	case under(b, a):
		return a
	}
	return ""
}

func is(kind, reason, format string, args ...any) model.Condition {
	return model.Condition{Type: kind, Holds: true, Reason: reason, Text: fmt.Sprintf(format, args...)}
}

func isNot(kind, reason, format string, args ...any) model.Condition {
	c := is(kind, reason, format, args...)
	c.Holds = false
	return c
}

// problem is why a condition does not hold; the zero value: it does.
type problem struct{ reason, text string }

// set keeps the first problem.
func (p *problem) set(reason, format string, args ...any) {
	if p.reason == "" {
		*p = problem{reason, fmt.Sprintf(format, args...)}
	}
}

// condition of a type that is as well its reason when it holds.
func (p problem) condition(kind string) model.Condition {
	if p.reason == "" {
		return is(kind, kind, "")
	}
	return isNot(kind, p.reason, "%s", p.text)
}
