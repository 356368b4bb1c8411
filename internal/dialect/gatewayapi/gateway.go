package gatewayapi

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"math"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

// gateway is a Gateway of a class of ours.
type gateway struct {
	*dialect.Report
	spec      v1.GatewaySpec
	ref       model.Ref
	listeners []*listener
	params    problem
}

// listenerSet adds listeners to a Gateway.
type listenerSet struct {
	*dialect.Report
	spec      v1.ListenerSetSpec
	gateway   *gateway // nil: none took it
	listeners []*listener
}

// listener of a Gateway or of a ListenerSet.
type listener struct {
	*dialect.Report // of its owner
	gateway         *gateway
	set             *listenerSet // nil: the Gateway's own
	spec            v1.Listener
	path            string
	name            string // of the server
	host            string // "*": every
	kinds           []string
	attached        int
	accepted        problem
	conflict        problem
	refs            problem
	broken          bool // accepted, and cannot serve
	tls             *model.ServerTLS
	hosts           map[string][]httpRule
	l4              []l4Attached
}

// class notes who a GatewayClass belongs to.
func (w *world) class(r *dialect.Report, c *v1.GatewayClass) {
	w.classes[c.Name] = string(c.Spec.ControllerName)
	if c.Spec.ControllerName != Controller {
		return
	}
	w.out.Statuses = append(w.out.Statuses, &model.Status{APIVersion: r.Object.APIVersion, Origin: r.Object.Origin(""),
		Conditions: []model.Condition{is("Accepted", "Accepted", "")}})
}

// ours reports whether a class is: by its object, or without one by its name.
func (w *world) ours(class string) bool {
	if c, ok := w.classes[class]; ok {
		return c == Controller
	}
	return class == "tulle" || class == "istio"
}

func (w *world) gateway(r *dialect.Report, g *v1.Gateway) {
	x := &gateway{Report: r, spec: g.Spec, ref: model.Ref{Namespace: r.Object.Namespace, Name: r.Object.Name}}
	w.gateways[x.ref] = x
	w.order = append(w.order, x)
}

// open settles the listeners of all Gateways, before routes come.
func (w *world) open() {
	w.order = slices.DeleteFunc(w.order, func(g *gateway) bool {
		if w.ours(string(g.spec.GatewayClassName)) {
			return false
		}
		if _, ok := w.classes[string(g.spec.GatewayClassName)]; !ok {
			g.Add(model.Warning, model.NotFound, "spec.gatewayClassName", "GatewayClass %s is not there (tulle and istio need none): ignored", g.spec.GatewayClassName)
		}
		delete(w.gateways, g.ref)
		return true
	})
	slices.SortStableFunc(w.order, func(a, b *gateway) int { return byAge(a.Object, b.Object) })
	for _, g := range w.order {
		for i, l := range g.spec.Listeners {
			g.listeners = append(g.listeners, &listener{Report: g.Report, gateway: g, spec: l, path: at("spec.listeners", i), name: string(l.Name)})
		}
		w.parameters(g)
		if b := g.spec.TLS; b != nil && b.Backend != nil && b.Backend.ClientCertificateRef != nil {
			g.Unsupported("spec.tls.backend.clientCertificateRef", "no certificate is shown to backends yet")
		}
		if len(g.spec.Addresses) > 0 {
			g.Unsupported("spec.addresses", "addresses are not chosen yet: the gateway gets those of its Service")
		}
	}
	sets := slices.Collect(maps.Values(w.sets))
	slices.SortFunc(sets, func(a, b *listenerSet) int { return byAge(a.Object, b.Object) })
	for _, s := range sets {
		w.join(s)
	}
	for _, g := range w.order {
		for i, l := range g.listeners {
			w.listener(l)
			l.conflicts(g.listeners[:i])
		}
	}
}

// parameters of a Gateway's Deployment are in a ConfigMap beside it.
func (w *world) parameters(g *gateway) {
	if g.spec.Infrastructure == nil || g.spec.Infrastructure.ParametersRef == nil {
		return
	}
	p := g.spec.Infrastructure.ParametersRef
	switch {
	case p.Group != "" || p.Kind != "ConfigMap":
		g.params.set("InvalidParameters", "%s %s is no ConfigMap", p.Kind, p.Name)
	case w.maps[model.Ref{Namespace: g.ref.Namespace, Name: p.Name}] == nil:
		g.params.set("InvalidParameters", "ConfigMap %s/%s is not there", g.ref.Namespace, p.Name)
	default:
		return
	}
	g.Add(model.Error, model.NotFound, "spec.infrastructure.parametersRef", "%s", g.params.text)
}

