//go:build linux

package redirect

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chain is a chain of iptables' nat table.
type Chain struct {
	Name    string `json:"name"`
	Builtin bool   `json:"builtin,omitempty"`
	Rules   []Rule `json:"rules,omitempty"`
}

// Rule is one rule in iptables' words: conditions that must all hold, and a
// target. Zero fields are no conditions.
type Rule struct {
	Family   int          `json:"family,omitempty"` // 4 or 6: of that alone
	Out      string       `json:"out,omitempty"`    // interface it leaves by
	Proto    string       `json:"proto,omitempty"`  // tcp, udp
	NotProto bool         `json:"notProto,omitempty"`
	From     netip.Prefix `json:"from,omitzero"`
	To       netip.Prefix `json:"to,omitzero"`
	Port     uint16       `json:"port,omitempty"` // destination
	UID      *uint32      `json:"uid,omitempty"`
	GID      *uint32      `json:"gid,omitempty"`
	Target   string       `json:"target"`           // RETURN, REDIRECT or a chain
	ToPort   uint16       `json:"toPort,omitempty"` // of REDIRECT
}

// Names of Istio's chains.
const (
	chainInbound    = "ISTIO_INBOUND"
	chainInRedirect = "ISTIO_IN_REDIRECT"
	chainOutput     = "ISTIO_OUTPUT"
	chainRedirect   = "ISTIO_REDIRECT"
)

// Chains is the plan in iptables' words.
func (p *Plan) Chains() ([]Chain, error) {
	var out, in []Rule
	for _, c := range p.chains() {
		for _, r := range c.rules {
			var do []expr.Any
			for _, w := range r.when {
				do = append(do, w.do...)
			}
			x, err := words(append(do, r.then.do...))
			if err != nil {
				return nil, fmt.Errorf("rule %s: %w", r.text(), err)
			}
			switch c.hook + c.kind {
			case "outputnat":
				out = append(out, x)
			case "preroutingnat":
				in = append(in, x)
			}
		}
	}
	return arrange(out, in), nil
}

