package istio

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

const mesh = "mesh"

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func readVirtualService(r *reading, m proto.Message, out *model.Fragment) {
	vs := m.(*networking.VirtualService)
	set := &model.RouteSet{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		Gateways: r.gateways("spec.gateways", vs.Gateways),
		ExportTo: r.exportTo("spec.exportTo", vs.ExportTo),
		Origin:   r.at(""),
	}
	if len(set.Gateways) == 0 {
		set.Gateways = []string{mesh}
	}
	delegated := len(vs.Hosts) == 0
	if delegated {
		r.delegated(vs)
	}
	seen := make(map[string]bool)
	for i, h := range vs.Hosts {
		at := index("spec.hosts", i)
		h = r.host(at, h, true)
		if seen[h] {
			r.Invalid(at, "host %q stands here twice", h)
		}
		seen[h] = true
		if h == "*" && slices.Contains(set.Gateways, mesh) {
			r.Invalid(at, "host * cannot be routed inside the mesh; name the hosts, or set spec.gateways to gateways alone")
		}
		set.Hosts = append(set.Hosts, h)
	}
	if len(vs.Http)+len(vs.Tls)+len(vs.Tcp) == 0 && r.Errors() == 0 {
		r.Invalid("spec", "one of http, tls, tcp is needed")
	}
	for i, h := range vs.Http {
		if rule, ok := r.httpRule(index("spec.http", i), h, delegated); ok {
			set.HTTP = append(set.HTTP, rule)
		}
	}
	for i, t := range vs.Tls {
		if rule, ok := r.tlsRule(index("spec.tls", i), t, set.Hosts); ok {
			set.TLS = append(set.TLS, rule)
		}
	}
	for i, t := range vs.Tcp {
		if rule, ok := r.tcpRule(index("spec.tcp", i), t); ok {
			set.TCP = append(set.TCP, rule)
		}
	}
	out.RouteSets = append(out.RouteSets, set)
}

// delegated checks a VirtualService without hosts, which only makes sense as
// the delegate of another.
func (r *reading) delegated(vs *networking.VirtualService) {
	switch {
	case len(vs.Gateways) > 0:
		r.Invalid("spec", "hosts are missing (without hosts it can only be a delegate, and a delegate has no gateways)")
	case len(vs.Tls)+len(vs.Tcp) > 0:
		r.Invalid("spec", "hosts are missing (without hosts it can only be a delegate, and a delegate has only http)")
	case len(vs.Http) == 0:
		r.Invalid("spec", "hosts are missing")
	}
}

// gateways completes names to "ns/name"; "mesh" stays.
func (r *reading) gateways(path string, names []string) []string {
	var out []string
	for i, g := range names {
		at := index(path, i)
		if g == mesh {
			out = append(out, g)
			continue
		}
		ns, name, ok := strings.Cut(g, "/")
		switch {
		case !ok:
			// An old form is name.ns.svc.cluster.local; a name may have dots too.
			ns, name = r.Object.Namespace, g
			if parts := strings.Split(g, "."); len(parts) > 2 && parts[2] == "svc" {
				name, ns = parts[0], parts[1]
			}
		case ns == ".":
			ns = r.Object.Namespace
		}
		r.dnsLabel(at, "namespace", ns)
		if why := badHost(strings.ToLower(name), false); why != "" || strings.Contains(name, "/") {
			r.Invalid(at, "%q is not a gateway: write its name or namespace/name", clip(g))
		}
		out = append(out, ns+"/"+name)
	}
	return out
}

