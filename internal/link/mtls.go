package link

import (
	"github.com/tulle-mesh/tulle/internal/model"
)

// nsMTLS is the PeerAuthentications of a namespace: the one for all of it, and
// those with a selector, oldest first.
type nsMTLS struct {
	whole    *model.MTLSPolicy
	selected []*model.MTLSPolicy
}

func (m *Mesh) makeMTLS(ns string, _ nsMTLS) nsMTLS { return m.mtlsOf(ns, nil) }

func (m *Mesh) mtlsOf(ns string, n *notices) nsMTLS {
	var out nsMTLS
	root := ns == m.Settings.RootNamespace
	for _, p := range m.facts.mtls.get(ns) {
		switch {
		case len(p.Selector) > 0 && root:
			n.code("IST0167").add(model.Warning, model.Unsupported, p.Origin, "a selector has no effect in the root namespace %s; the policy is ignored", p.Namespace)
			continue
		case len(p.Selector) > 0:
			out.selected = append(out.selected, p)
			continue
		case out.whole == nil:
			out.whole = p
		default:
			n.code("IST0167").add(model.Error, model.Conflict, p.Origin, "ignored: %s has the same scope and is older", where(out.whole.Origin))
		}
		if len(p.Ports) > 0 {
			n.code("IST0167").add(model.Warning, model.Unsupported, p.Origin, "portLevelMtls needs a selector; it is ignored")
		}
	}
	return out
}

// serverMTLS is what one workload asks of its clients.
type serverMTLS struct {
	mode   model.MTLSMode // zero value: permissive by default
	origin model.Origin
	ports  map[uint16]model.MTLSMode
	by     model.Origin // of ports
}

// server resolves the mode of a workload: the narrowest scope that says
// something, the oldest policy of a scope.
func (m *Mesh) server(ns string, labels map[string]string) serverMTLS {
	out := serverMTLS{mode: model.MTLSPermissive}
	mesh, own := m.tables.mtls.Get(m.Settings.RootNamespace).whole, m.tables.mtls.Get(ns)
	if mesh != nil && mesh.Mode != model.MTLSUnset {
		out.mode, out.origin = mesh.Mode, mesh.Origin
	}
	if p := own.whole; p != nil && ns != m.Settings.RootNamespace && p.Mode != model.MTLSUnset {
		out.mode, out.origin = p.Mode, p.Origin
	}
	for _, p := range own.selected {
		if !subset(p.Selector, labels) {
			continue
		}
		if p.Mode != model.MTLSUnset {
			out.mode, out.origin = p.Mode, p.Origin
		}
		out.ports, out.by = p.Ports, p.Origin
		break
	}
	return out
}

// port is the mode of one workload port.
func (s serverMTLS) port(n uint16) model.MTLSMode {
	mode, _ := s.portOrigin(n)
	return mode
}

func (s serverMTLS) portOrigin(n uint16) (model.MTLSMode, model.Origin) {
	if mode := s.ports[n]; mode != model.MTLSUnset {
		return mode, s.by
	}
	if s.mode == model.MTLSUnset {
		return model.MTLSPermissive, s.origin
	}
	return s.mode, s.origin
}

// namespaceMode is the mode that a namespace asks for, port and workload
// policies left aside.
func (m *Mesh) namespaceMode(ns string) model.MTLSMode { return m.server(ns, nil).mode }
