package link

import (
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
		Settings:   withDefaults(s),
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