// join adds a ListenerSet to its Gateway, if that allows it.
func (w *world) join(s *listenerSet) {
	p := s.spec.ParentRef
	ns := s.Object.Namespace
	g := w.gateways[model.Ref{Namespace: string(or(p.Namespace, v1.Namespace(ns))), Name: string(p.Name)}]
	if string(or(p.Group, group)) != group || or(p.Kind, "Gateway") != "Gateway" || g == nil {
		s.Add(model.Warning, model.NotFound, "spec.parentRef", "there is no Gateway %s of a class of ours: ignored", p.Name)
		return
	}
	s.gateway = g
	from, sel := v1.NamespacesFromNone, (*metav1.LabelSelector)(nil)
	if a := g.spec.AllowedListeners; a != nil && a.Namespaces != nil {
		from, sel = or(a.Namespaces.From, v1.NamespacesFromNone), a.Namespaces.Selector
	}
	if !w.allows(from, sel, g.ref.Namespace, ns) {
		text := "the Gateway's allowedListeners do not let this namespace in"
		s.Add(model.Error, model.Invalid, "spec.parentRef", "%s", text)
		w.out.Statuses = append(w.out.Statuses, &model.Status{APIVersion: s.Object.APIVersion, Origin: s.Object.Origin(""), Conditions: []model.Condition{
			isNot("Accepted", "NotAllowed", "%s", text), isNot("Programmed", "NotAllowed", "%s", text)}})
		return
	}
	for i, e := range s.spec.Listeners {
		l := &listener{Report: s.Report, gateway: g, set: s, path: at("spec.listeners", i), name: string(e.Name) + "~" + s.Object.Name + "~" + ns, spec: v1.Listener(e)}
		s.listeners = append(s.listeners, l)
		g.listeners = append(g.listeners, l)
	}
}

// allows reports whether objects of a namespace may attach.
func (w *world) allows(from v1.FromNamespaces, sel *metav1.LabelSelector, own, other string) bool {
	switch from {
	case v1.NamespacesFromAll:
		return true
	case v1.NamespacesFromSame:
		return own == other
	case v1.NamespacesFromSelector:
		s, err := metav1.LabelSelectorAsSelector(sel)
		return err == nil && s.Matches(labels.Set(w.labels(other)))
	}
	return false
}

// kindsOf lists the routes that a protocol carries.
var kindsOf = map[v1.ProtocolType][]string{
	v1.HTTPProtocolType: {"HTTPRoute", "GRPCRoute"}, v1.HTTPSProtocolType: {"HTTPRoute", "GRPCRoute"},
	v1.TLSProtocolType: {"TLSRoute"}, v1.TCPProtocolType: {"TCPRoute"},
}

// listener settles what one listener is by itself.
func (w *world) listener(l *listener) {
	l.host, l.hosts = cmp.Or(strings.ToLower(string(or(l.spec.Hostname, ""))), "*"), map[string][]httpRule{}
	kinds, ok := kindsOf[l.spec.Protocol]
	if !ok {
		l.accepted.set("UnsupportedProtocol", "protocol %s is not one of HTTP, HTTPS, TLS, TCP", l.spec.Protocol)
		l.Unsupported(l.path+".protocol", "%s", l.accepted.text)
		return
	}
	if l.spec.Protocol == v1.TLSProtocolType && l.mode() == v1.TLSModeTerminate {
		kinds = []string{"TLSRoute", "TCPRoute"}
	}
	if l.spec.Port < 1 || l.spec.Port > math.MaxUint16 {
		l.accepted.set("PortUnavailable", "port %d is not within 1 and 65535", l.spec.Port)
		l.Invalid(l.path+".port", "%s", l.accepted.text)
	}
	l.kinds = kinds
	if a := l.spec.AllowedRoutes; a != nil && len(a.Kinds) > 0 {
		l.kinds = nil
		for i, k := range a.Kinds {
			if string(or(k.Group, group)) == group && slices.Contains(kinds, string(k.Kind)) {
				l.kinds = append(l.kinds, string(k.Kind))
				continue
			}
			l.refs.set("InvalidRouteKinds", "%s cannot be attached to a listener of protocol %s", k.Kind, l.spec.Protocol)
			l.Invalid(at(l.path+".allowedRoutes.kinds", i), "%s", l.refs.text)
		}
		l.broken = l.broken || len(l.kinds) == 0
	}
	if l.spec.Protocol == v1.HTTPSProtocolType || l.spec.Protocol == v1.TLSProtocolType {
		w.certificates(l)
	}
}

