//go:build linux

package capture

import (
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/redirect"
)

func planOf(t *testing.T, v6 bool, args ...string) (*redirect.Plan, error) {
	t.Helper()
	var o options
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	o.flags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return o.plan(v6)
}

// What the injector says, and what annotations change of it.
func TestPlan(t *testing.T) {
	injected := func(more ...string) []string {
		return append([]string{"-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15020,15021,15090", "--redirect-dns"}, more...)
	}
	for name, x := range map[string]struct {
		v6      bool
		args    []string
		has     []string
		without []string
	}{
		"default": {args: injected(), has: []string{"meta nfproto ipv6 return", "tcp dport 15020 return", "meta l4proto tcp redirect to :15006",
			"meta l4proto tcp redirect to :15001", "udp dport 53 redirect to :15053", "meta skuid 1337 return", "meta skgid 1337 return", "ip saddr 127.0.0.6 return"}},
		"IPv6":             {v6: true, args: injected(), has: []string{"ip6 saddr ::6 return", "ip6 daddr ::1 return"}, without: []string{"nfproto ipv6"}},
		"ranges":           {args: injected("-i", "10.0.0.0/8,fd00::/8", "-x", "10.1.0.0/16"), has: []string{"ip daddr 10.1.0.0/16 return", "ip daddr 10.0.0.0/8 redirect to :15001"}, without: []string{"ip6 daddr", "\t\tmeta l4proto tcp redirect to :15001"}},
		"one address":      {args: injected("-x", "169.254.169.254"), has: []string{"ip daddr 169.254.169.254 return"}},
		"no outbound":      {args: injected("-i", ""), has: []string{"dport 53"}, without: []string{":15001"}},
		"outbound ports":   {args: injected("-i", "", "-q", "8443"), has: []string{"tcp dport 8443 redirect to :15001"}, without: []string{"\t\tmeta l4proto tcp redirect to :15001"}},
		"ports and all":    {args: injected("-q", "8443"), has: []string{"\t\tmeta l4proto tcp redirect to :15001"}},
		"outbound without": {args: injected("-o", "3306, 5432"), has: []string{"tcp dport 3306 return", "tcp dport 5432 return"}},
		"inbound ports":    {args: injected("-b", "8080"), has: []string{"tcp dport 8080 redirect to :15006"}, without: []string{"\t\tmeta l4proto tcp redirect to :15006"}},
		"no inbound":       {args: injected("-b", ""), without: []string{":15006", "prerouting"}},
		"no dns":           {args: []string{"-i", "*", "-b", "*"}, without: []string{"15053"}},
		"users":            {args: injected("-u", "1337,1338", "-g", "7"), has: []string{"meta skuid 1338 return", "meta skgid 7 return"}, without: []string{"skgid 1337"}},
		"long names":       {args: []string{"--envoy-port", "1", "--inbound-capture-port", "2", "--istio-service-cidr", "*", "--istio-inbound-ports", "*"}, has: []string{"redirect to :1\n", "redirect to :2\n"}},
		"istio's others":   {args: injected("--run-validation", "--log_output_level=default:info", "--force-apply"), has: []string{":15001"}},
	} {
		p, err := planOf(t, x.v6, x.args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := p.Text()
		for _, s := range x.has {
			if !strings.Contains(text, s) {
				t.Errorf("%s: without %q\n%s", name, s, text)
			}
		}
		for _, s := range x.without {
			if strings.Contains(text, s) {
				t.Errorf("%s: with %q\n%s", name, s, text)
			}
		}
	}
	for want, args := range map[string][]string{
		"-m TPROXY":       injected("-m", "TPROXY"),
		"-d x":            injected("-d", "x"),
		"-d 0: no port":   injected("-d", "0"),
		"want a range":    injected("-x", "here"),
		"want ports":      injected("-p", "70000"),
		"-c is not":       injected("-c", "eth1"),
		"-u root":         injected("-u", "root"),
		"more than 256":   injected("-o", manyPorts()),
		"not defined: -y": injected("-y"),
	} {
		if _, err := planOf(t, false, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func manyPorts() string {
	var list []string
	for n := range 300 {
		list = append(list, strconv.Itoa(1000+n))
	}
	return strings.Join(list, ",")
}

func TestListing(t *testing.T) {
	for _, args := range []string{"-t nat", "-A OUTPUT", "-t none -L", "-F", ""} {
		var out, say strings.Builder
		if code := IPTables("/sbin/iptables", strings.Fields(args), &out, &say); code != 2 || out.Len() > 0 || !strings.Contains(say.String(), "iptables -t nat -L") {
			t.Errorf("%q: %d\n%s%s", args, code, out.String(), say.String())
		}
	}
	var out, say strings.Builder
	if code := IPTables("iptables", []string{"-L", "-n"}, &out, &say); code != 0 || !strings.HasPrefix(out.String(), "Chain INPUT (policy ACCEPT)\n") {
		t.Errorf("%d\n%s%s", code, out.String(), say.String())
	}
	if code := IPTables("iptables", []string{"-L", "NONE"}, &out, &say); code != 1 {
		t.Errorf("a chain that is not there: %d", code)
	}
	for args, want := range map[string]listing{
		"-t nat -L": {table: "nat"},
		"--table=nat --list ISTIO_OUTPUT --numeric": {table: "nat", look: redirect.Look{Chain: "ISTIO_OUTPUT", Numeric: true}},
		"-t nat -nvL --line-numbers":                {table: "nat", look: redirect.Look{Numeric: true, Verbose: true, Numbers: true}},
		"-w 5 -t nat -S ISTIO_REDIRECT":             {table: "nat", specs: true, look: redirect.Look{Chain: "ISTIO_REDIRECT"}},
	} {
		var l listing
		if err := l.read(strings.Fields(args)); err != nil || l != want {
			t.Errorf("%s: %+v, %v; want %+v", args, l, err, want)
		}
	}
}

// The record tells who may not ask the kernel what was done.
func TestRecord(t *testing.T) {
	p, err := planOf(t, true, "-i", "*", "-b", "*", "--redirect-dns")
	if err != nil {
		t.Fatal(err)
	}
	chains, err := p.Chains()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "record")
	for range 2 {
		if err := write(file, chains); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var back []redirect.Chain
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	var was, is strings.Builder
	redirect.Save(&was, chains, true)
	redirect.Save(&is, back, true)
	if was.String() != is.String() {
		t.Errorf("was\n%s\nis\n%s", was.String(), is.String())
	}
	if err := write(filepath.Join(t.TempDir(), "none", "record"), chains); err != nil {
		t.Errorf("without a directory to write to: %v", err)
	}
}

func TestCommand(t *testing.T) {
	var out, say strings.Builder
	if code := Redirect([]string{"-n", "-i", "*", "-b", "*"}, &out, &say); code != 0 || !strings.Contains(out.String(), "redirect to :15001") {
		t.Errorf("%d\n%s%s", code, out.String(), say.String())
	}
	for _, args := range []string{"-m TPROXY", "--what", "more"} {
		if code := Redirect(strings.Fields(args), io.Discard, io.Discard); code != 2 {
			t.Errorf("%s: %d", args, code)
		}
	}
	if !Called("/usr/sbin/ip6tables-save") || Called("/usr/local/bin/tulle-proxy") {
		t.Error("names")
	}
}
