package dialect

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// fewObjects is how many may have been replaced for a snapshot to be patched.
const fewObjects = 256

// touched is a group of which objects were replaced.
type touched struct {
	reader  int
	was, is Join
	objects []*source.Object
	group   *group // what it was; the patched one when it was read
}

// patch makes what was understood of the last snapshot that of this one, at the
// cost of what differs. False: it cannot be done in place, because objects came
// or went or there are notices to be put in order; nothing has changed then.
func (m *Memory) patch(snap source.Snapshot) bool {
	if !m.read || len(snap.Objects) != len(m.last.Objects) || !slices.Equal(snap.Notices, m.last.Notices) {
		return false
	}
	var all []*touched
	for i, now := range snap.Objects {
		if old := m.last.Objects[i]; now != old {
			if len(all) >= fewObjects || !m.touch(&all, old, now) {
				return false
			}
		}
	}
	f := m.fragment
	for _, t := range all {
		g := &group{objects: t.objects}
		g.fragment, g.notices = m.readers[t.reader].Read(t.objects)
		if len(g.notices) > 0 || !exchange(&f, &m.fragment, &t.group.fragment, &g.fragment) {
			return false
		}
		t.group = g
	}
	for _, t := range all {
		delete(m.groups[t.reader], t.was)
		m.groups[t.reader][t.is] = t.group
	}
	m.last, m.fragment = snap, f
	return true
}

// touch notes the groups in which an object takes the place of another; false:
// it does not.
func (m *Memory) touch(all *[]*touched, old, now *source.Object) bool {
	if now.APIVersion != old.APIVersion || now.Kind != old.Kind || now.File != old.File {
		return false
	}
	claimed := false
	for n, r := range m.readers {
		if !r.Claims(now.APIVersion, now.Kind) {
			continue
		}
		claimed = true
		joiner, ok := r.(Joiner)
		if !ok {
			return false
		}
		t := &touched{reader: n, was: joiner.Join(old), is: joiner.Join(now)}
		if (t.was.Alone != old || t.is.Alone != now) && t.was != t.is {
			return false
		}
		if i := slices.IndexFunc(*all, func(x *touched) bool { return x.reader == n && x.was == t.was }); i >= 0 {
			t = (*all)[i]
		} else if t.group = m.groups[n][t.was]; t.group == nil || len(t.group.notices) > 0 {
			return false
		} else {
			t.objects = slices.Clone(t.group.objects)
			*all = append(*all, t)
		}
		t.objects[slices.Index(t.objects, old)] = now
	}
	return claimed
}

// exchange puts what a group is understood to be now in the place of what it was.
// shared is what f was made from, which stays as it is. False: there is no place.
func exchange(f, shared, old, now *model.Fragment) bool {
	return put(&f.Settings, shared.Settings, old.Settings, now.Settings) &&
		put(&f.Namespaces, shared.Namespaces, old.Namespaces, now.Namespaces) &&
		put(&f.Services, shared.Services, old.Services, now.Services) &&
		put(&f.Workloads, shared.Workloads, old.Workloads, now.Workloads) &&
		put(&f.RouteSets, shared.RouteSets, old.RouteSets, now.RouteSets) &&
		put(&f.Destinations, shared.Destinations, old.Destinations, now.Destinations) &&
		put(&f.Gateways, shared.Gateways, old.Gateways, now.Gateways) &&
		put(&f.MTLS, shared.MTLS, old.MTLS, now.MTLS) &&
		put(&f.Authz, shared.Authz, old.Authz, now.Authz) &&
		put(&f.Requests, shared.Requests, old.Requests, now.Requests) &&
		put(&f.Sidecars, shared.Sidecars, old.Sidecars, now.Sidecars) &&
		put(&f.Secrets, shared.Secrets, old.Secrets, now.Secrets) &&
		put(&f.Statuses, shared.Statuses, old.Statuses, now.Statuses)
}

func put[T comparable](list *[]T, shared, old, now []T) bool {
	if len(old) == 0 {
		return len(now) == 0
	}
	if len(*list) == len(shared) && &(*list)[0] == &shared[0] {
		*list = slices.Clone(shared)
	}
	i := slices.Index(*list, old[0])
	if *list = slices.Replace(*list, i, i+len(old), now...); len(*list) == 0 {
		*list = nil
	}
	return true
}
