package control

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/recall"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// memo is what was written down for clients, in tables of the mesh's own Book:
// each resource once for all who share it, and again only when something changed
// that link or lower read on the way. Used within the Book's Do.
type memo struct {
	mesh    *link.Mesh
	version string // of the mesh as it is
	swept   int    // what was left by the last sweep

	stirred    []*session // that are to be brought up to date
	registryAt uint64     // the registry's change that clients holds

	clients *recall.Facts[string, model.Client] // by key, as the registry has them
	keys    *recall.Facts[*session, *keyPair]   // of clients that do not make their own
	bundle  *recall.Facts[struct{}, string]     // the CA's
	asked   *recall.Facts[*session, []ask]      // of clients on demand

	clusters *recall.Table[setFor, *written]  // with their endpoints
	doors    *recall.Table[hostFor, *written] // listeners at a host's addresses
	ports    *recall.Table[portFor, *written] // a port's listener and table
	rest     *recall.Table[*link.Scope, *written]
	shelves  *recall.Table[shelfOf, []*written]
	catalogs *recall.Table[*link.Scope, *catalog]
	hosts    *recall.Table[*link.Scope, [][]string]            // by shelf
	names    *recall.Table[link.ClusterSet, map[string][]byte] // of the name table
	nameSets *recall.Table[shelfOf, map[string][]byte]
	tables   *recall.Table[*link.Scope, lower.Resource] // name tables
	own      *recall.Table[*session, *written]
	made     *recall.Table[*session, *made]

	answers   *recall.Table[*question, *answer]
	questions map[question]*question        // each is one
	alike     recall.Alike[string, written] // what was written for different scopes, by what it is
	index     *recall.Table[*ext.Index, *xds.Resource]
}

// Keys. A scope is divided into shelves by the hash of its hosts, so that a
// change looks through one shelf, not through the mesh.
type (
	setFor struct {
		set   link.ClusterSet
		class link.Class
	}
	hostFor struct {
		scope *link.Scope
		host  string
	}
	portFor struct {
		scope *link.Scope
		port  uint16
	}
	shelfOf struct {
		scope *link.Scope
		n     int
	}
)

const shelves = 64

// written is some resources, what the origin ids in them mean, and what was said
// on the way. Immutable but for hosts, which the next one takes over.
type written struct {
	resources []*xds.Resource
	origins   map[string]model.Origin
	notices   []model.Notice
	hosts     *lower.Hosts
}

// catalog is all that the clients of a scope share.
type catalog struct {
	set     *xds.Catalog
	shelves [][]*written
}

// made is what was made for one client.
type made struct {
	set    *xds.Set
	own    *written
	shared *catalog // nil: nothing
	held   *held    // nil: the client has everything
	index  *xds.Resource
}

// parts of it.
func (m *made) parts() []*written {
	out := []*written{m.own}
	if m.shared != nil {
		for _, l := range m.shared.shelves {
			out = append(out, l...)
		}
	}
	if m.held != nil {
		for _, a := range m.held.answers {
			out = append(out, a.parts...)
		}
	}
	return out
}

func newMemo(mesh *link.Mesh) *memo {
	b := mesh.Book()
	m := &memo{mesh: mesh, clients: recall.NewFacts[string, model.Client](b), keys: recall.NewFacts[*session, *keyPair](b), bundle: recall.NewFacts[struct{}, string](b), questions: map[question]*question{}, asked: recall.NewFacts[*session, []ask](b)}
	m.clusters = recall.NewTable(b, m.writeClusters, sameWritten)
	m.doors = recall.NewTable(b, m.writeDoors, sameWritten)
	m.ports = recall.NewTable(b, m.writePort, sameWritten)
	m.rest = recall.NewTable(b, func(s *link.Scope, old *written) *written { return m.write(lower.Part(s.Rest()), old) }, sameWritten)
	m.shelves = recall.NewTable(b, m.fillShelf, slices.Equal)
	m.catalogs = recall.NewTable(b, m.fillCatalog, nil)
	m.hosts = recall.NewTable(b, divide, nil)
	m.names = recall.NewTable(b, func(k link.ClusterSet, _ map[string][]byte) map[string][]byte {
		return lower.Names(mesh.ClusterView(k, link.Class{}))
	}, sameNames)
	m.nameSets = recall.NewTable(b, m.nameShelf, sameNames)
	m.tables = recall.NewTable(b, m.nameTable, func(a, b lower.Resource) bool { return string(a.Body) == string(b.Body) })
	m.own = recall.NewTable(b, m.writeOwn, sameWritten)
	m.made = recall.NewTable(b, m.makeFor, nil)
	m.answers = recall.NewTable(b, m.makeAnswer, sameAnswer)
	m.index = recall.NewTable(b, func(x *ext.Index, _ *xds.Resource) *xds.Resource {
		return xds.NewResource(ext.IndexType, ext.IndexName, x.Encode())
	}, nil)
	return m
}

