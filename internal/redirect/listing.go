//go:build linux

package redirect

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// spec is a rule as iptables would be told it, behind "-A CHAIN".
func (r *Rule) spec() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	if r.From.IsValid() {
		add("-s %s", r.From)
	}
	if r.To.IsValid() {
		add("-d %s", r.To)
	}
	if r.Out != "" {
		add("-o %s", r.Out)
	}
	if r.NotProto {
		add("!")
	}
	if r.Proto != "" {
		add("-p %s", r.Proto)
	}
	if r.Port != 0 {
		add("-m %s --dport %d", r.Proto, r.Port)
	}
	if r.UID != nil {
		add("-m owner --uid-owner %d", *r.UID)
	}
	if r.GID != nil {
		add("-m owner --gid-owner %d", *r.GID)
	}
	add("-j %s", r.Target)
	if r.ToPort != 0 {
		add("--to-ports %d", r.ToPort)
	}
	return b.String()
}

// Specs writes chains as `iptables -S` (v6: ip6tables) does; chain: that one
// alone. It reports whether there is such a chain.
func Specs(w io.Writer, all []Chain, v6 bool, chain string) bool {
	found := chain == ""
	for _, c := range family(all, v6) {
		if chain != "" && c.Name != chain {
			continue
		}
		found = true
		if c.Builtin {
			fmt.Fprintf(w, "-P %s ACCEPT\n", c.Name)
		} else {
			fmt.Fprintf(w, "-N %s\n", c.Name)
		}
	}
	for _, c := range family(all, v6) {
		for _, r := range c.Rules {
			if chain == "" || c.Name == chain {
				fmt.Fprintf(w, "-A %s%s\n", c.Name, r.spec())
			}
		}
	}
	return found
}

// Save writes chains as iptables-save does, which iptables-restore reads.
func Save(w io.Writer, all []Chain, v6 bool) {
	fmt.Fprintln(w, "*nat")
	for _, c := range family(all, v6) {
		policy := "-"
		if c.Builtin {
			policy = "ACCEPT"
		}
		fmt.Fprintf(w, ":%s %s [0:0]\n", c.Name, policy)
	}
	for _, c := range family(all, v6) {
		for _, r := range c.Rules {
			fmt.Fprintf(w, "-A %s%s\n", c.Name, r.spec())
		}
	}
	fmt.Fprintln(w, "COMMIT")
}

// Look says how List writes.
type Look struct {
	Numeric, Verbose, Numbers bool   // -n, -v, --line-numbers
	Chain                     string // that one alone
}

// List writes chains as `iptables -L` does. It reports whether there is such a
// chain. There are no counters: under Verbose they are dashes.
func List(w io.Writer, all []Chain, v6 bool, look Look) bool {
	list := family(all, v6)
	references := map[string]int{}
	for _, c := range list {
		for _, r := range c.Rules {
			references[r.Target]++
		}
	}
	found := false
	for _, c := range list {
		if look.Chain != "" && c.Name != look.Chain {
			continue
		}
		if found {
			fmt.Fprintln(w)
		}
		found = true
		about := "policy ACCEPT"
		if !c.Builtin {
			about = fmt.Sprintf("%d references", references[c.Name])
		}
		fmt.Fprintf(w, "Chain %s (%s)\n", c.Name, about)
		head := fmt.Sprintf("%-10s %s %-20s %-20s", "target", "prot opt", "source", "destination")
		if look.Verbose {
			head = fmt.Sprintf(" %s %-10s %s %-6s %-6s  %-20s %-20s", "pkts bytes", "target", "prot opt", "in", "out", "source", "destination")
		}
		if look.Numbers {
			head = "num  " + head
		}
		fmt.Fprintln(w, head)
		for i, r := range c.Rules {
			if look.Numbers {
				fmt.Fprintf(w, "%-5d", i+1)
			}
			fmt.Fprintln(w, r.line(v6, look))
		}
	}
	return found
}

func (r *Rule) line(v6 bool, look Look) string {
	proto := "all"
	if r.Proto != "" {
		proto = r.Proto
	}
	if r.NotProto {
		proto = "!" + proto
	}
	from, to := place(r.From, v6, look.Numeric), place(r.To, v6, look.Numeric)
	var more []string
	if r.Port != 0 {
		more = append(more, fmt.Sprintf("%s dpt:%d", r.Proto, r.Port))
	}
	if r.UID != nil {
		more = append(more, fmt.Sprintf("owner UID match %d", *r.UID))
	}
	if r.GID != nil {
		more = append(more, fmt.Sprintf("owner GID match %d", *r.GID))
	}
	if r.ToPort != 0 {
		more = append(more, fmt.Sprintf("redir ports %d", r.ToPort))
	}
	text := strings.Join(more, " ")
	if !look.Verbose {
		return fmt.Sprintf("%-10s %-4s --  %-20s %-20s %s", r.Target, proto, from, to, text)
	}
	out := "any"
	if look.Numeric {
		out = "*"
	}
	in := out
	if r.Out != "" {
		out = r.Out
	}
	return fmt.Sprintf("%5s %5s %-10s %-4s --  %-6s %-6s  %-20s %-20s %s", "-", "-", r.Target, proto, in, out, from, to, text)
}

func place(p netip.Prefix, v6, numeric bool) string {
	switch {
	case p.IsValid() && p.IsSingleIP():
		return p.Addr().String()
	case p.IsValid():
		return p.String()
	case !numeric:
		return "anywhere"
	case v6:
		return "::/0"
	}
	return "0.0.0.0/0"
}
