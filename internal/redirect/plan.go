//go:build linux

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Ports that Istio's contract gives to a sidecar.
const (
	OutboundPort = 15001
	InboundPort  = 15006
	DNSPort      = 15053
)

// Table is the name of the nftables table when a plan has none.
const Table = "tulle"

// maxItems bounds each list of a plan: every item is a rule.
const maxItems = 256

// Plan says what of a network namespace's traffic goes to the proxy. The zero
// Plan catches nothing.
type Plan struct {
	Table string // of nftables, family inet; empty: Table
	// IPv6 says that IPv6 is caught as well; else it is left alone.
	IPv6 bool

	Outbound uint16 // where outgoing TCP connections are sent; 0: they are left alone
	Inbound  uint16 // where incoming TCP connections are sent; 0: they are left alone
	DNS      uint16 // where questions (port 53, UDP and TCP, to anywhere) are sent; 0: they are left alone

	// UIDs and GIDs are the proxy's own: what they send is left alone.
	UIDs, GIDs []uint32
	// Sources are addresses that the proxy binds to when it dials the program:
	// 127.0.0.6 and ::6 by contract. What comes from them is left alone.
	Sources []netip.Addr
	// KeepLocal leaves alone what others than the proxy send over the loopback
	// interface, but for questions; and what the proxy sends there to other
	// than a loopback address is taken for incoming. For namespaces with an
	// interface of their own; where all there is is lo, name Exclude instead.
	KeepLocal bool

	// Outgoing connections to these ports and addresses are left alone.
	ExcludeOutPorts []uint16
	Exclude         []netip.Prefix
	// Only these are caught; nothing: everything that is not excluded.
	IncludeOutPorts []uint16
	Include         []netip.Prefix
	// Incoming connections to these ports are left alone.
	ExcludeInPorts []uint16
	// Only these are caught; nothing: every port that is not excluded.
	IncludeInPorts []uint16

	// Refuse answers what is neither TCP nor a question, and leaves for other
	// addresses than Exclude and loopback, with an error at once, and notes
	// where it was going: see Refused.
	Refuse bool
}

// Check reports what makes no sense in a plan.
func (p *Plan) Check() error {
	for _, l := range []struct {
		what string
		n    int
	}{
		{"user ids", len(p.UIDs)}, {"group ids", len(p.GIDs)}, {"sources", len(p.Sources)},
		{"excluded outgoing ports", len(p.ExcludeOutPorts)}, {"excluded addresses", len(p.Exclude)},
		{"included outgoing ports", len(p.IncludeOutPorts)}, {"included addresses", len(p.Include)},
		{"excluded incoming ports", len(p.ExcludeInPorts)}, {"included incoming ports", len(p.IncludeInPorts)},
	} {
		if l.n > maxItems {
			return fmt.Errorf("%d %s, more than %d", l.n, l.what, maxItems)
		}
	}
	for _, x := range append(append([]netip.Prefix{}, p.Exclude...), p.Include...) {
		if !x.IsValid() || x.Addr().Is4In6() || x.Addr().Zone() != "" {
			return fmt.Errorf("address range %s", x)
		}
	}
	for _, a := range p.Sources {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("source address %s", a)
		}
	}
	for _, r := range p.table() {
		if r < 'a' || r > 'z' {
			return fmt.Errorf("table %q: want lower-case letters", p.table())
		}
	}
	if p.KeepLocal && p.Inbound != 0 && len(p.UIDs)+len(p.GIDs) == 0 {
		return errors.New("the proxy's user is not known, so that its own connections cannot be told apart")
	}
	return nil
}

func (p *Plan) table() string {
	if p.Table == "" {
		return Table
	}
	return p.Table
}

// chain is a base chain with its rules.
type chain struct {
	name     string
	kind     string // nat, filter
	hook     string // output, prerouting
	priority int
	rules    []rule
}

// rule is conditions that must all hold, and what happens then.
type rule struct {
	when []part
	then part
}

func (r rule) text() string {
	var words []string
	for _, c := range r.when {
		words = append(words, c.text)
	}
	return strings.Join(append(words, r.then.text), " ")
}

