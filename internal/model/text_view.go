package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TextView is a View for people to read: what the client may reach and how,
// and what it asks of those who reach it, in the words of Text. It is not read
// back. Key material is not in it.
func TextView(v *View) string {
	t := &viewText{}
	c := &v.Client
	role := "sidecar"
	if c.Role == GatewayRole {
		role = "gateway"
	}
	t.line(0, Origin{}, "client %s/%s %s account=%s", c.Namespace, c.Name, role, c.Account)
	for _, o := range v.Outbound {
		t.outbound(o)
	}
	for _, p := range v.Servers {
		t.gatewayPort(p)
	}
	for _, x := range v.Broken {
		t.line(0, x.Origin, "broken server %d %s: %s", x.Port, strings.Join(x.Hosts, ","), x.Why)
	}
	for _, in := range v.Inbound {
		t.inbound(in)
	}
	if c.Role == Sidecar {
		t.line(0, v.InboundDefault.MTLSOrigin, "inbound * %s", policyText(v.InboundDefault))
	}
	for _, h := range v.HTTP {
		t.b.WriteByte('\n')
		t.table(h)
	}
	t.b.WriteByte('\n')
	for _, x := range v.Clusters {
		t.cluster(x)
	}
	for _, host := range slices.Sorted(maps.Keys(v.Aliases)) {
		t.line(0, Origin{}, "alias %s of %s", host, v.Aliases[host])
	}
	for _, s := range v.Secrets {
		t.line(0, s.Origin, "secret %s/%s", s.Namespace, s.Name)
	}
	return t.b.String()
}

type viewText struct{ b strings.Builder }

// line writes one line, with its origin behind "#".
func (t *viewText) line(depth int, o Origin, format string, args ...any) {
	t.b.WriteString(strings.Repeat("  ", depth))
	fmt.Fprintf(&t.b, format, args...)
	if o.Kind != "" {
		t.b.WriteString("  # " + o.ID())
		if p := o.Place(); p != "" {
			t.b.WriteString(" " + p)
		}
	}
	t.b.WriteByte('\n')
}

func (t *viewText) outbound(o *Outbound) {
	s := "listener " + o.Name + " " + o.Protocol.String()
	if o.Bind {
		s += fmt.Sprintf(" bound=%s:%d", o.Address, o.Port)
	}
	if o.Table != "" {
		s += " table=" + o.Table
	}
	t.line(0, o.Origin, "%s", s)
	t.tcp(o.TCP)
}

func (t *viewText) tcp(routes []*TCPRoute) {
	for _, r := range routes {
		s := "tcp"
		if len(r.SNI) > 0 {
			s += " sni=" + strings.Join(r.SNI, ",")
		}
		for _, n := range r.Subnets {
			s += " to=" + n.String()
		}
		t.line(1, r.Origin, "%s", s)
		t.backends(r.Backends)
	}
}

func (t *viewText) backends(list []RouteBackend) {
	for _, b := range list {
		s := fmt.Sprintf("-> %d %s", b.Weight, b.Cluster)
		if b.Missing {
			s += " missing"
		}
		if b.Authority != "" {
			s += " authority=" + b.Authority
		}
		t.line(2, Origin{}, "%s", s)
	}
}

func (t *viewText) gatewayPort(p *GatewayPort) {
	s := fmt.Sprintf("listener %s external=%d", p.Name, p.External)
	if p.Table != "" {
		s += " table=" + p.Table
	}
	t.line(0, p.Origin, "%s %s", s, policyText(p.Policy))
	for _, x := range p.Servers {
		s := "server " + x.Protocol.String() + " " + strings.Join(x.Hosts, ",")
		if x.TLS != nil {
			s += " tls=" + serverTLSNames[x.TLS.Mode]
		}
		if len(x.Secrets) > 0 {
			s += " secrets=" + strings.Join(x.Secrets, ",")
		}
		if x.Table != "" {
			s += " table=" + x.Table
		}
		t.line(1, x.Origin, "%s", s)
		t.tcp(x.TCP)
	}
}

