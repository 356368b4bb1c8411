//go:build linux

package redirect

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Finder finds an external program; exec.LookPath is one.
type Finder func(name string) (string, error)

// ApplyIPTables is Apply by iptables' own programs, for kernels without
// nftables. What an earlier one did is replaced.
func ApplyIPTables(p *Plan, find Finder) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("capture plan: %w", err)
	}
	if p.Refuse {
		return errors.New("iptables: a plan that refuses needs nftables")
	}
	chains, err := p.Chains()
	if err != nil {
		return err
	}
	return each(p.IPv6, find, func(t tools, v6 bool) error {
		t.clean()
		var text strings.Builder
		Save(&text, chains, v6)
		// The chains of the system keep their policy and what others have put there.
		var ours []string
		for l := range strings.Lines(text.String()) {
			if !strings.HasPrefix(l, ":") || strings.HasPrefix(l, ":ISTIO_") {
				ours = append(ours, l)
			}
		}
		return t.run(t.restore, strings.Join(ours, ""), "--noflush", "-w", "5")
	})
}

// UndoIPTables takes away what ApplyIPTables did; nothing there is no error.
func UndoIPTables(v6 bool, find Finder) error {
	return each(v6, find, func(t tools, _ bool) error { t.clean(); return nil })
}

// tools are the two programs of one family and one kind of kernel interface.
type tools struct{ iptables, restore string }

// each runs do for the families with the first kind of tools that works.
func each(v6 bool, find Finder, do func(t tools, v6 bool) error) error {
	var all []error
	for _, kind := range []string{"-legacy", "", "-nft"} {
		err := func() error {
			for _, f := range []struct {
				name string
				v6   bool
			}{{"iptables", false}, {"ip6tables", true}} {
				if f.v6 && !v6 {
					break
				}
				var t tools
				var err error
				if t.iptables, err = notOurs(find, f.name+kind); err != nil {
					return err
				}
				if t.restore, err = notOurs(find, f.name+kind+"-restore"); err != nil {
					return err
				}
				if err := do(t, f.v6); err != nil {
					return err
				}
			}
			return nil
		}()
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// notOurs finds a program that is not this one by another name.
func notOurs(find Finder, name string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	a, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if b, err := os.Stat("/proc/self/exe"); err == nil && os.SameFile(a, b) {
		return "", fmt.Errorf("%s: that is this program", path)
	}
	return path, nil
}

// clean takes our chains away. Errors say that there were none.
func (t tools) clean() {
	nat := func(args ...string) error {
		return t.run(t.iptables, "", append([]string{"-w", "5", "-t", "nat"}, args...)...)
	}
	for range 16 { // of each jump there may be several
		in := nat("-D", "PREROUTING", "-p", "tcp", "-j", chainInbound)
		out := nat("-D", "OUTPUT", "-j", chainOutput)
		if in != nil && out != nil {
			break
		}
	}
	list := []string{chainInbound, chainOutput, chainInRedirect, chainRedirect}
	for _, c := range list {
		_ = nat("-F", c)
	}
	for _, c := range list {
		_ = nat("-X", c)
	}
}

func (t tools) run(path, stdin string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}
