//go:build linux

package redirect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// probePatience bounds one probe. Packets do not leave the namespace when all
// is well.
const probePatience = 5 * time.Second

// ErrNotCaptured says that a connection passed the rules.
var ErrNotCaptured = errors.New("a connection is not captured")

// Probe dials somewhere in each family and sees whether the connection arrives
// at the Outbound port of this namespace, whoever listens there. It must not be
// one of the plan's UIDs that asks. A plan that catches nothing, or a namespace
// without a way out, has nothing to probe: then probed is 0.
func Probe(p *Plan) (probed int, err error) {
	if p.Outbound == 0 {
		return 0, nil
	}
	for _, v6 := range []bool{false, true} {
		to, ok := p.example(v6)
		if !ok {
			continue
		}
		caught, err := probe(to, p.Outbound)
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL) {
			continue // nothing leaves by this family
		}
		if err != nil {
			return probed, fmt.Errorf("%w: to %s: %w", ErrNotCaptured, to, err)
		}
		if !caught {
			return probed, fmt.Errorf("%w: to %s", ErrNotCaptured, to)
		}
		probed++
	}
	return probed, nil
}

// example is a destination that the plan catches: in an included range, else an
// address that belongs to nobody (RFC 5737, RFC 3849).
func (p *Plan) example(v6 bool) (netip.AddrPort, bool) {
	if v6 && !p.IPv6 {
		return netip.AddrPort{}, false
	}
	port := uint16(9)
	for slices.Contains(p.ExcludeOutPorts, port) || port == 53 {
		port++
	}
	var list []netip.Addr
	for _, x := range p.Include {
		if x.Addr().Is6() == v6 {
			list = append(list, x.Masked().Addr().Next())
		}
	}
	switch {
	case len(p.IncludeOutPorts) > 0:
		port = p.IncludeOutPorts[0]
		fallthrough
	case len(p.Include) == 0:
		a := netip.AddrFrom4([4]byte{192, 0, 2, 1})
		if v6 {
			a = netip.MustParseAddr("2001:db8::1")
		}
		list = append([]netip.Addr{a}, list...)
	}
	for _, a := range list {
		if !slices.ContainsFunc(p.Exclude, func(x netip.Prefix) bool { return x.Contains(a) }) && !a.IsLoopback() &&
			!slices.Contains(p.ExcludeOutPorts, port) {
			return netip.AddrPortFrom(a, port), true
		}
	}
	return netip.AddrPort{}, false
}

// probe dials and reports whether the connection came to the port here.
func probe(to netip.AddrPort, port uint16) (bool, error) {
	host, network := "127.0.0.1", "tcp4"
	if to.Addr().Is6() {
		host, network = "::1", "tcp6"
	}
	l, err := net.Listen(network, net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return false, err
	}
	if l != nil {
		defer l.Close()
	}
	c, err := net.DialTimeout(network, to.String(), probePatience)
	if err != nil {
		return false, err
	}
	defer c.Close()
	if l == nil {
		return true, nil // the proxy that runs already has answered; nobody else has this address
	}
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(probePatience))
	for {
		in, err := l.Accept()
		if err != nil {
			return false, nil
		}
		same := in.RemoteAddr().String() == c.LocalAddr().String()
		_ = in.Close()
		if same { // else another program's, which was captured too
			return true, nil
		}
	}
}

// AddSources puts the addresses of IPv6 that the proxy binds to on the loopback
// interface, where IPv4's are from the start. It needs CAP_NET_ADMIN.
func AddSources(p *Plan) error {
	if !p.IPv6 {
		return nil
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer c.Close()
	const loopback = 1 // the first interface of every namespace
	for _, a := range p.Sources {
		if a.Is4() || a == netip.IPv6Loopback() {
			continue
		}
		body := []byte{unix.AF_INET6, 128, unix.IFA_F_NODAD, unix.RT_SCOPE_HOST}
		body = binary.NativeEndian.AppendUint32(body, loopback)
		attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.IFA_ADDRESS, Data: a.AsSlice()}})
		if err != nil {
			return err
		}
		_, err = c.Execute(netlink.Message{Data: append(body, attrs...), Header: netlink.Header{Type: unix.RTM_NEWADDR,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl}})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %s on the loopback interface: %w", a, err)
		}
	}
	return nil
}