// InKernel is what the kernel holds in the table of that name (empty: Table),
// in iptables' words. It needs CAP_NET_ADMIN. Without such a table there are
// the chains of the system alone.
func InKernel(table string) ([]Chain, error) {
	if table == "" {
		table = Table
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	var out, in []Rule
	for _, k := range chains {
		if k.Table.Name != table || k.Type != nftables.ChainTypeNAT || k.Hooknum == nil {
			continue
		}
		rules, err := c.GetRules(k.Table, k)
		if err != nil {
			return nil, fmt.Errorf("nftables: chain %s: %w", k.Name, err)
		}
		for i, r := range rules {
			x, err := words(r.Exprs)
			if err != nil {
				return nil, fmt.Errorf("nftables: chain %s, rule %d: %w", k.Name, i+1, err)
			}
			switch *k.Hooknum {
			case *nftables.ChainHookOutput:
				out = append(out, x)
			case *nftables.ChainHookPrerouting:
				in = append(in, x)
			}
		}
	}
	return arrange(out, in), nil
}

// arrange puts rules of the two hooks into Istio's chains.
func arrange(out, in []Rule) []Chain {
	pre := Chain{Name: "PREROUTING", Builtin: true}
	output := Chain{Name: "OUTPUT", Builtin: true}
	var named []Chain
	var inPort, outPort uint16
	for i, r := range in {
		if r.Target == "REDIRECT" {
			inPort = r.ToPort
			in[i].Target, in[i].ToPort = chainInRedirect, 0
		}
	}
	for i, r := range out {
		switch {
		case r.Target != "REDIRECT", r.Port == 53:
		case r.ToPort == inPort:
			out[i].Target, out[i].ToPort = chainInRedirect, 0
		default:
			outPort = r.ToPort
			out[i].Target, out[i].ToPort = chainRedirect, 0
		}
	}
	if len(in) > 0 {
		pre.Rules = []Rule{{Proto: "tcp", Target: chainInbound}}
		named = append(named, Chain{Name: chainInbound, Rules: in})
	}
	if inPort != 0 {
		named = append(named, Chain{Name: chainInRedirect, Rules: []Rule{{Proto: "tcp", Target: "REDIRECT", ToPort: inPort}}})
	}
	if len(out) > 0 {
		output.Rules = []Rule{{Target: chainOutput}}
		named = append(named, Chain{Name: chainOutput, Rules: out})
	}
	if outPort != 0 {
		named = append(named, Chain{Name: chainRedirect, Rules: []Rule{{Proto: "tcp", Target: "REDIRECT", ToPort: outPort}}})
	}
	return append([]Chain{pre, {Name: "INPUT", Builtin: true}, output, {Name: "POSTROUTING", Builtin: true}}, named...)
}

// reader follows what a rule's expressions load and compare.
type reader struct {
	rule Rule
	meta expr.MetaKey
	from *expr.Payload // nil: meta was loaded
	mask []byte
	port uint16
}

// words reads a rule's expressions back; what is not understood is an error.
func words(list []expr.Any) (Rule, error) {
	var r reader
	for _, e := range list {
		var err error
		switch e := e.(type) {
		case *expr.Meta:
			r.meta, r.from = e.Key, nil
		case *expr.Payload:
			r.from, r.mask = e, nil
		case *expr.Bitwise:
			r.mask = e.Mask
		case *expr.Cmp:
			err = r.compare(e)
		case *expr.Immediate:
			if len(e.Data) >= 2 {
				r.port = binary.BigEndian.Uint16(e.Data)
			}
		case *expr.Redir:
			r.rule.Target, r.rule.ToPort = "REDIRECT", r.port
		case *expr.Verdict:
			if e.Kind != expr.VerdictReturn {
				err = fmt.Errorf("verdict %d", e.Kind)
			}
			r.rule.Target = "RETURN"
		case *expr.Reject, *expr.Dynset: // of a filter chain, which iptables' nat table does not show
		default:
			err = fmt.Errorf("an expression %T", e)
		}
		if err != nil {
			return Rule{}, err
		}
	}
	return r.rule, nil
}

func (r *reader) compare(e *expr.Cmp) error {
	not := e.Op == expr.CmpOpNeq
	if r.from != nil {
		return r.payload(e, not)
	}
	switch {
	case r.meta == expr.MetaKeyNFPROTO && len(e.Data) == 1 && !not:
		r.rule.Family = 4
		if e.Data[0] == unix.NFPROTO_IPV6 {
			r.rule.Family = 6
		}
	case r.meta == expr.MetaKeyL4PROTO && len(e.Data) == 1:
		r.rule.NotProto = not
		switch e.Data[0] {
		case unix.IPPROTO_TCP:
			r.rule.Proto = "tcp"
		case unix.IPPROTO_UDP:
			r.rule.Proto = "udp"
		default:
			r.rule.Proto = fmt.Sprint(e.Data[0])
		}
	case r.meta == expr.MetaKeyOIFNAME && !not:
		r.rule.Out = strings.TrimRight(string(e.Data), "\x00")
	case r.meta == expr.MetaKeySKUID && len(e.Data) == 4 && !not:
		r.rule.UID = new(binary.NativeEndian.Uint32(e.Data))
	case r.meta == expr.MetaKeySKGID && len(e.Data) == 4 && !not:
		r.rule.GID = new(binary.NativeEndian.Uint32(e.Data))
	default:
		return fmt.Errorf("a comparison of meta key %d", r.meta)
	}
	return nil
}

func (r *reader) payload(e *expr.Cmp, not bool) error {
	from, n := r.from, len(e.Data)
	if from.Base == expr.PayloadBaseTransportHeader && from.Offset == 2 && n == 2 && !not {
		r.rule.Port = binary.BigEndian.Uint16(e.Data)
		return nil
	}
	a, ok := netip.AddrFromSlice(e.Data)
	if !ok || from.Base != expr.PayloadBaseNetworkHeader || not {
		return fmt.Errorf("a comparison of %d bytes at %d", n, from.Offset)
	}
	ones := a.BitLen()
	if r.mask != nil {
		ones = 0
		for _, b := range r.mask {
			ones += bits.OnesCount8(b)
		}
	}
	to := map[bool]uint32{true: to4, false: to6}[a.Is4()]
	if p := netip.PrefixFrom(a, ones); from.Offset == to {
		r.rule.To = p
	} else {
		r.rule.From = p
	}
	return nil
}

// of reports whether a rule belongs to the listing of one family.
func (r *Rule) of(v6 bool) bool {
	want := map[bool]int{false: 4, true: 6}[v6]
	return r.Family == 0 || r.Family == want
}

// family is the listing of one family.
func family(all []Chain, v6 bool) []Chain {
	out := slices.Clone(all)
	for i, c := range out {
		out[i].Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r Rule) bool { return !r.of(v6) })
	}
	return out
}
