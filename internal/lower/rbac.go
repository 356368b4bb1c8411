package lower

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacpb "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// rbacScope is where policies are enforced.
type rbacScope struct {
	tcp bool // connections, not requests: HTTP attributes do not exist
	// guessed is a TCP chain for what a port might carry that nobody declared:
	// nothing to tell the user about.
	guessed bool
	// Standalone, a sidecar listens on another port than the workload port
	// that policies speak of; both zero when they are the same.
	workloadPort, listenPort uint16
}

// rbacSet is the policies of one place by what they do, DENY first.
type rbacSet struct{ deny, allow, denyShadow, allowShadow *rbacpb.RBAC }

// errHTTPOnly: the field needs a request and there is only a connection.
var errHTTPOnly = errors.New("exists for HTTP only")

// httpRBAC is the filters that enforce ps on requests, DENY before ALLOW.
func (l *Lowering) httpRBAC(ps []*model.AuthzPolicy, scope rbacScope) []*hcmpb.HttpFilter {
	var out []*hcmpb.HttpFilter
	set := l.rbacSet(ps, scope)
	for _, p := range set.pairs() {
		out = append(out, httpFilter("envoy.filters.http.rbac", &httprbacpb.RBAC{
			Rules: p.rules, ShadowRules: p.shadow, ShadowRulesStatPrefix: p.prefix}))
	}
	return out
}

// tcpRBAC is the same for connections.
func (l *Lowering) tcpRBAC(ps []*model.AuthzPolicy, scope rbacScope) []*listenerpb.Filter {
	scope.tcp = true
	var out []*listenerpb.Filter
	set := l.rbacSet(ps, scope)
	for _, p := range set.pairs() {
		out = append(out, networkFilter("envoy.filters.network.rbac", &netrbacpb.RBAC{
			Rules: p.rules, ShadowRules: p.shadow, ShadowRulesStatPrefix: p.prefix, StatPrefix: "tcp."}))
	}
	return out
}

type rbacPair struct {
	rules, shadow *rbacpb.RBAC
	prefix        string
}

func (s *rbacSet) pairs() []rbacPair {
	var out []rbacPair
	for _, p := range []rbacPair{
		{s.deny, s.denyShadow, "istio_dry_run_deny_"},
		{s.allow, s.allowShadow, "istio_dry_run_allow_"},
	} {
		if p.rules == nil && p.shadow == nil {
			continue
		}
		if p.shadow == nil {
			p.prefix = ""
		}
		out = append(out, p)
	}
	return out
}

// rbacSet sorts policies by action. CUSTOM, which is not supported yet, fails
// closed: what it would have asked about is denied.
func (l *Lowering) rbacSet(ps []*model.AuthzPolicy, scope rbacScope) rbacSet {
	var s rbacSet
	for _, p := range ps {
		var into **rbacpb.RBAC
		action := rbacpb.RBAC_DENY
		switch p.Action {
		case model.Allow:
			action, into = rbacpb.RBAC_ALLOW, &s.allow
			if p.DryRun {
				into = &s.allowShadow
			}
		case model.Deny, model.Custom:
			into = &s.deny
			if p.DryRun {
				into = &s.denyShadow
			}
			if p.Action == model.Custom {
				l.notice(model.Error, model.Unsupported, p.Origin, "action CUSTOM is not supported yet; requests that it matches are denied")
			}
		default:
			l.notice(model.Warning, model.Unsupported, p.Origin, "action "+p.Action.String()+" is not supported yet and has no effect")
			continue
		}
		if *into == nil {
			*into = &rbacpb.RBAC{Action: action, Policies: map[string]*rbacpb.Policy{}}
		}
		l.addPolicy(*into, p, scope)
	}
	return s
}

// addPolicy adds one policy per rule, named by the rule's origin.
func (l *Lowering) addPolicy(rbac *rbacpb.RBAC, p *model.AuthzPolicy, scope rbacScope) {
	base := l.origin(p.Origin)
	if base == "" {
		base = "authorizationpolicy/" + p.Namespace + "/" + p.Name
	}
	if len(p.Rules) == 0 { // present, so that a denial can name it
		rbac.Policies[base] = neverPolicy()
		return
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		name := l.origin(r.Origin)
		if name == "" || rbac.Policies[name] != nil {
			name = fmt.Sprintf("%s#spec.rules[%d]", base, i)
		}
		b := rbacRule{l: l, p: p, scope: scope}
		policy, err := b.policy(r)
		if err != nil {
			if !scope.guessed {
				l.notice(model.Warning, model.Unreachable, originOr(r.Origin, p.Origin), "this ALLOW rule never matches on a TCP port: "+err.Error())
			}
			policy = neverPolicy()
		}
		rbac.Policies[name] = policy
	}
}