// httpRule reads one rule; false when it is left out because none of its
// matches was understood.
func (r *reading) httpRule(path string, h *networking.HTTPRoute, delegated bool) (model.HTTPRule, bool) {
	rule := model.HTTPRule{Name: h.Name, Origin: r.at(path)}
	r.httpAction(path, h, delegated)
	for i, m := range h.Match {
		at := index(path+".match", i)
		if r.damaged(at) {
			continue
		}
		if match, ok := r.httpMatch(at, m); ok {
			rule.Matches = append(rule.Matches, match)
		}
	}
	rule.Backends = r.httpBackends(path+".route", h.Route)
	rule.Redirect = r.redirect(path+".redirect", h.Redirect)
	rule.Direct = r.direct(path+".directResponse", h.DirectResponse)
	rule.Rewrite = r.rewrite(path+".rewrite", h.Rewrite)
	if d := h.Delegate; d != nil {
		if d.Name == "" {
			r.Invalid(path+".delegate.name", "is missing")
		}
		rule.Delegate = &model.Ref{Namespace: d.Namespace, Name: d.Name}
		if d.Namespace == "" {
			rule.Delegate.Namespace = r.Object.Namespace
		}
	}
	if h.Timeout != nil {
		t := r.duration(path+".timeout", h.Timeout, 0)
		rule.Timeout = &t
	}
	rule.Retry = r.retry(path+".retries", h.Retries)
	rule.Fault = r.fault(path+".fault", h.Fault)
	rule.Mirrors = r.mirrors(path, h)
	rule.CORS = r.cors(path+".corsPolicy", h.CorsPolicy)
	rule.Headers = r.headers(path+".headers", h.Headers)
	return rule, len(h.Match) == 0 || len(rule.Matches) > 0
}

// httpAction checks which actions stand together.
func (r *reading) httpAction(path string, h *networking.HTTPRoute, delegated bool) {
	var set []string
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"route", len(h.Route) > 0}, {"redirect", h.Redirect != nil},
		{"directResponse", h.DirectResponse != nil}, {"delegate", h.Delegate != nil},
	} {
		if f.on {
			set = append(set, f.name)
		}
	}
	switch {
	case len(set) > 1:
		r.Invalid(path, "%s exclude each other", strings.Join(set, " and "))
		return
	case len(set) == 0:
		if !r.damaged(path) {
			r.Invalid(path, "one of route, redirect, directResponse, delegate is needed")
		}
		return
	}
	type field struct {
		name string
		on   bool
	}
	var forbidden []field
	switch set[0] {
	case "redirect", "directResponse":
		forbidden = []field{{"fault", h.Fault != nil}, {"rewrite", h.Rewrite != nil}}
	case "delegate":
		if delegated {
			r.Invalid(path+".delegate", "a delegate cannot delegate again")
		}
		forbidden = nil
	}
	for _, f := range forbidden {
		if f.on {
			r.Invalid(path+"."+f.name, "%s and %s exclude each other", set[0], f.name)
		}
	}
}

// httpMatch reads one match; false when it can never match and is left out.
func (r *reading) httpMatch(path string, m *networking.HTTPMatchRequest) (model.HTTPMatch, bool) {
	out := model.HTTPMatch{
		Name: m.Name, StatPrefix: m.StatPrefix, IgnorePathCase: m.IgnoreUriCase,
		SourceNamespace: m.SourceNamespace, Origin: r.at(path),
		Port:     r.port(path+".port", m.Port, true),
		Gateways: r.gateways(path+".gateways", m.Gateways),
	}
	out.SourceLabels = r.labels(path+".sourceLabels", m.SourceLabels)
	if m.IgnoreUriCase && m.Uri.GetRegex() != "" {
		r.Doubtful(path+".ignoreUriCase", "has no effect on a regex; begin the expression with (?i)")
	}
	if len(m.Gateways) > 0 && len(m.SourceLabels) > 0 && !slices.Contains(m.Gateways, mesh) {
		r.Doubtful(path+".sourceLabels", "has no effect at gateways")
	}
	out.Path = r.stringMatch(path+".uri", m.Uri)
	out.Scheme = r.stringMatch(path+".scheme", m.Scheme)
	out.Method = r.stringMatch(path+".method", m.Method)
	out.Authority = r.stringMatch(path+".authority", m.Authority)
	if k, v := matchKind(m.Uri); (k == "exact" || k == "prefix") && v != "" && v[0] != '/' && v != "*" {
		r.Doubtful(path+".uri", "%q can never match: paths begin with /", clip(v))
	}
	var ok1, ok2 bool
	out.Headers, ok1 = r.headerMatches(path+".headers", m.Headers, false)
	out.WithoutHeaders, ok2 = r.headerMatches(path+".withoutHeaders", m.WithoutHeaders, true)
	for _, name := range slices.Sorted(maps.Keys(m.QueryParams)) {
		at := path + ".queryParams." + name
		if name == "" {
			r.Invalid(at, "the parameter name is empty")
		}
		out.Query = append(out.Query, model.NamedMatch{Name: name, StringMatch: r.presence(at, m.QueryParams[name])})
	}
	return out, ok1 && ok2
}

