package link

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/recall"
)

// facts are the objects of the mesh as their readers left them, found by what
// others look for. Reading a list is recorded, whether or not it holds any.
type facts struct {
	namespaces index[string, *model.Namespace]
	secrets    index[model.Ref, *model.Secret]
	secretName index[string, *model.Secret] // in any namespace

	hosts    index[string, *model.Service]   // by Host
	names    index[string, any]              // services and route sets, by every name that a client may call them
	ports    index[uint16, *model.Service]   // by TCP port
	own      index[string, *model.Service]   // by namespace
	services index[struct{}, *model.Service] // all
	aliases  index[struct{}, *model.Service] // ExternalNames
	headless index[string, *model.Service]   // by namespace: reached at the addresses of their endpoints
	listed   index[string, *model.Service]   // headless ones, by address of a listed endpoint
	heads                                    // what all these lists hold

	workloads index[struct{}, *model.Workload] // all
	running   index[model.Ref, *model.Workload]
	inside    index[string, *model.Workload]    // by namespace
	labelled  index[[3]string, *model.Workload] // by namespace, key, value
	addressed index[string, *model.Workload]    // by address, and by where peers reach it

	routes    index[string, *model.RouteSet] // by gateway; "mesh" is one
	delegates index[model.Ref, *model.RouteSet]
	routed    *tally[string] // hosts of the mesh's route sets with HTTP rules
	wilds     *tally[string] // wildcard hosts of the mesh's route sets

	rules     index[nsHost, *model.DestinationPolicy]
	wildRules index[string, *model.DestinationPolicy] // with a wildcard host, by namespace
	gateways  index[struct{}, *model.Gateway]
	mtls      index[string, *model.MTLSPolicy]    // by namespace
	authz     index[string, *model.AuthzPolicy]   // by namespace
	requests  index[string, *model.RequestPolicy] // by namespace

	sidecars index[string, *model.SidecarPolicy] // by namespace
	sidecar  index[model.Ref, *model.SidecarPolicy]

	exports index[string, any] // by namespace that an exportTo names; all others see alike
	chosen  *tally[string]     // label keys by which objects select clients
	indexed indexed
}

type nsHost struct{ ns, host string }

// index finds objects by key, in a fixed order.
type index[K comparable, T comparable] struct {
	lists *recall.Facts[K, []T]
	order func(a, b T) int
	news  map[K]*change[T] // not yet applied
}

type change[T comparable] struct{ gone, come []T }

func newIndex[K comparable, T comparable](b *recall.Book, order func(a, b T) int) index[K, T] {
	return index[K, T]{lists: recall.NewFacts[K, []T](b), order: order, news: map[K]*change[T]{}}
}

// get lists the objects of a key. The slice is shared.
func (x *index[K, T]) get(k K) []T { return x.lists.Get(k) }

// put notes that an object came or went; apply makes it so.
func (x *index[K, T]) put(come bool, k K, t T) {
	c := x.news[k]
	if c == nil {
		c = &change[T]{}
		x.news[k] = c
	}
	if come {
		c.come = append(c.come, t)
	} else {
		c.gone = append(c.gone, t)
	}
}

func (x *index[K, T]) apply() {
	for k, c := range x.news {
		old := x.lists.Get(k)
		list := make([]T, 0, len(old)+len(c.come))
		gone := make(map[T]bool, len(c.gone))
		for _, t := range c.gone {
			gone[t] = true
		}
		for _, t := range old {
			if !gone[t] {
				list = append(list, t)
			}
		}
		if few := len(c.come) < 8; few {
			for _, t := range c.come {
				at, _ := slices.BinarySearchFunc(list, t, x.order)
				list = slices.Insert(list, at, t)
			}
		} else {
			list = append(list, c.come...)
			slices.SortFunc(list, x.order)
		}
		if len(list) == 0 {
			x.lists.Delete(k)
		} else {
			x.lists.Set(k, list)
		}
	}
	clear(x.news)
}

