package link

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Bounds of an index.
const (
	indexPrefixes = 256
	indexNames    = 8192
)

// indexed counts what the index is made of: of all clients together, so that
// there is one. It may say more than one client sees, never less.
type indexed struct {
	nets  *tally[string] // address prefixes
	ports *tally[uint32] // port number << 3 and what it is
	names *tally[string]
	heads *tally[string] // namespaces with headless services
}

// Kinds of a port in indexed.
const (
	portByHost = 1 << iota
	portBySNI
	portRest
)

// Index of the mesh for sidecars on demand.
func (s *Scope) Index() *ext.Index { return s.m.tables.index.Get(s.settings().AllowAny) }

// putIndexed counts a service.
func (m *Mesh) putIndexed(come bool, s *model.Service) {
	x := &m.facts.indexed
	nets := false
	for _, p := range s.Addresses {
		nets = nets || !p.IsSingleIP()
		x.nets.put(come, wider(p, s.Kubernetes).String())
	}
	single := slices.ContainsFunc(s.Addresses, netip.Prefix.IsSingleIP)
	done := map[uint32]bool{}
	for _, p := range s.Ports {
		kind := uint32(0)
		switch {
		case p.Protocol == model.UDP:
			continue
		case p.Protocol.IsHTTP():
			kind = portByHost
		case p.Protocol == model.Sniff && (!single || nets):
			kind = portByHost | portRest
		case single || nets:
		case p.Protocol.IsTLS():
			kind = portBySNI
		default:
			kind = portRest
		}
		if k := uint32(p.Number)<<3 | kind; kind != 0 && !done[k] {
			done[k] = true
			x.ports.put(come, k)
		}
	}
	if s.Resolution == model.Passthrough && len(s.Addresses) == 0 {
		x.heads.put(come, s.Namespace)
	}
	svc := ".svc." + m.Settings.ClusterDomain
	rest, inside := strings.CutSuffix(s.Host, svc)
	name, own, ok := strings.Cut(rest, ".")
	if !inside || !ok || wild(s.Host) {
		m.putName(come, s.Host)
		return
	}
	for _, n := range []string{"*." + own, "*." + own + ".svc", "*." + own + svc} {
		x.names.put(come, n)
	}
	if s.Resolution == model.Passthrough && s.Kubernetes {
		x.names.put(come, "*."+name)
	}
}

// putName counts a name by which the mesh may be meant; those of the cluster by
// what stands behind the first dot.
func (m *Mesh) putName(come bool, n string) {
	n = strings.ToLower(strings.TrimSuffix(n, "."))
	if a, err := netip.ParseAddr(strings.Trim(n, "[]")); err == nil {
		m.facts.indexed.nets.put(come, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()).String())
		return
	}
	i := strings.IndexByte(n, '.')
	if i < 0 && n != "*" {
		return // always asked for
	}
	if !wild(n) && strings.HasSuffix(n, ".svc."+m.Settings.ClusterDomain) {
		n = "*" + n[i:]
	}
	m.facts.indexed.names.put(come, n)
}

// wider is a prefix as it is counted: addresses of Kubernetes come and go, so
// that they count by the 256.
func wider(p netip.Prefix, kubernetes bool) netip.Prefix {
	p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-(p.Addr().BitLen()-p.Addr().Unmap().BitLen()))
	bits := p.Bits()
	if kubernetes {
		bits = min(bits, p.Addr().BitLen()-8)
	}
	return netip.PrefixFrom(p.Addr(), bits).Masked()
}

// putSubnets counts the destinations that a route set's L4 rules name.
func (m *Mesh) putSubnets(come bool, r *model.RouteSet) {
	list := func(l []model.L4Match) {
		for i := range l {
			for _, p := range prefixes(l[i].DestSubnets) {
				m.facts.indexed.nets.put(come, p.String())
			}
			for _, n := range l[i].SNI {
				m.putName(come, n)
			}
		}
	}
	for i := range r.TLS {
		list(r.TLS[i].Matches)
	}
	for i := range r.TCP {
		list(r.TCP[i].Matches)
	}
}

// makeHeadNets lists where endpoints of a namespace's headless services are.
func (m *Mesh) makeHeadNets(ns string, _ []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	add := func(text string, kubernetes bool) {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, wider(netip.PrefixFrom(a.WithZone(""), a.BitLen()), kubernetes))
		}
	}
	for _, s := range m.facts.headless.get(ns) {
		listed := m.facts.full.Get(s).Endpoints
		for i := range listed {
			add(listed[i].Address, s.Kubernetes)
		}
		if len(s.Selector) == 0 || s.Sliced {
			continue
		}
		for _, w := range m.selected(ns, s.Selector) {
			if w.Template {
				continue
			}
			for _, a := range append([]string{w.Address}, w.More...) {
				add(a, true)
			}
			for _, e := range w.Expose {
				if e.Listen.IsValid() {
					add(e.Listen.Addr().String(), true)
				}
			}
		}
	}
	return ext.Prefixes(out)
}

func (m *Mesh) makeIndex(allowAny bool, _ *ext.Index) *ext.Index {
	x := &m.facts.indexed
	out := &ext.Index{AllowAny: allowAny}
	var nets []netip.Prefix
	for _, t := range x.nets.get() {
		nets = append(nets, netip.MustParsePrefix(t))
	}
	for _, ns := range x.heads.get() {
		nets = append(nets, m.tables.headNets.Get(ns)...)
	}
	out.Prefixes = few(ext.Prefixes(nets), indexPrefixes)
	ports := map[uint16]*ext.Port{}
	at := func(n uint16) *ext.Port {
		if ports[n] == nil {
			ports[n] = &ext.Port{Number: n}
		}
		return ports[n]
	}
	for _, k := range x.ports.get() {
		p := at(uint16(k >> 3))
		p.ByHost, p.BySNI, p.Rest = p.ByHost || k&portByHost != 0, p.BySNI || k&portBySNI != 0, p.Rest || k&portRest != 0
	}
	if len(m.facts.routed.get()) > 0 {
		at(80).ByHost = true // hosts that only route sets give
	}
	for _, n := range slices.Sorted(maps.Keys(ports)) {
		out.Ports = append(out.Ports, *ports[n])
	}
	for _, n := range x.names.get() {
		out.Names = append(out.Names, ext.Fingerprint(n))
	}
	slices.Sort(out.Names)
	out.Names = slices.Compact(out.Names)
	if len(out.Names) > indexNames {
		out.Names, out.EveryName = nil, true
	}
	return out
}

// few widens prefixes, all to the same length, until there are at most n.
func few(list []netip.Prefix, n int) []netip.Prefix {
	for bits := 128; len(list) > n && bits > 0; bits -= 4 {
		short := make([]netip.Prefix, len(list))
		for i, p := range list {
			short[i] = netip.PrefixFrom(p.Addr(), min(p.Bits(), max(0, bits-128+p.Addr().BitLen())))
		}
		list = ext.Prefixes(short)
	}
	return list
}
