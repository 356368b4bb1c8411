package conf

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]struct {
	msg    func() proto.Message
	decode func([]byte) (any, error)
}{
	"listener":  {func() proto.Message { return new(listenerpb.Listener) }, func(b []byte) (any, error) { return DecodeListener(b) }},
	"routes":    {func() proto.Message { return new(routepb.RouteConfiguration) }, func(b []byte) (any, error) { return DecodeRoutes(b) }},
	"cluster":   {func() proto.Message { return new(clusterpb.Cluster) }, func(b []byte) (any, error) { return DecodeCluster(b) }},
	"endpoints": {func() proto.Message { return new(endpointpb.ClusterLoadAssignment) }, func(b []byte) (any, error) { return DecodeEndpoints(b) }},
	"secret":    {func() proto.Message { return new(tlspb.Secret) }, func(b []byte) (any, error) { return DecodeSecret(b) }},
}

// encode makes a resource's bytes of its YAML.
func encode(t testing.TB, kind string, doc []byte) []byte {
	t.Helper()
	j, err := yaml.YAMLToJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	m := kinds[kind].msg()
	if err := protojson.Unmarshal(j, m); err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDecode runs testdata/KIND.txtar. A case is NAME/in, the resource as
// YAML, and NAME/want, YAML of which every value must be in the node, or
// NAME/refused, the error.
func TestDecode(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txtar")
	if len(files) < 5 {
		t.Fatal("cases are missing")
	}
	for _, f := range files {
		ar, err := txtar.ParseFile(f)
		if err != nil {
			t.Fatal(err)
		}
		kind := strings.TrimSuffix(filepath.Base(f), ".txtar")
		cases := map[string]map[string][]byte{}
		for _, s := range ar.Files {
			if cases[path.Dir(s.Name)] == nil {
				cases[path.Dir(s.Name)] = map[string][]byte{}
			}
			cases[path.Dir(s.Name)][path.Base(s.Name)] = s.Data
		}
		for name, c := range cases {
			t.Run(kind+"/"+name, func(t *testing.T) {
				n, err := kinds[kind].decode(encode(t, kind, c["in"]))
				if want := strings.TrimSpace(string(c["refused"])); want != "" {
					var r *Refused
					if !errors.As(err, &r) || err.Error() != want {
						t.Fatalf("got  %v\nwant %s", err, want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				j, err := json.Marshal(n)
				if err != nil {
					t.Fatal(err)
				}
				var got, want any
				if err := json.Unmarshal(j, &got); err != nil {
					t.Fatal(err)
				}
				if err := yaml.Unmarshal(c["want"], &want); err != nil || want == nil {
					t.Fatalf("want: %v", err)
				}
				if d := lacks(got, want, ""); d != "" {
					t.Errorf("%s\nin %s", d, j)
				}
			})
		}
	}
}

// lacks says which value of want is not in got; empty: all are.
func lacks(got, want any, at string) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %v, want an object", at, got)
		}
		for k, v := range w {
			gv, ok := g[k]
			if !ok {
				return fmt.Sprintf("%s has no %s", at, k)
			}
			if d := lacks(gv, v, at+"."+k); d != "" {
				return d
			}
		}
		return ""
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			return fmt.Sprintf("%s has %d elements, want %d", at, len(g), len(w))
		}
		for i := range w {
			if d := lacks(g[i], w[i], fmt.Sprintf("%s[%d]", at, i)); d != "" {
				return d
			}
		}
		return ""
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("%s is %v, want %v", at, got, want)
	}
	return ""
}

// TestLoad checks what explain uses: good resources are kept, bad ones told.
func TestLoad(t *testing.T) {
	good := encode(t, "endpoints", []byte("clusterName: a\nendpoints: []"))
	s, errs := Load(map[string]map[string][]byte{
		EDSType:                   {"a": good, "b": good},
		CDSType:                   {"bad": {0xff}},
		"type.googleapis.com/x.Y": {"z": nil},
	})
	if s.Endpoints["a"] == nil || len(s.Endpoints) != 1 {
		t.Errorf("endpoints: %v", s.Endpoints)
	}
	want := []string{
		"Cluster bad: malformed: unexpected EOF",
		`ClusterLoadAssignment b: name: "a" is not the resource's name "b"`,
		"Y z: type type.googleapis.com/x.Y is not known",
	}
	for i, err := range errs {
		if i >= len(want) || err.Error() != want[i] {
			t.Errorf("error %d: %v", i, err)
		}
	}
	if len(errs) != len(want) {
		t.Errorf("%d errors, want %d", len(errs), len(want))
	}
}

// FuzzDecode wants no panic, and of everything accepted that what it needs can
// be told.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	order := []string{"listener", "routes", "cluster", "endpoints", "secret"}
	for i, kind := range order {
		for _, file := range files {
			if ar, err := txtar.ParseFile(file); err == nil && strings.HasSuffix(file, kind+".txtar") {
				for _, s := range ar.Files {
					if path.Base(s.Name) == "in" {
						f.Add(uint8(i), encode(f, kind, s.Data))
					}
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		n, err := kinds[order[int(which)%len(order)]].decode(b)
		var r *Refused
		if err != nil && !errors.As(err, &r) {
			t.Fatalf("%T", err)
		}
		if err == nil {
			if x, ok := n.(interface{ Needs() Needs }); ok {
				x.Needs()
			}
		}
	})
}

// BenchmarkDecode: one route table of 1,000 virtual hosts.
func BenchmarkDecode(b *testing.B) {
	m := &routepb.RouteConfiguration{Name: "80"}
	for i := range 1000 {
		v := &routepb.VirtualHost{Name: fmt.Sprint(i), Domains: []string{fmt.Sprintf("s%d.shop.svc.cluster.local", i), fmt.Sprintf("s%d.shop", i)}}
		for range 3 {
			v.Routes = append(v.Routes, &routepb.Route{Match: &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: fmt.Sprintf("outbound|80||s%d", i)}}}})
		}
		m.VirtualHosts = append(m.VirtualHosts, v)
	}
	body, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRoutes(body); err != nil {
			b.Fatal(err)
		}
	}
}
