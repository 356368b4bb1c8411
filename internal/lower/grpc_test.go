package lower

import (
	"slices"
	"strings"
	"testing"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/model"
)

// A grpc library refuses a resource for one thing in it that it does not know.
// None of these must be in what it is given, and the user must be told.
func TestGRPCLeavesOutWhatALibraryRefuses(t *testing.T) {
	svc := &model.Service{Name: "echo", Namespace: "shop", Host: "echo.shop.svc.cluster.local"}
	port := model.Port{Number: 7070, Protocol: model.GRPC}
	const name = "outbound|7070||echo.shop.svc.cluster.local"
	rule := model.Origin{Kind: "VirtualService", Namespace: "shop", Name: "echo", Field: "spec.http[0]"}
	v := &model.View{
		Client:   model.Client{Namespace: "shop", Name: "users"},
		Settings: model.Settings{AutoMTLS: true, TrustDomain: "cluster.local"},
		Clusters: []*model.Cluster{
			{Name: name, Service: svc, Port: port, Balance: model.LoadBalancer{Algorithm: model.Maglev}, Endpoints: []model.ClusterEndpoint{
				{Address: "10.0.0.1", Port: 7070, Ready: true, MTLS: true}, {Address: "10.0.0.1", Port: 7070, Ready: true},
				{Address: "unix:///run/x", Ready: true, Locality: model.Locality{Region: "elsewhere"}},
			}},
			{Name: "outbound|443||api.example.com", Service: &model.Service{Host: "api.example.com"}, Port: model.Port{Number: 443, Protocol: model.TLS}, Resolution: model.DNS,
				Endpoints: []model.ClusterEndpoint{{Address: "api.example.com", Port: 443, Ready: true}}},
			{Name: "outbound|80||*.wild", Service: &model.Service{Host: "*.wild"}, Port: model.Port{Number: 80, Protocol: model.HTTP}},
		},
		HTTP: []*model.HTTPTable{{Name: "7070", Hosts: []*model.VirtualHost{{
			Name: "echo.shop.svc.cluster.local:7070", Domains: []string{"echo.shop.svc.cluster.local", "echo.shop", "*.echo.shop", "10.0.0.9"}, RequireTLS: true,
			Routes: []*model.Route{{
				Match: model.HTTPMatch{Path: &model.StringMatch{Kind: model.PathPrefix, Value: "/a.b"}}, CORS: &model.CORS{}, Origin: rule,
				Fault:    &model.Fault{HasAbort: true, AbortPercent: 1, AbortGRPC: 8},
				Backends: []model.RouteBackend{{Cluster: name, Weight: 100}},
				Mirrors:  []model.RouteMirror{{Cluster: name, Percent: 10}},
			}},
		}}}},
	}
	out, notices := GRPC(v)
	var listeners []string
	for _, r := range out.Resources[ListenerType] {
		listeners = append(listeners, r.Name)
	}
	if !slices.Equal(listeners, []string{"10.0.0.9:7070", "echo.shop.svc.cluster.local:7070", "echo.shop:7070"}) {
		t.Errorf("listeners %v", listeners)
	}
	var rc routepb.RouteConfiguration
	decode(t, out, RouteType, name, &rc)
	vh := rc.VirtualHosts[0]
	r := vh.Routes[0]
	if vh.RequireTls != 0 || !slices.Equal(vh.Domains, []string{"*"}) || r.TypedPerFilterConfig[corsFilter] != nil || r.TypedPerFilterConfig[faultFilter] == nil ||
		r.Match.GetSafeRegex().GetRegex() != `/a\.b(/.*)?` {
		t.Errorf("routes: %v", &rc)
	}
	var c clusterpb.Cluster
	decode(t, out, ClusterType, name, &c)
	if c.LbPolicy != clusterpb.Cluster_RING_HASH || len(c.TransportSocketMatches) > 0 || c.TransportSocket != nil || len(c.TypedExtensionProtocolOptions) > 0 {
		t.Errorf("cluster: %v", &c)
	}
	decode(t, out, ClusterType, "outbound|443||api.example.com", &c)
	if c.GetType() != clusterpb.Cluster_LOGICAL_DNS || len(c.LoadAssignment.Endpoints[0].LbEndpoints) != 1 {
		t.Errorf("DNS cluster: %v", &c)
	}
	var e endpointpb.ClusterLoadAssignment
	decode(t, out, EndpointType, name, &e)
	if len(e.Endpoints) != 1 || len(e.Endpoints[0].LbEndpoints) != 1 || e.Endpoints[0].LbEndpoints[0].Metadata != nil {
		t.Errorf("endpoints: %v", &e)
	}
	if len(notices) != 1 || !strings.HasPrefix(notices[0].Text, "mirror, corsPolicy does not act") || notices[0].Origin != rule {
		t.Errorf("notices: %v", notices)
	}
}

func decode(t *testing.T, out *Output, url, name string, m proto.Message) {
	t.Helper()
	r, ok := out.Find(url, name)
	if !ok {
		t.Fatalf("no %s %s", url, name)
	}
	if err := proto.Unmarshal(r.Body, m); err != nil {
		t.Fatal(err)
	}
}
