package lower

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacpb "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// The terms of authorization rules. Values may be exact, "prefix*", "*suffix",
// or "*" for anything that is present.

// authzString matches v with prefix put in front of what it matches.
func authzString(v, prefix string) *matcherpb.StringMatcher {
	switch {
	case v == "*":
		return regexMatch(".+")
	case strings.HasPrefix(v, "*") && prefix == "":
		return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Suffix{Suffix: v[1:]}}
	case strings.HasPrefix(v, "*"):
		return regexMatch(regexp.QuoteMeta(prefix) + ".*" + regexp.QuoteMeta(v[1:]))
	case strings.HasSuffix(v, "*"):
		return &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Prefix{Prefix: prefix + v[:len(v)-1]}}
	default:
		return exact(prefix + v)
	}
}

func authzHeader(name, v string, ignoreCase bool) *routepb.HeaderMatcher {
	out := &routepb.HeaderMatcher{Name: name}
	if v == "*" {
		out.HeaderMatchSpecifier = &routepb.HeaderMatcher_PresentMatch{PresentMatch: true}
		return out
	}
	m := authzString(v, "")
	m.IgnoreCase = ignoreCase
	out.HeaderMatchSpecifier = &routepb.HeaderMatcher_StringMatch{StringMatch: m}
	return out
}

func hostPermission(v string) *rbacpb.Permission {
	return &rbacpb.Permission{Rule: &rbacpb.Permission_Header{Header: authzHeader(":authority", v, true)}}
}

func methodPermission(v string) *rbacpb.Permission {
	return &rbacpb.Permission{Rule: &rbacpb.Permission_Header{Header: authzHeader(":method", v, false)}}
}

func pathPermission(v string) *rbacpb.Permission {
	m := authzString(v, "")
	if re, ok := pathTemplate(v); ok {
		m = regexMatch(re)
	}
	return &rbacpb.Permission{Rule: &rbacpb.Permission_UrlPath{UrlPath: &matcherpb.PathMatcher{
		Rule: &matcherpb.PathMatcher_Path{Path: m}}}}
}

// pathTemplate turns "{*}", one path segment, and "{**}", any number of them,
// into an expression; false when v has neither.
func pathTemplate(v string) (string, bool) {
	if !strings.Contains(v, "{*}") && !strings.Contains(v, "{**}") {
		return "", false
	}
	var b strings.Builder
	for v != "" {
		switch {
		case strings.HasPrefix(v, "{*}"):
			b.WriteString("[^/]+")
			v = v[3:]
		case strings.HasPrefix(v, "{**}"):
			b.WriteString(".*")
			v = v[4:]
		default:
			i := strings.Index(v[1:], "{") + 1
			if i == 0 {
				i = len(v)
			}
			b.WriteString(regexp.QuoteMeta(v[:i]))
			v = v[i:]
		}
	}
	return b.String(), true
}

// principal is "td/ns/N/sa/S". A name in our own trust domain (which the name
// cluster.local stands for as well) or in one of its aliases holds in all of
// these.
func (b *rbacRule) principal(v string) (*rbacpb.Principal, error) {
	td, rest, ok := strings.Cut(v, "/")
	if !ok || td == "" || strings.HasPrefix(td, "*") {
		return authenticated(authzString(v, "spiffe://")), nil
	}
	s := b.l.v.Settings
	ours := append([]string{s.TrustDomain}, s.TrustDomainAliases...)
	local := td == "cluster.local"
	for _, t := range ours {
		local = local || t == td
	}
	if !local {
		return authenticated(authzString(v, "spiffe://")), nil
	}
	var or []*rbacpb.Principal
	for _, t := range ours {
		if t != "" {
			or = append(or, authenticated(authzString(t+"/"+rest, "spiffe://")))
		}
	}
	return orPrincipals(or), nil
}

func authenticated(m *matcherpb.StringMatcher) *rbacpb.Principal {
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_Authenticated_{
		Authenticated: &rbacpb.Principal_Authenticated{PrincipalName: m}}}
}