func neverPolicy() *rbacpb.Policy {
	return &rbacpb.Policy{
		Permissions: []*rbacpb.Permission{notPermission(anyPermission())},
		Principals:  []*rbacpb.Principal{notPrincipal(anyPrincipal())},
	}
}

// rbacRule lowers one rule. A part that cannot hold where the rule is enforced
// makes an ALLOW rule never match, and is ignored by a DENY rule, which then
// denies more.
type rbacRule struct {
	l     *Lowering
	p     *model.AuthzPolicy
	scope rbacScope
}

func (b *rbacRule) policy(r *model.AuthzRule) (*rbacpb.Policy, error) {
	whenPerm, whenPrin, err := b.conditions(r.When)
	if err != nil {
		return nil, err
	}
	to := r.To
	if len(to) == 0 {
		to = []model.AuthzOperation{{}}
	}
	from := r.From
	if len(from) == 0 {
		from = []model.AuthzSource{{}}
	}
	out := &rbacpb.Policy{}
	for i := range to {
		ps, err := b.operation(&to[i])
		if err != nil {
			return nil, err
		}
		out.Permissions = append(out.Permissions, andPermissions(append(ps, whenPerm...)))
	}
	for i := range from {
		ps, err := b.source(&from[i])
		if err != nil {
			return nil, err
		}
		out.Principals = append(out.Principals, andPrincipals(append(ps, whenPrin...)))
	}
	return out, nil
}

// keep decides about a part that has no meaning here.
func (b *rbacRule) keep(err error) error {
	if err == nil || b.p.Action == model.Allow {
		return err
	}
	return nil
}

// permissions is the OR of values and the NOT of the OR of notValues.
func (b *rbacRule) permissions(out *[]*rbacpb.Permission, values, notValues []string, one func(string) (*rbacpb.Permission, error)) error {
	for i, list := range [][]string{values, notValues} {
		var or []*rbacpb.Permission
		for _, v := range list {
			p, err := one(v)
			if err != nil {
				if err = b.keep(err); err != nil {
					return err
				}
				continue
			}
			or = append(or, p)
		}
		switch {
		case len(or) == 0:
		case i == 0:
			*out = append(*out, orPermissions(or))
		default:
			*out = append(*out, notPermission(orPermissions(or)))
		}
	}
	return nil
}

// principals is the same for principals.
func (b *rbacRule) principals(out *[]*rbacpb.Principal, values, notValues []string, one func(string) (*rbacpb.Principal, error)) error {
	for i, list := range [][]string{values, notValues} {
		var or []*rbacpb.Principal
		for _, v := range list {
			p, err := one(v)
			if err != nil {
				if err = b.keep(err); err != nil {
					return err
				}
				continue
			}
			or = append(or, p)
		}
		switch {
		case len(or) == 0:
		case i == 0:
			*out = append(*out, orPrincipals(or))
		default:
			*out = append(*out, notPrincipal(orPrincipals(or)))
		}
	}
	return nil
}

func (b *rbacRule) operation(o *model.AuthzOperation) ([]*rbacpb.Permission, error) {
	var out []*rbacpb.Permission
	err := errors.Join(
		b.permissions(&out, o.Hosts, o.NotHosts, b.httpPermission(hostPermission)),
		b.permissions(&out, o.Methods, o.NotMethods, b.httpPermission(methodPermission)),
		b.permissions(&out, o.Paths, o.NotPaths, b.httpPermission(pathPermission)),
		b.permissions(&out, o.Ports, o.NotPorts, b.portPermission),
	)
	return out, err
}

func (b *rbacRule) httpPermission(one func(string) *rbacpb.Permission) func(string) (*rbacpb.Permission, error) {
	return func(v string) (*rbacpb.Permission, error) {
		if b.scope.tcp {
			return nil, fmt.Errorf("%q: hosts, methods and paths %w", v, errHTTPOnly)
		}
		return one(v), nil
	}
}

