//go:build linux

package capture

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/redirect"
)

// options are what the command line of redirect says.
type options struct {
	out, in         uint
	uids, gids      string
	mode            string
	inPorts, exIn   string
	ranges, exclude string
	outPorts, exOut string
	dns, allDNS     bool
	dry, cleanup    bool
	skipProbe       bool
	record          string
	unsupported     map[string]*string
}

// flags of istio-iptables, short and long.
func (o *options) flags(fs *flag.FlagSet) {
	str := func(p *string, def, help string, names ...string) {
		for _, n := range names {
			fs.StringVar(p, n, def, help)
		}
	}
	fs.UintVar(&o.out, "p", redirect.OutboundPort, "port that outgoing connections are sent to")
	fs.UintVar(&o.out, "envoy-port", redirect.OutboundPort, "the same")
	fs.UintVar(&o.in, "z", redirect.InboundPort, "port that incoming connections are sent to")
	fs.UintVar(&o.in, "inbound-capture-port", redirect.InboundPort, "the same")
	str(&o.uids, "1337", "users whose own connections are left alone", "u", "proxy-uid")
	str(&o.gids, "", "groups whose own connections are left alone (default: as the users)", "g", "proxy-gid")
	str(&o.mode, "REDIRECT", "REDIRECT is what there is", "m", "istio-inbound-interception-mode")
	str(&o.inPorts, "", "incoming ports that are captured; * for all, empty for none", "b", "istio-inbound-ports")
	str(&o.exIn, "", "incoming ports that are not captured", "d", "istio-local-exclude-ports")
	str(&o.ranges, "", "outgoing address ranges that are captured; * for all, empty for none", "i", "istio-service-cidr")
	str(&o.exclude, "", "outgoing address ranges that are not captured", "x", "istio-service-exclude-cidr")
	str(&o.outPorts, "", "outgoing ports that are captured whatever the address", "q", "istio-outbound-ports")
	str(&o.exOut, "", "outgoing ports that are not captured", "o", "istio-local-outbound-ports-exclude")
	fs.BoolVar(&o.dns, "redirect-dns", false, "send questions (port 53) to the proxy")
	fs.BoolVar(&o.allDNS, "capture-all-dns", false, "the same: to whatever server they go")
	for _, n := range []string{"n", "dry-run"} {
		fs.BoolVar(&o.dry, n, false, "print the rules and do nothing")
	}
	for _, n := range []string{"cleanup", "cleanup-only"} {
		fs.BoolVar(&o.cleanup, n, false, "take the rules away")
	}
	fs.BoolVar(&o.skipProbe, "skip-probe", false, "do not try whether a connection is captured")
	fs.StringVar(&o.record, "record", Record, "file that tells the rules to who may not ask the kernel, if its directory is there")
	o.unsupported = map[string]*string{}
	for _, n := range []string{"c", "istio-exclude-interfaces", "k", "kube-virt-interfaces"} {
		o.unsupported[n] = fs.String(n, "", "not supported; must be empty")
	}
	// What says how, not what: istio-iptables has them, here there is one way.
	for _, n := range []string{"run-validation", "force-apply", "reconcile", "native-nftables", "dual-stack", "drop-invalid"} {
		fs.Bool(n, false, "taken for istio-iptables' sake; changes nothing")
	}
	fs.String("log_output_level", "", "taken for istio-iptables' sake; changes nothing")
}

// plan is what the options ask for. v6 says that the namespace has IPv6.
func (o *options) plan(v6 bool) (*redirect.Plan, error) {
	if o.mode != "REDIRECT" {
		return nil, fmt.Errorf("-m %s is not supported; REDIRECT is", o.mode)
	}
	for n, v := range o.unsupported {
		if *v != "" {
			return nil, fmt.Errorf("-%s is not supported", n)
		}
	}
	if o.out == 0 || o.out > 65535 || o.in == 0 || o.in > 65535 {
		return nil, errors.New("-p, -z: want ports")
	}
	p := &redirect.Plan{IPv6: v6, Outbound: uint16(o.out), Inbound: uint16(o.in), KeepLocal: true,
		Sources: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 6}), netip.MustParseAddr("::6")}}
	if !v6 {
		p.Sources = p.Sources[:1]
	}
	if o.dns || o.allDNS {
		p.DNS = redirect.DNSPort
	}
	gids := o.gids
	if gids == "" {
		gids = o.uids
	}
	var err error
	read := func(name, text string, into func(string) error) {
		for x := range strings.SplitSeq(text, ",") {
			if x = strings.TrimSpace(x); x == "" || err != nil {
				continue
			}
			if e := into(x); e != nil {
				err = fmt.Errorf("-%s %s: %w", name, x, e)
			}
		}
	}
	ids := func(to *[]uint32) func(string) error {
		return func(x string) error {
			n, err := strconv.ParseUint(x, 10, 32)
			*to = append(*to, uint32(n))
			return err
		}
	}
	ports := func(to *[]uint16) func(string) error {
		return func(x string) error {
			n, err := strconv.ParseUint(x, 10, 16)
			if err == nil && n == 0 {
				err = errors.New("no port")
			}
			if !slices.Contains(*to, uint16(n)) {
				*to = append(*to, uint16(n))
			}
			return err
		}
	}
	read("u", o.uids, ids(&p.UIDs))
	read("g", gids, ids(&p.GIDs))
	read("d", o.exIn, ports(&p.ExcludeInPorts))
	read("o", o.exOut, ports(&p.ExcludeOutPorts))
	read("x", o.exclude, prefixes(&p.Exclude, v6))
	if o.inPorts != "*" {
		read("b", o.inPorts, ports(&p.IncludeInPorts))
		if len(p.IncludeInPorts) == 0 {
			p.Inbound = 0
		}
	}
	read("q", o.outPorts, ports(&p.IncludeOutPorts))
	switch {
	case o.ranges != "*":
		read("i", o.ranges, prefixes(&p.Include, v6))
		if len(p.Include)+len(p.IncludeOutPorts) == 0 {
			p.Outbound = 0
		}
	case len(p.IncludeOutPorts) > 0: // those ports, and everything
		p.IncludeOutPorts = nil
	}
	if err == nil {
		err = p.Check()
	}
	return p, err
}

// prefixes takes address ranges; those of IPv6 mean nothing where there is none.
func prefixes(to *[]netip.Prefix, v6 bool) func(string) error {
	return func(x string) error {
		p, err := netip.ParsePrefix(x)
		if err != nil {
			a, e := netip.ParseAddr(x)
			if e != nil {
				return errors.New("want a range as 10.0.0.0/8")
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4() || v6 {
			*to = append(*to, p.Masked())
		}
		return nil
	}
}

// hasIPv6 reports whether an interface other than lo has an address that
// others may reach (the fourth field of the file is the scope, 00: everywhere).
func hasIPv6() bool {
	b, err := os.ReadFile("/proc/net/if_inet6")
	if err != nil {
		return false
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) == 6 && f[3] == "00" && f[5] != "lo" {
			return true
		}
	}
	return false
}