// namespacePrincipal: any trust domain, as in Istio. A star stands for any
// part of the name.
func namespacePrincipal(v string) (*rbacpb.Principal, error) {
	return authenticated(regexMatch("spiffe://[^/]+/ns/" + segment(v) + "/.*")), nil
}

// segment is v as expression for one path segment.
func segment(v string) string {
	if v == "*" {
		return "[^/]+"
	}
	return strings.ReplaceAll(regexp.QuoteMeta(v), `\*`, "[^/]*")
}

func (b *rbacRule) accountPrincipal(v string) (*rbacpb.Principal, error) {
	ns, sa, ok := strings.Cut(v, "/")
	if !ok {
		ns, sa = b.p.Namespace, v
	}
	if ns == "" || sa == "" {
		return nil, fmt.Errorf("%q is no service account", v)
	}
	return authenticated(regexMatch("spiffe://[^/]+/ns/" + regexp.QuoteMeta(ns) + "/sa/" + regexp.QuoteMeta(sa))), nil
}

func trustDomainPrincipal(v string) (*rbacpb.Principal, error) {
	return authenticated(regexMatch("spiffe://" + segment(v) + "/.*")), nil
}

func directIP(v string) (*rbacpb.Principal, error) {
	p, err := cidr(v)
	if err != nil {
		return nil, err
	}
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_DirectRemoteIp{DirectRemoteIp: cidrRange(p)}}, nil
}

func remoteIP(v string) (*rbacpb.Principal, error) {
	p, err := cidr(v)
	if err != nil {
		return nil, err
	}
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_RemoteIp{RemoteIp: cidrRange(p)}}, nil
}

func destinationIP(v string) (*rbacpb.Permission, error) {
	p, err := cidr(v)
	if err != nil {
		return nil, err
	}
	return &rbacpb.Permission{Rule: &rbacpb.Permission_DestinationIp{DestinationIp: cidrRange(p)}}, nil
}

func cidrRange(p netip.Prefix) *corepb.CidrRange {
	return &corepb.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: u32(uint32(p.Bits()))}
}

func anyPermission() *rbacpb.Permission {
	return &rbacpb.Permission{Rule: &rbacpb.Permission_Any{Any: true}}
}

func notPermission(p *rbacpb.Permission) *rbacpb.Permission {
	return &rbacpb.Permission{Rule: &rbacpb.Permission_NotRule{NotRule: p}}
}

func andPermissions(ps []*rbacpb.Permission) *rbacpb.Permission {
	switch len(ps) {
	case 0:
		return anyPermission()
	case 1:
		return ps[0]
	}
	return &rbacpb.Permission{Rule: &rbacpb.Permission_AndRules{AndRules: &rbacpb.Permission_Set{Rules: ps}}}
}

func orPermissions(ps []*rbacpb.Permission) *rbacpb.Permission {
	if len(ps) == 1 {
		return ps[0]
	}
	return &rbacpb.Permission{Rule: &rbacpb.Permission_OrRules{OrRules: &rbacpb.Permission_Set{Rules: ps}}}
}

func anyPrincipal() *rbacpb.Principal {
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_Any{Any: true}}
}

func notPrincipal(p *rbacpb.Principal) *rbacpb.Principal {
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_NotId{NotId: p}}
}

func andPrincipals(ps []*rbacpb.Principal) *rbacpb.Principal {
	switch len(ps) {
	case 0:
		return anyPrincipal()
	case 1:
		return ps[0]
	}
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_AndIds{AndIds: &rbacpb.Principal_Set{Ids: ps}}}
}

func orPrincipals(ps []*rbacpb.Principal) *rbacpb.Principal {
	if len(ps) == 1 {
		return ps[0]
	}
	return &rbacpb.Principal{Identifier: &rbacpb.Principal_OrIds{OrIds: &rbacpb.Principal_Set{Ids: ps}}}
}
