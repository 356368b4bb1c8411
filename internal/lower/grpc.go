package lower

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// GRPC writes a sidecar's View down for a grpc library, which is client and
// proxy in one. It asks for a listener by the name it was told to dial,
// "host:port", and understands a part of xDS only; a resource with anything
// else in it would be refused whole. So, per service port and per name of the
// service: an ApiListener; per service port: a route table with one virtual
// host; clusters and endpoints in plain text, since a grpc library has no mesh
// certificate of ours. Header operations, rewrites, mirrors and CORS are left
// out, with a notice.
func GRPC(v *model.View) (*Output, []model.Notice) {
	l := New(v)
	g := grpcLowering{Lowering: l, made: map[string]map[string]proto.Message{}}
	hosts := map[string]*model.VirtualHost{}
	for _, t := range v.HTTP {
		for _, h := range t.Hosts {
			if hosts[h.Name] == nil {
				hosts[h.Name] = h
			}
		}
	}
	for _, c := range v.Clusters {
		g.cluster(c)
		if c.Subset == "" && c.Service != nil && !c.Port.Protocol.IsTLS() && !strings.HasPrefix(c.Service.Host, "*") {
			g.service(c, hosts[fmt.Sprintf("%s:%d", c.Service.Host, c.Port.Number)])
		}
	}
	out := &Output{Resources: map[string][]Resource{}, Origins: l.origins}
	for url, byName := range g.made {
		for name, m := range byName {
			out.Resources[url] = append(out.Resources[url], Resource{Type: url, Name: name, Body: encode(m)})
		}
		slices.SortFunc(out.Resources[url], func(a, b Resource) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out, l.notices
}

type grpcLowering struct {
	*Lowering
	made map[string]map[string]proto.Message // by type URL and name
}

// put keeps the first resource of a name.
func (g *grpcLowering) put(url, name string, m proto.Message) {
	if g.made[url] == nil {
		g.made[url] = map[string]proto.Message{}
	}
	if g.made[url][name] == nil {
		g.made[url][name] = m
	}
}

// service makes the listeners and the route table of a service port. h is nil
// for ports that no HTTP route can reach: all calls go to the cluster.
func (g *grpcLowering) service(c *model.Cluster, h *model.VirtualHost) {
	names := []string{c.Service.Host}
	var vh *routepb.VirtualHost
	if h != nil {
		vh = g.virtualHost(h, []string{"*"}, false)
		for _, d := range h.Domains {
			if !strings.Contains(d, "*") && !strings.Contains(d, ":") {
				names = append(names, d)
			}
		}
		g.simplify(vh, h)
	} else {
		vh = &routepb.VirtualHost{Name: c.Name, Domains: []string{"*"}, Routes: []*routepb.Route{{
			Name: "default", Match: everything(), Metadata: g.metadata(firstOrigin(c.Origins)),
			Action: &routepb.Route_Route{Route: plainAction(c.Name)},
		}}}
	}
	g.put(RouteType, c.Name, &routepb.RouteConfiguration{Name: c.Name, VirtualHosts: []*routepb.VirtualHost{vh}})
	for _, n := range names {
		name := fmt.Sprintf("%s:%d", n, c.Port.Number)
		g.put(ListenerType, name, &listenerpb.Listener{
			Name:     name,
			Metadata: g.metadata(c.Service.Origin),
			ApiListener: &listenerpb.ApiListener{ApiListener: pack(&hcmpb.HttpConnectionManager{
				StatPrefix: name,
				RouteSpecifier: &hcmpb.HttpConnectionManager_Rds{Rds: &hcmpb.Rds{
					ConfigSource: ads(), RouteConfigName: c.Name,
				}},
				HttpFilters: []*hcmpb.HttpFilter{
					httpFilter(faultFilter, &faultpb.HTTPFault{}),
					httpFilter(routerFilter, &routerpb.Router{}),
				},
			})},
		})
	}
}

// simplify takes out of a virtual host what a grpc library refuses, or would
// pass over in silence.
func (g *grpcLowering) simplify(vh *routepb.VirtualHost, h *model.VirtualHost) {
	vh.RequireTls, vh.RetryPolicy = 0, nil
	kept := vh.Routes[:0]
	for i, r := range vh.Routes {
		if r.Match.GetConnectMatcher() != nil {
			continue
		}
		if p := r.Match.GetPathSeparatedPrefix(); p != "" {
			r.Match.PathSpecifier = &routepb.RouteMatch_SafeRegex{SafeRegex: &matcherpb.RegexMatcher{
				Regex: regexp.QuoteMeta(p) + "(/.*)?",
			}}
		}
		r.TypedPerFilterConfig = onlyFault(r.TypedPerFilterConfig)
		if i < len(h.Routes) {
			g.tellOmitted(h.Routes[i])
		}
		if a := r.GetRoute(); a != nil {
			for _, w := range a.GetWeightedClusters().GetClusters() {
				w.TypedPerFilterConfig = nil
			}
			if a.GetTimeout().AsDuration() > 0 {
				a.MaxStreamDuration = &routepb.RouteAction_MaxStreamDuration{MaxStreamDuration: a.Timeout}
			}
			if a.GetRetryPolicy().GetNumRetries() != nil && a.GetRetryPolicy().GetNumRetries().GetValue() == 0 {
				a.RetryPolicy = nil
			}
		}
		kept = append(kept, r)
	}
	vh.Routes = kept
}

func onlyFault(all map[string]*anypb.Any) map[string]*anypb.Any {
	if f := all[faultFilter]; f != nil {
		return map[string]*anypb.Any{faultFilter: f}
	}
	return nil
}

// tellOmitted says what of a rule does not act in a grpc library.
func (g *grpcLowering) tellOmitted(r *model.Route) {
	var what []string
	for _, x := range []struct {
		set  bool
		name string
	}{
		{r.Headers != nil, "headers"}, {r.Rewrite != nil, "rewrite"}, {len(r.Mirrors) > 0, "mirror"},
		{r.CORS != nil, "corsPolicy"}, {r.Redirect != nil, "redirect"}, {r.Direct != nil, "directResponse"},
		{len(r.Match.Query) > 0, "match by queryParams"},
	} {
		if x.set {
			what = append(what, x.name)
		}
	}
	if len(what) > 0 {
		g.notice(model.Warning, model.Unsupported, r.Origin,
			strings.Join(what, ", ")+" does not act in clients that use xDS inside the grpc library")
	}
}

// cluster makes a cluster that a grpc library accepts, with its endpoints.
func (g *grpcLowering) cluster(c *model.Cluster) {
	out := &clusterpb.Cluster{
		Name: c.Name, ConnectTimeout: dur(g.connectTimeout(c.Pool)), Metadata: g.clusterMetadata(c),
		CircuitBreakers: thresholds(c.Pool),
	}
	switch c.Balance.Algorithm {
	case model.RingHash, model.Maglev:
		ring := c.Balance
		ring.Algorithm, ring.Warmup = model.RingHash, nil
		balance(&ring, out)
	case model.LeastRequest:
		out.LbPolicy = clusterpb.Cluster_LEAST_REQUEST
	default:
		out.LbPolicy = clusterpb.Cluster_ROUND_ROBIN // it has no random choice
	}
	outlier(c.Outlier, out)
	if c.Resolution == model.DNS || c.Resolution == model.DNSRoundRobin {
		if len(c.Endpoints) == 0 {
			return
		}
		// It resolves one name; of several, the first.
		e := &c.Endpoints[0]
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_LOGICAL_DNS}
		out.LoadAssignment = &endpointpb.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: []*endpointpb.LocalityLbEndpoints{{
			LbEndpoints: []*endpointpb.LbEndpoint{{HostIdentifier: &endpointpb.LbEndpoint_Endpoint{
				Endpoint: &endpointpb.Endpoint{Address: hostSocket(e.Address, e.Port)}}}},
		}}}
		g.put(ClusterType, c.Name, out)
		return
	}
	out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS}
	out.EdsClusterConfig = &clusterpb.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: c.Name}
	g.put(ClusterType, c.Name, out)
	g.put(EndpointType, c.Name, g.sockets(c))
}

// sockets are the endpoints that are IP addresses, each once: a grpc library
// refuses an assignment with anything else in it.
func (g *grpcLowering) sockets(c *model.Cluster) *endpointpb.ClusterLoadAssignment {
	out := g.endpoints(c)
	seen := map[string]bool{}
	for _, loc := range out.Endpoints {
		loc.LbEndpoints = slices.DeleteFunc(loc.LbEndpoints, func(e *endpointpb.LbEndpoint) bool {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			key := fmt.Sprintf("%s %d", a.GetAddress(), a.GetPortValue())
			if a == nil || seen[key] {
				return true
			}
			seen[key] = true
			e.Metadata = nil
			e.HealthStatus = corepb.HealthStatus_HEALTHY
			return false
		})
	}
	out.Endpoints = slices.DeleteFunc(out.Endpoints, func(l *endpointpb.LocalityLbEndpoints) bool { return len(l.LbEndpoints) == 0 })
	return out
}
