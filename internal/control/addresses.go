package control

import (
	"errors"
	"hash/fnv"
	"net"
	"net/netip"
	"syscall"
)

// Addresses of standalone workloads come from one of pools 127.x.y.0/20. Which,
// is made from the state directory, so that a mesh keeps its addresses; two
// directories may mean the same, so whoever serves a pool claims it.

// pools is how many there are in 127.64.0.0/10, poolBits what one is long.
const (
	pools    = 1024
	poolBits = 20
)

// claimPort is the UDP port of a claim, which is a socket at the pool's first
// address: no workload gets that. It ends with its process, however that ends.
const claimPort = 15000

// poolAt is a pool of 127.64.0.0/10 by its index.
func poolAt(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(64 + i/16%64), byte(i % 16 << 4), 0}), poolBits)
}

// claimPool takes the pool of a state directory for as long as release is not
// called; that of an address which the mesh has given before, if it is valid;
// the next one when another control plane on this machine has it. Where
// addresses cannot be bound (127.64.0.0/10 is only there on Linux) there is no
// other to be told apart from.
func claimPool(dir string, before netip.Addr) (pool netip.Prefix, release func()) {
	h := fnv.New32a()
	h.Write([]byte(dir))
	n := h.Sum32()
	own := int(n%64*16 + n>>12%16)
	if p := netip.PrefixFrom(before, poolBits).Masked(); before.Is4() && poolAt(poolIndex(p)) == p {
		own = poolIndex(p)
	}
	for i := range pools {
		pool := poolAt((own + i) % pools)
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(pool.Addr(), claimPort)))
		if err == nil {
			return pool, func() { _ = c.Close() }
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return poolAt(own), func() {}
}

// poolIndex is the index of a pool in 127.64.0.0/10, any number for another prefix.
func poolIndex(p netip.Prefix) int {
	b := p.Addr().As4()
	return int(b[1]-64)*16 + int(b[2]>>4)
}