func (b *rbacRule) portPermission(v string) (*rbacpb.Permission, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("%q is no port", v)
	}
	if b.scope.listenPort != 0 {
		if uint16(n) != b.scope.workloadPort {
			return notPermission(anyPermission()), nil
		}
		n = uint64(b.scope.listenPort)
	}
	return &rbacpb.Permission{Rule: &rbacpb.Permission_DestinationPort{DestinationPort: uint32(n)}}, nil
}

func (b *rbacRule) source(s *model.AuthzSource) ([]*rbacpb.Principal, error) {
	var out []*rbacpb.Principal
	err := errors.Join(
		b.principals(&out, s.Principals, s.NotPrincipals, b.principal),
		b.principals(&out, s.RequestPrincipals, s.NotRequestPrincipals, b.requestPrincipal),
		b.principals(&out, s.Namespaces, s.NotNamespaces, namespacePrincipal),
		b.principals(&out, s.Accounts, s.NotAccounts, b.accountPrincipal),
		b.principals(&out, s.IPBlocks, s.NotIPBlocks, directIP),
		b.principals(&out, s.RemoteIPBlocks, s.NotRemoteIPBlocks, remoteIP),
	)
	return out, err
}

// conditions sorts when clauses into what is asked of the destination and of
// the source.
func (b *rbacRule) conditions(when []model.AuthzCondition) ([]*rbacpb.Permission, []*rbacpb.Principal, error) {
	var perms []*rbacpb.Permission
	var prins []*rbacpb.Principal
	for _, c := range when {
		var err error
		prin := func(one func(string) (*rbacpb.Principal, error)) {
			err = b.principals(&prins, c.Values, c.NotValues, one)
		}
		perm := func(one func(string) (*rbacpb.Permission, error)) {
			err = b.permissions(&perms, c.Values, c.NotValues, one)
		}
		switch header, isHeader := bracketed(c.Key, "request.headers"); {
		case isHeader:
			prin(func(v string) (*rbacpb.Principal, error) {
				if b.scope.tcp {
					return nil, fmt.Errorf("%s %w", c.Key, errHTTPOnly)
				}
				return &rbacpb.Principal{Identifier: &rbacpb.Principal_Header{Header: authzHeader(header, v, false)}}, nil
			})
		case c.Key == "source.ip":
			prin(directIP)
		case c.Key == "remote.ip":
			prin(remoteIP)
		case c.Key == "source.namespace":
			prin(namespacePrincipal)
		case c.Key == "source.principal":
			prin(b.principal)
		case c.Key == "source.serviceAccount":
			prin(b.accountPrincipal)
		case c.Key == "source.trustDomain":
			prin(trustDomainPrincipal)
		case strings.HasPrefix(c.Key, "request.auth."):
			prin(b.requestPrincipal)
		case c.Key == "destination.ip":
			perm(destinationIP)
		case c.Key == "destination.port":
			perm(b.portPermission)
		case c.Key == "connection.sni":
			perm(func(v string) (*rbacpb.Permission, error) {
				return &rbacpb.Permission{Rule: &rbacpb.Permission_RequestedServerName{RequestedServerName: authzString(v, "")}}, nil
			})
		default:
			b.l.notice(model.Error, model.Unsupported, b.p.Origin, "condition "+c.Key+" is not supported")
			err = b.keep(fmt.Errorf("condition %s is not supported", c.Key))
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return perms, prins, nil
}

// bracketed takes x out of "prefix[x]".
func bracketed(key, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(key, prefix+"[")
	if !ok || !strings.HasSuffix(rest, "]") {
		return "", false
	}
	return rest[:len(rest)-1], true
}

// requestPrincipal: no JWT is checked yet, hence no request has a principal.
func (b *rbacRule) requestPrincipal(string) (*rbacpb.Principal, error) {
	if b.scope.tcp {
		return nil, fmt.Errorf("request principals %w", errHTTPOnly)
	}
	b.l.notice(model.Warning, model.Unsupported, b.p.Origin, "JWTs are not checked yet; no request has a request principal")
	return notPrincipal(anyPrincipal()), nil
}

func cidr(v string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(v); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is no IP address or block", v)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
