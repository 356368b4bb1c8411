package lower

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// endpoints of a cluster, grouped by priority and locality. Endpoints that are
// not ready are left out.
func (l *Lowering) endpoints(c *model.Cluster) *endpointpb.ClusterLoadAssignment {
	type place struct {
		priority uint32
		model.Locality
	}
	groups := map[place]*endpointpb.LocalityLbEndpoints{}
	var order []place
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		if !e.Ready {
			continue
		}
		addr := l.endpointAddress(c, e)
		if addr == nil {
			continue
		}
		at := place{e.Priority, e.Locality}
		g := groups[at]
		if g == nil {
			g = &endpointpb.LocalityLbEndpoints{Locality: locality(e.Locality), Priority: e.Priority, LoadBalancingWeight: u32(0)}
			groups[at] = g
			order = append(order, at)
		}
		// Envoy refuses an assignment whose weights do not add up in 32 bits.
		weight := min(max(e.Weight, 1), math.MaxUint32/uint32(len(c.Endpoints)))
		g.LoadBalancingWeight.Value += weight
		g.LbEndpoints = append(g.LbEndpoints, &endpointpb.LbEndpoint{
			HostIdentifier:      &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: addr}},
			LoadBalancingWeight: u32(weight),
			HealthStatus:        corepb.HealthStatus_HEALTHY,
			Metadata:            endpointMetadata(c, e),
		})
	}
	slices.SortFunc(order, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Subzone, b.Subzone))
	})
	out := &endpointpb.ClusterLoadAssignment{ClusterName: c.Name}
	for _, loc := range order {
		if c.Shares != nil {
			groups[loc].LoadBalancingWeight = u32(c.Shares[loc.Locality])
		}
		out.Endpoints = append(out.Endpoints, groups[loc])
	}
	return out
}

// endpointAddress is nil for what the cluster cannot hold: one DNS name among
// addresses would make Envoy refuse all of them.
func (l *Lowering) endpointAddress(c *model.Cluster, e *model.ClusterEndpoint) *corepb.Address {
	if path, ok := strings.CutPrefix(e.Address, "unix://"); ok {
		return &corepb.Address{Address: &corepb.Address_Pipe{Pipe: &corepb.Pipe{Path: path}}}
	}
	if ip, err := netip.ParseAddr(e.Address); err == nil && ip.Zone() == "" {
		return socket(netip.AddrPortFrom(ip, e.Port))
	}
	if c.Resolution == model.DNS || c.Resolution == model.DNSRoundRobin {
		return hostSocket(e.Address, e.Port)
	}
	l.notice(model.Error, model.Invalid, firstOrigin(c.Origins),
		"endpoint "+e.Address+" is not an IP address; a name needs resolution DNS")
	return nil
}

// endpointMetadata tells whether the endpoint takes mesh mTLS, and whose it is.
func endpointMetadata(c *model.Cluster, e *model.ClusterEndpoint) *corepb.Metadata {
	md := map[string]*structpb.Struct{}
	if e.MTLS {
		md["envoy.transport_socket_match"] = &structpb.Struct{Fields: map[string]*structpb.Value{
			"tlsMode": structpb.NewStringValue("istio"),
		}}
	}
	if w := workloadTag(c, e); w != "" {
		md["istio"] = &structpb.Struct{Fields: map[string]*structpb.Value{"workload": structpb.NewStringValue(w)}}
	}
	if len(md) == 0 {
		return nil
	}
	return &corepb.Metadata{FilterMetadata: md}
}

// workloadTag is "name;namespace;canonical-name;canonical-revision;cluster".
func workloadTag(c *model.Cluster, e *model.ClusterEndpoint) string {
	ns, name, ok := strings.Cut(e.Workload, "/")
	if !ok {
		ns, name = "", e.Workload
	}
	if e.Owner != "" {
		name = e.Owner
	}
	if name == "" {
		return ""
	}
	if ns == "" && c.Service != nil {
		ns = c.Service.Namespace
	}
	canonical := firstLabel(e.Labels, name, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	revision := firstLabel(e.Labels, "latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	return strings.Join([]string{name, ns, canonical, revision, ""}, ";")
}

func firstLabel(labels map[string]string, otherwise string, keys ...string) string {
	for _, k := range keys {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return otherwise
}

func locality(l model.Locality) *corepb.Locality {
	return &corepb.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.Subzone}
}

func socket(a netip.AddrPort) *corepb.Address {
	return hostSocket(a.Addr().Unmap().String(), a.Port())
}

func hostSocket(host string, port uint16) *corepb.Address {
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
		Address:       host,
		PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
