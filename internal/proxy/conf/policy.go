package conf

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// perRoute is what typed_per_filter_config says at one level.
type perRoute struct {
	fault *Fault
	cors  *CORS
	rbac  map[string]*RBACOverride
}

// perRoute reads typed_per_filter_config, wrapped in FilterConfig or not.
func (b *builder) perRoute(m map[string]*wire.Any) (perRoute, error) {
	var out perRoute
	for _, name := range sortedKeys(m) {
		msg, off := m[name].Msg, false
		if w, ok := msg.(*wire.FilterConfig); ok {
			if off = w.Disabled; w.Config == nil && !off {
				return out, inKey(refuse("config", "missing"), "typed_per_filter_config", name)
			}
			if w.Config != nil {
				if msg = w.Config.Msg; msg == nil && !w.IsOptional {
					return out, inKey(refuse("config", "extension %q is not known here", w.Config.URL), "typed_per_filter_config", name)
				}
			} else {
				msg = disabledByName(name)
			}
			if msg == nil && w.IsOptional {
				continue
			}
		}
		if err := out.set(b, name, msg, off); err != nil {
			return out, inKey(err, "typed_per_filter_config", name)
		}
	}
	return out, nil
}

// disabledByName finds the kind of a filter that is switched off without a
// config, by its well-known name.
func disabledByName(name string) any {
	switch name {
	case "envoy.filters.http.rbac":
		return &wire.RBACPerRoute{}
	case "envoy.filters.http.cors":
		return &wire.CorsPolicy{}
	case "envoy.filters.http.fault":
		return &wire.HTTPFault{}
	}
	return nil
}

