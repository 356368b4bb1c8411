//go:build linux

package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/redirect"
)

// Names under which this program is called for listings.
var names = []string{"iptables", "ip6tables", "iptables-save", "ip6tables-save"}

// Called reports whether a program's name, or first argument, asks for IPTables.
func Called(name string) bool { return slices.Contains(names, filepath.Base(name)) }

// builtin chains of the tables in which there is nothing of ours.
var builtin = map[string][]string{
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"raw":    {"PREROUTING", "OUTPUT"},
}

// listing is what iptables was asked for.
type listing struct {
	v6, save, specs bool
	table           string
	look            redirect.Look
}

// IPTables lists the rules as the program of that name would; nothing else of
// iptables is here. They are the kernel's, or, for who may not ask it, those
// that Redirect has written down.
func IPTables(name string, args []string, stdout, stderr io.Writer) int {
	name = filepath.Base(name)
	l := listing{v6: strings.HasPrefix(name, "ip6"), save: strings.HasSuffix(name, "-save"), table: "filter"}
	if l.save {
		l.table = "nat"
	}
	if err := l.read(args); err != nil {
		fmt.Fprintf(stderr, "%s: %v\nThis is tulle-proxy, which lists the rules that send a pod's traffic to it:\n  iptables -t nat -L [CHAIN] [-n] [-v] [--line-numbers]\n  iptables -t nat -S [CHAIN]\n  iptables-save\n", name, err)
		return 2
	}
	chains, err := l.chains(Record, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	found := true
	switch {
	case l.save:
		redirect.Save(stdout, chains, l.v6)
	case l.specs:
		found = redirect.Specs(stdout, chains, l.v6, l.look.Chain)
	default:
		found = redirect.List(stdout, chains, l.v6, l.look)
	}
	if !found {
		fmt.Fprintf(stderr, "%s: no chain %s in table %s\n", name, l.look.Chain, l.table)
		return 1
	}
	return 0
}

func (l *listing) read(args []string) error {
	asked := l.save
	for i := 0; i < len(args); i++ {
		a := args[i]
		value := func() string { // of an option that may have one
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++
				return args[i]
			}
			return ""
		}
		switch {
		case a == "-t" || a == "--table":
			l.table = value()
		case strings.HasPrefix(a, "--table="):
			l.table = strings.TrimPrefix(a, "--table=")
		case a == "-w" || a == "--wait":
			value()
		case a == "-L" || a == "--list":
			asked, l.look.Chain = true, value()
		case a == "-S" || a == "--list-rules":
			asked, l.specs, l.look.Chain = true, true, value()
		case a == "--line-numbers":
			l.look.Numbers = true
		case a == "--numeric":
			l.look.Numeric = true
		case a == "--verbose":
			l.look.Verbose = true
		case len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "nvLSx") == "": // -nvL
			l.look.Numeric = l.look.Numeric || strings.Contains(a, "n")
			l.look.Verbose = l.look.Verbose || strings.Contains(a, "v")
			if strings.ContainsAny(a, "LS") {
				asked, l.specs, l.look.Chain = true, strings.Contains(a, "S"), value()
			}
		default:
			return fmt.Errorf("%q is not for listings", a)
		}
	}
	if !asked {
		return errors.New("neither -L nor -S")
	}
	if l.table != "nat" && builtin[l.table] == nil {
		return fmt.Errorf("table %q", l.table)
	}
	return nil
}

func (l *listing) chains(record string, stderr io.Writer) ([]redirect.Chain, error) {
	if l.table != "nat" {
		var out []redirect.Chain
		for _, n := range builtin[l.table] {
			out = append(out, redirect.Chain{Name: n, Builtin: true})
		}
		return out, nil
	}
	out, err := redirect.InKernel("")
	if !errors.Is(err, unix.EPERM) {
		return out, err
	}
	b, rerr := os.ReadFile(record)
	if errors.Is(rerr, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: the container has no capability NET_ADMIN, and no record of the rules was left at %s", err, record)
	}
	if rerr != nil {
		return nil, rerr
	}
	st, rerr := os.Stat(record)
	if rerr == nil {
		rerr = json.Unmarshal(b, &out)
	}
	if rerr != nil {
		return nil, fmt.Errorf("record %s: %w", record, rerr)
	}
	fmt.Fprintf(stderr, "# Only NET_ADMIN may ask the kernel. These rules were read from it at %s, when the pod's traffic was redirected.\n",
		st.ModTime().UTC().Format("2006-01-02T15:04:05Z"))
	return out, nil
}
