package istio

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	security "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/tulle-mesh/tulle/internal/model"
)

// authz reads one AuthorizationPolicy so that it fails closed. Where something
// is not understood, an ALLOW (or AUDIT) rule is left out and so never matches,
// and a DENY (or CUSTOM) rule loses the condition and so matches more.
type authz struct {
	r       *reading
	p       *model.AuthzPolicy
	nowhere bool // no target is left; there is nothing to apply it to
	broken  bool // something in the present rule was not understood
}

func (a *authz) denies() bool { return a.p.Action == model.Deny || a.p.Action == model.Custom }

// scope reads whom the policy applies to.
func (a *authz) scope(ap *security.AuthorizationPolicy) {
	r := a.r
	a.p.Selector = r.selector("spec.selector", ap.Selector)
	refs, paths := ap.TargetRefs, []string(nil)
	for i := range refs {
		paths = append(paths, index("spec.targetRefs", i))
	}
	if ap.TargetRef != nil {
		if len(refs) > 0 {
			r.Invalid("spec.targetRef", "targetRef and targetRefs exclude each other")
		}
		refs, paths = append(refs, ap.TargetRef), append(paths, "spec.targetRef")
	}
	if len(refs) == 0 {
		return
	}
	if ap.Selector != nil {
		r.Invalid("spec.selector", "selector and targetRefs exclude each other: the selector is taken")
		r.hurt("spec.targetRefs")
		return
	}
	for i, ref := range refs {
		a.target(paths[i], ref)
	}
	a.nowhere = len(a.p.Gateways)+len(a.p.Services) == 0
}

func (a *authz) target(path string, ref *typev1beta1.PolicyTargetReference) {
	r := a.r
	if ref.GetName() == "" {
		r.Invalid(path+".name", "is missing")
		return
	}
	if ref.Namespace != "" && ref.Namespace != r.Object.Namespace {
		r.Invalid(path+".namespace", "a policy can only target objects of its own namespace")
		return
	}
	to := model.Ref{Namespace: r.Object.Namespace, Name: ref.Name}
	switch ref.Group + "/" + ref.Kind {
	case "gateway.networking.k8s.io/Gateway":
		a.p.Gateways = append(a.p.Gateways, to)
	case "/Service", "core/Service":
		a.p.Services = append(a.p.Services, to)
	default:
		r.Add(model.Error, model.Unsupported, path, "targets of kind %s (group %q) are not acted on yet: the policy does not apply there", clip(ref.Kind), clip(ref.Group))
	}
}

// rules reads the rules, or what is left of them.
func (a *authz) rules(ap *security.AuthorizationPolicy) {
	r := a.r
	for i, rule := range ap.Rules {
		at := index("spec.rules", i)
		a.broken = r.damaged(at)
		read := a.rule(at, rule)
		if a.broken && !a.denies() {
			r.Invalid(at, "the rule is not wholly understood: it never matches")
			continue
		}
		if a.broken {
			r.Invalid(at, "the rule is not wholly understood: it matches without the part that is not, so it may deny more")
		}
		a.p.Rules = append(a.p.Rules, read)
	}
	switch {
	case !r.outside:
	case !a.denies():
		r.Invalid("", "the policy is not wholly understood: it allows nothing")
		a.p.Rules = nil
	case r.damaged("spec.rules") && len(ap.Rules) == 0:
		r.Invalid("", "the rules are not understood: everything is denied")
		a.p.Rules = []model.AuthzRule{{Origin: r.at("spec.rules")}}
	}
}

func (a *authz) rule(path string, in *security.Rule) model.AuthzRule {
	out := model.AuthzRule{Origin: a.r.at(path)}
	for i, f := range in.GetFrom() {
		at := index(path+".from", i)
		if f.GetSource() == nil {
			a.missing(at + ".source")
			out.From = append(out.From, model.AuthzSource{})
			continue
		}
		out.From = append(out.From, a.source(at+".source", f.Source))
	}
	for i, t := range in.GetTo() {
		at := index(path+".to", i)
		if t.GetOperation() == nil {
			a.missing(at + ".operation")
			out.To = append(out.To, model.AuthzOperation{})
			continue
		}
		out.To = append(out.To, a.operation(at+".operation", t.Operation))
	}
	for i, c := range in.GetWhen() {
		if cond, ok := a.condition(index(path+".when", i), c); ok {
			out.When = append(out.When, cond)
		}
	}
	return out
}

func (a *authz) missing(path string) {
	if !a.broken {
		a.r.Invalid(path, "is missing")
	}
	a.broken = true
}

// list checks the values of one field. When one of them is not understood the
// whole field is left out: leaving out one value would make the rule narrower.
func (a *authz) list(path string, in []string, check func(path, v string) (string, bool)) []string {
	bad := a.r.damaged(path)
	var out []string
	for i, v := range in {
		at := index(path, i)
		if v == "" {
			a.r.Invalid(at, "is empty")
			bad = true
			continue
		}
		v, ok := check(at, v)
		if !ok {
			bad = true
		}
		out = append(out, v)
	}
	if bad {
		a.broken = true
		return nil
	}
	return out
}

