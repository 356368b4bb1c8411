package rbac

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// mismatch says in words why a policy does not match.
func mismatch(p *conf.RBACPolicy, in *Input) string {
	if !anyOf(p.Permissions, in) {
		return "the request does not fit: wants " + list(p.Permissions) + "; it is " + request(in)
	}
	return "the caller does not fit: wants " + list(p.Principals) + "; it is " + caller(in)
}

func list(rs []*conf.RBACRule) string {
	var out []string
	for _, r := range rs {
		out = append(out, words(r))
	}
	return strings.Join(out, " or ")
}

// words is a rule for people.
func words(r *conf.RBACRule) string {
	switch r.Kind {
	case conf.RBACAny:
		return "anything"
	case conf.RBACAnd, conf.RBACOr:
		var out []string
		for _, c := range r.Children {
			out = append(out, words(c))
		}
		if len(out) == 1 {
			return out[0]
		}
		return "(" + strings.Join(out, map[bool]string{true: " and ", false: " or "}[r.Kind == conf.RBACAnd]) + ")"
	case conf.RBACNot:
		return "not " + words(r.Children[0])
	case conf.RBACHeader:
		name := strings.TrimPrefix(r.Header.Name, ":")
		s := name + " " + route.Describe(&r.Header.StringMatch)
		if r.Header.Invert {
			return "not " + s
		}
		return s
	case conf.RBACPath:
		return "path " + route.Describe(r.String)
	case conf.RBACDestIP:
		return "destination in " + r.Prefix.String()
	case conf.RBACDestPort:
		return fmt.Sprintf("port %d", r.Port)
	case conf.RBACDestPortRange:
		return fmt.Sprintf("port %d to %d", r.Port, r.PortEnd-1)
	case conf.RBACServerName:
		return "server name " + route.Describe(r.String)
	case conf.RBACPrincipal:
		if r.String == nil {
			return "any mTLS identity"
		}
		return "principal " + route.Describe(r.String)
	case conf.RBACSourceIP:
		return "peer address in " + r.Prefix.String()
	case conf.RBACRemoteIP:
		return "client address in " + r.Prefix.String()
	case conf.RBACMetadata:
		s := strings.Join(r.Path, ".") + " " + route.Describe(r.String)
		if r.Invert {
			return "not " + s
		}
		return s
	}
	return "?"
}

func request(in *Input) string {
	if in.Head == nil {
		return fmt.Sprintf("a connection to %s", in.Destination)
	}
	return fmt.Sprintf("%s %s to %s, port %d", in.Head.Method, route.PathOnly(in.Head.Path), in.Head.Authority, in.Destination.Port())
}

func caller(in *Input) string {
	switch {
	case !in.TLS:
		return fmt.Sprintf("%s in plain text, without an identity", in.Source)
	case !in.Mutual || len(in.Principals) == 0:
		return fmt.Sprintf("%s without a verified certificate", in.Source)
	}
	return in.Principals[0]
}
