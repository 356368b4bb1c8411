package conf

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
	"github.com/tulle-mesh/tulle/internal/proxy/format"
)

// Envoy's defaults that the nodes carry filled in.
const (
	defaultDirectBody   = 4096
	defaultRouteTimeout = 15 * time.Second
)

// routeTable builds and indexes a RouteConfiguration.
func (b *builder) routeTable(m *wire.RouteConfiguration) (*RouteTable, error) {
	t := &RouteTable{
		Name:          m.Name,
		Exact:         map[string]*VirtualHost{},
		IgnorePort:    m.IgnorePortInHostMatching,
		MaxDirectBody: int(or(m.MaxDirectResponseBodySizeBytes, defaultDirectBody)),
	}
	var err error
	if t.Request, err = headerEdit(m.RequestHeadersToAdd, m.RequestHeadersToRemove, "request_headers"); err != nil {
		return nil, err
	}
	if t.Response, err = headerEdit(m.ResponseHeadersToAdd, m.ResponseHeadersToRemove, "response_headers"); err != nil {
		return nil, err
	}
	names, domains := map[string]bool{}, map[string]bool{}
	for i, v := range m.VirtualHosts {
		h, err := b.virtualHost(v, t)
		if err == nil && names[v.Name] {
			err = refuse("name", "%q is the name of two virtual hosts", v.Name)
		}
		if err == nil {
			err = t.index(h, domains)
		}
		if err != nil {
			return nil, inIndex(err, "virtual_hosts", i)
		}
		names[v.Name] = true
		t.Hosts = append(t.Hosts, h)
	}
	longest := func(a, b WildHost) int { return len(b.Part) - len(a.Part) }
	slices.SortStableFunc(t.Suffix, longest)
	slices.SortStableFunc(t.Prefix, longest)
	return t, nil
}

// index enters the domains of v; a domain belongs to one virtual host. seen
// are those of the table so far.
func (t *RouteTable) index(v *VirtualHost, seen map[string]bool) error {
	if len(v.Domains) == 0 {
		return refuse("domains", "none")
	}
	for i, d := range v.Domains {
		taken := seen[d]
		seen[d] = true
		switch {
		case taken:
			return inIndex(refuse("", "%q is a domain twice", d), "domains", i)
		case d == "":
			return inIndex(refuse("", "empty"), "domains", i)
		case d == "*":
			t.Any = v
		case strings.Contains(strings.Trim(d, "*"), "*") || len(d) > 1 && d[0] == '*' && d[len(d)-1] == '*':
			return inIndex(refuse("", "%q: a wildcard stands at one end", d), "domains", i)
		case d[0] == '*':
			t.Suffix = append(t.Suffix, WildHost{d[1:], v})
		case d[len(d)-1] == '*':
			t.Prefix = append(t.Prefix, WildHost{d[:len(d)-1], v})
		default:
			t.Exact[d] = v
		}
	}
	return nil
}

func (b *builder) virtualHost(m *wire.VirtualHost, t *RouteTable) (*VirtualHost, error) {
	v := &VirtualHost{Name: m.Name, AttemptCount: m.IncludeRequestAttemptCount, Origin: origin(m.Metadata)}
	if m.Name == "" {
		return nil, refuse("name", "empty")
	}
	for _, d := range m.Domains {
		v.Domains = append(v.Domains, strings.ToLower(d))
	}
	switch m.RequireTls {
	case wire.VirtualHostTlsRequirementTypeAll:
		v.RequireTLS = true
	case wire.VirtualHostTlsRequirementTypeExternalOnly:
		return nil, refuse("require_tls", "EXTERNAL_ONLY is not supported")
	}
	var err error
	if v.Retry, err = b.retry(m.RetryPolicy); err != nil {
		return nil, in(err, "retry_policy")
	}
	if v.Request, err = headerEdit(m.RequestHeadersToAdd, m.RequestHeadersToRemove, "request_headers"); err != nil {
		return nil, err
	}
	if v.Response, err = headerEdit(m.ResponseHeadersToAdd, m.ResponseHeadersToRemove, "response_headers"); err != nil {
		return nil, err
	}
	own, err := b.perRoute(m.TypedPerFilterConfig)
	if err != nil {
		return nil, err
	}
	v.CORS, v.RBAC = own.cors, own.rbac
	for i, r := range m.Routes {
		rt, err := b.route(r, own, t)
		if errors.Is(err, errNever) {
			continue
		}
		if err != nil {
			return nil, inIndex(err, "routes", i)
		}
		v.Routes = append(v.Routes, rt)
	}
	return v, nil
}

