package lower_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txtar with what is made now")

// example is one feature: a small View, and the resources that show it.
type example struct {
	why  string
	view *model.View
	show []string // "CDS name", "EDS name", "LDS name", "RDS name", "SDS name"
	// only these JSON keys of a resource are kept, where given, so that a golden shows one thing
	keys []string
}

var kinds = map[string]string{
	"CDS": lower.ClusterType, "EDS": lower.EndpointType, "LDS": lower.ListenerType, "RDS": lower.RouteType, "SDS": lower.SecretType,
}

func TestGolden(t *testing.T) {
	for name, c := range examples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := render(t, c)
			path := filepath.Join("testdata", name+".txtar")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (-want +got):\n%s", path, d)
			}
		})
	}
}

func render(t *testing.T, c example) []byte {
	t.Helper()
	out, notices := lower.Lower(c.view)
	a := &txtar.Archive{Comment: []byte(c.why + "\n")}
	for _, s := range c.show {
		kind, name, _ := strings.Cut(s, " ")
		r, ok := out.Find(kinds[kind], name)
		if !ok {
			t.Fatalf("no %s", s)
		}
		j, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		a.Files = append(a.Files, txtar.File{Name: s, Data: append(pick(j, c.keys), '\n')})
	}
	if len(notices) > 0 {
		var b bytes.Buffer
		for _, n := range notices {
			fmt.Fprintf(&b, "%s %s %s\n", n.Severity, n.Reason, n)
		}
		a.Files = append(a.Files, txtar.File{Name: "notices", Data: b.Bytes()})
	}
	return txtar.Format(a)
}

// pick keeps the top-level keys of an indented JSON object.
func pick(j []byte, keys []string) []byte {
	if len(keys) == 0 {
		return j
	}
	out := []string{"{"}
	keep := false
	lines := strings.Split(string(j), "\n")
	for _, l := range lines[1 : len(lines)-1] {
		if strings.HasPrefix(l, "  \"") {
			key, _, _ := strings.Cut(strings.TrimPrefix(l, "  \""), "\"")
			keep = false
			for _, k := range keys {
				keep = keep || k == key
			}
		}
		if keep {
			out = append(out, l)
		}
	}
	return []byte(strings.Join(append(out, "}"), "\n"))
}

func ptr[T any](v T) *T { return &v }

func settings() model.Settings {
	return model.Settings{TrustDomain: "cluster.local", RootNamespace: "istio-system", ClusterDomain: "cluster.local", AllowAny: true, AutoMTLS: true, ConnectTimeout: 10 * time.Second}
}

func origin(kind, name, field string) model.Origin {
	return model.Origin{Kind: kind, Namespace: "shop", Name: name, Field: field, File: "shop.yaml", Line: 12}
}

func sidecar(edit func(*model.View)) *model.View {
	v := &model.View{
		Client:         model.Client{Namespace: "shop", Name: "web-1", Account: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}},
		Settings:       settings(),
		InboundDefault: model.InboundPolicy{MTLS: model.MTLSPermissive},
	}
	edit(v)
	return v
}

func gateway(edit func(*model.View)) *model.View {
	v := &model.View{Client: model.Client{Role: model.GatewayRole, Namespace: "shop", Name: "gw"}, Settings: settings()}
	edit(v)
	return v
}

func orders() *model.Cluster {
	host := "orders.shop.svc.cluster.local"
	return &model.Cluster{
		Name:    "outbound|80|v1|" + host,
		Service: &model.Service{Name: "orders", Namespace: "shop", Host: host}, Port: model.Port{Number: 80, Protocol: model.HTTP}, Subset: "v1",
		SNI: "outbound_.80_.v1_." + host, SANs: []string{"spiffe://cluster.local/ns/shop/sa/orders"},
		Endpoints: []model.ClusterEndpoint{{Address: "10.0.0.1", Port: 8080, MTLS: true, Ready: true}},
		Origins:   []model.Origin{origin("Service", "orders", ""), origin("DestinationRule", "orders", "")},
	}
}

func withCluster(edit func(*model.Cluster)) *model.View {
	return sidecar(func(v *model.View) {
		c := orders()
		edit(c)
		v.Clusters = []*model.Cluster{c}
	})
}

const ordersName = "outbound|80|v1|orders.shop.svc.cluster.local"

func withRoute(r *model.Route) *model.View {
	return sidecar(func(v *model.View) {
		r.Origin = origin("VirtualService", "orders", "spec.http[0]")
		if r.Name == "" {
			r.Name = "rule"
		}
		v.HTTP = []*model.HTTPTable{{Name: "80", Hosts: []*model.VirtualHost{{Name: "orders:80", Domains: []string{"orders"}, Routes: []*model.Route{r}, IncludeAttempt: true}}}}
	})
}

