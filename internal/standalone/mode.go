//go:build linux

package standalone

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Mode is how a program's traffic gets to its sidecar.
type Mode uint8

// Modes. Auto tries namespaces and takes ports where the kernel does not let a
// user make them.
const (
	Auto Mode = iota
	InNamespaces
	ByPorts
)

var modeNames = [...]string{"auto", "namespaces", "ports"}

// String is the mode's name on the command line.
func (m Mode) String() string { return modeNames[m] }

// Set reads a mode's name; with String and Type it makes Mode a flag.
func (m *Mode) Set(text string) error {
	for i, n := range modeNames {
		if n == text {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("want %s", strings.Join(modeNames[:], ", "))
}

// Type names the flag's kind.
func (m *Mode) Type() string { return "mode" }

// settle decides whether programs get namespaces of their own.
func (m Mode) settle(proxy string, say func(string, ...any)) (bool, error) {
	if m == ByPorts {
		return false, nil
	}
	err := Namespaces(proxy)
	switch {
	case err == nil:
		return true, nil
	case m == Auto:
		say("the program shares this machine's network and is given HTTP_PROXY (mode ports): %v", err)
		return false, nil
	}
	return false, fmt.Errorf("mode namespaces: %w", err)
}

// Settled is the mode that Auto comes to on this machine, and why it is not
// namespaces.
func (m Mode) Settled(proxy string) (Mode, error) {
	if m == ByPorts {
		return m, nil
	}
	if err := Namespaces(proxy); err != nil {
		if m == InNamespaces {
			return m, fmt.Errorf("mode namespaces: %w", err)
		}
		return ByPorts, err
	}
	return InNamespaces, nil
}

// makePlace makes the program's namespaces.
func (r *Run) makePlace(ctx context.Context, rep *Replica, dir string) (err error) {
	rep.place, err = openPlace(ctx, &placeOptions{
		Proxy: r.Proxy, Dir: dir, Address: rep.IP, Resolv: resolvConf(rep.Namespace),
		Command: byName(r.Command), Env: append(r.Env, environment(rep)...),
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Foreground: r.Foreground,
		Refused: func(what []string) {
			for _, w := range what {
				r.say("%s sends %s, which the mesh does not carry: it was refused", rep.ID, w)
			}
		},
	})
	return err
}

// byName replaces {{tulle.addr HOST PORT}} by the name itself, which programs
// in namespaces can use.
func byName(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = addrPattern.ReplaceAllStringFunc(a, func(m string) string {
			f := addrPattern.FindStringSubmatch(m)
			if a, err := netip.ParseAddr(f[1]); err == nil && a.Is6() {
				return "[" + f[1] + "]:" + f[2]
			}
			return f[1] + ":" + f[2]
		})
	}
	return out
}

// ParsePorts reads the ports of --host-port.
func ParsePorts(list []string) ([]uint16, error) {
	var out []uint16
	for _, t := range list {
		n, err := strconv.ParseUint(t, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q: want a port, 1 to 65535", t)
		}
		out = append(out, uint16(n))
	}
	return out, nil
}
