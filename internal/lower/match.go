package lower

import (
	"regexp"
	"strings"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// routeMatch lowers the conditions of a route. Regular expressions are RE2 and
// match the whole value, in Istio as in Envoy.
func routeMatch(m *model.HTTPMatch) *routepb.RouteMatch {
	out := &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}}
	if p := m.Path; p != nil {
		switch p.Kind {
		case model.Exact:
			out.PathSpecifier = &routepb.RouteMatch_Path{Path: p.Value}
		case model.Prefix:
			out.PathSpecifier = &routepb.RouteMatch_Prefix{Prefix: p.Value}
		case model.PathPrefix:
			if s := strings.TrimRight(p.Value, "/"); s != "" {
				out.PathSpecifier = &routepb.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: s}
			}
		case model.Regex:
			out.PathSpecifier = &routepb.RouteMatch_SafeRegex{SafeRegex: regex(p.Value)}
		case model.Suffix:
			out.PathSpecifier = &routepb.RouteMatch_SafeRegex{SafeRegex: regex(".*" + regexp.QuoteMeta(p.Value))}
		}
		if m.IgnorePathCase && p.Kind != model.Regex && p.Kind != model.Suffix {
			out.CaseSensitive = no()
		}
	}
	for _, p := range []struct {
		name string
		m    *model.StringMatch
	}{{":method", m.Method}, {":authority", m.Authority}, {":scheme", m.Scheme}} {
		if p.m != nil {
			out.Headers = append(out.Headers, headerMatch(p.name, *p.m))
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerMatch(h.Name, h.StringMatch))
	}
	for _, h := range m.WithoutHeaders {
		hm := headerMatch(h.Name, h.StringMatch)
		hm.InvertMatch = true
		_, present := hm.HeaderMatchSpecifier.(*routepb.HeaderMatcher_PresentMatch)
		hm.TreatMissingHeaderAsEmpty = !present
		out.Headers = append(out.Headers, hm)
	}
	for _, q := range m.Query {
		out.QueryParameters = append(out.QueryParameters, queryMatch(q))
	}
	return out
}

// present reports whether m asks only for existence.
func present(m model.StringMatch) bool {
	return m.Kind == model.Present || m.Kind == model.Regex && m.Value == "*"
}

func headerMatch(name string, m model.StringMatch) *routepb.HeaderMatcher {
	out := &routepb.HeaderMatcher{Name: name}
	if present(m) {
		out.HeaderMatchSpecifier = &routepb.HeaderMatcher_PresentMatch{PresentMatch: true}
	} else {
		out.HeaderMatchSpecifier = &routepb.HeaderMatcher_StringMatch{StringMatch: stringMatch(m)}
	}
	return out
}

func queryMatch(q model.NamedMatch) *routepb.QueryParameterMatcher {
	out := &routepb.QueryParameterMatcher{Name: q.Name}
	if present(q.StringMatch) {
		out.QueryParameterMatchSpecifier = &routepb.QueryParameterMatcher_PresentMatch{PresentMatch: true}
	} else {
		out.QueryParameterMatchSpecifier = &routepb.QueryParameterMatcher_StringMatch{StringMatch: stringMatch(q.StringMatch)}
	}
	return out
}

// stringMatch lowers m. Empty prefixes and suffixes, which Envoy refuses,
// match everything.
func stringMatch(m model.StringMatch) *matcherpb.StringMatcher {
	switch m.Kind {
	case model.Prefix, model.PathPrefix:
		if m.Value != "" {
			return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Prefix{Prefix: m.Value}}
		}
		return regexMatch(".*")
	case model.Suffix:
		if m.Value != "" {
			return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Suffix{Suffix: m.Value}}
		}
		return regexMatch(".*")
	case model.Regex:
		return regexMatch(m.Value)
	case model.Present:
		return regexMatch(".+")
	default:
		return exact(m.Value)
	}
}

func exact(s string) *matcherpb.StringMatcher {
	return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Exact{Exact: s}}
}

func regexMatch(re string) *matcherpb.StringMatcher {
	return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_SafeRegex{SafeRegex: regex(re)}}
}

func regex(re string) *matcherpb.RegexMatcher { return &matcherpb.RegexMatcher{Regex: re} }
