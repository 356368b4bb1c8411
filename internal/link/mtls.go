package link

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// mtlsIndex resolves PeerAuthentications.
type mtlsIndex struct {
	mesh      *model.MTLSPolicy
	namespace map[string]*model.MTLSPolicy
	workload  map[string][]*model.MTLSPolicy // by namespace, oldest first
}

func (x *mtlsIndex) build(m *Mesh, list []*model.MTLSPolicy, n *notices) {
	x.namespace = map[string]*model.MTLSPolicy{}
	x.workload = map[string][]*model.MTLSPolicy{}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *model.MTLSPolicy) int { return byAge(a.Origin, b.Origin) })
	for _, p := range list {
		root := p.Namespace == m.Settings.RootNamespace
		switch {
		case len(p.Selector) > 0:
			if root {
				n.code("IST0167").add(model.Warning, model.Unsupported, p.Origin, "a selector has no effect in the root namespace %s; the policy is ignored", p.Namespace)
				continue
			}
			x.workload[p.Namespace] = append(x.workload[p.Namespace], p)
			continue
		case root && x.mesh == nil:
			x.mesh = p
		case !root && x.namespace[p.Namespace] == nil:
			x.namespace[p.Namespace] = p
		default:
			first := x.mesh
			if !root {
				first = x.namespace[p.Namespace]
			}
			n.code("IST0167").add(model.Error, model.Conflict, p.Origin, "ignored: %s has the same scope and is older", where(first.Origin))
		}
		if len(p.Ports) > 0 {
			n.code("IST0167").add(model.Warning, model.Unsupported, p.Origin, "portLevelMtls needs a selector; it is ignored")
		}
	}
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
func (x *mtlsIndex) server(ns string, labels map[string]string) serverMTLS {
	out := serverMTLS{mode: model.MTLSPermissive}
	if x.mesh != nil && x.mesh.Mode != model.MTLSUnset {
		out.mode, out.origin = x.mesh.Mode, x.mesh.Origin
	}
	if p := x.namespace[ns]; p != nil && p.Mode != model.MTLSUnset {
		out.mode, out.origin = p.Mode, p.Origin
	}
	for _, p := range x.workload[ns] {
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
func (x *mtlsIndex) namespaceMode(ns string) model.MTLSMode { return x.server(ns, nil).mode }