func (l *listener) mode() v1.TLSModeType {
	if l.spec.TLS == nil {
		return v1.TLSModeTerminate
	}
	return or(l.spec.TLS.Mode, v1.TLSModeTerminate)
}

// certificates follows the references of a listener that opens TLS.
func (w *world) certificates(l *listener) {
	path := l.path + ".tls"
	l.tls = &model.ServerTLS{Mode: model.ServerPassthrough, Origin: l.Object.Origin(path)}
	if l.mode() == v1.TLSModePassthrough {
		if l.spec.Protocol == v1.HTTPSProtocolType {
			l.accepted.set("UnsupportedValue", "protocol HTTPS opens TLS; mode Passthrough needs protocol TLS")
			l.Invalid(path+".mode", "%s", l.accepted.text)
		}
		return
	}
	l.tls.Mode = model.ServerSimple
	var refs []v1.SecretObjectReference
	if l.spec.TLS != nil {
		refs = l.spec.TLS.CertificateRefs
	}
	if len(refs) == 0 {
		l.refs.set("InvalidCertificateRef", "certificateRefs is missing")
		l.Invalid(path, "certificateRefs is missing")
	}
	for i, c := range refs {
		ref := model.Ref{Namespace: string(or(c.Namespace, v1.Namespace(l.Object.Namespace))), Name: string(c.Name)}
		p := w.certificate(l, c, ref)
		if p.reason == "" {
			l.tls.Granted = append(l.tls.Granted, ref)
			continue
		}
		l.refs.set(p.reason, "%s", p.text)
		l.Add(model.Error, model.NotFound, at(path+".certificateRefs", i), "%s", p.text)
	}
	l.broken = l.broken || len(l.tls.Granted) == 0
	w.frontend(l)
}

