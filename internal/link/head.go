package link

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/recall"
)

// heads are services without their endpoints, which are what changes most. A head
// stays the same, by pointer, as long as nothing but endpoints of its service
// changes: lists of services hold heads, so that such a change does not touch them.
type heads struct {
	of   map[*model.Service]*model.Service // by the user's service
	full *recall.Facts[*model.Service, *model.Service]

	ends map[end][]*model.Service // heads, by listed endpoint
	read *recall.Facts[end, struct{}]
}

// end is a listed endpoint: a workload by namespace and name, or an address.
type end struct{ ns, name string }

func newHeads(b *recall.Book) heads {
	return heads{
		of: map[*model.Service]*model.Service{}, full: recall.NewFacts[*model.Service, *model.Service](b),
		ends: map[end][]*model.Service{}, read: recall.NewFacts[end, struct{}](b),
	}
}

// headOf is a service without its endpoints. That of an ExternalName is its name.
func headOf(s *model.Service) model.Service {
	h := *s
	if external(s) == "" {
		h.Endpoints = nil
	}
	return h
}

// at lists the heads of services with a listed endpoint.
func (x *heads) at(e end) []*model.Service {
	x.read.Get(e)
	return x.ends[e]
}

// putServices notes what differs between two lists of services.
func (m *Mesh) putServices(old, now []*model.Service) {
	x := m.facts
	var come []*model.Service
	gone := map[string][]*model.Service{} // by host
	differ(old, now, func(c bool, s *model.Service) {
		if c {
			come = append(come, s)
		} else {
			gone[s.Host] = append(gone[s.Host], s)
		}
	})
	for _, s := range come {
		h := headOf(s)
		i := slices.IndexFunc(gone[s.Host], func(g *model.Service) bool { return reflect.DeepEqual(*x.of[g], h) })
		if i < 0 {
			x.of[s] = &h
			m.putService(true, &h)
			m.putEnds(&h, nil, s)
			continue
		}
		was := gone[s.Host][i]
		gone[s.Host] = slices.Delete(gone[s.Host], i, i+1)
		x.of[s] = x.of[was]
		delete(x.of, was)
		m.putEnds(x.of[s], was, s)
	}
	for _, list := range gone {
		for _, s := range list {
			m.putService(false, x.of[s])
			m.putEnds(x.of[s], s, nil)
			delete(x.of, s)
		}
	}
}

// putEnds gives a head another service, of which it is the head; nil: none.
func (m *Mesh) putEnds(h, old, now *model.Service) {
	x := m.facts
	was, is := endsOf(old), endsOf(now)
	headless := h.Resolution == model.Passthrough && len(h.Addresses) == 0
	for e := range was {
		if is[e] {
			continue
		}
		if x.ends[e] = without(x.ends[e], h); len(x.ends[e]) == 0 {
			delete(x.ends, e)
		}
		x.read.Stir(e)
		if headless && e.ns == "" {
			x.listed.put(false, e.name, h)
		}
	}
	for e := range is {
		if was[e] {
			continue
		}
		x.ends[e] = append(slices.Clip(x.ends[e]), h)
		x.read.Stir(e)
		if headless && e.ns == "" {
			x.listed.put(true, e.name, h)
		}
	}
	if now == nil {
		x.full.Delete(h)
	} else {
		x.full.Set(h, now)
	}
}

func without(list []*model.Service, h *model.Service) []*model.Service {
	out := make([]*model.Service, 0, len(list))
	for _, x := range list {
		if x != h {
			out = append(out, x)
		}
	}
	return out
}

func endsOf(s *model.Service) map[end]bool {
	if s == nil {
		return nil
	}
	out := make(map[end]bool, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		out[end{"", addressText(e.Address)}] = true
		if e.Workload != "" {
			out[end{s.Namespace, e.Workload}] = true
		}
	}
	return out
}

// addressText writes an address in the one way.
func addressText(text string) string {
	if strings.Contains(text, ":") {
		if a, err := netip.ParseAddr(text); err == nil {
			return a.String()
		}
	}
	return text
}