// stringMatch of a part of the request that is always there.
func (r *reading) stringMatch(path string, m *networking.StringMatch) *model.StringMatch {
	if m == nil {
		return nil
	}
	kind, value := matchKind(m)
	out := &model.StringMatch{Value: value}
	switch kind {
	case "exact":
		out.Kind = model.Exact
		if value == "" {
			r.Doubtful(path+".exact", "is empty: matches the empty value alone")
		}
	case "prefix":
		out.Kind = model.Prefix
		if value == "" {
			r.Invalid(path+".prefix", "is empty")
		}
	case "regex":
		out.Kind = model.Regex
		if value == "" {
			r.Invalid(path+".regex", "is empty")
		}
		r.regex(path+".regex", value)
	default:
		r.Invalid(path, "one of exact, prefix, regex is needed")
	}
	return out
}

// presence is a match on something that may be absent: nothing at all and the
// regex * mean that it must be there.
func (r *reading) presence(path string, m *networking.StringMatch) model.StringMatch {
	kind, value := matchKind(m)
	switch {
	case kind == "", kind == "regex" && value == "*":
		return model.StringMatch{Kind: model.Present}
	case kind == "exact" && value == "":
		return model.StringMatch{Kind: model.Exact}
	}
	return *r.stringMatch(path, m)
}

func (r *reading) headerMatches(path string, in map[string]*networking.StringMatch, without bool) ([]model.NamedMatch, bool) {
	var out []model.NamedMatch
	good := true
	for _, name := range slices.Sorted(maps.Keys(in)) {
		at := path + "." + name
		switch strings.ToLower(name) {
		case "uri", "scheme", "method", "authority":
			r.Doubtful(at, "is not a header here and is ignored; match on %s beside headers", strings.ToLower(name))
			continue
		}
		if strings.HasPrefix(name, "@request.auth.claims") {
			r.part(model.Unsupported, at, "routing by token claims is not acted on yet: this match never matches")
			good = false
			continue
		}
		out = append(out, model.NamedMatch{Name: r.headerName(at, name), StringMatch: r.presence(at, in[name])})
	}
	slices.SortStableFunc(out, func(a, b model.NamedMatch) int { return strings.Compare(a.Name, b.Name) })
	return out, good
}

func (r *reading) httpBackends(path string, in []*networking.HTTPRouteDestination) []model.Backend {
	var out []model.Backend
	var weights []int32
	for i, d := range in {
		at := index(path, i)
		b := r.backend(at+".destination", d.Destination)
		b.Headers = r.headers(at+".headers", d.Headers)
		b.Weight, b.Origin = r.weight(at+".weight", d.Weight), r.at(at)
		out, weights = append(out, b), append(weights, d.Weight)
	}
	r.weights(path, weights)
	return out
}

func (r *reading) backend(path string, d *networking.Destination) model.Backend {
	if d == nil {
		r.Invalid(path, "is missing")
		return model.Backend{}
	}
	b := model.Backend{Subset: d.Subset, Origin: r.at(path)}
	if d.Host == "" {
		r.Invalid(path+".host", "is missing")
	} else {
		b.Host = r.host(path+".host", d.Host, false)
	}
	if d.Subset != "" {
		r.dnsLabel(path+".subset", "subset name", d.Subset)
	}
	if d.Port != nil {
		b.Port = r.port(path+".port.number", d.Port.Number, false)
	}
	return b
}