// tally counts who has a key, and is a fact only as far as the set of keys goes.
type tally[K cmp.Ordered] struct {
	keys  *recall.Facts[struct{}, []K]
	count map[K]int
	dirty bool
}

func newTally[K cmp.Ordered](b *recall.Book) *tally[K] {
	return &tally[K]{keys: recall.NewFacts[struct{}, []K](b), count: map[K]int{}}
}

func (t *tally[K]) put(come bool, k K) {
	if come {
		t.count[k]++
		t.dirty = t.dirty || t.count[k] == 1
	} else {
		t.count[k]--
		t.dirty = t.dirty || t.count[k] == 0
	}
}

func (t *tally[K]) apply() {
	if !t.dirty {
		return
	}
	t.dirty = false
	var list []K
	for k, n := range t.count {
		if n > 0 {
			list = append(list, k)
		} else {
			delete(t.count, k)
		}
	}
	slices.Sort(list)
	if !slices.Equal(list, t.keys.Get(struct{}{})) {
		t.keys.Set(struct{}{}, list)
	}
}

func (t *tally[K]) get() []K { return t.keys.Get(struct{}{}) }

func newFacts(b *recall.Book) *facts {
	age := func(o func(any) (model.Origin, string)) func(a, b any) int {
		return func(a, b any) int {
			x, s := o(a)
			y, t := o(b)
			return cmp.Or(byAge(x, y), cmp.Compare(s, t))
		}
	}
	return &facts{
		namespaces: newIndex[string](b, func(a, b *model.Namespace) int { return byAge(a.Origin, b.Origin) }),
		secrets:    newIndex[model.Ref](b, func(a, b *model.Secret) int { return byAge(a.Origin, b.Origin) }),
		secretName: newIndex[string](b, func(a, b *model.Secret) int { return byAge(a.Origin, b.Origin) }),
		hosts:      newIndex[string](b, servicesByAge),
		names: newIndex[string](b, age(func(x any) (model.Origin, string) {
			if s, ok := x.(*model.Service); ok {
				return s.Origin, s.Host
			}
			return x.(*model.RouteSet).Origin, ""
		})),
		ports:    newIndex[uint16](b, servicesByHost),
		own:      newIndex[string](b, servicesByAge),
		services: newIndex[struct{}](b, servicesByHost),
		aliases:  newIndex[struct{}](b, servicesByHost),
		headless: newIndex[string](b, servicesByAge),
		listed:   newIndex[string](b, servicesByAge),
		heads:    newHeads(b),

		workloads: newIndex[struct{}](b, workloadsByName),
		running:   newIndex[model.Ref](b, workloadsByName),
		inside:    newIndex[string](b, workloadsByName),
		labelled:  newIndex[[3]string](b, workloadsByName),
		addressed: newIndex[string](b, workloadsByName),

		routes:    newIndex[string](b, func(a, b *model.RouteSet) int { return byAge(a.Origin, b.Origin) }),
		delegates: newIndex[model.Ref](b, func(a, b *model.RouteSet) int { return byAge(a.Origin, b.Origin) }),
		routed:    newTally[string](b),
		wilds:     newTally[string](b),

		rules:     newIndex[nsHost](b, func(a, b *model.DestinationPolicy) int { return byAge(a.Origin, b.Origin) }),
		wildRules: newIndex[string](b, func(a, b *model.DestinationPolicy) int { return byAge(a.Origin, b.Origin) }),
		gateways:  newIndex[struct{}](b, func(a, b *model.Gateway) int { return byAge(a.Origin, b.Origin) }),
		mtls:      newIndex[string](b, func(a, b *model.MTLSPolicy) int { return byAge(a.Origin, b.Origin) }),
		authz:     newIndex[string](b, func(a, b *model.AuthzPolicy) int { return byAge(a.Origin, b.Origin) }),
		requests:  newIndex[string](b, func(a, b *model.RequestPolicy) int { return byAge(a.Origin, b.Origin) }),
		sidecars:  newIndex[string](b, func(a, b *model.SidecarPolicy) int { return byAge(a.Origin, b.Origin) }),
		sidecar:   newIndex[model.Ref](b, func(a, b *model.SidecarPolicy) int { return byAge(a.Origin, b.Origin) }),

		exports: newIndex[string](b, age(func(x any) (model.Origin, string) {
			switch x := x.(type) {
			case *model.Service:
				return x.Origin, x.Host
			case *model.RouteSet:
				return x.Origin, ""
			}
			return x.(*model.DestinationPolicy).Origin, ""
		})),
		chosen:  newTally[string](b),
		indexed: indexed{newTally[string](b), newTally[uint32](b), newTally[string](b), newTally[string](b)},
	}
}