// route builds one route. What its virtual host says per filter is resolved
// here: the most specific one wins.
func (b *builder) route(m *wire.Route, host perRoute, t *RouteTable) (*Route, error) {
	r := &Route{Name: m.Name, StatPrefix: m.StatPrefix, Origin: origin(m.Metadata)}
	if m.Decorator != nil {
		r.Decorator = m.Decorator.Operation
	}
	if m.Match == nil {
		return nil, refuse("match", "missing")
	}
	var err error
	if r.Match, err = b.match(m.Match); errors.Is(err, errNever) {
		return nil, err
	} else if err != nil {
		return nil, in(err, "match")
	}
	switch {
	case m.Route != nil:
		r.Forward, err = b.forward(m.Route)
		err = in(err, "route")
	case m.Redirect != nil:
		r.Redirect, err = redirect(m.Redirect)
		err = in(err, "redirect")
	case m.DirectResponse != nil:
		r.Direct, err = direct(m.DirectResponse, t.MaxDirectBody)
		err = in(err, "direct_response")
	default:
		err = refuse("", "no action")
	}
	if err != nil {
		return nil, err
	}
	if r.Request, err = headerEdit(m.RequestHeadersToAdd, m.RequestHeadersToRemove, "request_headers"); err != nil {
		return nil, err
	}
	if r.Response, err = headerEdit(m.ResponseHeadersToAdd, m.ResponseHeadersToRemove, "response_headers"); err != nil {
		return nil, err
	}
	own, err := b.perRoute(m.TypedPerFilterConfig)
	if err != nil {
		return nil, err
	}
	r.Fault, r.CORS, r.RBAC = own.fault, own.cors, own.rbac
	if r.Fault == nil {
		r.Fault = host.fault
	}
	return r, nil
}

// errNever says that a route matches no request at all.
var errNever = errors.New("matches never")

func (b *builder) match(m *wire.RouteMatch) (Match, error) {
	out := Match{IgnoreCase: !or(m.CaseSensitive, true), GRPC: m.Grpc != nil}
	var err error
	switch {
	case m.Prefix != nil:
		out.Kind, out.Path = PathPrefix, *m.Prefix
	case m.Path != nil:
		out.Kind, out.Path = PathExact, *m.Path
	case m.PathSeparatedPrefix != nil:
		out.Kind, out.Path = PathSegments, *m.PathSeparatedPrefix
		if p := out.Path; !strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.ContainsAny(p, "?#") {
			err = refuse("path_separated_prefix", "%q is no path prefix of whole segments", p)
		}
	case m.SafeRegex != nil:
		out.Kind = PathRegex
		out.Regex, err = b.wholeRegex(m.SafeRegex)
		err = in(err, "safe_regex")
	case m.PathMatchPolicy != nil:
		out.Kind = PathRegex
		out.Regex, err = b.template(m.PathMatchPolicy)
		err = in(err, "path_match_policy")
	case m.ConnectMatcher != nil:
		out.Kind = PathConnect
	default:
		err = refuse("", "no path")
	}
	if err != nil {
		return out, err
	}
	if out.Headers, err = b.headerMatches(m.Headers); err != nil {
		return out, err
	}
	if out.Query, err = b.queryMatches(m.QueryParameters); err != nil {
		return out, err
	}
	if f := m.RuntimeFraction; f != nil {
		ppm, _ := runtimeMillion(f, 1_000_000)
		switch {
		case ppm == 0:
			return out, errNever
		case ppm < 1_000_000:
			out.Fraction = ppm
		}
	}
	return out, nil
}

