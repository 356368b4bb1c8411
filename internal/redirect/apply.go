//go:build linux

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// ErrDiffers says that the rules in the kernel are not those of a plan.
var ErrDiffers = errors.New("the rules are not those of the plan")

// Apply makes the plan so in the network namespace of the calling thread, in
// place of what an earlier plan with the same table did: all of it, or
// nothing. It needs CAP_NET_ADMIN there.
func Apply(p *Plan) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("capture plan: %w", err)
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Name: p.table(), Family: nftables.TableFamilyINet}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	if p.Refuse {
		for _, s := range refusedSets(p.IPv6) {
			if err := c.AddSet(s.set(t), nil); err != nil {
				return fmt.Errorf("nftables: set %s: %w", s.name, err)
			}
		}
	}
	for _, ch := range p.chains() {
		k := c.AddChain(ch.nft(t))
		for _, r := range ch.rules {
			x := &nftables.Rule{Table: t, Chain: k, UserData: comment(r)}
			for _, w := range r.when {
				x.Exprs = append(x.Exprs, w.do...)
			}
			x.Exprs = append(x.Exprs, r.then.do...)
			c.AddRule(x)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func (c *chain) nft(t *nftables.Table) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{Table: t, Name: c.name, Type: nftables.ChainType(c.kind), Policy: &accept,
		Hooknum:  map[string]*nftables.ChainHook{"output": nftables.ChainHookOutput, "prerouting": nftables.ChainHookPrerouting}[c.hook],
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.priority))}
}

func (s *refusedSet) set(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: s.name, KeyType: nftables.MustConcatSetType(s.types...), Concatenation: true,
		Dynamic: true, Size: maxRefused}
}

// comment is a rule's own text, by which Verify knows it again. The kernel
// takes 256 bytes.
func comment(r rule) []byte {
	text := r.text()
	if len(text) > 120 {
		text = text[:120]
	}
	return userdata.AppendString(nil, userdata.TypeComment, text)
}

// Verify reports whether the kernel holds the plan: nil, an error that wraps
// ErrDiffers and says where, or why it cannot be told.
func Verify(p *Plan) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Name: p.table(), Family: nftables.TableFamilyINet}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	want := p.chains()
	for _, w := range want {
		i := slices.IndexFunc(chains, func(k *nftables.Chain) bool { return k.Table.Name == t.Name && k.Name == w.name })
		if i < 0 {
			return fmt.Errorf("%w: chain %s is missing", ErrDiffers, w.name)
		}
		rules, err := c.GetRules(t, chains[i])
		if err != nil {
			return fmt.Errorf("nftables: chain %s: %w", w.name, err)
		}
		for j, r := range w.rules {
			if j >= len(rules) || string(rules[j].UserData) != string(comment(r)) {
				return fmt.Errorf("%w: chain %s, rule %d: want %s", ErrDiffers, w.name, j+1, r.text())
			}
		}
		if len(rules) > len(w.rules) {
			return fmt.Errorf("%w: chain %s has %d rules too many", ErrDiffers, w.name, len(rules)-len(w.rules))
		}
	}
	return nil
}

// Undo takes away what Apply did; nothing there is no error.
func Undo(p *Plan) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	c.DelTable(&nftables.Table{Name: p.table(), Family: nftables.TableFamilyINet})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// Refusal is a destination to which something was refused. UDP has a port,
// what else there is a protocol number (1 and 58: ICMP).
type Refusal struct {
	To       netip.Addr
	Port     uint16
	Protocol uint8
}

// String is "UDP to 8.8.8.8:123", "ICMP to ...", "protocol 47 to ...".
func (r Refusal) String() string {
	switch r.Protocol {
	case unix.IPPROTO_UDP:
		return "UDP to " + netip.AddrPortFrom(r.To, r.Port).String()
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ICMP to " + r.To.String()
	}
	return fmt.Sprintf("protocol %d to %s", r.Protocol, r.To)
}

// Refused lists what a plan with Refuse has refused so far: each destination
// once, at most some hundred.
func Refused(p *Plan) ([]Refusal, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	var out []Refusal
	t := &nftables.Table{Name: p.table(), Family: nftables.TableFamilyINet}
	for _, s := range refusedSets(p.IPv6) {
		list, err := c.GetSetElements(s.set(t))
		if err != nil {
			return nil, fmt.Errorf("nftables: set %s: %w", s.name, err)
		}
		for _, e := range list {
			if r, ok := s.read(e.Key); ok {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// read takes an element's key apart: the parts are padded to four bytes.
func (s *refusedSet) read(key []byte) (Refusal, bool) {
	size := 4
	if s.v6 {
		size = 16
	}
	if len(key) < size+2 {
		return Refusal{}, false
	}
	a, _ := netip.AddrFromSlice(key[:size])
	if s.udp {
		return Refusal{To: a, Port: uint16(key[size])<<8 | uint16(key[size+1]), Protocol: unix.IPPROTO_UDP}, true
	}
	return Refusal{To: a, Protocol: key[size]}, true
}