func (a *authz) source(path string, s *security.Source) model.AuthzSource {
	out := model.AuthzSource{
		Principals:           a.list(path+".principals", s.Principals, a.principal),
		NotPrincipals:        a.list(path+".notPrincipals", s.NotPrincipals, a.principal),
		RequestPrincipals:    a.list(path+".requestPrincipals", s.RequestPrincipals, a.pattern),
		NotRequestPrincipals: a.list(path+".notRequestPrincipals", s.NotRequestPrincipals, a.pattern),
		Namespaces:           a.list(path+".namespaces", s.Namespaces, a.pattern),
		NotNamespaces:        a.list(path+".notNamespaces", s.NotNamespaces, a.pattern),
		Accounts:             a.list(path+".serviceAccounts", s.ServiceAccounts, a.account),
		NotAccounts:          a.list(path+".notServiceAccounts", s.NotServiceAccounts, a.account),
		IPBlocks:             a.list(path+".ipBlocks", s.IpBlocks, a.block),
		NotIPBlocks:          a.list(path+".notIpBlocks", s.NotIpBlocks, a.block),
		RemoteIPBlocks:       a.list(path+".remoteIpBlocks", s.RemoteIpBlocks, a.block),
		NotRemoteIPBlocks:    a.list(path+".notRemoteIpBlocks", s.NotRemoteIpBlocks, a.block),
	}
	if len(s.ServiceAccounts)+len(s.NotServiceAccounts) > 0 && len(s.Principals)+len(s.NotPrincipals)+len(s.Namespaces)+len(s.NotNamespaces) > 0 {
		a.r.Invalid(path, "serviceAccounts cannot stand with principals or namespaces")
		a.broken = true
	}
	a.trustDomains(path, s, &out)
	if isZeroSource(s) {
		a.missing(path)
	}
	return out
}

// trustDomains are the part of a principal before its first slash, so they are
// read as principals.
func (a *authz) trustDomains(path string, s *security.Source, out *model.AuthzSource) {
	under := func(at string, v string) (string, bool) {
		if strings.ContainsAny(v, "*/") {
			a.r.Add(model.Error, model.Unsupported, at, "%q: only whole trust domains are understood", clip(v))
			return v, false
		}
		return v + "/*", true
	}
	in := a.list(path+".trustDomains", s.TrustDomains, under)
	switch {
	case len(in) > 0 && len(s.Principals) > 0:
		a.r.Add(model.Error, model.Unsupported, path+".trustDomains", "together with principals it is not acted on yet")
		a.broken = true
	case len(in) > 0:
		out.Principals = in
	}
	out.NotPrincipals = append(out.NotPrincipals, a.list(path+".notTrustDomains", s.NotTrustDomains, under)...)
}

func isZeroSource(s *security.Source) bool {
	return len(s.Principals)+len(s.NotPrincipals)+len(s.RequestPrincipals)+len(s.NotRequestPrincipals)+
		len(s.Namespaces)+len(s.NotNamespaces)+len(s.ServiceAccounts)+len(s.NotServiceAccounts)+
		len(s.IpBlocks)+len(s.NotIpBlocks)+len(s.RemoteIpBlocks)+len(s.NotRemoteIpBlocks)+
		len(s.TrustDomains)+len(s.NotTrustDomains) == 0
}

func (a *authz) operation(path string, o *security.Operation) model.AuthzOperation {
	out := model.AuthzOperation{
		Hosts: a.list(path+".hosts", o.Hosts, a.pattern), NotHosts: a.list(path+".notHosts", o.NotHosts, a.pattern),
		Ports: a.list(path+".ports", o.Ports, a.port), NotPorts: a.list(path+".notPorts", o.NotPorts, a.port),
		Methods: a.list(path+".methods", o.Methods, a.method), NotMethods: a.list(path+".notMethods", o.NotMethods, a.method),
		Paths: a.list(path+".paths", o.Paths, a.path), NotPaths: a.list(path+".notPaths", o.NotPaths, a.path),
	}
	if len(o.Hosts)+len(o.NotHosts)+len(o.Ports)+len(o.NotPorts)+len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) == 0 {
		a.missing(path)
	}
	return out
}

// pattern is exact, "prefix*", "*suffix" or "*".
func (a *authz) pattern(path, v string) (string, bool) {
	if i := strings.IndexByte(v, '*'); i >= 0 && len(v) > 1 {
		if inner := strings.TrimSuffix(strings.TrimPrefix(v, "*"), "*"); strings.Contains(inner, "*") || v[0] == '*' && v[len(v)-1] == '*' {
			a.r.Doubtful(path, "%q: a * acts only as the first or the last character; elsewhere it stands for itself", clip(v))
		}
	}
	return v, true
}

func (a *authz) principal(path, v string) (string, bool) {
	if strings.HasPrefix(v, "spiffe://") {
		a.r.Doubtful(path, "can never match: write the identity without spiffe://")
	}
	return a.pattern(path, v)
}

