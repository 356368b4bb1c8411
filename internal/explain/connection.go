package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/rbac"
	"github.com/tulle-mesh/tulle/internal/proxy/listen/match"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// inflight is a connection as the next proxy meets it.
type inflight struct {
	destination, source netip.AddrPort
	tls                 bool // the bytes are TLS
	sni                 string
	alpn                []string
	principals          []string // what the client's certificate says, once TLS is opened
	mutual              bool
}

// speaks says what the bytes are.
func (in *inflight) speaks() string {
	switch {
	case in.mutual:
		return "mesh mTLS"
	case in.tls:
		return "TLS without a certificate of the mesh"
	}
	return "plain text"
}

// hop is where a proxy sends a request on: clusters of the caller.
type hop struct {
	clusters []conf.WeightedCluster
	http     bool
	origin   model.Origin // of the rule that sends it there
}

// connection runs a listener for a connection: filter chain, TLS, network
// filters, then HTTP or TCP. It returns where things go, or nil when the answer
// is final.
func (s *side) connection(r *run, l *conf.Listener, in *inflight) *hop {
	var w why.Why
	c := match.Select(l, info(r, l, in), &w)
	s.tell(&w, true)
	if c == nil {
		s.unserved(in)
		r.a.Outcome = TLSError
		if !in.tls && s.view.Client.Role != model.GatewayRole {
			r.a.Outcome = NoListener
		}
		return nil
	}
	if !s.openTLS(r, c, in) {
		return nil
	}
	for _, p := range c.RBAC {
		input := rbac.Input{Source: in.source, Remote: in.source, Destination: in.destination, ServerName: in.sni, TLS: c.TLS != nil, Mutual: in.mutual, Principals: in.principals}
		if !s.authorized(r, p, &input) {
			return nil
		}
	}
	if c.HTTP != nil {
		return s.http(r, c, in)
	}
	return s.tcp(r, c)
}

// unserved says what stands behind a gateway port that takes no connection:
// a client without TLS, or a server that cannot serve.
func (s *side) unserved(in *inflight) {
	if s.view.Client.Role != model.GatewayRole {
		return
	}
	if !in.tls {
		s.step("tls", "failed", "the client speaks plain text, and no server of this port takes it")
		return
	}
	for _, b := range s.view.Broken {
		if b.Port == in.destination.Port() && slices.ContainsFunc(b.Hosts, func(h string) bool { return covers(h, in.sni) }) {
			s.stepAt("tls", "failed", b.Why+"; its hosts "+strings.Join(b.Hosts, ", ")+" are not served", b.Origin)
		}
	}
}

// covers reports whether a host pattern includes a server name.
func covers(pattern, name string) bool {
	rest, wild := strings.CutPrefix(pattern, "*")
	return pattern == name || wild && strings.HasSuffix(name, rest)
}

// info is what the proxy would learn of a connection by looking at it.
func info(r *run, l *conf.Listener, in *inflight) match.Info {
	i := match.Info{Destination: in.destination, Source: in.source}
	tls, http := match.Needs(l, i)
	switch {
	case in.tls && tls:
		i.Transport, i.SNI, i.ALPN = match.TLS, in.sni, in.alpn
	case !in.tls && http:
		i.Transport, i.ALPN = match.Raw, []string{"http/1.1"}
		if r.head.Version == 20 {
			i.ALPN = []string{"h2c"}
		}
	default:
		i.Transport = match.Raw
	}
	return i
}

// openTLS checks that client and chain agree about TLS, and opens it.
func (s *side) openTLS(r *run, c *conf.Chain, in *inflight) bool {
	switch {
	case c.TLS == nil && in.tls && c.HTTP != nil:
		s.stepAt("tls", "failed", "the client speaks TLS, this port reads plain HTTP", s.origin(c.Origin))
	case c.TLS != nil && !in.tls:
		s.stepAt("tls", "failed", "the client speaks plain text, this port opens TLS", s.origin(c.Origin))
	case c.TLS != nil && c.TLS.RequireClient && len(in.principals) == 0 && !in.mutual:
		s.stepAt("tls", "failed", "a client certificate is required here and none is shown", s.origin(c.Origin))
	case c.TLS != nil && !sharesALPN(c.TLS.ALPN, in.alpn):
		s.stepAt("tls", "failed", fmt.Sprintf("no common protocol: the client offers %s, the server %s", strings.Join(in.alpn, ","), strings.Join(c.TLS.ALPN, ",")), s.origin(c.Origin))
	default:
		if c.TLS != nil {
			s.stepAt("tls", "opened", "TLS ends here", s.origin(c.Origin))
		}
		return true
	}
	r.a.Outcome = TLSError
	return false
}

func sharesALPN(server, client []string) bool {
	if len(server) == 0 || len(client) == 0 {
		return true
	}
	for _, p := range client {
		if slices.Contains(server, p) {
			return true
		}
	}
	return false
}

// authorized runs one RBAC filter and its dry run.
func (s *side) authorized(r *run, p *conf.RBAC, in *rbac.Input) bool {
	var w why.Why
	ok, policy := rbac.Eval(p, in, &w)
	if !ok && policy == "" && len(p.Policies) > 0 {
		// no ALLOW rule matched: the first policy stands for all
		w.Steps[len(w.Steps)-1].Origin = p.Policies[0].Name
	}
	s.tell(&w, ok)
	if p != nil && p.Shadow != nil {
		var dry why.Why
		if yes, name := rbac.Shadow(p, in, &dry); !yes {
			s.stepAt("rbac", "dry_run", "in force, this policy would deny", s.origin(name))
		}
	}
	if ok {
		return true
	}
	r.a.Outcome = Denied
	if in.Head != nil {
		r.a.Status = 403
	}
	return false
}

// tcp tells where a connection is led.
func (s *side) tcp(r *run, c *conf.Chain) *hop {
	names := make([]string, 0, len(c.TCP.Clusters))
	for i := range c.TCP.Clusters {
		names = append(names, c.TCP.Clusters[i].Name)
	}
	s.stepAt("tcp", "routed", "the connection is passed on as bytes to "+strings.Join(names, ", "), s.origin(c.Origin))
	switch names[0] {
	case "PassthroughCluster":
		r.a.Outcome = Passthrough
		s.destinations(r, c.TCP.Clusters)
		return nil
	case "BlackHoleCluster":
		r.a.Outcome = BlackHole
		return nil
	}
	return &hop{clusters: c.TCP.Clusters, origin: s.origin(c.Origin)}
}
