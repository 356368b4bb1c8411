package link

import (
	"reflect"
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// service is a model.Service as clients see it. It stays the same while only
// its endpoints change: they are asked of the Mesh.
type service struct {
	*model.Service // without Endpoints
	export         export
	also           []string // identities that ServiceEntries of the same host and namespace add
	stands         string   // the name that an ExternalName stands for
}

// port finds a TCP port by number.
func (s *service) port(n uint16) (model.Port, bool) { return tcpPort(s.Service, n) }

func tcpPort(s *model.Service, n uint16) (model.Port, bool) {
	for _, p := range s.Ports {
		if p.Number == n && p.Protocol != model.UDP {
			return p, true
		}
	}
	return model.Port{}, false
}

// only is the number of the service's only port, or 0.
func (s *service) only() uint16 {
	if len(s.Ports) == 1 {
		return s.Ports[0].Number
	}
	return 0
}

// makeHost lists the services of a host: those of Kubernetes own it, then the
// oldest does. Objects that repeat one of their own namespace are left out.
func (m *Mesh) makeHost(host string, old []*service) []*service {
	var out []*service
	for _, s := range m.facts.hosts.get(host) {
		if repeated(out, s) != nil {
			continue
		}
		out = append(out, &service{Service: s, export: newExport(exportTo(s.ExportTo, m.Settings.ServiceExportTo), s.Namespace), stands: external(s)})
	}
	slices.SortStableFunc(out, func(a, b *service) int {
		switch {
		case a.Kubernetes && !b.Kubernetes:
			return -1
		case b.Kubernetes && !a.Kubernetes:
			return 1
		}
		return 0
	})
	for i, s := range out {
		if i > 0 && out[0].Kubernetes && s.Namespace == out[0].Namespace {
			out[0].also = append(out[0].also, s.SANs...)
		}
	}
	for i, s := range out {
		for _, o := range old {
			if reflect.DeepEqual(o, s) {
				out[i] = o
			}
		}
	}
	return out
}

// repeated is the service of the list that gives the same host by the same
// object as s.
func repeated(list []*service, s *model.Service) *service {
	for _, x := range list {
		if x.Namespace == s.Namespace && x.Origin.Object() == s.Origin.Object() {
			return x
		}
	}
	return nil
}

// source is the user's service behind s, with its listed endpoints; nil: it is
// no more.
func (m *Mesh) source(s *service) *model.Service {
	for _, x := range m.facts.hosts.get(s.Host) {
		if x.Namespace == s.Namespace && x.Origin.Object() == s.Origin.Object() {
			return m.facts.full.Get(x)
		}
	}
	return nil
}

// where names an object for the text of a notice.
func where(o model.Origin) string {
	if p := o.Place(); p != "" {
		return o.Object() + " (" + p + ")"
	}
	return o.Object()
}

// lookup finds the service that a host is for a client: the one that gives it,
// or the one that an ExternalName stands for when the client sees it. One that
// leads outside is a service of its own. nil: none.
func (m *Mesh) lookup(e eyes, host string) *service {
	return m.tables.lookup.Get(seenHost{m.sight(e), host})
}

func (m *Mesh) makeLookup(k seenHost, old *service) *service {
	s := m.stoodFor(k)
	if s == nil {
		return nil
	}
	return m.trimmed(k.eyes, s, old)
}

func (m *Mesh) stoodFor(k seenHost) *service {
	s := owner(m.admitted(k.eyes, m.tables.hosts.Get(k.host)), k.ns)
	if s == nil || s.stands == "" {
		return s
	}
	to := s
	for range maxAliases {
		next := owner(m.admitted(k.eyes, m.tables.hosts.Get(to.stands)), k.ns)
		if to.stands == "" || next == nil {
			break
		}
		to = next
	}
	if to != s && (to.stands == "" || owner(m.admitted(k.eyes, m.tables.hosts.Get(to.stands)), k.ns) == nil) {
		return to
	}
	return s
}

// visible lists what a client sees, by host, without aliases.
func (m *Mesh) visible(e eyes) []*service { return m.tables.visible.Get(m.sight(e)) }

func (m *Mesh) makeVisible(e eyes, _ []*service) []*service {
	return m.seenOf(e, m.facts.services.get(struct{}{}))
}

// onPort lists what a client sees with a TCP port, by host.
func (m *Mesh) onPort(e eyes, port uint16) []*service {
	return m.tables.onPort.Get(seenPort{m.sight(e), port})
}

func (m *Mesh) makeOnPort(k seenPort, _ []*service) []*service {
	return slices.DeleteFunc(m.seenOf(k.eyes, m.facts.ports.get(k.port)), func(s *service) bool {
		_, ok := s.port(k.port)
		return !ok
	})
}

func (m *Mesh) seenOf(e eyes, list []*model.Service) []*service {
	var out []*service
	last := ""
	for _, x := range list {
		if x.Host == last {
			continue
		}
		last = x.Host
		if s := m.tables.lookup.Get(seenHost{e, x.Host}); s != nil && s.Host == x.Host {
			out = append(out, s)
		}
	}
	return out
}

// portsOf lists the TCP ports that services have.
func portsOf(list []*service) []uint16 {
	have := map[uint16]bool{}
	for _, s := range list {
		for _, p := range s.Ports {
			have[p.Number] = have[p.Number] || p.Protocol != model.UDP
		}
	}
	var out []uint16
	for p, tcp := range have {
		if tcp {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// owner of a host for a client namespace: a Kubernetes Service it sees, else
// its private, then the exported, then the public ones, oldest first.
func owner(l []*service, ns string) *service {
	var best *service
	for _, s := range l {
		if !s.export.to(ns) {
			continue
		}
		if s.Kubernetes {
			return s
		}
		if best == nil || s.export.rank(ns) < best.export.rank(ns) {
			best = s
		}
	}
	return best
}

// maxAliases bounds a chain of ExternalNames.
const maxAliases = 8

// external is the name that an ExternalName Service stands for, or "".
func external(s *model.Service) string {
	if s.Kubernetes && s.External && len(s.Endpoints) == 1 {
		return s.Endpoints[0].Address
	}
	return ""
}

// aliases lists, by the host of a service that the client sees, the
// ExternalNames that stand for it.
func (m *Mesh) aliases(e eyes) map[string][]string { return m.tables.aliases.Get(m.sight(e)) }

func (m *Mesh) makeAliases(e eyes, _ map[string][]string) map[string][]string {
	out := map[string][]string{}
	last := ""
	for _, x := range m.facts.aliases.get(struct{}{}) {
		if x.Host == last {
			continue
		}
		last = x.Host
		if s := m.tables.lookup.Get(seenHost{e, x.Host}); s != nil && s.Host != x.Host {
			out[s.Host] = append(out[s.Host], x.Host)
		}
	}
	return out
}

// aliasOf lists every alias with the host that it stands for; nil: none.
func (m *Mesh) aliasOf(e eyes) map[string]string {
	var out map[string]string
	for host, list := range m.aliases(e) {
		for _, a := range list {
			if out == nil {
				out = map[string]string{}
			}
			out[a] = host
		}
	}
	return out
}
