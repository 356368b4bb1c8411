package match

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// Index finds listeners by address. Immutable.
type Index struct {
	byAddr map[netip.AddrPort]*conf.Listener
}

// NewIndex indexes listeners. When two have one address the first by name
// keeps it.
func NewIndex(all map[string]*conf.Listener) *Index {
	ix := &Index{byAddr: make(map[netip.AddrPort]*conf.Listener, len(all))}
	for _, l := range all {
		for _, a := range l.Addresses {
			a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			if old := ix.byAddr[a]; old == nil || l.Name < old.Name {
				ix.byAddr[a] = l
			}
		}
	}
	return ix
}

// Handover returns the listener that a connection which l accepted is handed
// to, by its destination: the one of exactly that address, else the one of the
// unspecified address and that port, else l itself. Only listeners with
// OriginalDst hand over.
func (ix *Index) Handover(l *conf.Listener, dst netip.AddrPort, w *why.Why) *conf.Listener {
	if !l.OriginalDst || !dst.IsValid() {
		return l
	}
	ip, any := dst.Addr().Unmap(), netip.IPv6Unspecified()
	if ip.Is4() {
		any = netip.IPv4Unspecified()
	}
	for _, a := range [...]netip.Addr{ip.WithZone(""), any} {
		to := ix.byAddr[netip.AddrPortFrom(a, dst.Port())]
		if to == nil {
			continue
		}
		if to != l && w.On() {
			w.Add("listener", to.Origin, "matched", "listener %s has the destination %s", to.Name, dst)
		}
		return to
	}
	if w.On() {
		w.Add("listener", l.Origin, "no_match", "no listener has %s or port %d on all addresses; %s keeps it", dst, dst.Port(), l.Name)
	}
	return l
}
