package link

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/recall"
)

// Mesh is the resolved mesh. It is safe for concurrent use; what it hands out is
// immutable. Nothing is resolved before it is asked for, what was resolved is
// remembered, and after Set only what depends on the difference is resolved
// again: functions read the mesh through facts and tables, which record it.
type Mesh struct {
	Settings model.Settings

	given       model.Settings // before user objects
	book        *recall.Book
	facts       *facts
	fragment    model.Fragment
	withAddress map[*model.Service]*model.Service // copies with an address of ours
	addressed   []*model.Service                  // that addresses is about
	addresses   map[*model.Service]netip.Addr
	tables      tables
	scopes      map[string]*Scope
	alike       recall.Alike[string, model.VirtualHost] // by name
}

// tables remember what was resolved.
type tables struct {
	hosts     *recall.Table[string, []*service]
	lookup    *recall.Table[seenHost, *service]
	visible   *recall.Table[eyes, []*service]
	onPort    *recall.Table[seenPort, []*service]
	aliases   *recall.Table[eyes, map[string][]string]
	implied   *recall.Table[eyes, map[string]bool]
	endpoints *recall.Table[*service, []endpoint]
	at        *recall.Table[servicePort, []model.ClusterEndpoint]
	mtls      *recall.Table[string, nsMTLS]
	rules     *recall.Table[nsHost, []*destination]
	wildRules *recall.Table[string, []string]
	clusters  *recall.Table[ClusterSet, []*model.Cluster]
	routeSets *recall.Table[*model.RouteSet, *routeSet]

	routes    *recall.Table[setAt, []*model.Route]
	hostsAt   *recall.Table[hostAt, *model.VirtualHost]
	strangers *recall.Table[portAt, []string]
	httpPorts *recall.Table[portAt, *model.HTTPTable]
	wildPorts *recall.Table[portAt, *model.View]
	doors     *recall.Table[hostAt, *model.View]
	rest      *recall.Table[*Scope, *gatewayShape]

	index     *recall.Table[bool, *ext.Index]
	headNets  *recall.Table[string, []netip.Prefix]
	elsewhere *recall.Table[seenPort, elsewhere]
	shared    *recall.Table[portAt, *shared]
	portDoor  *recall.Table[portAt, *model.View]
	door      *recall.Table[doorAt, *model.View]
	hostFor   *recall.Table[hostAt, string]
	hostNamed *recall.Table[scopeHost, namedHost]
}

// Defaults are Istio's mesh-wide defaults. The access log is off, as there;
// standalone turns it on.
func Defaults() model.Settings {
	return model.Settings{
		TrustDomain:    "cluster.local",
		RootNamespace:  "istio-system",
		ClusterDomain:  "cluster.local",
		AllowAny:       true,
		AutoMTLS:       true,
		ConnectTimeout: 10 * time.Second,
	}
}

// Link resolves a fragment. It does not modify f, and keeps references to it:
// f must not change afterwards. The notices are about whole-mesh relations;
// they are in a stable order.
func Link(f model.Fragment, s model.Settings) (*Mesh, []model.Notice) {
	m := New(s, f.Settings)
	var n notices
	m.book.Do(func() {
		m.set(f)
		m.check(&n)
	})
	return m, n.sorted()
}