// write makes every resource of a Lowering; those that did not change stay the
// same.
func (m *memo) write(l *lower.Lowering, old *written) *written {
	out, notices := l.All()
	var all []lower.Resource
	for _, url := range lower.Types {
		all = append(all, out.Resources[url]...)
	}
	return m.keep(all, out.Origins, notices, old)
}

func (m *memo) keep(all []lower.Resource, origins map[string]model.Origin, notices []model.Notice, old *written) *written {
	w := &written{origins: origins, notices: notices, resources: make([]*xds.Resource, 0, len(all))}
	var before map[xds.Key]*xds.Resource
	if old != nil {
		before = make(map[xds.Key]*xds.Resource, len(old.resources))
		for _, r := range old.resources {
			before[xds.Key{Type: r.Type, Name: r.Name}] = r
		}
	}
	for _, r := range all {
		x := before[xds.Key{Type: r.Type, Name: r.Name}]
		if x == nil || string(x.Body) != string(r.Body) {
			x = xds.NewResource(r.Type, r.Name, r.Body)
		}
		w.resources = append(w.resources, x)
	}
	return w
}

// sameWritten: origins may move within their files without stirring anybody, so
// that the old value must not be kept when they did.
func sameWritten(a, b *written) bool {
	return slices.Equal(a.resources, b.resources) && maps.Equal(a.origins, b.origins) && slices.Equal(a.notices, b.notices) && a.hosts == b.hosts
}

// likeWritten compares what was written for different scopes.
func likeWritten(a, b *written) bool {
	return slices.EqualFunc(a.resources, b.resources, func(x, y *xds.Resource) bool {
		return x.Type == y.Type && x.Name == y.Name && x.Version == y.Version
	}) && maps.Equal(a.origins, b.origins) && slices.Equal(a.notices, b.notices) && a.hosts == b.hosts
}

func (m *memo) writeClusters(k setFor, old *written) *written {
	return m.write(lower.Part(m.mesh.ClusterView(k.set, k.class)), old)
}

func (m *memo) writeDoors(k hostFor, old *written) *written {
	w := m.write(lower.Part(k.scope.HostView(k.host)), old)
	if old != nil && sameWritten(old, w) {
		return old
	}
	return m.alike.One("doors of "+k.host, w, likeWritten)
}

func (m *memo) writePort(k portFor, old *written) *written {
	hosts := &lower.Hosts{}
	if old != nil {
		hosts = old.hosts
	}
	l := lower.Part(k.scope.PortView(k.port))
	l.Keep(hosts)
	w := m.write(l, old)
	w.hosts = hosts
	return w
}

// shelfFor a host.
func shelfFor(host string) int {
	h := fnv.New32a()
	h.Write([]byte(host))
	return int(h.Sum32() % shelves)
}

// divide puts the hosts of a scope on shelves.
func divide(s *link.Scope, _ [][]string) [][]string {
	out := make([][]string, shelves)
	for _, h := range s.Hosts() {
		n := shelfFor(h)
		out[n] = append(out[n], h)
	}
	return out
}

// fillShelf gathers what belongs to the hosts of a shelf.
func (m *memo) fillShelf(k shelfOf, _ []*written) []*written {
	var out []*written
	class := k.scope.Class()
	for _, h := range m.hosts.Get(k.scope)[k.n] {
		if set, ok := k.scope.Clusters(h); ok {
			out = append(out, m.clusters.Get(setFor{set, class}))
		}
		if k.scope.Captured() {
			out = append(out, m.doors.Get(hostFor{k.scope, h}))
		}
	}
	return out
}