func (r *reading) weight(path string, w int32) uint32 { return r.count(path, w) }

// weights checks the weights of one rule. They are proportional whatever their
// sum, but people mean percentages.
func (r *reading) weights(path string, list []int32) {
	if len(list) < 2 {
		return
	}
	var sum int64
	for _, w := range list {
		if w < 0 {
			return // told already
		}
		sum += int64(w)
	}
	switch {
	case sum == 0:
		r.Invalid(path, "the weights of %d destinations add up to 0", len(list))
	case sum > 1<<32-1:
		r.Invalid(path, "the weights add up to %d, which is more than 4294967295", sum)
	case sum != 100:
		r.Doubtful(path, "the weights add up to %d, not 100; they are taken in proportion", sum)
	}
}

func (r *reading) tlsRule(path string, t *networking.TLSRoute, hosts []string) (model.TLSRule, bool) {
	rule := model.TLSRule{Origin: r.at(path)}
	if len(t.Match) == 0 && !r.damaged(path+".match") {
		r.Invalid(path+".match", "a match with sniHosts is needed")
	}
	for i, m := range t.Match {
		at := index(path+".match", i)
		if r.damaged(at) {
			continue
		}
		match := r.l4Match(at, m.DestinationSubnets, m.Port, m.SourceLabels, m.SourceNamespace, m.Gateways)
		if len(m.SniHosts) == 0 {
			r.Invalid(at+".sniHosts", "is missing")
		}
		for j, s := range m.SniHosts {
			p := index(at+".sniHosts", j)
			s = r.host(p, s, true)
			if !slices.ContainsFunc(hosts, func(h string) bool { return covers(h, s) }) {
				r.Invalid(p, "%q is not within spec.hosts", s)
			}
			match.SNI = append(match.SNI, s)
		}
		rule.Matches = append(rule.Matches, match)
	}
	rule.Backends = r.l4Backends(path+".route", t.Route)
	return rule, len(rule.Matches) > 0
}

// covers reports whether the host pattern h includes the pattern s.
func covers(h, s string) bool {
	return h == s || h == "*" || strings.HasPrefix(h, "*") && strings.HasSuffix(s, h[1:])
}

func (r *reading) tcpRule(path string, t *networking.TCPRoute) (model.TCPRule, bool) {
	rule := model.TCPRule{Origin: r.at(path)}
	for i, m := range t.Match {
		at := index(path+".match", i)
		if r.damaged(at) {
			continue
		}
		rule.Matches = append(rule.Matches, r.l4Match(at, m.DestinationSubnets, m.Port, m.SourceLabels, m.SourceNamespace, m.Gateways))
	}
	rule.Backends = r.l4Backends(path+".route", t.Route)
	return rule, len(t.Match) == 0 || len(rule.Matches) > 0
}

func (r *reading) l4Match(path string, subnets []string, port uint32, labels map[string]string, ns string, gateways []string) model.L4Match {
	for i, s := range subnets {
		r.cidr(index(path+".destinationSubnets", i), s)
	}
	return model.L4Match{
		DestSubnets: subnets, Port: r.port(path+".port", port, true),
		SourceLabels: r.labels(path+".sourceLabels", labels), SourceNamespace: ns,
		Gateways: r.gateways(path+".gateways", gateways), Origin: r.at(path),
	}
}

func (r *reading) l4Backends(path string, in []*networking.RouteDestination) []model.Backend {
	if len(in) == 0 {
		r.Invalid(path, "a destination is needed")
	}
	var out []model.Backend
	var weights []int32
	for i, d := range in {
		at := index(path, i)
		b := r.backend(at+".destination", d.Destination)
		b.Weight, b.Origin = r.weight(at+".weight", d.Weight), r.at(at)
		out, weights = append(out, b), append(weights, d.Weight)
	}
	r.weights(path, weights)
	return out
}