// New makes an empty Mesh with the settings s and what user objects say of them,
// to be filled by Set.
func New(s model.Settings, own []*model.MeshSettings) *Mesh {
	b := recall.New()
	m := &Mesh{Settings: withDefaults(withMesh(s, own)), given: s, book: b, facts: newFacts(b), scopes: map[string]*Scope{}}
	same := slices.Equal[[]*service]
	m.tables = tables{
		hosts:     recall.NewTable(b, m.makeHost, same),
		lookup:    recall.NewTable(b, m.makeLookup, func(a, b *service) bool { return a == b }),
		visible:   recall.NewTable(b, m.makeVisible, same),
		onPort:    recall.NewTable(b, m.makeOnPort, same),
		aliases:   recall.NewTable(b, m.makeAliases, func(a, b map[string][]string) bool { return maps.EqualFunc(a, b, slices.Equal) }),
		implied:   recall.NewTable(b, m.makeImplied, maps.Equal),
		endpoints: recall.NewTable(b, m.makeEndpoints, nil),
		at:        recall.NewTable(b, m.makeAt, nil),
		mtls: recall.NewTable(b, m.makeMTLS, func(a, b nsMTLS) bool {
			return a.whole == b.whole && slices.Equal(a.selected, b.selected)
		}),
		rules:     recall.NewTable(b, m.makeRules, func(a, b []*destination) bool { return len(a)+len(b) == 0 }),
		wildRules: recall.NewTable(b, m.makeWildRules, slices.Equal),
		clusters:  recall.NewTable(b, m.makeClusters, nil),
		routeSets: recall.NewTable(b, m.makeRouteSet, nil),

		routes:    recall.NewTable(b, m.makeRoutes, func(a, b []*model.Route) bool { return len(a)+len(b) == 0 }),
		hostsAt:   recall.NewTable(b, m.makeHostAt, sameHost),
		strangers: recall.NewTable(b, m.makeStrangers, slices.Equal),
		httpPorts: recall.NewTable(b, m.makeHTTPPort, nil),
		wildPorts: recall.NewTable(b, m.makeWildPort, nil),
		doors:     recall.NewTable(b, m.makeDoors, nil),
		rest:      recall.NewTable(b, m.makeGateway, nil),

		index:     recall.NewTable(b, m.makeIndex, func(a, b *ext.Index) bool { return reflect.DeepEqual(a, b) }),
		headNets:  recall.NewTable(b, m.makeHeadNets, slices.Equal),
		elsewhere: recall.NewTable(b, m.makeElsewhere, func(a, b elsewhere) bool { return a.http == b.http && slices.Equal(a.others, b.others) }),
		shared:    recall.NewTable(b, m.makeShared, func(a, b *shared) bool { return reflect.DeepEqual(a, b) }),
		portDoor:  recall.NewTable(b, m.makePortDoor, sameView),
		door:      recall.NewTable(b, m.makeDoor, sameView),
		hostFor:   recall.NewTable(b, m.makeHostFor, func(a, b string) bool { return a == b }),
		hostNamed: recall.NewTable(b, m.makeHostNamed, func(a, b namedHost) bool { return reflect.DeepEqual(a, b) }),
	}
	return m
}

// Book is what the Mesh remembers with. Tables that are made from Views belong
// in it too.
func (m *Mesh) Book() *recall.Book { return m.book }

func withDefaults(s model.Settings) model.Settings {
	d := Defaults()
	if s.TrustDomain == "" {
		s.TrustDomain = d.TrustDomain
	}
	if s.RootNamespace == "" {
		s.RootNamespace = d.RootNamespace
	}
	if s.ClusterDomain == "" {
		s.ClusterDomain = d.ClusterDomain
	}
	if s.ConnectTimeout == 0 {
		s.ConnectTimeout = d.ConnectTimeout
	}
	return s
}

// withMesh applies what user objects say of the whole mesh, oldest first: a
// younger one wins, field by field. The trust domain is not theirs to say: it
// is in every certificate.
func withMesh(s model.Settings, list []*model.MeshSettings) model.Settings {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *model.MeshSettings) int { return byAge(a.Origin, b.Origin) })
	for _, x := range list {
		set(&s.AllowAny, x.AllowAny)
		set(&s.AutoMTLS, x.AutoMTLS)
		set(&s.UpgradeHTTP2, x.UpgradeHTTP2)
		s.Paths = cmp.Or(x.Paths, s.Paths)
		set(&s.AccessLog.Enabled, x.Log)
		set(&s.AccessLog.JSON, x.LogJSON)
		s.AccessLog.Format = cmp.Or(x.LogFormat, s.AccessLog.Format)
		s.RootNamespace = cmp.Or(x.RootNamespace, s.RootNamespace)
		s.ConnectTimeout = cmp.Or(x.ConnectTimeout, s.ConnectTimeout)
		s.Keepalive = cmp.Or(x.Keepalive, s.Keepalive)
		s.Retry = cmp.Or(x.Retry, s.Retry)
		s.Pool = cmp.Or(x.Pool, s.Pool)
		s.Outlier = cmp.Or(x.Outlier, s.Outlier)
		s.Locality = cmp.Or(x.Locality, s.Locality)
		for _, e := range []struct{ to, from *[]string }{
			{&s.ServiceExportTo, &x.ServiceExportTo}, {&s.RouteExportTo, &x.RouteExportTo}, {&s.DestinationExportTo, &x.DestinationExportTo},
		} {
			if len(*e.from) > 0 {
				*e.to = *e.from
			}
		}
	}
	return s
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// exportTo is an object's list, or the mesh's where it says nothing.
func exportTo(own, mesh []string) []string {
	if len(own) > 0 {
		return own
	}
	return mesh
}