// chains is the plan as rules: pure, in a stable order.
func (p *Plan) chains() []chain {
	var out []chain
	if p.Outbound != 0 || p.DNS != 0 {
		out = append(out, p.output())
	}
	if p.Inbound != 0 {
		out = append(out, p.prerouting())
	}
	if p.Refuse {
		out = append(out, p.refusals())
	}
	if !p.IPv6 {
		for i := range out {
			out[i].rules = append([]rule{{[]part{isV6}, leave}}, out[i].rules...)
		}
	}
	return out
}

// output decides about what leaves the programs of the namespace.
func (p *Plan) output() chain {
	c := chain{name: "output", kind: "nat", hook: "output", priority: -100}
	add := func(then part, when ...part) { c.rules = append(c.rules, rule{when, then}) }
	for _, a := range p.Sources {
		add(leave, overLoopback, fromAddress(a))
	}
	if p.KeepLocal && p.Inbound != 0 {
		// The proxy has chosen this very program for one of its own requests:
		// to the program's side of the proxy, not past it.
		for _, own := range p.owners() {
			for _, lo := range loopbacks(p.IPv6) {
				add(leave, overLoopback, own, toPrefix(lo))
			}
			add(redirectTo(p.Inbound), overLoopback, own, tcp)
		}
	}
	for _, own := range p.owners() {
		add(leave, own)
	}
	if p.DNS != 0 {
		add(redirectTo(p.DNS), udpTo(53))
		add(redirectTo(p.DNS), tcpTo(53))
	}
	if p.Outbound == 0 {
		return c
	}
	if p.KeepLocal {
		add(leave, overLoopback)
	}
	add(leave, notTCP)
	for _, n := range p.ExcludeOutPorts {
		add(leave, tcpTo(n))
	}
	for _, x := range p.Exclude {
		add(leave, toPrefix(x))
	}
	if p.KeepLocal {
		for _, lo := range loopbacks(p.IPv6) {
			add(leave, toPrefix(lo))
		}
	}
	to := redirectTo(p.Outbound)
	for _, n := range p.IncludeOutPorts {
		add(to, tcpTo(n))
	}
	for _, x := range p.Include {
		add(to, tcp, toPrefix(x))
	}
	if len(p.IncludeOutPorts)+len(p.Include) == 0 {
		add(to, tcp)
	}
	return c
}

// prerouting decides about what comes in from other namespaces.
func (p *Plan) prerouting() chain {
	c := chain{name: "prerouting", kind: "nat", hook: "prerouting", priority: -100}
	for _, n := range p.ExcludeInPorts {
		c.rules = append(c.rules, rule{[]part{tcpTo(n)}, leave})
	}
	for _, n := range p.IncludeInPorts {
		c.rules = append(c.rules, rule{[]part{tcpTo(n)}, redirectTo(p.Inbound)})
	}
	if len(p.IncludeInPorts) == 0 {
		c.rules = append(c.rules, rule{[]part{tcp}, redirectTo(p.Inbound)})
	}
	return c
}

// refusals answers what the proxy cannot carry. It sees packets after output
// has rewritten them.
func (p *Plan) refusals() chain {
	c := chain{name: "refuse", kind: "filter", hook: "output", priority: 0}
	add := func(then part, when ...part) { c.rules = append(c.rules, rule{when, then}) }
	add(leave, tcp)
	for _, own := range p.owners() {
		add(leave, own)
	}
	for _, lo := range loopbacks(p.IPv6) {
		add(leave, toPrefix(lo))
	}
	for _, x := range p.Exclude {
		add(leave, toPrefix(x))
	}
	for _, s := range refusedSets(p.IPv6) {
		add(s.note(), s.protocol, s.family)
	}
	add(refuse)
	return c
}

func (p *Plan) owners() []part {
	var out []part
	for _, u := range p.UIDs {
		out = append(out, userIs(u))
	}
	for _, g := range p.GIDs {
		out = append(out, groupIs(g))
	}
	return out
}

func loopbacks(v6 bool) []netip.Prefix {
	out := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	if v6 {
		out = append(out, netip.MustParsePrefix("::1/128"))
	}
	return out
}

// Text is the plan as `nft -f` would take it; what Apply does is the same.
func (p *Plan) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", p.table())
	if p.Refuse {
		for _, s := range refusedSets(p.IPv6) {
			fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n\t\tsize %d\n\t\tflags dynamic\n\t}\n\n", s.name, s.text, maxRefused)
		}
	}
	for i, c := range p.chains() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.name, c.kind, c.hook, c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text())
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
