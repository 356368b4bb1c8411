package link

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Mesh is the resolved mesh. It is immutable towards its users and safe for
// concurrent use; inside it remembers the parts of Views that clients share.
type Mesh struct {
	Settings model.Settings

	namespaces map[string]*model.Namespace
	services   []*service // oldest first
	byHost     map[string][]*service
	workloads  workloadIndex
	routes     routeIndex
	dests      destinationIndex
	gateways   []*model.Gateway // oldest first
	mtls       mtlsIndex
	authz      map[string][]*model.AuthzPolicy // by namespace, oldest first
	secrets    map[model.Ref]*model.Secret

	// scoped holds namespaces that some exportTo names; all others see alike.
	scoped map[string]bool
	// routed holds namespaces and labels that client selectors name.
	selectors clientSelectors

	mu         sync.Mutex
	registries map[string]*registry
	scopes     map[string]*scope
	clusters   map[clusterKey][]*model.Cluster
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
	m := &Mesh{
		Settings:   withDefaults(withMesh(s, f.Settings)),
		namespaces: map[string]*model.Namespace{},
		secrets:    map[model.Ref]*model.Secret{},
		registries: map[string]*registry{},
		scopes:     map[string]*scope{},
		clusters:   map[clusterKey][]*model.Cluster{},
		scoped:     map[string]bool{},
	}
	var n notices
	for _, ns := range f.Namespaces {
		m.namespaces[ns.Name] = ns
	}
	for _, x := range f.Secrets {
		m.secrets[model.Ref{Namespace: x.Namespace, Name: x.Name}] = x
	}
	m.workloads.build(m.withSidecars(f.Workloads))
	m.mtls.build(m, f.MTLS, &n)
	m.authz = authzByNamespace(f.Authz)
	m.gateways = slices.Clone(f.Gateways)
	slices.SortStableFunc(m.gateways, func(a, b *model.Gateway) int { return byAge(a.Origin, b.Origin) })
	m.buildServices(withAddresses(f.Services, m.Settings.VirtualIPs), &n)
	m.buildDestinations(f.Destinations, &n)
	m.buildRoutes(f.RouteSets, &n)
	m.selectors = m.clientSelectors()
	m.check(&n)
	return m, n.sorted()
}

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

func byAge(a, b model.Origin) int {
	switch {
	case older(a, b):
		return -1
	case older(b, a):
		return 1
	}
	return 0
}

// sees remembers the namespaces that an exportTo names.
func (m *Mesh) sees(e export) export {
	if !e.public {
		if e.own != "" {
			m.scoped[e.own] = true
		}
		for n := range e.names {
			m.scoped[n] = true
		}
	}
	return e
}
