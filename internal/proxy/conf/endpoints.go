package conf

import (
	"math"
	"unique"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// maxPriority is Envoy's bound.
const maxPriority = 128

// endpoints builds a ClusterLoadAssignment. names: DNS names may stand for
// addresses.
func (b *builder) endpoints(m *wire.ClusterLoadAssignment, names bool) (*Endpoints, error) {
	e := &Endpoints{Cluster: m.ClusterName}
	if m.ClusterName == "" {
		return nil, refuse("cluster_name", "empty")
	}
	if m.Policy != nil {
		if e.Overprovision = or(m.Policy.OverprovisioningFactor, 0); m.Policy.OverprovisioningFactor != nil && e.Overprovision < 100 {
			return nil, refuse("policy.overprovisioning_factor", "less than 100")
		}
	}
	for i, l := range m.Endpoints {
		loc, err := locality(l, names)
		if err != nil {
			return nil, inIndex(err, "endpoints", i)
		}
		e.Localities = append(e.Localities, loc)
	}
	return e, nil
}

func locality(m *wire.LocalityLbEndpoints, names bool) (Locality, error) {
	l := Locality{Weight: or(m.LoadBalancingWeight, 0), Priority: m.Priority}
	if m.Priority > maxPriority {
		return l, refuse("priority", "%d is above %d", m.Priority, maxPriority)
	}
	if m.Locality != nil {
		// Every cluster names the same few places.
		l.Region, l.Zone, l.Subzone = unique.Make(m.Locality.Region).Value(), unique.Make(m.Locality.Zone).Value(), unique.Make(m.Locality.SubZone).Value()
	}
	var sum uint64
	if n := len(m.LbEndpoints); n > 0 {
		l.Endpoints = make([]Endpoint, 0, n)
	}
	for i, e := range m.LbEndpoints {
		ep, err := endpoint(e, names)
		if err != nil {
			return l, inIndex(err, "lb_endpoints", i)
		}
		if sum += uint64(ep.Weight); sum > math.MaxUint32 {
			return l, inIndex(refuse("load_balancing_weight", "the sum of weights is too large"), "lb_endpoints", i)
		}
		if i > 0 && l.Endpoints[i-1].Workload == ep.Workload {
			ep.Workload = l.Endpoints[i-1].Workload // the same bytes
		}
		l.Endpoints = append(l.Endpoints, ep)
	}
	return l, nil
}

func endpoint(m *wire.LbEndpoint, names bool) (Endpoint, error) {
	e := Endpoint{Weight: or(m.LoadBalancingWeight, 1)}
	if m.Endpoint == nil {
		return e, refuse("endpoint", "missing")
	}
	if e.Weight == 0 {
		return e, refuse("load_balancing_weight", "0 is not allowed")
	}
	var err error
	if e.Addr, e.Pipe, e.Host, e.Port, err = address(m.Endpoint.Address, names); err != nil {
		return e, in(err, "endpoint.address")
	}
	if e.Pipe == "" && e.Port == 0 {
		return e, refuse("endpoint.address.socket_address.port_value", "0 is no port")
	}
	if e.Hostname = m.Endpoint.Hostname; !headerValue(e.Hostname) {
		return e, refuse("endpoint.hostname", "%q is no host name", e.Hostname)
	}
	switch m.HealthStatus {
	case wire.HealthStatusHealthy:
		e.Health = Healthy
	case wire.HealthStatusUnhealthy, wire.HealthStatusTimeout:
		e.Health = Unhealthy
	case wire.HealthStatusDraining:
		e.Health = Draining
	case wire.HealthStatusDegraded:
		e.Health = Degraded
	}
	e.Workload, _ = istio(m.Metadata)["workload"].(string)
	if m.Metadata != nil {
		for k, v := range m.Metadata.FilterMetadata["envoy.transport_socket_match"] {
			if s, ok := v.(string); ok {
				if e.Match == nil {
					e.Match = map[string]string{}
				}
				e.Match[k] = s
			}
		}
	}
	return e, nil
}