func (a *authz) method(path, v string) (string, bool) {
	if v != strings.ToUpper(v) {
		a.r.Doubtful(path, "methods are compared with their case; is %s meant?", strings.ToUpper(clip(v)))
	}
	return a.pattern(path, v)
}

func (a *authz) path(path, v string) (string, bool) {
	if strings.Contains(v, "{*}") || strings.Contains(v, "{**}") {
		if why := badTemplate(v); why != "" {
			a.r.Invalid(path, "%q is not a path template: %s", clip(v), why)
			return v, false
		}
		return v, true
	}
	if v[0] != '/' && v[0] != '*' {
		a.r.Doubtful(path, "%q can never match: paths begin with /", clip(v))
	}
	return a.pattern(path, v)
}

// badTemplate says why v, which has {*} or {**}, is no path template as Istio
// defines them: an operator is a whole segment, {**} the last one, and no other
// star or brace stands anywhere.
func badTemplate(v string) string {
	last := false
	for _, seg := range strings.Split(v, "/") {
		switch {
		case seg == "{*}" || seg == "{**}":
			if last {
				return "{**} must be the last operator"
			}
			last = seg == "{**}"
		case strings.Contains(seg, "{*}") || strings.Contains(seg, "{**}"):
			return "{*} and {**} must be whole segments"
		case strings.ContainsAny(seg, "*{}"):
			return "only {*} and {**} may have stars and braces"
		}
	}
	if v[0] != '/' {
		return "it must begin with /"
	}
	return ""
}

// account completes "sa" to "ns/sa".
func (a *authz) account(path, v string) (string, bool) {
	ns, name, ok := strings.Cut(v, "/")
	if !ok {
		ns, name = a.r.Object.Namespace, v
	}
	if ns == "" || name == "" || strings.ContainsAny(v, "*") || strings.Contains(name, "/") {
		a.r.Invalid(path, "%q is not a service account: write namespace/name", clip(v))
		return v, false
	}
	return ns + "/" + name, true
}

func (a *authz) block(path, v string) (string, bool) {
	p, ok := a.r.cidr(path, v)
	if !ok {
		return v, false
	}
	return p.Masked().String(), true
}

func (a *authz) port(path, v string) (string, bool) {
	if n, err := strconv.Atoi(v); err != nil || n < 1 || n > math.MaxUint16 {
		a.r.Invalid(path, "%q is not a port within 1 and 65535", clip(v))
		return v, false
	}
	return v, true
}

// condition keys without brackets, and how their values are checked.
var conditionKeys = map[string]func(a *authz, path, v string) (string, bool){
	"source.ip": (*authz).block, "remote.ip": (*authz).block, "destination.ip": (*authz).block,
	"destination.port": (*authz).port, "source.namespace": (*authz).pattern, "source.principal": (*authz).principal,
	"source.serviceAccount": (*authz).account, "source.trustDomain": (*authz).pattern, "connection.sni": (*authz).pattern,
	"request.auth.principal": (*authz).pattern, "request.auth.audiences": (*authz).pattern, "request.auth.presenter": (*authz).pattern,
}

func (a *authz) condition(path string, c *security.Condition) (model.AuthzCondition, bool) {
	fail := func(at string, reason model.Reason, format string, args ...any) (model.AuthzCondition, bool) {
		a.broken = true
		a.r.Add(model.Error, reason, at, "%s", fmt.Sprintf(format, args...))
		return model.AuthzCondition{}, false
	}
	if a.r.damaged(path) {
		a.broken = true
		return model.AuthzCondition{}, false
	}
	key := c.GetKey()
	check := conditionKeys[key]
	switch {
	case key == "":
		return fail(path+".key", model.Invalid, "is missing")
	case check != nil:
	case bracketed(key, "request.headers", 1), bracketed(key, "request.auth.claims", 8):
		check = (*authz).pattern
	case strings.HasPrefix(key, "experimental.envoy.filters."):
		return fail(path+".key", model.Unsupported, "attributes of Envoy filters are not acted on")
	default:
		return fail(path+".key", model.Invalid, "%q is not an attribute that Istio knows", clip(key))
	}
	if len(c.Values)+len(c.NotValues) == 0 {
		return fail(path, model.Invalid, "one of values, notValues is needed")
	}
	each := func(at, v string) (string, bool) { return check(a, at, v) }
	was := a.broken
	a.broken = false
	out := model.AuthzCondition{
		Key:       key,
		Values:    a.list(path+".values", c.Values, each),
		NotValues: a.list(path+".notValues", c.NotValues, each),
	}
	bad := a.broken
	a.broken = was || bad
	return out, !bad
}

// bracketed reports whether key is name[a], with up to most brackets.
func bracketed(key, name string, most int) bool {
	rest, ok := strings.CutPrefix(key, name)
	if !ok || rest == "" {
		return false
	}
	n := 0
	for rest != "" {
		end := strings.IndexByte(rest, ']')
		if rest[0] != '[' || end < 2 {
			return false
		}
		rest = rest[end+1:]
		n++
	}
	return n <= most
}