func redirect(m *wire.RedirectAction) (*Redirect, error) {
	r := &Redirect{Scheme: or(m.SchemeRedirect, ""), HTTPS: or(m.HttpsRedirect, false), Host: m.HostRedirect,
		Path: or(m.PathRedirect, ""), PrefixRewrite: or(m.PrefixRewrite, ""), HasPrefixRewrite: m.PrefixRewrite != nil, StripQuery: m.StripQuery}
	var err error
	if r.Port, err = port(m.PortRedirect, "port_redirect"); err != nil {
		return nil, err
	}
	r.Code = map[wire.RedirectActionRedirectResponseCode]int{
		wire.RedirectActionRedirectResponseCodeMovedPermanently:  301,
		wire.RedirectActionRedirectResponseCodeFound:             302,
		wire.RedirectActionRedirectResponseCodeSeeOther:          303,
		wire.RedirectActionRedirectResponseCodeTemporaryRedirect: 307,
		wire.RedirectActionRedirectResponseCodePermanentRedirect: 308,
	}[m.ResponseCode]
	if r.Code == 0 {
		return nil, refuse("response_code", "%d is not supported", m.ResponseCode)
	}
	for _, s := range []string{r.Scheme, r.Host, r.Path, r.PrefixRewrite} {
		if !headerValue(s) {
			return nil, refuse("", "%q cannot stand in a location header", s)
		}
	}
	return r, nil
}

func direct(m *wire.DirectResponseAction, max int) (*Direct, error) {
	if m.Status < 200 || m.Status > 599 {
		return nil, refuse("status", "%d is no final HTTP status", m.Status)
	}
	d := &Direct{Status: int(m.Status)}
	if m.Body != nil {
		body, err := inline(m.Body)
		if err != nil {
			return nil, in(err, "body")
		}
		d.Body = body
	}
	if len(d.Body) > max {
		return nil, refuse("body", "%d bytes, more than the %d allowed", len(d.Body), max)
	}
	return d, nil
}

// inline is the content of a DataSource that carries it.
func inline(m *wire.DataSource) ([]byte, error) {
	switch {
	case m.InlineBytes != nil:
		return m.InlineBytes, nil
	case m.InlineString != nil:
		return []byte(*m.InlineString), nil
	case m.Filename != nil:
		return nil, refuse("filename", "files are not read here")
	}
	return nil, nil
}

// headerEdit builds the header operations of one direction; field is
// "request_headers" or "response_headers".
func headerEdit(add []*wire.HeaderValueOption, remove []string, field string) (HeaderEdit, error) {
	var e HeaderEdit
	for i, o := range add {
		if err := e.option(o); err != nil {
			return e, inIndex(err, field+"_to_add", i)
		}
	}
	for i, n := range remove {
		n = strings.ToLower(n)
		if !headerName(n) || n == "host" {
			return e, inIndex(refuse("", "%q cannot be removed", n), field+"_to_remove", i)
		}
		e.Remove = append(e.Remove, n)
	}
	return e, nil
}

func (e *HeaderEdit) option(o *wire.HeaderValueOption) error {
	if o.Header == nil {
		return refuse("header", "missing")
	}
	h := Header{Name: strings.ToLower(o.Header.Key), Value: o.Header.Value, KeepEmpty: o.KeepEmptyValue}
	if !headerName(h.Name) || h.Name == "host" {
		return refuse("header.key", "%q cannot be written", o.Header.Key)
	}
	if !headerValue(h.Value) {
		return refuse("header.value", "it holds a control character")
	}
	if h.Value == "" && !h.KeepEmpty {
		return nil // Envoy sends no empty header that it was not told to keep
	}
	if h.Dynamic = strings.Contains(h.Value, "%"); h.Dynamic {
		if _, err := format.Parse(h.Value); err != nil {
			return refuse("header.value", "%v", err)
		}
	}
	action := o.AppendAction
	if o.Append != nil && action == wire.HeaderValueOptionHeaderAppendActionAppendIfExistsOrAdd && !*o.Append {
		action = wire.HeaderValueOptionHeaderAppendActionOverwriteIfExistsOrAdd
	}
	switch action {
	case wire.HeaderValueOptionHeaderAppendActionAppendIfExistsOrAdd:
		e.Add = append(e.Add, h)
	case wire.HeaderValueOptionHeaderAppendActionAddIfAbsent:
		e.AddIfAbsent = append(e.AddIfAbsent, h)
	case wire.HeaderValueOptionHeaderAppendActionOverwriteIfExistsOrAdd:
		e.Set = append(e.Set, h)
	default:
		return refuse("append_action", "%d is not supported", action)
	}
	return nil
}

// headerValue reports whether s can stand in a header.
func headerValue(s string) bool { return !strings.ContainsAny(s, "\x00\r\n") }
