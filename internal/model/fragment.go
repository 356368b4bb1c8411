package model

// Fragment is what one reader understood. Readers do not resolve references
// and do not merge; link does.
type Fragment struct {
	Settings     []*MeshSettings // a later one wins
	Namespaces   []*Namespace
	Services     []*Service
	Workloads    []*Workload
	RouteSets    []*RouteSet
	Destinations []*DestinationPolicy
	Gateways     []*Gateway
	MTLS         []*MTLSPolicy
	Authz        []*AuthzPolicy
	Requests     []*RequestPolicy
	Sidecars     []*SidecarPolicy
	Secrets      []*Secret
	Statuses     []*Status // what users are told of their objects at the API server
}

// Empty reports whether there are no facts.
func (f *Fragment) Empty() bool {
	return len(f.Settings)+len(f.Namespaces)+len(f.Services)+len(f.Workloads)+len(f.RouteSets)+len(f.Destinations)+len(f.Gateways)+
		len(f.MTLS)+len(f.Authz)+len(f.Requests)+len(f.Sidecars)+len(f.Secrets)+len(f.Statuses) == 0
}

// Merge appends other's facts. Neither fragment may be in use elsewhere.
func (f *Fragment) Merge(o Fragment) {
	f.Settings = append(f.Settings, o.Settings...)
	f.Namespaces = append(f.Namespaces, o.Namespaces...)
	f.Services = append(f.Services, o.Services...)
	f.Workloads = append(f.Workloads, o.Workloads...)
	f.RouteSets = append(f.RouteSets, o.RouteSets...)
	f.Destinations = append(f.Destinations, o.Destinations...)
	f.Gateways = append(f.Gateways, o.Gateways...)
	f.MTLS = append(f.MTLS, o.MTLS...)
	f.Authz = append(f.Authz, o.Authz...)
	f.Requests = append(f.Requests, o.Requests...)
	f.Sidecars = append(f.Sidecars, o.Sidecars...)
	f.Secrets = append(f.Secrets, o.Secrets...)
	f.Statuses = append(f.Statuses, o.Statuses...)
}
