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

// serveNames answers the program's questions. The sockets are bound to the
// loopback address that packets are redirected to, so that answers come from
// where the question seemed to go. In a pod other resolvers know the cluster's
// names too.
func (p *Proxy) serveNames(h *heritage) error {
	p.names = dns.New(dns.Options{Namespace: p.boot.Workload.Namespace, Resolvers: dns.System("/etc/resolv.conf"),
		Elsewhere: p.boot.Pod != nil, Demand: p.board, Log: p.log})
	open := p.ownNameSockets
	if p.inside != nil {
		open = func(at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) { return p.insideNameSockets(h, at) }
	}
	for _, host := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		at := netip.AddrPortFrom(host, dnsPort)
		packets, streams, err := open(at)
		if err != nil && packets == nil && host.Is6() {
			break // there is no IPv6
		}
		if err != nil {
			return fmt.Errorf("names: %w", err)
		}
		p.mu.Lock()
		p.nameSockets["packet "+at.String()], p.nameSockets["stream "+at.String()] = packets, streams
		p.mu.Unlock()
		go p.names.Packets(packets)
		go p.names.Streams(streams)
	}
	return nil
}

// ownNameSockets are in the namespace that we live in.
func (p *Proxy) ownNameSockets(at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	streams, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	return packets, streams, err
}

// insideNameSockets are in the program's own namespace.
func (p *Proxy) insideNameSockets(h *heritage, at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	fd, err := p.nameSocket(h, "packet "+at.String(), func() (int, error) { return p.inside.agent.Packet(at, agentWait) })
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), "dns")
	packets, err := net.FilePacketConn(f)
	_ = f.Close()
	if err != nil {
		return nil, nil, err
	}
	udp := packets.(*net.UDPConn)
	if fd, err = p.nameSocket(h, "stream "+at.String(), func() (int, error) { return p.inside.agent.Listen(at, agentWait) }); err != nil {
		return udp, nil, err
	}
	f = os.NewFile(uintptr(fd), "dns")
	streams, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return udp, nil, err
	}
	return udp, streams.(*net.TCPListener), nil
}

// nameSocket is the predecessor's, or a new one.
func (p *Proxy) nameSocket(h *heritage, key string, open func() (int, error)) (int, error) {
	if fd := h.take(keyNames + key); fd >= 0 {
		return fd, nil
	}
	return open()
}

// closeNames ends the name server. p.mu is held.
func (p *Proxy) closeNames() {
	for k, c := range p.nameSockets {
		_ = c.Close()
		delete(p.nameSockets, k)
	}
}