// fillCatalog gathers all that a scope's clients share, and changes of the
// catalog before what is not the same.
func (m *memo) fillCatalog(s *link.Scope, old *catalog) *catalog {
	c := &catalog{shelves: make([][]*written, shelves+1)}
	for n := range shelves {
		c.shelves[n] = m.shelves.Get(shelfOf{s, n})
	}
	for _, p := range s.Ports() {
		c.shelves[shelves] = append(c.shelves[shelves], m.ports.Get(portFor{s, p}))
	}
	c.shelves[shelves] = append(c.shelves[shelves], m.rest.Get(s))
	var put []*xds.Resource
	var drop []xds.Key
	var before *xds.Catalog
	for n, now := range c.shelves {
		var was []*written
		if old != nil {
			before, was = old.set, old.shelves[n]
		}
		if slices.Equal(was, now) {
			continue
		}
		have := map[xds.Key]bool{}
		for _, w := range now {
			for _, r := range w.resources {
				if named := r.Type == lower.ClusterType || r.Type == lower.EndpointType; !named || s.Wants(r.Name) {
					have[xds.Key{Type: r.Type, Name: r.Name}] = true
					put = append(put, r)
				}
			}
		}
		for _, w := range was {
			for _, r := range w.resources {
				if k := (xds.Key{Type: r.Type, Name: r.Name}); !have[k] {
					drop = append(drop, k)
				}
			}
		}
	}
	c.set = before.Change(put, drop)
	return c
}

func sameNames(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return string(x) == string(y) })
}

func (m *memo) nameShelf(k shelfOf, _ map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for _, h := range m.hosts.Get(k.scope)[k.n] {
		if set, ok := k.scope.Clusters(h); ok {
			maps.Copy(out, m.names.Get(set))
		}
	}
	return out
}

func (m *memo) nameTable(s *link.Scope, _ lower.Resource) lower.Resource {
	var parts []map[string][]byte
	for n := range shelves {
		parts = append(parts, m.nameSets.Get(shelfOf{s, n}))
	}
	for alias, of := range s.Aliases() {
		if set, ok := s.Clusters(of); ok {
			v := *m.mesh.ClusterView(set, link.Class{})
			v.Aliases = map[string]string{alias: of}
			if e := lower.Names(&v)[alias]; e != nil {
				parts = append(parts, map[string][]byte{alias: e})
			}
		}
	}
	return lower.JoinNames(parts...)
}

// writeOwn makes what is one client's alone.
func (m *memo) writeOwn(s *session, old *written) *written {
	client := m.client(s)
	if s.grpc {
		out, notices := lower.GRPC(m.mesh.Whole(client))
		var all []lower.Resource
		for _, url := range lower.Types {
			all = append(all, out.Resources[url]...)
		}
		return m.keep(all, out.Origins, notices, old)
	}
	l := lower.Own(m.mesh.Own(client))
	out, notices := l.All()
	all := []lower.Resource{lower.Roots([]byte(m.bundle.Get(struct{}{})))}
	if s.own && !s.demand && client.Role == model.Sidecar && client.Capture == model.Redirected {
		all = append(all, m.tables.Get(m.mesh.Scope(client)))
	}
	if pair := m.keys.Get(s); pair != nil {
		all = append(all, lower.WorkloadCertificate(pair.chain, pair.key))
	}
	for _, url := range lower.Types {
		all = append(all, out.Resources[url]...)
	}
	return m.keep(all, out.Origins, notices, old)
}

// setBundle takes the CA's roots.
func (m *memo) setBundle(pem []byte) {
	if m.bundle.Get(struct{}{}) != string(pem) {
		m.bundle.Set(struct{}{}, string(pem))
	}
}

// setClient takes what the control plane knows of a workload; nil: it is no more.
func (m *memo) setClient(key string, c *model.Client) {
	switch {
	case c == nil:
		m.clients.Delete(key)
	case !reflect.DeepEqual(*c, m.clients.Get(key)):
		m.clients.Set(key, *c)
	}
}

// client of a session, as the registry has it and with what it declared.
func (m *memo) client(s *session) model.Client {
	c := m.clients.Get(s.at.key)
	c.Features = s.features
	if s.grpc {
		c.Capture, c.Local, c.HTTPProxy = model.Redirected, nil, netip.AddrPort{}
	}
	return c
}

func (m *memo) makeFor(s *session, old *made) *made {
	own := m.own.Get(s)
	out := &made{own: own}
	var shared *xds.Catalog
	switch {
	case s.demand:
		var was *held
		if old != nil {
			was = old.held
		}
		out.held = m.hold(s, was)
		shared = out.held.set
	case !s.grpc:
		out.shared = m.catalogs.Get(m.mesh.Scope(m.client(s)))
		shared = out.shared.set
	}
	var before *xds.Set
	if s.demand {
		out.index = m.index.Get(m.mesh.Scope(m.client(s)).Index())
	}
	if old != nil {
		if before = old.set; old.own == own && old.index == out.index {
			out.set = before.Over(m.version, shared)
			return out
		}
	}
	list := make([]xds.Resource, 0, len(own.resources))
	for _, r := range own.resources {
		list = append(list, *r)
	}
	if s.demand {
		list = append(list, *out.index)
	}
	out.set = shared.With(m.version, before, list)
	return out
}
