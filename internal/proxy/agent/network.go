//go:build linux

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// loopback is the index of lo, the first interface of every namespace.
const loopback = 1

// network brings the loopback interface up, gives it the program's addresses,
// and makes it the way to everywhere, so that redirect rules see what leaves.
func network(addresses []netip.Addr) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer c.Close()
	link := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(link[4:], loopback)
	binary.NativeEndian.PutUint32(link[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(link[12:], unix.IFF_UP)
	if err := ask(c, unix.RTM_NEWLINK, 0, link); err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	routed := map[bool]bool{}
	for _, a := range addresses {
		if err := addAddress(c, a); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
		if routed[a.Is4()] {
			continue
		}
		routed[a.Is4()] = true
		if err := addRoute(c, a); err != nil {
			return fmt.Errorf("default route over loopback: %w", err)
		}
	}
	// Here nobody else can want the low ports. Where the setting is not to be
	// had, programs need higher ones.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	return nil
}

func ask(c *netlink.Conn, kind netlink.HeaderType, flags netlink.HeaderFlags, body []byte) error {
	_, err := c.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags}, Data: body})
	var op *netlink.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addAddress puts an address on lo (rtnetlink(7), RTM_NEWADDR).
func addAddress(c *netlink.Conn, a netip.Addr) error {
	body := []byte{family(a), byte(a.BitLen()), 0, unix.RT_SCOPE_UNIVERSE}
	if a.Is6() {
		body[2] = unix.IFA_F_NODAD
	}
	body = binary.NativeEndian.AppendUint32(body, loopback)
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.IFA_LOCAL, Data: a.AsSlice()}, {Type: unix.IFA_ADDRESS, Data: a.AsSlice()}})
	if err != nil {
		return err
	}
	return ask(c, unix.RTM_NEWADDR, netlink.Create|netlink.Excl, append(body, attrs...))
}

// addRoute makes lo the default route of a's family, with a as source address
// (rtnetlink(7), RTM_NEWROUTE).
func addRoute(c *netlink.Conn, a netip.Addr) error {
	scope := byte(unix.RT_SCOPE_LINK)
	if a.Is6() {
		scope = unix.RT_SCOPE_UNIVERSE
	}
	body := []byte{family(a), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST, 0, 0, 0, 0}
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.RTA_OIF, Data: binary.NativeEndian.AppendUint32(nil, loopback)}, {Type: unix.RTA_PREFSRC, Data: a.AsSlice()}})
	if err != nil {
		return err
	}
	return ask(c, unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, append(body, attrs...))
}
