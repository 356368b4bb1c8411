package match

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Find is Handover for a sidecar on demand: the listener, or what has to be
// asked for before it can be told.
func (ix *Index) Find(l *conf.Listener, dst netip.AddrPort, known *conf.Learnt) (to *conf.Listener, ask []conf.Lookup) {
	if known == nil || !l.OriginalDst || !dst.IsValid() {
		return ix.Handover(l, dst, nil), nil
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap().WithZone(""), dst.Port())
	if known.Index.Holds(dst.Addr()) {
		switch a := known.At(dst); {
		case a == nil:
			ask = append(ask, conf.Lookup{Kind: conf.LookupListener, Name: ext.AddressListener(dst)})
		case !a.None():
			return a.Listener, nil
		}
	}
	if _, listed := known.Index.Port(dst.Port()); listed {
		switch a := known.OfPort(dst.Port()); {
		case a == nil:
			ask = append(ask, conf.Lookup{Kind: conf.LookupListener, Name: ext.PortListener(dst.Port())})
		case len(ask) == 0 && !a.None():
			return a.Listener, nil
		}
	}
	if len(ask) > 0 {
		return nil, ask
	}
	return ix.Handover(l, dst, nil), nil
}

// Named is the listener that has the chains of a port for a server name, nil
// when there is none, or what has to be asked for before that can be told.
func Named(port uint16, in Info, known *conf.Learnt) (more *conf.Listener, ask []conf.Lookup) {
	if known == nil || port == 0 || in.Transport != TLS || in.SNI == "" || len(in.SNI) > maxName {
		return nil, nil
	}
	if p, ok := known.Index.Port(port); !ok || !p.BySNI || !known.Index.MayName(in.SNI) {
		return nil, nil
	}
	a := known.Named(port, in.SNI)
	if a == nil {
		return nil, []conf.Lookup{{Kind: conf.LookupListener, Name: ext.NamedListener(port, in.SNI)}}
	}
	return a.Listener, nil
}

// maxName bounds the names that are asked for, in bytes: those of the DNS have
// no more.
const maxName = 253
