package link

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// virtualAddresses finds an address of the range for Kubernetes Services that
// have none, as a cluster would: the same one for the same host every time,
// unless an older Service has it. Headless Services stay without.
func virtualAddresses(list []*model.Service, from netip.Prefix) map[*model.Service]netip.Addr {
	list = slices.Clone(list)
	slices.SortFunc(list, servicesByAge)
	taken := map[netip.Addr]bool{}
	for _, s := range list {
		for _, a := range s.Addresses {
			taken[a.Addr()] = true
		}
	}
	out := map[*model.Service]netip.Addr{}
	for _, s := range list {
		if !s.Kubernetes || s.Headless || s.Resolution != model.Static || len(s.Addresses) > 0 {
			continue
		}
		if a, ok := pick(s.Host, from, taken); ok {
			taken[a] = true
			out[s] = a
		}
	}
	return out
}

// pick starts at a place that the host chooses and takes the next free address;
// the first and the last of the range are left alone.
func pick(host string, from netip.Prefix, taken map[netip.Addr]bool) (netip.Addr, bool) {
	bits := min(from.Addr().BitLen()-from.Bits(), 24)
	size := uint32(1) << bits
	if size < 4 {
		return netip.Addr{}, false
	}
	h := fnv.New64a()
	h.Write([]byte(host))
	start := uint32(h.Sum64()>>16) % (size - 2)
	for try := range size - 2 {
		a := plus(from.Masked().Addr(), 1+(start+try)%(size-2))
		if !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// plus adds to the low 32 bits of an address that are zero.
func plus(a netip.Addr, n uint32) netip.Addr {
	b := a.AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+n)
	out, _ := netip.AddrFromSlice(b)
	return out
}

// Service finds the service that a client in namespace ns means by a name, as
// its DNS would: as written, then completed by the namespace, by "svc" and by
// the cluster's domain. nil: none that it sees.
func (m *Mesh) Service(ns, name string) (found *model.Service) {
	m.book.Do(func() { found = m.named(ns, name) })
	return found
}

func (m *Mesh) named(ns, name string) *model.Service {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	svc := ".svc." + m.Settings.ClusterDomain
	for _, full := range []string{name, name + "." + ns + svc, name + svc, name + "." + m.Settings.ClusterDomain} {
		if s := m.lookup(eyes{ns: ns}, full); s != nil {
			return s.Service
		}
	}
	var best *service
	for _, s := range m.visible(eyes{ns: ns}) {
		if wild(s.Host) && under(s.Host, name) && (best == nil || len(s.Host) > len(best.Host)) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	return best.Service
}

// Services lists what a namespace sees, by host; short-lived callers only: the
// slice is made for each call, the services are shared.
func (m *Mesh) Services(ns string) (out []*model.Service) {
	m.book.Do(func() {
		for _, s := range m.visible(eyes{ns: ns}) {
			out = append(out, s.Service)
		}
	})
	return out
}
