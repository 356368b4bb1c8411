//go:build linux

package redirect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The plans in iptables' words, of both families.
func TestChains(t *testing.T) {
	for _, name := range []string{"pod", "pod-everything", "pod-some"} {
		t.Run(name, func(t *testing.T) {
			p := plans[name]
			chains, err := p.Chains()
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			b.WriteString("# iptables -t nat -S\n")
			Specs(&b, chains, false, "")
			b.WriteString("\n# ip6tables -t nat -S\n")
			Specs(&b, chains, true, "")
			b.WriteString("\n# iptables -t nat -L\n")
			List(&b, chains, false, Look{})
			b.WriteString("\n# ip6tables -t nat -L ISTIO_OUTPUT -n -v --line-numbers\n")
			List(&b, chains, true, Look{Numeric: true, Verbose: true, Numbers: true, Chain: "ISTIO_OUTPUT"})
			got := strings.ReplaceAll(b.String(), " \n", "\n")
			for strings.Contains(got, " \n") {
				got = strings.ReplaceAll(got, " \n", "\n")
			}
			file := filepath.Join("testdata", name+".iptables")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
	if Specs(&strings.Builder{}, nil, false, "NONE") || List(&strings.Builder{}, nil, false, Look{Chain: "NONE"}) {
		t.Error("a chain that is not there was found")
	}
}

func TestExample(t *testing.T) {
	for name, want := range map[string][2]string{
		"pod":            {"192.0.2.1:9", ""},
		"pod-everything": {"192.0.2.1:8443", "[2001:db8::1]:8443"},
		"pod-some":       {"10.0.0.1:9", ""},
	} {
		p := plans[name]
		for i, v6 := range []bool{false, true} {
			a, ok := p.example(v6)
			if ok != (want[i] != "") || ok && a.String() != want[i] {
				t.Errorf("%s, IPv6 %t: %s, want %s", name, v6, a, want[i])
			}
		}
	}
}
