package gatewayapi

import (
	"cmp"
	"regexp"
	"strings"
	"time"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

// httpRule is one match of a rule, with what happens to it.
type httpRule struct {
	route   *route
	index   int // of the rule, then of the match
	sub     int
	match   model.HTTPMatch
	rule    model.HTTPRule
	filters []v1.HTTPRouteFilter
	refs    []v1.HTTPBackendRef
	path    string
}

func (w *world) httpRoute(r *dialect.Report, x *v1.HTTPRoute) {
	rt := w.route(r, x.Spec.CommonRouteSpec, x.Spec.Hostnames)
	for i, rule := range x.Spec.Rules {
		path := at("spec.rules", i)
		out := httpRule{route: rt, index: i, filters: rule.Filters, refs: rule.BackendRefs, path: path}
		out.rule = model.HTTPRule{Name: string(or(rule.Name, "")), Origin: r.Object.Origin(path)}
		rt.times(&out.rule, path, rule.Timeouts, rule.Retry)
		if rule.SessionPersistence != nil {
			r.Unsupported(path+".sessionPersistence", "session persistence is not kept yet")
		}
		matches := rule.Matches
		if len(matches) == 0 {
			matches = []v1.HTTPRouteMatch{{}}
		}
		for j, m := range matches {
			out.sub, out.match = j, rt.httpMatch(at(path+".matches", j), m)
			rt.http = append(rt.http, out)
		}
	}
}

// regex is an expression that the API gave; one that is none makes the route
// unsupported.
func (r *route) regex(path, text string) string {
	if _, err := regexp.Compile(text); err != nil {
		r.value.set("UnsupportedValue", "%s: %q is not a regular expression", path, text)
		r.Invalid(path, "%q is not a regular expression: %v", text, err)
	}
	return text
}

func (r *route) httpMatch(path string, m v1.HTTPRouteMatch) model.HTTPMatch {
	out := model.HTTPMatch{Origin: r.Object.Origin(path), Path: &model.StringMatch{Kind: model.PathPrefix, Value: "/"}}
	if p := m.Path; p != nil {
		v := or(p.Value, "/")
		switch or(p.Type, v1.PathMatchPathPrefix) {
		case v1.PathMatchExact:
			out.Path = &model.StringMatch{Kind: model.Exact, Value: v}
		case v1.PathMatchRegularExpression:
			out.Path = &model.StringMatch{Kind: model.Regex, Value: r.regex(path+".path.value", v)}
		default:
			if v != "/" {
				v = strings.TrimRight(v, "/")
			}
			out.Path = &model.StringMatch{Kind: model.PathPrefix, Value: cmp.Or(v, "/")}
		}
		if !strings.HasPrefix(v, "/") && out.Path.Kind != model.Regex {
			r.value.set("UnsupportedValue", "%s.path.value does not begin with /", path)
			r.Invalid(path+".path.value", "does not begin with /")
		}
	}
	if m.Method != nil {
		out.Method = &model.StringMatch{Kind: model.Exact, Value: string(*m.Method)}
	}
	for i, h := range m.Headers {
		out.Headers = r.named(out.Headers, at(path+".headers", i), strings.ToLower(string(h.Name)), h.Value, or(h.Type, v1.HeaderMatchExact) == v1.HeaderMatchRegularExpression)
	}
	for i, q := range m.QueryParams {
		out.Query = r.named(out.Query, at(path+".queryParams", i), string(q.Name), q.Value, or(q.Type, v1.QueryParamMatchExact) == v1.QueryParamMatchRegularExpression)
	}
	return out
}

// named adds a match on a name; of one name the first counts.
func (r *route) named(list []model.NamedMatch, path, name, value string, regex bool) []model.NamedMatch {
	for _, o := range list {
		if o.Name == name {
			return list
		}
	}
	m := model.NamedMatch{Name: name, StringMatch: model.StringMatch{Kind: model.Exact, Value: value}}
	if regex {
		m.Kind, m.Value = model.Regex, r.regex(path+".value", value)
	}
	return append(list, m)
}

// times settles timeouts and retries. The mesh retries what never reached a
// backend where the rule says nothing.
func (r *route) times(out *model.HTTPRule, path string, t *v1.HTTPRouteTimeouts, retry *v1.HTTPRouteRetry) {
	read := func(field string, d *v1.Duration) time.Duration {
		x, err := time.ParseDuration(string(or(d, "0s")))
		if err != nil || x < 0 {
			r.value.set("UnsupportedValue", "%s is not a duration", field)
			r.Invalid(field, "%q is not a duration", *d)
		}
		return x
	}
	var perTry time.Duration
	if t != nil {
		if d := read(path+".timeouts.request", t.Request); d > 0 {
			out.Timeout = &d
		}
		perTry = read(path+".timeouts.backendRequest", t.BackendRequest)
	}
	switch {
	case retry != nil:
		out.Retry = &model.Retry{Attempts: or(retry.Attempts, 2), PerTryTimeout: perTry, BackoffBase: read(path+".retry.backoff", retry.Backoff)}
		for _, c := range retry.Codes {
			out.Retry.Codes = append(out.Retry.Codes, int(c))
		}
		if out.Retry.Attempts == 0 && perTry > 0 && (out.Timeout == nil || *out.Timeout > perTry) {
			out.Timeout = &perTry
		}
	case perTry > 0:
		out.Retry = &model.Retry{Attempts: 2, PerTryTimeout: perTry, FromMeshDefault: true}
	}
}

func (w *world) grpcRoute(r *dialect.Report, x *v1.GRPCRoute) {
	rt := w.route(r, x.Spec.CommonRouteSpec, x.Spec.Hostnames)
	for i, rule := range x.Spec.Rules {
		path := at("spec.rules", i)
		out := httpRule{route: rt, index: i, path: path, filters: grpcFilters(rule.Filters)}
		out.rule = model.HTTPRule{Name: string(or(rule.Name, "")), Origin: r.Object.Origin(path)}
		if rule.SessionPersistence != nil {
			r.Unsupported(path+".sessionPersistence", "session persistence is not kept yet")
		}
		for _, b := range rule.BackendRefs {
			out.refs = append(out.refs, v1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: grpcFilters(b.Filters)})
		}
		matches := rule.Matches
		if len(matches) == 0 {
			matches = []v1.GRPCRouteMatch{{}}
		}
		for j, m := range matches {
			out.sub, out.match = j, rt.grpcMatch(at(path+".matches", j), m)
			rt.http = append(rt.http, out)
		}
	}
}

