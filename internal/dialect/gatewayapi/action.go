package gatewayapi

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/model"
)

// refuse is what happens to requests that no backend may have.
func refuse(r *model.HTTPRule) {
	*r = model.HTTPRule{Name: r.Name, Origin: r.Origin, Direct: &model.DirectResponse{Status: 500}}
}

// settle makes the action of a rule: its filters, then its backends.
func (w *world) settle(r *route, x *httpRule) {
	if !w.filters(r, x) {
		refuse(&x.rule)
		return
	}
	if x.rule.Redirect != nil {
		return
	}
	var refs []v1.BackendRef
	for _, b := range x.refs {
		refs = append(refs, b.BackendRef)
	}
	list := w.backends(r, x.path+".backendRefs", refs)
	valid := false
	for i, b := range list {
		if !b.Invalid {
			valid = true
			list[i].Headers = w.backendFilters(r, at(x.path+".backendRefs", i), x.refs[i].Filters)
		}
	}
	x.rule.Backends = slices.DeleteFunc(list, func(b model.Backend) bool { return b.Weight == 0 })
	if !valid || len(x.rule.Backends) == 0 {
		refuse(&x.rule)
	}
}

// backends resolves references, in their order.
func (w *world) backends(r *route, path string, refs []v1.BackendRef) []model.Backend {
	var out []model.Backend
	for i, b := range refs {
		m, p := w.backend(r, b.BackendObjectReference)
		m.Weight, m.Origin = uint32(max(or(b.Weight, 1), 0)), r.Object.Origin(at(path, i))
		if p.reason != "" {
			m.Invalid = true
			if r.refs.reason == "" || !slices.ContainsFunc(r.Notices, func(n model.Notice) bool { return n.Origin.Field == at(path, i) }) {
				r.Add(model.Error, model.NotFound, at(path, i), "%s: its requests are answered with 500", p.text)
			}
			r.refs.set(p.reason, "%s", p.text)
		}
		out = append(out, m)
	}
	return out
}

// backend resolves one reference.
func (w *world) backend(r *route, b v1.BackendObjectReference) (out model.Backend, p problem) {
	ref := model.Ref{Namespace: string(or(b.Namespace, v1.Namespace(r.Object.Namespace))), Name: string(b.Name)}
	g, kind := string(or(b.Group, "")), string(or(b.Kind, "Service"))
	out.Host, out.Port = w.fqdn(ref), uint16(or(b.Port, 0))
	if g == "networking.istio.io" && kind == "Hostname" { // Istio's word for any host that the mesh knows
		out.Host = strings.ToLower(ref.Name)
		return out, p
	}
	if g != "" || kind != "Service" {
		p.set("InvalidKind", "%s %s is no Service", kind, ref.Name)
		return out, p
	}
	s := w.services[ref]
	switch {
	case !r.inMesh() && !w.granted(group, r.Object.Kind, r.Object.Namespace, "", "Service", ref):
		p.set("RefNotPermitted", "no ReferenceGrant of namespace %s lets %s of namespace %s use Service %s", ref.Namespace, r.Object.Kind, r.Object.Namespace, ref.Name)
	case s == nil:
		p.set("BackendNotFound", "Service %s/%s is not there", ref.Namespace, ref.Name)
	case out.Port == 0:
		p.set("BackendNotFound", "the port of Service %s/%s is missing", ref.Namespace, ref.Name)
	case !hasPort(s, int32(out.Port)):
		p.set("BackendNotFound", "Service %s/%s has no port %d", ref.Namespace, ref.Name, out.Port)
	default:
		r.used = append(r.used, ref)
	}
	return out, p
}

func hasPort(s *corev1.Service, port int32) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
}

// filters of a rule; false: one is not supported, and requests get 500.
func (w *world) filters(r *route, x *httpRule) bool {
	ok := true
	for i, f := range x.filters {
		path := at(x.path+".filters", i)
		switch {
		case f.RequestHeaderModifier != nil:
			edit(&headers(&x.rule).Request, f.RequestHeaderModifier)
		case f.ResponseHeaderModifier != nil:
			edit(&headers(&x.rule).Response, f.ResponseHeaderModifier)
		case f.RequestRedirect != nil:
			x.rule.Redirect = redirect(f.RequestRedirect, &x.match)
		case f.URLRewrite != nil:
			x.rule.Rewrite = rewrite(f.URLRewrite, &x.match)
		case f.RequestMirror != nil:
			w.mirror(r, x, path, f.RequestMirror)
		case f.CORS != nil:
			x.rule.CORS = cors(f.CORS)
		default:
			ok = false
			r.unsupported(path, string(f.Type))
		}
	}
	if x.rule.Redirect != nil && x.rule.Rewrite != nil {
		r.value.set("IncompatibleFilters", "RequestRedirect and URLRewrite exclude each other")
		r.Invalid(x.path+".filters", "RequestRedirect and URLRewrite exclude each other")
	}
	return ok
}

// unsupported tells of a filter: of the route when it has no other rule.
func (r *route) unsupported(path, kind string) {
	r.Unsupported(path, "filter %s is not supported: requests of the rule are answered with 500", kind)
	if slices.ContainsFunc(r.http, func(x httpRule) bool { return x.index != r.http[0].index }) {
		r.partly.set("UnsupportedValue", "%s: filter %s is not supported", path, kind)
		return
	}
	r.value.set("UnsupportedValue", "%s: filter %s is not supported", path, kind)
}

