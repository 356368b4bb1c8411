package control

import (
	"net/netip"
	"slices"
)

// SetPorts replaces the ports of a registered workload, as a gateway needs
// when its Gateways change. It reports whether there is such a workload.
func (p *Plane) SetPorts(id string, ports []PortSpec) bool {
	r := p.registry
	r.mu.Lock()
	x := r.byID[id]
	change := false
	if x != nil {
		w := *x.workload
		w.Expose = expose(ports, &w, netip.MustParseAddr(w.Address))
		if change = !slices.Equal(w.Expose, x.workload.Expose); change {
			x.workload = &w
			r.changes++
		}
	}
	r.mu.Unlock()
	if change {
		r.changed()
	}
	return x != nil
}
