// Package rbac decides whether a request or connection is allowed, as Envoy's
// HTTP and network RBAC filters do.
//
// In: the policies of one filter and what is known of the request. Out: yes or
// no, with the policy that decided. Pure; nothing is allocated with a nil Why.
// A panic while deciding is a no.
//
// What does not belong here: where identities come from (mtls), and the answer
// to a denied request (exchange, tcp).
package rbac

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// Input is what policies look at. For connections Head is nil: header and path
// rules then match nothing.
type Input struct {
	Head        *stream.Head
	Source      netip.AddrPort // direct peer
	Remote      netip.AddrPort // after x-forwarded-for; on connections the peer
	Destination netip.AddrPort // local or original destination
	ServerName  string         // SNI
	TLS         bool           // the connection is TLS
	Mutual      bool           // the client showed a certificate that was verified
	// Principals are the certificate's names in Envoy's order: URI SANs, DNS
	// SANs, subject.
	Principals []string
	// Metadata finds dynamic metadata by filter and keys; nil: there is none.
	Metadata func(path []string) (value []byte, ok bool)
}

// Eval decides. policy is the first that matched, empty when none did. A nil r
// allows. Dry-run policies (r.Shadow) decide nothing; see Shadow.
func Eval(r *conf.RBAC, in *Input, w *why.Why) (allowed bool, policy string) {
	if r == nil {
		return true, ""
	}
	defer func() {
		if p := recover(); p != nil {
			allowed, policy = false, "panic"
			w.Add("rbac", "", "denied", "the policies could not be evaluated: %v", p)
		}
	}()
	matched := find(r, in, w)
	if matched != nil {
		policy = matched.Name
	}
	switch r.Action {
	case conf.RBACAllow:
		allowed = matched != nil
	case conf.RBACDeny:
		allowed = matched == nil
	default:
		allowed = true
	}
	if w.On() {
		tell(r, policy, allowed, w)
	}
	return allowed, policy
}

// Shadow evaluates the dry-run policies of r: what Eval would say if they were
// in force. Without such it allows.
func Shadow(r *conf.RBAC, in *Input, w *why.Why) (allowed bool, policy string) {
	if r == nil {
		return true, ""
	}
	return Eval(r.Shadow, in, w)
}

func find(r *conf.RBAC, in *Input, w *why.Why) *conf.RBACPolicy {
	for i := range r.Policies {
		p := &r.Policies[i]
		if anyOf(p.Permissions, in) && anyOf(p.Principals, in) {
			return p
		}
		if w.On() {
			w.Add("rbac", p.Name, "no_match", "%s", mismatch(p, in))
		}
	}
	return nil
}

func tell(r *conf.RBAC, policy string, allowed bool, w *why.Why) {
	verdict := "allowed"
	if !allowed {
		verdict = "denied"
	}
	switch {
	case r.Action == conf.RBACLog:
		return
	case policy != "" && r.Action == conf.RBACDeny:
		w.Add("rbac", policy, verdict, "a DENY policy matches")
	case policy != "":
		w.Add("rbac", policy, verdict, "an ALLOW policy matches")
	case r.Action == conf.RBACDeny:
		w.Add("rbac", "", verdict, "none of the %d DENY rules matches", len(r.Policies))
	default:
		var names []string
		for i := range r.Policies {
			names = append(names, r.Policies[i].Name)
		}
		if len(names) == 0 {
			names = []string{"there is none"}
		}
		w.Add("rbac", "", verdict, "no ALLOW rule matches; tried: %s", strings.Join(names, ", "))
	}
}

func anyOf(rs []*conf.RBACRule, in *Input) bool {
	for _, r := range rs {
		if matches(r, in) {
			return true
		}
	}
	return false
}

func matches(r *conf.RBACRule, in *Input) bool {
	switch r.Kind {
	case conf.RBACAny:
		return true
	case conf.RBACAnd:
		for _, c := range r.Children {
			if !matches(c, in) {
				return false
			}
		}
		return true
	case conf.RBACOr:
		return anyOf(r.Children, in)
	case conf.RBACNot:
		return !matches(r.Children[0], in)
	case conf.RBACHeader:
		return in.Head != nil && route.Header(r.Header, in.Head)
	case conf.RBACPath:
		return in.Head != nil && route.String(r.String, route.PathOnly(in.Head.Path))
	case conf.RBACDestIP:
		return within(r.Prefix, in.Destination)
	case conf.RBACDestPort:
		return in.Destination.Port() == r.Port
	case conf.RBACDestPortRange: // PortEnd is exclusive, 0 stands for 65536
		p := in.Destination.Port()
		return p >= r.Port && (p < r.PortEnd || r.PortEnd == 0)
	case conf.RBACServerName:
		return route.Text(r.String, in.ServerName)
	case conf.RBACPrincipal:
		return principal(r, in)
	case conf.RBACSourceIP:
		return within(r.Prefix, in.Source)
	case conf.RBACRemoteIP:
		return within(r.Prefix, in.Remote)
	case conf.RBACMetadata:
		return metadata(r, in)
	}
	panic(fmt.Sprintf("BUG: rbac rule of kind %d", r.Kind))
}

func within(p netip.Prefix, a netip.AddrPort) bool {
	return a.IsValid() && p.Contains(a.Addr().Unmap().WithZone(""))
}

// principal matches any name of the client's certificate; without a matcher
// any verified certificate will do. A client without one is nobody.
func principal(r *conf.RBACRule, in *Input) bool {
	if !in.TLS || !in.Mutual {
		return false
	}
	if r.String == nil {
		return true
	}
	for _, p := range in.Principals {
		if route.Text(r.String, p) {
			return true
		}
	}
	return false
}

func metadata(r *conf.RBACRule, in *Input) bool {
	ok := false
	if in.Metadata != nil {
		var v []byte
		if v, ok = in.Metadata(r.Path); ok {
			ok = route.String(r.String, v)
		}
	}
	return ok != r.Invert
}
