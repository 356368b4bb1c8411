package match

import (
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// Transport protocols of an Info.
const (
	TLS = "tls"
	Raw = "raw_buffer"
)

// Info is what is known of a connection.
type Info struct {
	Destination netip.AddrPort // original destination when captured; invalid: unix socket
	Source      netip.AddrPort
	Transport   string   // TLS or Raw; empty counts as Raw
	SNI         string   // lower-case; empty: none
	ALPN        []string // from the ClientHello, or of plain HTTP "http/1.0", "http/1.1", "h2c"
}

// Select returns the chain for a connection, the listener's default chain when
// none matches, or nil. Each criterion is decided before the next one and never
// taken back: a chain for the exact server name wins over one for a wildcard
// even when its transport does not fit, and then none is found.
func Select(l *conf.Listener, in Info, w *why.Why) *conf.Chain { return SelectWith(l, nil, in, w) }

// SelectWith is Select with the chains of another listener, if any, as if they
// were the listener's own.
func SelectWith(l, more *conf.Listener, in Info, w *why.Why) *conf.Chain {
	var buf [64]*conf.Chain
	s := selection{chains: append(buf[:0], l.Chains...), w: w}
	if more != nil {
		s.chains = append(s.chains, more.Chains...)
	}
	s.port(in)
	s.prefix("destination address", in.Destination.Addr(), func(m *conf.ChainMatch) []netip.Prefix { return m.Prefixes })
	s.serverName(in.SNI)
	s.transport(in.Transport)
	s.protocol(in.ALPN)
	s.prefix("source address", in.Source.Addr(), func(m *conf.ChainMatch) []netip.Prefix { return m.SourcePrefixes })
	switch {
	case len(s.chains) > 0:
		c := s.chains[0]
		if w.On() {
			w.Add("listener", c.Origin, "matched", "listener %s: filter chain %s", l.Name, name(c))
		}
		return c
	case l.Default != nil:
		if w.On() {
			w.Add("listener", l.Default.Origin, "matched", "listener %s: default filter chain %s", l.Name, name(l.Default))
		}
		return l.Default
	}
	if w.On() {
		w.Add("listener", l.Origin, "no_match", "listener %s: no filter chain matches, the connection is closed", l.Name)
	}
	return nil
}

// selection holds the chains that are still possible.
type selection struct {
	chains []*conf.Chain
	w      *why.Why
}

// keep leaves the chains for which ok holds; want names what they need.
func (s *selection) keep(want string, ok func(*conf.ChainMatch) bool) {
	n := 0
	for _, c := range s.chains {
		if ok(&c.Match) {
			s.chains[n] = c
			n++
		} else if s.w.On() {
			s.w.Add("listener", c.Origin, "no_match", "filter chain %s: %s", name(c), want)
		}
	}
	s.chains = s.chains[:n]
}

// any reports whether ok holds for one that is left.
func (s *selection) any(ok func(*conf.ChainMatch) bool) bool {
	for _, c := range s.chains {
		if ok(&c.Match) {
			return true
		}
	}
	return false
}

func (s *selection) port(in Info) {
	p := in.Destination.Port()
	exact := func(m *conf.ChainMatch) bool { return m.DestinationPort == p }
	if p == 0 || !s.any(exact) {
		p = 0
	}
	s.keep("the destination port is not the chain's, or another chain names it", exact)
}

// prefix leaves the chains with the longest prefix that holds a; none counts
// as the shortest.
func (s *selection) prefix(what string, a netip.Addr, of func(*conf.ChainMatch) []netip.Prefix) {
	a = a.Unmap().WithZone("")
	longest := func(m *conf.ChainMatch) int {
		ps := of(m)
		if len(ps) == 0 {
			return 0
		}
		best := -1
		for _, p := range ps {
			if p.Contains(a) {
				best = max(best, p.Bits())
			}
		}
		return best
	}
	best := -1
	for _, c := range s.chains {
		best = max(best, longest(&c.Match))
	}
	s.keep("the "+what+" is not in the chain's prefixes, or in a longer one of another chain",
		func(m *conf.ChainMatch) bool { return best >= 0 && longest(m) == best })
}

func (s *selection) serverName(sni string) {
	const want = "the server name is not the chain's, or another chain names it better"
	sni = strings.ToLower(sni)
	has := func(n string) func(*conf.ChainMatch) bool {
		return func(m *conf.ChainMatch) bool {
			for _, v := range m.ServerNames {
				if v == n {
					return true
				}
			}
			return false
		}
	}
	if sni != "" {
		if !strings.HasPrefix(sni, "*") && s.any(has(sni)) {
			s.keep(want, has(sni))
			return
		}
		for rest := sni; ; {
			i := strings.IndexByte(rest[min(1, len(rest)):], '.')
			if i < 0 || i+2 >= len(rest) {
				break
			}
			rest = rest[i+1:] // ".example.com"
			if wild := has("*" + rest); s.any(wild) {
				s.keep(want, wild)
				return
			}
		}
	}
	s.keep(want, func(m *conf.ChainMatch) bool { return len(m.ServerNames) == 0 })
}

func (s *selection) transport(t string) {
	if t == "" {
		t = Raw
	}
	is := func(m *conf.ChainMatch) bool { return m.Transport == t }
	if !s.any(is) {
		is = func(m *conf.ChainMatch) bool { return m.Transport == "" }
	}
	s.keep("the connection is "+t+", the chain is for another transport, or another chain names it", is)
}

func (s *selection) protocol(offered []string) {
	const want = "the protocols offered are not the chain's, or another chain names them"
	for _, p := range offered {
		has := func(m *conf.ChainMatch) bool {
			for _, v := range m.ALPN {
				if v == p {
					return true
				}
			}
			return false
		}
		if s.any(has) {
			s.keep(want, has)
			return
		}
	}
	s.keep(want, func(m *conf.ChainMatch) bool { return len(m.ALPN) == 0 })
}

// Needs reports what must be read of a connection before a chain can be
// chosen: the TLS ClientHello, the first line of plain HTTP. Only what its
// destination leaves possible counts, so that a protocol in which the server
// speaks first is not kept waiting for another port's sake.
func Needs(l *conf.Listener, in Info) (tls, http bool) {
	if !l.InspectTLS && !l.InspectHTTP {
		return false, false
	}
	var buf [64]*conf.Chain
	s := selection{chains: append(buf[:0], l.Chains...)}
	s.port(in)
	s.prefix("", in.Destination.Addr(), func(m *conf.ChainMatch) []netip.Prefix { return m.Prefixes })
	if len(s.chains) == 0 {
		return l.InspectTLS && l.Default != nil && namesServer(l.Default), false
	}
	for _, c := range s.chains {
		m := &c.Match
		if len(m.ServerNames) > 0 || m.Transport != "" || len(m.ALPN) > 0 || namesServer(c) {
			tls = l.InspectTLS
		}
		if len(m.ALPN) > 0 && m.Transport != TLS {
			http = l.InspectHTTP
		}
	}
	return tls, http
}

// namesServer reports whether what is done with the connection depends on the
// server name without TLS being opened here.
func namesServer(c *conf.Chain) bool {
	if c.TLS != nil {
		return false
	}
	for _, r := range c.RBAC {
		for _, p := range r.Policies {
			if rulesName(p.Permissions) || rulesName(p.Principals) {
				return true
			}
		}
	}
	return false
}

func rulesName(rules []*conf.RBACRule) bool {
	for _, r := range rules {
		if r.Kind == conf.RBACServerName || rulesName(r.Children) {
			return true
		}
	}
	return false
}

func name(c *conf.Chain) string {
	if c.Name == "" {
		return "without a name"
	}
	return c.Name
}