func (p *perRoute) set(b *builder, name string, msg any, off bool) error {
	var err error
	switch m := msg.(type) {
	case *wire.HTTPFault:
		if p.fault = (&Fault{AbortGRPC: -1}); !off {
			p.fault, err = fault(m)
		}
	case *wire.CorsPolicy:
		if p.cors = (&CORS{ForwardUnmatched: true}); !off {
			p.cors, err = b.cors(m)
		}
	case *wire.RBACPerRoute:
		o := &RBACOverride{}
		if m.Rbac != nil && !off {
			o.RBAC, err = b.httpRBAC(m.Rbac)
			err = in(err, "rbac")
		}
		if p.rbac == nil {
			p.rbac = map[string]*RBACOverride{}
		}
		p.rbac[name] = o
	default:
		return refuse("", "it does not belong here")
	}
	return err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func fault(m *wire.HTTPFault) (*Fault, error) {
	f := &Fault{AbortGRPC: -1}
	if d := m.Delay; d != nil {
		if d.FixedDelay == nil || *d.FixedDelay <= 0 {
			return nil, refuse("delay.fixed_delay", "it must be positive")
		}
		f.Delay = *d.FixedDelay
		f.DelayFraction, _ = million(d.Percentage, 0)
	}
	if a := m.Abort; a != nil {
		switch {
		case a.HttpStatus != nil:
			if *a.HttpStatus < 200 || *a.HttpStatus > 599 {
				return nil, refuse("abort.http_status", "%d is no final HTTP status", *a.HttpStatus)
			}
			f.AbortHTTP = int(*a.HttpStatus)
		case a.GrpcStatus != nil:
			if *a.GrpcStatus > 16 {
				return nil, refuse("abort.grpc_status", "%d is no gRPC status", *a.GrpcStatus)
			}
			f.AbortGRPC = int(*a.GrpcStatus)
		default:
			return nil, refuse("abort", "no status")
		}
		f.AbortFraction, _ = million(a.Percentage, 0)
	}
	return f, nil
}

// cors builds a policy. Switched off, it matches no origin and lets every
// request through.
func (b *builder) cors(m *wire.CorsPolicy) (*CORS, error) {
	switch ppm, _ := runtimeMillion(m.FilterEnabled, 1_000_000); ppm {
	case 0:
		return &CORS{ForwardUnmatched: true}, nil
	case 1_000_000:
	default:
		return nil, refuse("filter_enabled", "only all or none of the requests are supported")
	}
	c := &CORS{Methods: m.AllowMethods, Headers: m.AllowHeaders, Expose: m.ExposeHeaders, MaxAge: m.MaxAge,
		Credentials: or(m.AllowCredentials, false), ForwardUnmatched: or(m.ForwardNotMatchingPreflights, true)}
	for _, s := range []string{c.Methods, c.Headers, c.Expose, c.MaxAge} {
		if !headerValue(s) {
			return nil, refuse("", "%q cannot stand in a header", s)
		}
	}
	var err error
	c.Origins, err = b.stringMatches(m.AllowOriginStringMatch, "allow_origin_string_match")
	return c, err
}

// maxRules bounds the nodes of all RBAC trees of one resource.
const maxRules = 1 << 18

// httpRBAC builds the HTTP filter's config; nil when nothing is enforced.
func (b *builder) httpRBAC(m *wire.HTTPRBAC) (*RBAC, error) {
	return b.rbacPair(m.Rules, m.ShadowRules, "")
}

// rbacPair builds rules with their dry run. Without rules of its own it
// allows everything.
func (b *builder) rbacPair(rules, shadow *wire.Rbac, prefix string) (*RBAC, error) {
	r, err := b.rbac(rules)
	if err != nil {
		return nil, in(err, "rules")
	}
	s, err := b.rbac(shadow)
	if err != nil {
		return nil, in(err, "shadow_rules")
	}
	if r == nil {
		if s == nil {
			return nil, nil
		}
		r = &RBAC{Action: RBACLog}
	}
	r.Shadow, r.StatPrefix = s, prefix
	return r, nil
}

func (b *builder) rbac(m *wire.Rbac) (*RBAC, error) {
	if m == nil {
		return nil, nil
	}
	r := &RBAC{}
	switch m.Action {
	case wire.RbacActionAllow:
		r.Action = RBACAllow
	case wire.RbacActionDeny:
		r.Action = RBACDeny
	case wire.RbacActionLog:
		r.Action = RBACLog
	default:
		return nil, refuse("action", "%d is not known", m.Action)
	}
	for _, name := range sortedKeys(m.Policies) {
		p, err := b.policy(name, m.Policies[name])
		if err != nil {
			return nil, inKey(err, "policies", name)
		}
		r.Policies = append(r.Policies, p)
	}
	return r, nil
}

func (b *builder) policy(name string, m *wire.Policy) (RBACPolicy, error) {
	p := RBACPolicy{Name: name}
	if len(m.Permissions) == 0 || len(m.Principals) == 0 {
		return p, refuse("", "permissions and principals must not be empty")
	}
	var err error
	if p.Permissions, err = b.permissions(m.Permissions, "permissions"); err != nil {
		return p, err
	}
	p.Principals, err = b.principals(m.Principals, "principals")
	return p, err
}

// count keeps trees within bounds.
func (b *builder) count() error {
	if b.rules++; b.rules > maxRules {
		return refuse("", "more than %d rules in one resource", maxRules)
	}
	return nil
}

func (b *builder) permissions(ms []*wire.Permission, field string) ([]*RBACRule, error) {
	var out []*RBACRule
	for i, m := range ms {
		r, err := b.permission(m)
		if err != nil {
			return nil, inIndex(err, field, i)
		}
		out = append(out, r)
	}
	return out, nil
}

// permission builds what a request does. A rule that says nothing is refused:
// it could mean anything.
func (b *builder) permission(m *wire.Permission) (r *RBACRule, err error) {
	if err := b.count(); err != nil {
		return nil, err
	}
	r = &RBACRule{}
	switch {
	case m.AndRules != nil:
		r.Kind = RBACAnd
		r.Children, err = b.set(m.AndRules, "and_rules")
	case m.OrRules != nil:
		r.Kind = RBACOr
		r.Children, err = b.set(m.OrRules, "or_rules")
	case m.NotRule != nil:
		r.Kind = RBACNot
		var c *RBACRule
		c, err = b.permission(m.NotRule)
		r.Children, err = []*RBACRule{c}, in(err, "not_rule")
	case m.Any != nil:
		return anyRule(*m.Any)
	case m.Header != nil:
		return b.headerRule(m.Header)
	case m.UrlPath != nil:
		return b.pathRule(m.UrlPath)
	case m.UriTemplate != nil:
		r.Kind, r.String = RBACPath, &StringMatch{Kind: StrRegex}
		r.String.Regex, err = b.template(m.UriTemplate)
		err = in(err, "uri_template")
	case m.DestinationIp != nil:
		return ipRule(RBACDestIP, m.DestinationIp, "destination_ip")
	case m.DestinationPort != nil:
		r.Kind = RBACDestPort
		r.Port, err = port(*m.DestinationPort, "destination_port")
	case m.DestinationPortRange != nil:
		return rangeRule(m.DestinationPortRange)
	case m.RequestedServerName != nil:
		var s StringMatch
		s, err = b.stringMatch(m.RequestedServerName)
		r.Kind, r.String, err = RBACServerName, &s, in(err, "requested_server_name")
	case m.Metadata != nil:
		return b.metadataRule(m.Metadata)
	default:
		err = refuse("", "no rule")
	}
	return r, err
}

func (b *builder) set(m *wire.PermissionSet, field string) ([]*RBACRule, error) {
	if len(m.Rules) == 0 {
		return nil, refuse(field+".rules", "empty")
	}
	rs, err := b.permissions(m.Rules, "rules")
	return rs, in(err, field)
}

func (b *builder) principals(ms []*wire.Principal, field string) ([]*RBACRule, error) {
	var out []*RBACRule
	for i, m := range ms {
		r, err := b.principal(m)
		if err != nil {
			return nil, inIndex(err, field, i)
		}
		out = append(out, r)
	}
	return out, nil
}

// principal builds who makes a request.
func (b *builder) principal(m *wire.Principal) (r *RBACRule, err error) {
	if err := b.count(); err != nil {
		return nil, err
	}
	r = &RBACRule{}
	switch {
	case m.AndIds != nil:
		r.Kind = RBACAnd
		r.Children, err = b.idSet(m.AndIds, "and_ids")
	case m.OrIds != nil:
		r.Kind = RBACOr
		r.Children, err = b.idSet(m.OrIds, "or_ids")
	case m.NotId != nil:
		r.Kind = RBACNot
		var c *RBACRule
		c, err = b.principal(m.NotId)
		r.Children, err = []*RBACRule{c}, in(err, "not_id")
	case m.Any != nil:
		return anyRule(*m.Any)
	case m.Authenticated != nil:
		r.Kind = RBACPrincipal
		if n := m.Authenticated.PrincipalName; n != nil {
			var s StringMatch
			s, err = b.stringMatch(n)
			r.String, err = &s, in(err, "authenticated.principal_name")
		}
	case m.SourceIp != nil: // deprecated; the same as direct_remote_ip
		return ipRule(RBACSourceIP, m.SourceIp, "source_ip")
	case m.DirectRemoteIp != nil:
		return ipRule(RBACSourceIP, m.DirectRemoteIp, "direct_remote_ip")
	case m.RemoteIp != nil:
		return ipRule(RBACRemoteIP, m.RemoteIp, "remote_ip")
	case m.Header != nil:
		return b.headerRule(m.Header)
	case m.UrlPath != nil:
		return b.pathRule(m.UrlPath)
	case m.Metadata != nil:
		return b.metadataRule(m.Metadata)
	default:
		err = refuse("", "no identifier")
	}
	return r, err
}

func (b *builder) idSet(m *wire.PrincipalSet, field string) ([]*RBACRule, error) {
	if len(m.Ids) == 0 {
		return nil, refuse(field+".ids", "empty")
	}
	rs, err := b.principals(m.Ids, "ids")
	return rs, in(err, field)
}

func anyRule(v bool) (*RBACRule, error) {
	if !v {
		return nil, refuse("any", "false is not allowed")
	}
	return &RBACRule{Kind: RBACAny}, nil
}

func (b *builder) headerRule(m *wire.HeaderMatcher) (*RBACRule, error) {
	h, err := b.headerMatch(m)
	return &RBACRule{Kind: RBACHeader, Header: &h}, in(err, "header")
}

func (b *builder) pathRule(m *wire.PathMatcher) (*RBACRule, error) {
	if m.Path == nil {
		return nil, refuse("url_path.path", "missing")
	}
	s, err := b.stringMatch(m.Path)
	return &RBACRule{Kind: RBACPath, String: &s}, in(err, "url_path.path")
}

func ipRule(k RBACKind, c *wire.CidrRange, field string) (*RBACRule, error) {
	p, err := prefix(c)
	return &RBACRule{Kind: k, Prefix: p}, in(err, field)
}

func rangeRule(m *wire.Int32Range) (*RBACRule, error) {
	if m.Start < 0 || m.End > 65536 || m.Start >= m.End {
		return nil, refuse("destination_port_range", "%d..%d is no range of ports", m.Start, m.End)
	}
	// PortEnd is exclusive and a uint16: 65536 does not fit, so that a range up
	// to the last port is told apart by PortEnd 0.
	return &RBACRule{Kind: RBACDestPortRange, Port: uint16(m.Start), PortEnd: uint16(m.End)}, nil
}

// metadataRule matches dynamic metadata by text or presence.
func (b *builder) metadataRule(m *wire.MetadataMatcher) (*RBACRule, error) {
	r := &RBACRule{Kind: RBACMetadata, Path: []string{m.Filter}, Invert: m.Invert}
	if m.Filter == "" || len(m.Path) == 0 || m.Value == nil {
		return nil, refuse("metadata", "filter, path and value must not be empty")
	}
	for i, s := range m.Path {
		if or(s.Key, "") == "" {
			return nil, in(inIndex(refuse("key", "empty"), "path", i), "metadata")
		}
		r.Path = append(r.Path, *s.Key)
	}
	v, at := m.Value, "metadata.value"
	if v.ListMatch != nil {
		if v, r.List = v.ListMatch.OneOf, true; v == nil {
			return nil, refuse(at+".list_match.one_of", "missing")
		}
		at += ".list_match.one_of"
	}
	switch {
	case v.StringMatch != nil:
		s, err := b.stringMatch(v.StringMatch)
		if err != nil {
			return nil, in(err, at+".string_match")
		}
		r.String = &s
	case v.PresentMatch != nil && *v.PresentMatch:
		r.String = &StringMatch{Kind: StrPresent}
	default:
		return nil, refuse(at, "only text and presence are supported")
	}
	return r, nil
}

// serverNames checks SNI patterns.
func serverNames(ss []string) ([]string, error) {
	var out []string
	for i, s := range ss {
		s = strings.ToLower(s)
		if n := strings.TrimPrefix(s, "*."); strings.Contains(n, "*") || n == "" {
			return nil, inIndex(refuse("", "%q is no server name", s), "server_names", i)
		}
		out = append(out, s)
	}
	return out, nil
}
