package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/tulle-mesh/tulle/internal/proxy/dns"
)

// dnsPort is where questions are redirected to.
const dnsPort = 15053

// serveNames answers the program's questions, on sockets inside its namespace.
// They are bound to the loopback address that packets are redirected to, so
// that answers come from where the question seemed to go.
func (p *Proxy) serveNames(h *heritage) error {
	p.names = dns.New(dns.Options{Namespace: p.boot.Workload.Namespace, Resolvers: dns.System("/etc/resolv.conf"), Log: p.log})
	for _, host := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		at := netip.AddrPortFrom(host, dnsPort)
		packets, err := p.nameSocket(h, "packet "+at.String(), func() (int, error) { return p.inside.agent.Packet(at, agentWait) })
		if err != nil {
			if host.Is6() {
				break // there is no IPv6 inside
			}
			return fmt.Errorf("names: %w", err)
		}
		f := os.NewFile(uintptr(packets), "dns")
		pc, err := net.FilePacketConn(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("names: %w", err)
		}
		p.inside.names["packet "+at.String()] = pc.(*net.UDPConn)
		streams, err := p.nameSocket(h, "stream "+at.String(), func() (int, error) { return p.inside.agent.Listen(at, agentWait) })
		if err != nil {
			return fmt.Errorf("names: %w", err)
		}
		f = os.NewFile(uintptr(streams), "dns")
		l, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("names: %w", err)
		}
		p.inside.names["stream "+at.String()] = l.(*net.TCPListener)
		go p.names.Packets(pc)
		go p.names.Streams(l)
	}
	return nil
}

// nameSocket is the predecessor's, or a new one.
func (p *Proxy) nameSocket(h *heritage, key string, open func() (int, error)) (int, error) {
	if fd := h.take(keyNames + key); fd >= 0 {
		return fd, nil
	}
	return open()
}