// byAge orders objects as Istio does: creation time, then name and namespace;
// then by what tells them apart at all, so that the order is that of the
// objects, not of their arrival.
func byAge(a, b model.Origin) int {
	switch {
	case older(a, b):
		return -1
	case older(b, a):
		return 1
	}
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Kind, b.Kind))
}

func servicesByAge(a, b *model.Service) int {
	return cmp.Or(byAge(a.Origin, b.Origin), cmp.Compare(a.Host, b.Host))
}

func servicesByHost(a, b *model.Service) int {
	return cmp.Or(cmp.Compare(a.Host, b.Host), byAge(a.Origin, b.Origin))
}

func workloadsByName(a, b *model.Workload) int {
	return cmp.Or(
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address),
		cmp.Compare(a.Origin.Kind, b.Origin.Kind), cmp.Compare(a.Origin.File, b.Origin.File), cmp.Compare(a.Origin.Line, b.Origin.Line),
	)
}

// Set makes f the mesh. What f shares with the fragment before, by pointer, is
// not looked at; what depends on the rest is marked. f must not change
// afterwards. It does nothing and reports false when f asks for other settings
// than the Mesh was made with: everything may depend on these, and a new Mesh is
// to be made.
func (m *Mesh) Set(f model.Fragment) bool {
	if !reflect.DeepEqual(withDefaults(withMesh(m.given, f.Settings)), m.Settings) {
		return false
	}
	m.book.Do(func() { m.set(f) })
	return true
}

func (m *Mesh) set(f model.Fragment) {
	f.Services = m.withAddresses(f.Services)
	x, old := m.facts, m.fragment
	m.fragment = f
	differ(old.Namespaces, f.Namespaces, func(come bool, o *model.Namespace) { x.namespaces.put(come, o.Name, o) })
	differ(old.Secrets, f.Secrets, func(come bool, o *model.Secret) {
		x.secrets.put(come, model.Ref{Namespace: o.Namespace, Name: o.Name}, o)
		x.secretName.put(come, o.Name, o)
	})
	m.putServices(old.Services, f.Services)
	differ(old.Workloads, f.Workloads, m.putWorkload)
	differ(old.RouteSets, f.RouteSets, m.putRoutes)
	differ(old.Destinations, f.Destinations, m.putRule)
	differ(old.Gateways, f.Gateways, func(come bool, o *model.Gateway) { x.gateways.put(come, struct{}{}, o) })
	differ(old.MTLS, f.MTLS, func(come bool, o *model.MTLSPolicy) { x.mtls.put(come, o.Namespace, o) })
	differ(old.Authz, f.Authz, func(come bool, o *model.AuthzPolicy) { x.authz.put(come, o.Namespace, o) })
	differ(old.Requests, f.Requests, func(come bool, o *model.RequestPolicy) { x.requests.put(come, o.Namespace, o) })
	differ(old.Sidecars, f.Sidecars, func(come bool, o *model.SidecarPolicy) {
		x.sidecars.put(come, o.Namespace, o)
		x.sidecar.put(come, model.Ref{Namespace: o.Namespace, Name: o.Name}, o)
		m.putChosen(come, o.Selector)
		for i := range o.Egress {
			if a, err := netip.ParseAddr(o.Egress[i].Bind); err == nil {
				x.indexed.nets.put(come, netip.PrefixFrom(a.WithZone(""), a.BitLen()).String())
			}
		}
	})
	for _, a := range []interface{ apply() }{
		&x.namespaces, &x.secrets, &x.secretName, &x.hosts, &x.names, &x.ports, &x.own, &x.services, &x.aliases, &x.headless, &x.listed,
		&x.workloads, &x.running, &x.inside, &x.labelled, &x.addressed, &x.routes, &x.delegates, x.routed, x.wilds,
		&x.rules, &x.wildRules, &x.gateways, &x.mtls, &x.authz, &x.requests, &x.sidecars, &x.sidecar, &x.exports, x.chosen,
		x.indexed.nets, x.indexed.ports, x.indexed.names, x.indexed.heads,
	} {
		a.apply()
	}
}

