package conf

import (
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// Bounds on regular expressions: of one, and of all in one resource, in bytes.
const (
	maxPattern  = 8 << 10
	maxPatterns = 1 << 20
)

// pattern is one expression compiled for the uses it has.
type pattern struct{ whole, anywhere *regexp.Regexp }

// regex compiles a RegexMatcher to match a whole value, as Envoy does.
func (b *builder) wholeRegex(m *wire.RegexMatcher) (*regexp.Regexp, error) {
	p, err := b.compile(m)
	if err != nil {
		return nil, err
	}
	if p.whole == nil {
		// The expression is known to be balanced: it was compiled by itself.
		if p.whole, err = regexp.Compile(`\A(?:` + m.Regex + `)\z`); err != nil {
			return nil, refuse("regex", "%v", err)
		}
	}
	return p.whole, nil
}

// searchRegex compiles a RegexMatcher to match anywhere, for substitutions.
func (b *builder) searchRegex(m *wire.RegexMatcher) (*regexp.Regexp, error) {
	p, err := b.compile(m)
	if err != nil {
		return nil, err
	}
	return p.anywhere, nil
}

func (b *builder) compile(m *wire.RegexMatcher) (*pattern, error) {
	if m == nil || m.Regex == "" {
		return nil, refuse("regex", "empty")
	}
	if p := b.patterns[m.Regex]; p != nil {
		return p, nil
	}
	if len(m.Regex) > maxPattern {
		return nil, refuse("regex", "longer than %d bytes", maxPattern)
	}
	if b.regex += len(m.Regex); b.regex > maxPatterns {
		return nil, refuse("regex", "more than %d bytes of expressions in one resource", maxPatterns)
	}
	re, err := regexp.Compile(m.Regex)
	if err != nil {
		return nil, refuse("regex", "%v", err)
	}
	if b.patterns == nil {
		b.patterns = map[string]*pattern{}
	}
	p := &pattern{anywhere: re}
	b.patterns[m.Regex] = p
	return p, nil
}

// stringMatch makes a StringMatch. ignore_case does not act on expressions.
func (b *builder) stringMatch(m *wire.StringMatcher) (StringMatch, error) {
	out := StringMatch{IgnoreCase: m.IgnoreCase}
	set := func(k StringKind, v *string, field string, empty bool) (StringMatch, error) {
		if *v == "" && !empty {
			return out, refuse(field, "empty")
		}
		out.Kind, out.Value = k, *v
		return out, nil
	}
	switch {
	case m.Exact != nil:
		return set(StrExact, m.Exact, "exact", true)
	case m.Prefix != nil:
		return set(StrPrefix, m.Prefix, "prefix", false)
	case m.Suffix != nil:
		return set(StrSuffix, m.Suffix, "suffix", false)
	case m.Contains != nil:
		return set(StrContains, m.Contains, "contains", false)
	case m.SafeRegex != nil:
		re, err := b.wholeRegex(m.SafeRegex)
		return StringMatch{Kind: StrRegex, Regex: re}, in(err, "safe_regex")
	}
	return out, refuse("", "no match pattern")
}

func (b *builder) stringMatches(ms []*wire.StringMatcher, field string) ([]StringMatch, error) {
	var out []StringMatch
	for i, m := range ms {
		s, err := b.stringMatch(m)
		if err != nil {
			return nil, inIndex(err, field, i)
		}
		out = append(out, s)
	}
	return out, nil
}

// headerMatch makes a HeaderMatch; the older exact_match and its like become
// the same nodes.
func (b *builder) headerMatch(m *wire.HeaderMatcher) (HeaderMatch, error) {
	out := HeaderMatch{Name: strings.ToLower(m.Name), Invert: m.InvertMatch, MissingAsEmpty: m.TreatMissingHeaderAsEmpty}
	if !headerName(strings.TrimPrefix(out.Name, ":")) {
		return out, refuse("name", "%q is no header name", m.Name)
	}
	var err error
	switch {
	case m.StringMatch != nil:
		out.StringMatch, err = b.stringMatch(m.StringMatch)
		err = in(err, "string_match")
	case m.ExactMatch != nil:
		out.Kind, out.Value = StrExact, *m.ExactMatch
	case m.SafeRegexMatch != nil:
		out.Kind = StrRegex
		out.Regex, err = b.wholeRegex(m.SafeRegexMatch)
		err = in(err, "safe_regex_match")
	case m.RangeMatch != nil:
		out.Kind, out.Low, out.High = StrRange, m.RangeMatch.Start, m.RangeMatch.End
	case m.PresentMatch != nil:
		if out.Kind = StrPresent; !*m.PresentMatch {
			out.Kind = StrAbsent
		}
	case m.PrefixMatch != nil:
		out.Kind, out.Value = StrPrefix, *m.PrefixMatch
	case m.SuffixMatch != nil:
		out.Kind, out.Value = StrSuffix, *m.SuffixMatch
	case m.ContainsMatch != nil:
		out.Kind, out.Value = StrContains, *m.ContainsMatch
	default:
		out.Kind = StrPresent
	}
	return out, err
}

func (b *builder) headerMatches(ms []*wire.HeaderMatcher) ([]HeaderMatch, error) {
	var out []HeaderMatch
	for i, m := range ms {
		h, err := b.headerMatch(m)
		if err != nil {
			return nil, inIndex(err, "headers", i)
		}
		out = append(out, h)
	}
	return out, nil
}

func (b *builder) queryMatches(ms []*wire.QueryParameterMatcher) ([]QueryMatch, error) {
	var out []QueryMatch
	for i, m := range ms {
		q := QueryMatch{Name: m.Name}
		switch {
		case m.Name == "":
			return nil, inIndex(refuse("name", "empty"), "query_parameters", i)
		case m.StringMatch != nil:
			s, err := b.stringMatch(m.StringMatch)
			if err != nil {
				return nil, inIndex(in(err, "string_match"), "query_parameters", i)
			}
			q.StringMatch = s
		case m.PresentMatch != nil && !*m.PresentMatch:
			q.Kind = StrAbsent
		default:
			q.Kind = StrPresent
		}
		out = append(out, q)
	}
	return out, nil
}

// headerName reports whether s is a token of RFC 9110 section 5.6.2.
func headerName(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

// templateRegex turns a path template ("/a/*/{x}/{rest=**}/z") into an
// expression for whole paths. "*" is one segment, "**" any number.
func templateRegex(t string) (string, error) {
	const segment, any = `[a-zA-Z0-9\-._~%!$&'()+,;:@=]+`, `[a-zA-Z0-9\-._~%!$&'()+,;:@=/]*`
	if !strings.HasPrefix(t, "/") {
		return "", refuse("path_template", "%q does not begin with a slash", t)
	}
	var out strings.Builder
	last := false
	for _, part := range strings.Split(t[1:], "/") {
		out.WriteString("/")
		glob := part
		if strings.HasPrefix(part, "{") && strings.HasSuffix(part, "}") {
			_, g, ok := strings.Cut(part[1:len(part)-1], "=")
			if glob = g; !ok {
				glob = "*"
			}
			if glob != "*" && glob != "**" {
				return "", refuse("path_template", "%q: only * and ** are supported in a variable", t)
			}
		}
		switch {
		case last:
			if strings.ContainsAny(glob, "*{}") {
				return "", refuse("path_template", "%q: nothing but text may follow **", t)
			}
			out.WriteString(regexp.QuoteMeta(glob))
		case glob == "*":
			out.WriteString(segment)
		case glob == "**":
			out.WriteString(any)
			last = true
		case strings.ContainsAny(glob, "*{}"):
			return "", refuse("path_template", "%q: %q is neither text, * nor **", t, part)
		default:
			out.WriteString(regexp.QuoteMeta(glob))
		}
	}
	return out.String(), nil
}

// template is the expression of a path template extension.
func (b *builder) template(e *wire.TypedExtensionConfig) (*regexp.Regexp, error) {
	if e.TypedConfig == nil {
		return nil, refuse("typed_config", "missing")
	}
	m, ok := e.TypedConfig.Msg.(*wire.UriTemplateMatchConfig)
	if !ok {
		return nil, refuse("typed_config", "%s is no path matcher", e.TypedConfig.URL)
	}
	re, err := templateRegex(m.PathTemplate)
	if err != nil {
		return nil, in(err, "typed_config")
	}
	r, err := b.wholeRegex(&wire.RegexMatcher{Regex: re})
	return r, in(err, "typed_config")
}
