package link

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// delegated replaces the rules that delegate by the rules of their delegate,
// one level deep.
func (m *Mesh) delegated(s *routeSet, n *notices) []model.HTTPRule {
	if !slices.ContainsFunc(s.http, func(h model.HTTPRule) bool { return h.Delegate != nil }) {
		return s.http
	}
	var out []model.HTTPRule
	for i := range s.http {
		root := &s.http[i]
		if root.Delegate == nil {
			out = append(out, *root)
			continue
		}
		ref := *root.Delegate
		if ref.Namespace == "" {
			ref.Namespace = s.Namespace
		}
		d := m.delegate(ref)
		if d == nil || !d.export.to(s.Namespace) {
			n.code("TUL0107").add(model.Error, model.NotFound, root.Origin, "delegate %s/%s is not there (a delegate is a VirtualService without hosts, exported to %s); the rule is dropped", ref.Namespace, ref.Name, s.Namespace)
			continue
		}
		for j := range d.http {
			if h, ok := join(root, &d.http[j], n); ok {
				out = append(out, h)
			}
		}
	}
	return out
}

// join merges a root rule with one rule of its delegate. Where both say
// something the delegate wins, except on matches, which must both hold.
func join(root, d *model.HTTPRule, n *notices) (model.HTTPRule, bool) {
	if d.Delegate != nil {
		n.code("TUL0107").add(model.Error, model.Unsupported, d.Origin, "a delegate may not delegate again; the rule is dropped")
		return model.HTTPRule{}, false
	}
	out := *d
	out.Delegate = nil
	out.Name = joinName(root.Name, d.Name)
	if out.Rewrite == nil {
		out.Rewrite = root.Rewrite
	}
	if out.Timeout == nil {
		out.Timeout = root.Timeout
	}
	if out.Retry == nil {
		out.Retry = root.Retry
	}
	if out.Fault == nil {
		out.Fault = root.Fault
	}
	if out.Mirrors == nil {
		out.Mirrors = root.Mirrors
	}
	if out.CORS == nil {
		out.CORS = root.CORS
	}
	out.Headers = joinHeaders(root.Headers, d.Headers)
	var ok bool
	if out.Matches, ok = joinMatches(root.Matches, d.Matches); !ok {
		n.code("TUL0107").add(model.Error, model.Conflict, d.Origin, "its matches do not lie within the matches of %s; the rule is dropped", where(root.Origin))
		return model.HTTPRule{}, false
	}
	return out, true
}

func joinName(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "-" + b
}

func joinHeaders(a, b *model.HeaderOps) *model.HeaderOps {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return &model.HeaderOps{Request: joinEdit(a.Request, b.Request), Response: joinEdit(a.Response, b.Response)}
}

func joinEdit(a, b model.HeaderEdit) model.HeaderEdit {
	over := func(a, b []model.Header) []model.Header {
		out := slices.Clone(b)
		for _, h := range a {
			if !slices.ContainsFunc(b, func(x model.Header) bool { return x.Name == h.Name }) {
				out = append(out, h)
			}
		}
		slices.SortFunc(out, func(a, b model.Header) int { return strings.Compare(a.Name, b.Name) })
		return out
	}
	rm := append(slices.Clone(a.Remove), b.Remove...)
	slices.Sort(rm)
	return model.HeaderEdit{Set: over(a.Set, b.Set), Add: over(a.Add, b.Add), Remove: slices.Compact(rm)}
}

// joinMatches is every pair of a root match and a delegate match within it;
// each delegate match must have such a root match.
func joinMatches(root, d []model.HTTPMatch) ([]model.HTTPMatch, bool) {
	if len(root) == 0 {
		return d, true
	}
	if len(d) == 0 {
		return root, true
	}
	var out []model.HTTPMatch
	for i := range d {
		before := len(out)
		for j := range root {
			if x, ok := joinMatch(&root[j], &d[i]); ok {
				out = append(out, x)
			}
		}
		if len(out) == before {
			return nil, false
		}
	}
	return out, true
}

func joinMatch(root, d *model.HTTPMatch) (model.HTTPMatch, bool) {
	out := *d
	ok := true
	pick := func(r, d *model.StringMatch) *model.StringMatch {
		switch {
		case r == nil:
			return d
		case d == nil:
			return r
		}
		ok = ok && within(*r, *d)
		return d
	}
	out.Path = pick(root.Path, d.Path)
	out.Method = pick(root.Method, d.Method)
	out.Scheme = pick(root.Scheme, d.Scheme)
	out.Authority = pick(root.Authority, d.Authority)
	named := func(r, d []model.NamedMatch) []model.NamedMatch {
		l := slices.Clone(d)
		for _, x := range r {
			i := slices.IndexFunc(d, func(y model.NamedMatch) bool { return x.Name == y.Name })
			if i < 0 {
				l = append(l, x)
				continue
			}
			ok = ok && within(x.StringMatch, d[i].StringMatch)
		}
		slices.SortFunc(l, func(a, b model.NamedMatch) int { return strings.Compare(a.Name, b.Name) })
		return l
	}
	out.Headers = named(root.Headers, d.Headers)
	out.WithoutHeaders = named(root.WithoutHeaders, d.WithoutHeaders)
	out.Query = named(root.Query, d.Query)
	if root.Path != nil && d.Path != nil && root.IgnorePathCase != d.IgnorePathCase {
		return out, false
	}
	out.IgnorePathCase = root.IgnorePathCase || d.IgnorePathCase
	switch {
	case out.Port == 0:
		out.Port = root.Port
	case root.Port != 0 && root.Port != out.Port:
		return out, false
	}
	switch {
	case out.SourceNamespace == "":
		out.SourceNamespace = root.SourceNamespace
	case root.SourceNamespace != "" && root.SourceNamespace != out.SourceNamespace:
		return out, false
	}
	if len(root.SourceLabels) > 0 {
		l := maps.Clone(root.SourceLabels)
		for k, v := range d.SourceLabels {
			if w, there := l[k]; there && w != v {
				return out, false
			}
			l[k] = v
		}
		out.SourceLabels = l
	}
	// A delegate has no gateways of its own: the root's decide.
	out.Gateways = root.Gateways
	out.Name = joinName(root.Name, d.Name)
	if out.StatPrefix == "" {
		out.StatPrefix = root.StatPrefix
	}
	return out, ok
}

// within reports whether everything that d matches, r matches too, as far as
// can be told without solving regular expressions.
func within(r, d model.StringMatch) bool {
	switch r.Kind {
	case model.Present:
		return true
	case model.Exact:
		return d == r
	case model.Prefix:
		return (d.Kind == model.Exact || d.Kind == model.Prefix || d.Kind == model.PathPrefix) && strings.HasPrefix(d.Value, r.Value)
	case model.PathPrefix:
		if d.Kind != model.Exact && d.Kind != model.PathPrefix {
			return false
		}
		p := strings.TrimSuffix(r.Value, "/")
		return d.Value == p || strings.HasPrefix(d.Value, p+"/")
	case model.Suffix:
		return (d.Kind == model.Exact || d.Kind == model.Suffix) && strings.HasSuffix(d.Value, r.Value)
	}
	return false
}