func (w *world) certificate(l *listener, c v1.SecretObjectReference, ref model.Ref) (p problem) {
	const bad = "InvalidCertificateRef"
	kind := "Gateway"
	if l.set != nil {
		kind = "ListenerSet"
	}
	s := w.secrets[ref]
	switch {
	case or(c.Group, "") != "" || or(c.Kind, "Secret") != "Secret":
		p.set(bad, "%s %s is no Secret", or(c.Kind, "Secret"), ref.Name)
	case !w.granted(group, kind, l.Object.Namespace, "", "Secret", ref):
		p.set("RefNotPermitted", "no ReferenceGrant of namespace %s lets a %s of namespace %s use Secret %s", ref.Namespace, kind, l.Object.Namespace, ref.Name)
	case s == nil:
		p.set(bad, "Secret %s/%s is not there", ref.Namespace, ref.Name)
	default:
		if _, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"]); err != nil {
			p.set(bad, "Secret %s/%s has no usable tls.crt and tls.key: %s", ref.Namespace, ref.Name, strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	return p
}

// insecureFrontend reports whether a Gateway lets clients in whose certificate
// it cannot validate.
func (g *gateway) insecureFrontend() bool {
	if g.spec.TLS == nil || g.spec.TLS.Frontend == nil {
		return false
	}
	insecure := func(v *v1.FrontendTLSValidation) bool { return v != nil && v.Mode == v1.AllowInsecureFallback }
	f := g.spec.TLS.Frontend
	return insecure(f.Default.Validation) || slices.ContainsFunc(f.PerPort, func(p v1.TLSPortConfig) bool { return insecure(p.TLS.Validation) })
}

// frontend adds the check of client certificates that the Gateway asks for.
func (w *world) frontend(l *listener) {
	if l.gateway.spec.TLS == nil || l.gateway.spec.TLS.Frontend == nil || l.spec.Protocol != v1.HTTPSProtocolType {
		return
	}
	f := l.gateway.spec.TLS.Frontend
	v, path := f.Default.Validation, "spec.tls.frontend.default.validation"
	for i, p := range f.PerPort {
		if p.Port == l.spec.Port {
			v, path = p.TLS.Validation, at("spec.tls.frontend.perPort", i)+".tls.validation"
		}
	}
	if v == nil {
		return
	}
	l.tls.Mode = model.ServerMutual
	if v.Mode == v1.AllowInsecureFallback {
		l.tls.Mode, l.tls.InsecureSkip = model.ServerOptionalMutual, true
	}
	var bad problem
	for _, c := range v.CACertificateRefs {
		ref := model.Ref{Namespace: string(or(c.Namespace, v1.Namespace(l.gateway.ref.Namespace))), Name: string(c.Name)}
		ca, p := w.bundle(string(c.Group), string(c.Kind), ref)
		if p.reason == "" && !w.granted(group, "Gateway", l.gateway.ref.Namespace, "", string(c.Kind), ref) {
			p.set("RefNotPermitted", "no ReferenceGrant of namespace %s lets this Gateway use %s %s", ref.Namespace, c.Kind, ref.Name)
		}
		if p.reason != "" {
			bad.set(p.reason, "%s", p.text)
			continue
		}
		l.tls.CA += ca
	}
	if bad.reason != "" {
		l.refs.set(bad.reason, "%s", bad.text)
		l.gateway.Add(model.Error, model.NotFound, path, "%s", bad.text)
	}
	if l.tls.CA == "" {
		l.accepted.set("NoValidCACertificate", "no CA certificate checks clients: not served")
	}
}

// bundle is the CA certificates of a ConfigMap or Secret.
func (w *world) bundle(g, kind string, ref model.Ref) (ca string, p problem) {
	switch {
	case g != "" || kind != "ConfigMap" && kind != "Secret":
		p.set("InvalidCACertificateKind", "%s %s is neither ConfigMap nor Secret", kind, ref.Name)
		return "", p
	case kind == "ConfigMap" && w.maps[ref] != nil:
		ca = w.maps[ref].Data["ca.crt"]
	case kind == "Secret" && w.secrets[ref] != nil:
		ca = string(w.secrets[ref].Data["ca.crt"])
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
		p.set("InvalidCACertificateRef", "%s %s/%s with CA certificates in ca.crt is not there", kind, ref.Namespace, ref.Name)
		return "", p
	}
	return ca, p
}

// conflicts gives way to earlier listeners of the Gateway: on one port are
// either plain HTTP listeners, or those of TLS, with different hosts, or TCP.
func (l *listener) conflicts(earlier []*listener) {
	family := func(p v1.ProtocolType) string {
		if p == v1.HTTPSProtocolType {
			return string(v1.TLSProtocolType)
		}
		return string(p)
	}
	for _, o := range earlier {
		if o.spec.Port != l.spec.Port || !o.serves() && o.conflict.reason != "" {
			continue
		}
		switch mine, theirs := family(l.spec.Protocol), family(o.spec.Protocol); {
		case mine != theirs || mine == string(v1.TCPProtocolType):
			l.conflict.set("ProtocolConflict", "listener %s has port %d for %s", o.spec.Name, o.spec.Port, o.spec.Protocol)
		case l.host == o.host:
			l.conflict.set("HostnameConflict", "listener %s has host %s on port %d", o.spec.Name, o.host, o.spec.Port)
		}
	}
	if l.conflict.reason != "" {
		l.accepted.set(l.conflict.reason, "%s", l.conflict.text)
		l.Add(model.Error, model.Conflict, l.path, "not served: %s", l.conflict.text)
	}
}

// serves reports whether the listener can take connections.
func (l *listener) serves() bool { return l.accepted.reason == "" && !l.broken }

var protocols = map[v1.ProtocolType]model.Protocol{
	v1.HTTPProtocolType: model.HTTP, v1.HTTPSProtocolType: model.HTTPS, v1.TLSProtocolType: model.TLS, v1.TCPProtocolType: model.TCP,
}

// server of the model.
func (l *listener) server() model.Server {
	return model.Server{
		Name: l.name, Hosts: []string{l.host}, TLS: l.tls, Origin: l.Object.Origin(l.path),
		Port: model.Port{Number: uint16(l.spec.Port), Name: l.name, Protocol: protocols[l.spec.Protocol]},
	}
}