// differ tells put what is only in one of two lists. Equal beginnings and ends
// cost one comparison per element.
func differ[T comparable](old, now []T, put func(come bool, t T)) {
	for len(old) > 0 && len(now) > 0 && old[0] == now[0] {
		old, now = old[1:], now[1:]
	}
	for len(old) > 0 && len(now) > 0 && old[len(old)-1] == now[len(now)-1] {
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	if len(old)+len(now) == 0 {
		return
	}
	have := make(map[T]bool, len(old))
	for _, t := range old {
		have[t] = true
	}
	for _, t := range now {
		if have[t] {
			delete(have, t)
		} else {
			put(true, t)
		}
	}
	for _, t := range old {
		if have[t] {
			put(false, t)
		}
	}
}

// seen notes the namespaces that an exportTo names.
func (m *Mesh) seen(come bool, list []string, own string, o any) {
	e := newExport(list, own)
	if e.public {
		return
	}
	if e.own != "" {
		m.facts.exports.put(come, e.own, o)
	}
	for n := range e.names {
		m.facts.exports.put(come, n, o)
	}
}

func (m *Mesh) putService(come bool, s *model.Service) {
	x := m.facts
	x.hosts.put(come, s.Host, s)
	x.own.put(come, s.Namespace, s)
	x.services.put(come, struct{}{}, s)
	seen := map[uint16]bool{}
	for _, p := range s.Ports {
		if p.Protocol != model.UDP && !seen[p.Number] {
			seen[p.Number] = true
			x.ports.put(come, p.Number, s)
		}
	}
	for _, n := range m.everyName(s) {
		x.names.put(come, n, s)
	}
	if external(s) != "" {
		x.aliases.put(come, struct{}{}, s)
	}
	if s.Resolution == model.Passthrough && len(s.Addresses) == 0 {
		x.headless.put(come, s.Namespace, s)
	}
	m.putIndexed(come, s)
	m.seen(come, exportTo(s.ExportTo, m.Settings.ServiceExportTo), s.Namespace, s)
}

// everyName is all that any client may call a service.
func (m *Mesh) everyName(s *model.Service) []string {
	all, _ := m.namesOf(s, s.Namespace)
	slices.Sort(all)
	return slices.Compact(all)
}

func (m *Mesh) putWorkload(come bool, w *model.Workload) {
	x := m.facts
	x.workloads.put(come, struct{}{}, w)
	x.running.put(come, model.Ref{Namespace: w.Namespace, Name: w.Name}, w)
	x.inside.put(come, w.Namespace, w)
	for k, v := range w.Labels {
		x.labelled.put(come, [3]string{w.Namespace, k, v}, w)
	}
	if w.Template || w.Address == "" {
		return
	}
	at := append([]string{w.Address}, w.More...)
	for _, e := range w.Expose {
		if e.Listen.IsValid() {
			at = append(at, e.Listen.Addr().String())
		}
	}
	slices.Sort(at)
	for _, a := range slices.Compact(at) {
		x.addressed.put(come, a, w)
	}
}

func (m *Mesh) putRoutes(come bool, r *model.RouteSet) {
	x := m.facts
	m.seen(come, exportTo(r.ExportTo, m.Settings.RouteExportTo), r.Namespace, r)
	for i := range r.HTTP {
		for j := range r.HTTP[i].Matches {
			m.putChosen(come, r.HTTP[i].Matches[j].SourceLabels)
		}
	}
	for i := range r.TLS {
		for j := range r.TLS[i].Matches {
			m.putChosen(come, r.TLS[i].Matches[j].SourceLabels)
		}
	}
	for i := range r.TCP {
		for j := range r.TCP[i].Matches {
			m.putChosen(come, r.TCP[i].Matches[j].SourceLabels)
		}
	}
	if len(r.Hosts) == 0 {
		x.delegates.put(come, model.Ref{Namespace: r.Namespace, Name: r.Name}, r)
		return
	}
	gws := slices.Clone(r.Gateways)
	slices.Sort(gws)
	for _, g := range slices.Compact(gws) {
		x.routes.put(come, g, r)
	}
	if !slices.Contains(r.Gateways, "mesh") {
		return
	}
	m.putSubnets(come, r)
	var hosts []string
	for _, h := range r.Hosts {
		if h = m.fqdn(h, r.Namespace); slices.Contains(hosts, h) {
			continue
		}
		hosts = append(hosts, h)
		x.names.put(come, h, r)
		m.putName(come, h)
		if len(r.HTTP) > 0 {
			x.routed.put(come, h)
		}
		if wild(h) {
			x.wilds.put(come, h)
		}
	}
}

func (m *Mesh) putChosen(come bool, labels map[string]string) {
	for k := range labels {
		m.facts.chosen.put(come, k)
	}
}

func (m *Mesh) putRule(come bool, p *model.DestinationPolicy) {
	host := m.fqdn(p.Host, p.Namespace)
	m.facts.rules.put(come, nsHost{p.Namespace, host}, p)
	if strings.HasPrefix(host, "*") {
		m.facts.wildRules.put(come, p.Namespace, p)
	}
	m.seen(come, exportTo(p.ExportTo, m.Settings.DestinationExportTo), p.Namespace, p)
	m.putChosen(come, p.Selector)
	subsets := make([]*model.Subset, len(p.Subsets))
	for i := range p.Subsets {
		subsets[i] = &p.Subsets[i]
	}
	need := placingOf(&p.Policy, subsets...)
	if need.locality {
		m.facts.chosen.put(come, regionLabel)
	}
	for _, k := range need.keys {
		m.facts.chosen.put(come, k)
	}
}

// withAddresses gives Services the addresses that link finds for them. A
// Service keeps its copy as long as it and its address stay.
func (m *Mesh) withAddresses(list []*model.Service) []*model.Service {
	if !m.Settings.VirtualIPs.IsValid() {
		return list
	}
	if slices.EqualFunc(list, m.addressed, sameForAddress) && m.addresses != nil {
		// The addresses are what they were: only who has them is another object.
		at := make(map[*model.Service]netip.Addr, len(m.addresses))
		for i, s := range m.addressed {
			if a, ok := m.addresses[s]; ok {
				at[list[i]] = a
			}
		}
		m.addresses = at
	} else {
		m.addresses = virtualAddresses(list, m.Settings.VirtualIPs)
	}
	m.addressed = list
	at := m.addresses
	out := make([]*model.Service, len(list))
	kept := map[*model.Service]*model.Service{}
	for i, s := range list {
		out[i] = s
		a, ok := at[s]
		if !ok {
			continue
		}
		c := m.withAddress[s]
		if c == nil || c.Addresses[0].Addr() != a {
			with := *s
			with.Addresses = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
			c = &with
		}
		kept[s], out[i] = c, c
	}
	m.withAddress = kept
	return out
}

// sameForAddress reports whether two states of a service have a claim to the same
// virtual address.
func sameForAddress(a, b *model.Service) bool {
	return a == b || servicesByAge(a, b) == 0 && a.Kubernetes == b.Kubernetes && a.Headless == b.Headless &&
		a.Resolution == b.Resolution && slices.Equal(a.Addresses, b.Addresses)
}
