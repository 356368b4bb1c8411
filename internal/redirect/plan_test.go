//go:build linux

package redirect

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// plans by golden file. What Istio's init container would do for a pod is in
// pod; machine is what a program gets in namespaces of its own.
var plans = map[string]Plan{
	"pod": {
		Outbound: OutboundPort, Inbound: InboundPort, UIDs: []uint32{1337}, GIDs: []uint32{1337},
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.6")}, KeepLocal: true, ExcludeInPorts: []uint16{15090, 15021, 15020},
	},
	"pod-everything": {
		IPv6: true, Outbound: OutboundPort, Inbound: InboundPort, DNS: DNSPort, UIDs: []uint32{1337}, GIDs: []uint32{1337},
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("::6")}, KeepLocal: true,
		ExcludeInPorts: []uint16{15020}, ExcludeOutPorts: []uint16{3306}, IncludeOutPorts: []uint16{8443},
		Exclude: []netip.Prefix{netip.MustParsePrefix("169.254.169.254/32"), netip.MustParsePrefix("fd00:1::/32")},
		Include: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
	},
	"pod-some": {
		Outbound: OutboundPort, Inbound: InboundPort, UIDs: []uint32{1337}, GIDs: []uint32{1337},
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.6")}, KeepLocal: true,
		ExcludeInPorts: []uint16{15020}, IncludeInPorts: []uint16{8080, 8443}, Include: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	},
	"machine": {
		Outbound: OutboundPort, DNS: DNSPort, Refuse: true,
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.6")},
		Exclude: []netip.Prefix{netip.MustParsePrefix("127.64.3.4/32"), netip.MustParsePrefix("127.0.0.0/10"), netip.MustParsePrefix("127.128.0.0/9")},
	},
	"machine6": {
		IPv6: true, Outbound: OutboundPort, DNS: DNSPort, Refuse: true,
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("::6")},
		Exclude: []netip.Prefix{netip.MustParsePrefix("127.64.3.4/32"), netip.MustParsePrefix("127.0.0.0/10"), netip.MustParsePrefix("127.128.0.0/9"),
			netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fdff::1/128")},
	},
}

func TestText(t *testing.T) {
	for name, p := range plans {
		t.Run(name, func(t *testing.T) {
			if err := p.Check(); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(p.Text()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), p.Text()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for want, p := range map[string]Plan{
		"more than 256":  {ExcludeOutPorts: make([]uint16, 257)},
		"address range":  {Exclude: []netip.Prefix{{}}},
		"source address": {Sources: []netip.Addr{netip.MustParseAddr("fe80::1%lo")}},
		"lower-case":     {Table: "a b"},
		"not known":      {KeepLocal: true, Inbound: 1},
	} {
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
