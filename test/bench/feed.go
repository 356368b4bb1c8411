package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// controlPlane feeds one proxy over ADS: what it begins with, then clusters
// that come and go.
type controlPlane struct {
	server *xds.Server
	base   []xds.Resource

	mu    sync.Mutex
	set   *xds.Set
	newer chan struct{} // closed when there is a newer set
}

// feed starts a control plane for the contender and returns its unix socket.
func (r *running) feed(key string, base ...xds.Resource) (string, error) {
	dir, err := os.MkdirTemp("", "tb") // short: the path of a unix socket is bounded
	if err != nil {
		return "", err
	}
	socket := filepath.Join(dir, "ads")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	c := &controlPlane{base: base, newer: make(chan struct{})}
	c.set = xds.NewSet("0", nil, base)
	c.server = xds.New(xds.Config{Name: "bench",
		Authenticate: func(context.Context) (*identity.Caller, error) { return &identity.Caller{Workload: key}, nil },
		Open: func(context.Context, *identity.Caller, *xds.Node) (*xds.Feed, error) {
			return &xds.Feed{Key: key, Get: c.get}, nil
		}})
	g := grpc.NewServer(grpc.MaxRecvMsgSize(xds.MaxMessage))
	c.server.Register(g)
	go func() { _ = g.Serve(l) }()
	r.after = func() { g.Stop(); _ = os.RemoveAll(dir) }
	r.arrive = c.arrive
	return socket, nil
}

func (c *controlPlane) get() (*xds.Set, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set, c.newer
}

// arrive gives the proxy these resources beside those that it began with, and
// waits until it has accepted all of them.
func (c *controlPlane) arrive(ctx context.Context, more []xds.Resource) error {
	all := slices.Concat(c.base, more)
	c.mu.Lock()
	c.set = xds.NewSet(fmt.Sprint(len(more)), c.set, all)
	close(c.newer)
	c.newer = make(chan struct{})
	c.mu.Unlock()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.holds(xds.ClusterType, all) && c.holds(xds.EndpointType, all) {
			return nil
		}
	}
	return fmt.Errorf("not accepted in 20 s: %+v", c.server.Status())
}

// holds reports whether the proxy has accepted all of the type.
func (c *controlPlane) holds(url string, all []xds.Resource) bool {
	n := 0
	for _, r := range all {
		if r.Type == url {
			n++
		}
	}
	for _, s := range c.server.Status() {
		for _, t := range s.Types {
			if t.Type == url {
				return t.Held == n && t.Synced()
			}
		}
	}
	return n == 0
}

// manyClusters are n clusters as Istio's control plane makes them, with five
// endpoints each.
func manyClusters(n int) (out []xds.Resource, err error) {
	add := func(url, name string, o obj, into proto.Message) {
		b, e := json.Marshal(o)
		if e == nil {
			e = protojson.Unmarshal(b, into)
		}
		if e == nil {
			b, e = proto.MarshalOptions{Deterministic: true}.Marshal(into)
		}
		err = errors.Join(err, e)
		out = append(out, xds.Resource{Type: url, Name: name, Body: b})
	}
	for i := range n {
		host := fmt.Sprintf("many%d.bench.svc.cluster.local", i)
		name := "outbound|80||" + host
		add(xds.ClusterType, name, obj{"name": name, "type": "EDS", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
			"eds_cluster_config":               obj{"eds_config": obj{"ads": obj{}, "resource_api_version": "V3"}, "service_name": name},
			"circuit_breakers":                 obj{"thresholds": []obj{{"max_connections": 4294967295, "max_pending_requests": 4294967295, "max_requests": 4294967295, "max_retries": 4294967295}}},
			"typed_extension_protocol_options": envoyHTTP1,
			"metadata":                         obj{"filter_metadata": obj{"istio": obj{"services": []obj{{"host": host, "name": fmt.Sprint("many", i), "namespace": "bench"}}}}},
		}, &clusterpb.Cluster{})
		var eps []obj
		for e := range 5 {
			eps = append(eps, obj{"endpoint": obj{"address": envoyAddress(fmt.Sprintf("10.%d.%d.%d:8080", 1+e, i>>8, i&255))},
				"health_status": "HEALTHY", "load_balancing_weight": 1})
		}
		add(xds.EndpointType, name, obj{"cluster_name": name, "endpoints": []obj{{"locality": obj{"region": "r1", "zone": "z1"}, "lb_endpoints": eps, "load_balancing_weight": 5}}},
			&endpointpb.ClusterLoadAssignment{})
	}
	return out, err
}

// envoyHTTP1 are options of a cluster that speaks HTTP/1.1.
var envoyHTTP1 = obj{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": obj{
	"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
	"explicit_http_config": obj{"http_protocol_options": obj{}}}}

// resourcesOf reads what `tulle translate -o xds` prints.
func resourcesOf(text []byte) (out []xds.Resource, err error) {
	var all map[string]map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	for _, url := range slices.Sorted(maps.Keys(all)) {
		for _, name := range slices.Sorted(maps.Keys(all[url])) {
			typed := fmt.Sprintf(`{"@type":%q,%s`, url, all[url][name][1:])
			a := &anypb.Any{}
			if err := protojson.Unmarshal([]byte(typed), a); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out = append(out, xds.Resource{Type: url, Name: name, Body: a.Value})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there are no resources")
	}
	return out, nil
}