func grpcFilters(list []v1.GRPCRouteFilter) []v1.HTTPRouteFilter {
	var out []v1.HTTPRouteFilter
	for _, f := range list {
		out = append(out, v1.HTTPRouteFilter{
			Type: v1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

// grpcMatch is the match of a gRPC method as the path of its request.
func (r *route) grpcMatch(path string, m v1.GRPCRouteMatch) model.HTTPMatch {
	out := model.HTTPMatch{Origin: r.Object.Origin(path), Path: &model.StringMatch{Kind: model.PathPrefix, Value: "/"}}
	if g := m.Method; g != nil {
		service, method := or(g.Service, ""), or(g.Method, "")
		switch {
		case service == "" && method == "":
		case or(g.Type, v1.GRPCMethodMatchExact) == v1.GRPCMethodMatchRegularExpression:
			text := "/" + cmp.Or(service, "[^/]+") + "/" + cmp.Or(method, "[^/]+")
			out.Path = &model.StringMatch{Kind: model.Regex, Value: r.regex(path+".method", text)}
		case method == "":
			out.Path = &model.StringMatch{Kind: model.Prefix, Value: "/" + service + "/"}
		case service == "":
			out.Path = &model.StringMatch{Kind: model.Regex, Value: "/[^/]+/" + regexp.QuoteMeta(method)}
		default:
			out.Path = &model.StringMatch{Kind: model.Exact, Value: "/" + service + "/" + method}
		}
	}
	for i, h := range m.Headers {
		out.Headers = r.named(out.Headers, at(path+".headers", i), strings.ToLower(string(h.Name)), h.Value, or(h.Type, v1.GRPCHeaderMatchExact) == v1.GRPCHeaderMatchRegularExpression)
	}
	return out
}

// precedes is the order of the rules of one host: exact path, longest path,
// method, most headers, most query parameters, oldest route, first rule.
func precedes(a, b httpRule) int {
	kind := func(m *model.HTTPMatch) int {
		switch m.Path.Kind {
		case model.Exact:
			return 2
		case model.Prefix, model.PathPrefix:
			return 1
		}
		return 0
	}
	method := func(m *model.HTTPMatch) int {
		if m.Method == nil {
			return 0
		}
		return 1
	}
	return cmp.Or(
		kind(&b.match)-kind(&a.match), len(b.match.Path.Value)-len(a.match.Path.Value), method(&b.match)-method(&a.match),
		len(b.match.Headers)-len(a.match.Headers), len(b.match.Query)-len(a.match.Query),
		a.route.rank-b.route.rank, a.index-b.index, a.sub-b.sub,
	)
}