func (t *viewText) inbound(in *Inbound) {
	s := fmt.Sprintf("inbound %d %s", in.Port, in.Protocol)
	if in.Service != nil {
		s += fmt.Sprintf(" for=%s:%d", in.Service.Host, in.ServicePort)
	}
	if in.Listen.IsValid() {
		s += " listen=" + in.Listen.String()
	}
	if in.App.IsValid() {
		s += " app=" + in.App.String()
	}
	o := in.Policy.MTLSOrigin
	if o.Kind == "" {
		o = in.Origin
	}
	t.line(0, o, "%s %s", s, policyText(in.Policy))
}

func policyText(p InboundPolicy) string {
	s := "mtls=" + strings.ToLower(p.MTLS.String())
	for _, a := range p.Authz {
		s += fmt.Sprintf(" %s=%s/%s", strings.ToLower(a.Action.String()), a.Namespace, a.Name)
	}
	for _, x := range p.Requests {
		s += fmt.Sprintf(" requests=%s/%s", x.Namespace, x.Name)
	}
	return s
}

func (t *viewText) table(h *HTTPTable) {
	t.line(0, Origin{}, "table %s", h.Name)
	for _, x := range h.Hosts {
		s := "host " + x.Name + " " + strings.Join(x.Domains, ",")
		for _, f := range []struct {
			on   bool
			word string
		}{{x.RequireTLS, "require-tls"}, {x.AllowAny, "allow-any"}, {x.BlackHole, "black-hole"}} {
			if f.on {
				s += " " + f.word
			}
		}
		t.line(1, x.Origin, "%s", s)
		for _, r := range x.Routes {
			t.route(r)
		}
	}
}

// route borrows the text form of a rule for the match and the actions.
func (t *viewText) route(r *Route) {
	rule := HTTPRule{
		Name: r.Name, Matches: []HTTPMatch{r.Match}, Redirect: r.Redirect, Direct: r.Direct, Rewrite: r.Rewrite,
		Fault: r.Fault, CORS: r.CORS, Headers: r.Headers, Origin: r.Origin,
	}
	rule.Matches[0].Origin = Origin{}
	if r.Retry != nil && !r.Retry.FromMeshDefault {
		rule.Retry = r.Retry
	}
	if r.Timeout != 0 {
		rule.Timeout = &r.Timeout
	}
	f := &form{line: &line{word: "route"}}
	textHTTPRule(f, &rule)
	f.line.write(&t.b, 2)
	for _, b := range r.Backends {
		s := fmt.Sprintf("-> %d %s", b.Weight, b.Cluster)
		if b.Missing {
			s += " missing"
		}
		if b.Authority != "" {
			s += " authority=" + b.Authority
		}
		t.line(3, b.Origin, "%s", s)
	}
	for _, m := range r.Mirrors {
		t.line(3, Origin{}, "=> %v%% %s", m.Percent, m.Cluster)
	}
}

func (t *viewText) cluster(c *Cluster) {
	s := "cluster " + c.Name
	if c.Resolution != Static {
		s += " resolution=" + resolutionNames[c.Resolution]
	}
	if c.Balance.Algorithm != LeastRequest {
		s += " balance=" + algorithmNames[c.Balance.Algorithm]
	}
	s += " tls=" + clientTLSNames[c.TLS.Mode]
	for _, f := range []struct {
		on   bool
		word string
	}{{c.HTTP2, "http2"}, {c.External, "external"}, {c.Outlier != nil, "outlier"}} {
		if f.on {
			s += " " + f.word
		}
	}
	if n := c.Pool.MaxConnections; n != 0 {
		s += fmt.Sprintf(" connections=%d", n)
	}
	var o Origin
	if n := len(c.Origins); n > 0 {
		o = c.Origins[n-1]
	}
	t.line(0, o, "%s", s)
	for _, e := range c.Endpoints {
		s := fmt.Sprintf("endpoint %s:%d", e.Address, e.Port)
		if e.Weight > 1 {
			s += fmt.Sprintf(" weight=%d", e.Weight)
		}
		if e.Priority > 0 {
			s += fmt.Sprintf(" priority=%d", e.Priority)
		}
		if share, ok := c.Shares[e.Locality]; ok {
			s += fmt.Sprintf(" share=%d", share)
		}
		if e.MTLS {
			s += " mtls"
		}
		if !e.Ready {
			s += " unready"
		}
		if e.Workload != "" {
			s += " workload=" + e.Workload
		}
		t.line(1, Origin{}, "%s", s)
	}
}