func to(cluster string) []model.RouteBackend {
	return []model.RouteBackend{{Cluster: cluster, Weight: 100}}
}

func path(kind model.MatchKind, v string) model.HTTPMatch {
	return model.HTTPMatch{Path: &model.StringMatch{Kind: kind, Value: v}}
}

func withInbound(in *model.Inbound) *model.View {
	return sidecar(func(v *model.View) {
		in.Service = &model.Service{Name: "orders", Namespace: "shop", Host: "orders.shop.svc.cluster.local"}
		in.ServicePort = 80
		in.Origin = origin("Service", "orders", "")
		// A port of its own, so that the golden holds this port's chains alone.
		v.Client.Capture = model.PortsMode
		in.Listen = netip.MustParseAddrPort("127.0.0.9:8080")
		in.App = netip.MustParseAddrPort("127.0.0.1:8080")
		v.Inbound = []*model.Inbound{in}
	})
}

func allow(rules ...model.AuthzRule) []*model.AuthzPolicy {
	return []*model.AuthzPolicy{{Name: "p", Namespace: "shop", Action: model.Allow, Rules: rules, Origin: origin("AuthorizationPolicy", "p", "")}}
}

func TestDeterministic(t *testing.T) {
	for name, c := range examples() {
		a, b := render(t, c), render(t, c)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two renderings differ", name)
		}
	}
}

// TestNoPlaceInResources: a comment line on top of a user's file must push
// nothing.
func TestNoPlaceInResources(t *testing.T) {
	make := func(line int, file string) *lower.Output {
		v := withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: to(ordersName)})
		v.Clusters = []*model.Cluster{orders()}
		for i := range v.Clusters[0].Origins {
			v.Clusters[0].Origins[i].Line, v.Clusters[0].Origins[i].File = line, file
		}
		r := v.HTTP[0].Hosts[0].Routes[0]
		r.Origin.Line, r.Origin.File = line, file
		out, _ := lower.Lower(v)
		return out
	}
	a, b := make(3, "a.yaml"), make(900, "z.yaml")
	if d := cmp.Diff(a.Resources, b.Resources); d != "" {
		t.Errorf("resources depend on where the object stands:\n%s", d)
	}
	id := "virtualservice/shop/orders#spec.http[0]"
	if got := b.Origins[id]; got.Line != 900 || got.File != "z.yaml" {
		t.Errorf("side table has %s at %q, want z.yaml:900", id, got.Place())
	}
	j, err := lower.JSON(a)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(j, []byte("a.yaml")) {
		t.Error("a file name is in the resources")
	}
}

// TestOneByOne: the seam for keeping resources. Each is the same when made
// alone.
func TestOneByOne(t *testing.T) {
	for name, c := range examples() {
		whole, _ := lower.Lower(c.view)
		for _, typ := range lower.Types {
			for _, want := range whole.Resources[typ] {
				got, ok := lower.New(c.view).Resource(typ, want.Name)
				if !ok || !bytes.Equal(got.Body, want.Body) {
					t.Errorf("%s: %s %s differs when made alone", name, typ, want.Name)
				}
			}
		}
	}
}

// TestNoSecretsInJSON: what people print and paste must hold no key.
func TestNoSecretsInJSON(t *testing.T) {
	v := gateway(func(v *model.View) {
		v.Secrets = []*model.Secret{{Name: "shop", Namespace: "shop", Data: map[string]model.Sensitive{
			"tls.crt": []byte("CERT-TEXT"), "tls.key": []byte("KEY-TEXT"), "ca.crt": []byte("CA-TEXT")}}}
	})
	out, _ := lower.Lower(v)
	for _, name := range []string{"kubernetes://shop", "kubernetes://shop-cacert"} {
		if _, ok := out.Find(lower.SecretType, name); !ok {
			t.Errorf("no secret %s", name)
		}
	}
	j, err := lower.JSON(out)
	if err != nil {
		t.Fatal(err)
	}
	// protojson writes bytes as base64: S0VZ is KEY.
	for _, bad := range []string{"KEY-TEXT", "S0VZLVRFWFQ", "CA-TEXT", "Q0EtVEVYVA", "CERT-TEXT"} {
		if bytes.Contains(j, []byte(bad)) {
			t.Errorf("JSON holds %s", bad)
		}
	}
	if !bytes.Contains(j, []byte("[redacted]")) {
		t.Error("JSON does not say that something is redacted")
	}
}