func headers(r *model.HTTPRule) *model.HeaderOps {
	if r.Headers == nil {
		r.Headers = &model.HeaderOps{}
	}
	return r.Headers
}

func edit(e *model.HeaderEdit, f *v1.HTTPHeaderFilter) {
	list := func(to []model.Header, from []v1.HTTPHeader) []model.Header {
		for _, h := range from {
			to = append(to, model.Header{Name: strings.ToLower(string(h.Name)), Value: h.Value})
		}
		slices.SortStableFunc(to, func(a, b model.Header) int { return cmp.Compare(a.Name, b.Name) })
		return to
	}
	e.Set, e.Add = list(e.Set, f.Set), list(e.Add, f.Add)
	for _, n := range f.Remove {
		e.Remove = append(e.Remove, strings.ToLower(n))
	}
	slices.Sort(e.Remove)
}

// backendFilters of one destination: headers only.
func (w *world) backendFilters(r *route, path string, list []v1.HTTPRouteFilter) *model.HeaderOps {
	var rule model.HTTPRule
	for i, f := range list {
		switch {
		case f.RequestHeaderModifier != nil:
			edit(&headers(&rule).Request, f.RequestHeaderModifier)
		case f.ResponseHeaderModifier != nil:
			edit(&headers(&rule).Response, f.ResponseHeaderModifier)
		default:
			p := at(path+".filters", i)
			r.Unsupported(p, "filter %s of a single backend is not supported", f.Type)
			r.partly.set("UnsupportedValue", "%s: filter %s of a single backend is not supported", p, f.Type)
		}
	}
	return rule.Headers
}

// replacement of a matched prefix: it ends without a slash, but for that of the
// prefix "/", whose slash it replaces.
func replacement(value string, m *model.HTTPMatch) string {
	v := strings.TrimRight(value, "/")
	if v == "" || m.Path.Kind == model.PathPrefix && m.Path.Value == "/" {
		return v + "/"
	}
	return v
}

func redirect(f *v1.HTTPRequestRedirectFilter, m *model.HTTPMatch) *model.Redirect {
	out := &model.Redirect{
		Authority: string(or(f.Hostname, "")), Scheme: or(f.Scheme, ""), Port: uint16(or(f.Port, 0)), Code: or(f.StatusCode, 302),
	}
	out.FromRequestPort = f.Port == nil && f.Scheme == nil
	if p := f.Path; p != nil {
		switch {
		case p.Type == v1.FullPathHTTPPathModifier:
			out.Path = cmp.Or(or(p.ReplaceFullPath, ""), "/")
		default:
			out.PathPrefix = replacement(or(p.ReplacePrefixMatch, ""), m)
		}
	}
	return out
}

func rewrite(f *v1.HTTPURLRewriteFilter, m *model.HTTPMatch) *model.Rewrite {
	out := &model.Rewrite{Authority: string(or(f.Hostname, ""))}
	if p := f.Path; p != nil {
		switch {
		case p.Type != v1.FullPathHTTPPathModifier:
			out.Path = replacement(or(p.ReplacePrefixMatch, ""), m)
		case m.Path.Kind == model.Exact:
			out.Path = cmp.Or(or(p.ReplaceFullPath, ""), "/")
		default: // the whole path, whatever of it matched
			out.Regex, out.Replace = "/.*", strings.ReplaceAll(cmp.Or(or(p.ReplaceFullPath, ""), "/"), `\`, `\\`)
		}
	}
	return out
}

func (w *world) mirror(r *route, x *httpRule, path string, f *v1.HTTPRequestMirrorFilter) {
	b, p := w.backend(r, f.BackendRef)
	if p.reason != "" {
		r.Add(model.Error, model.NotFound, path+".requestMirror.backendRef", "%s: nothing is mirrored", p.text)
		r.refs.set(p.reason, "%s", p.text)
		return
	}
	percent := 100.0
	switch {
	case f.Percent != nil:
		percent = float64(*f.Percent)
	case f.Fraction != nil:
		percent = 100 * float64(f.Fraction.Numerator) / float64(max(or(f.Fraction.Denominator, 100), 1))
	}
	b.Origin = r.Object.Origin(path)
	if percent > 0 {
		x.rule.Mirrors = append(x.rule.Mirrors, model.Mirror{Backend: b, Percent: math.Min(percent, 100)})
	}
}

// cors answers preflights; those of unknown origins end here too, without a word
// that would allow them.
func cors(f *v1.HTTPCORSFilter) *model.CORS {
	age := 5 * time.Second
	if f.MaxAge > 0 {
		age = time.Duration(f.MaxAge) * time.Second
	}
	out := &model.CORS{MaxAge: &age, AllowCredentials: f.AllowCredentials, IgnoreUnmatched: true}
	for _, o := range f.AllowOrigins {
		m := model.StringMatch{Kind: model.Exact, Value: string(o)}
		if strings.Contains(m.Value, "*") {
			m = model.StringMatch{Kind: model.Regex, Value: strings.ReplaceAll(regexp.QuoteMeta(m.Value), `\*`, ".*")}
		}
		out.AllowOrigins = append(out.AllowOrigins, m)
	}
	for _, x := range f.AllowMethods {
		out.AllowMethods = append(out.AllowMethods, string(x))
	}
	for _, x := range f.AllowHeaders {
		out.AllowHeaders = append(out.AllowHeaders, string(x))
	}
	for _, x := range f.ExposeHeaders {
		out.ExposeHeaders = append(out.ExposeHeaders, string(x))
	}
	return out
}
