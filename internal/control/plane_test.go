package control

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/internal/xds/xdstest"
)

const shop = `
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders, version: v1}}
    spec: {serviceAccountName: orders, containers: [{name: app, image: orders, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: users, namespace: shop}
spec:
  selector: {matchLabels: {app: users}}
  template:
    metadata: {labels: {app: users}}
    spec: {serviceAccountName: users, containers: [{name: app, image: users}]}
`

// running is a Plane that serves a directory.
type running struct {
	*Plane
	t   *testing.T
	dir string
	ctx context.Context

	mu   sync.Mutex
	logs []string
}

func run(t *testing.T, files map[string]string) *running {
	t.Helper()
	r := &running{t: t, dir: t.TempDir()}
	for name, text := range files {
		r.write(name, text)
	}
	p, err := New(Options{Dir: shortDir(t), Source: &file.Watcher{Paths: []string{r.dir}}, Version: "test", Log: func(f string, a ...any) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.logs = append(r.logs, f)
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Plane = p
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	r.ctx = ctx
	r.await("")
	return r
}

func (r *running) write(name, text string) {
	r.t.Helper()
	tmp := filepath.Join(r.dir, "."+name+".tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// await waits for a configuration that is not the given one.
func (r *running) await(than string) string {
	r.t.Helper()
	for {
		version, _, newer := r.Changed()
		if version != than {
			return version
		}
		select {
		case <-newer:
		case <-r.ctx.Done():
			r.t.Fatal("no new configuration")
		}
	}
}

// until waits, over changes of the configuration, until cond holds.
func (r *running) until(what string, cond func() bool) {
	r.t.Helper()
	for {
		_, _, newer := r.Changed()
		if cond() {
			return
		}
		select {
		case <-newer:
		case <-r.ctx.Done():
			r.t.Fatal("never: " + what)
		}
	}
}

func (r *running) register(spec WorkloadSpec) *Registration {
	r.t.Helper()
	reg, err := r.Register(spec, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return reg
}

func (r *running) dial(opts ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	if opts == nil {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	c, err := grpc.NewClient("unix:"+r.Socket(), opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

func (r *running) bearer(token string) context.Context {
	return metadata.AppendToOutgoingContext(r.ctx, "authorization", "Bearer "+token)
}

func node(id string, md map[string]any) *corepb.Node {
	s, err := structpb.NewStruct(md)
	if err != nil {
		panic(err)
	}
	return &corepb.Node{Id: id, Metadata: s, UserAgentName: "test"}
}

func (r *running) delta(token string, n *corepb.Node) *xdstest.Stream {
	r.t.Helper()
	s, err := xdstest.Delta(r.bearer(token), r.dial(), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

var everyType = []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, xds.SecretType}

func TestRegisteredWorkloadIsInTheMesh(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	s := r.delta(users.Token, node("sidecar~127.0.0.1~"+users.Name+".shop~shop.svc.cluster.local", nil))
	ok(t, s.Subscribe(xds.EndpointType, "", "outbound|80||orders.shop.svc.cluster.local"))
	b, err := s.Await(xds.EndpointType, "outbound|80||orders.shop.svc.cluster.local")
	ok(t, err)
	orders := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders", Ready: true})
	if orders.Identity != "spiffe://cluster.local/ns/shop/sa/orders" || orders.Labels["version"] != "v1" || orders.Account != "orders" {
		t.Errorf("registration: %+v", orders)
	}
	if len(orders.Ports) != 1 || orders.Ports[0].Port != 8080 {
		t.Fatalf("ports: %+v", orders.Ports)
	}
	if strings.Contains(string(b), orders.IP.String()) {
		t.Fatal("there before it came")
	}
	b, err = s.Await(xds.EndpointType, "outbound|80||orders.shop.svc.cluster.local")
	ok(t, err)
	if !strings.Contains(string(b), orders.IP.String()) {
		t.Errorf("endpoint %s is not in %q", orders.IP, b)
	}
	r.Deregister(orders.ID)
	b, err = s.Await(xds.EndpointType, "outbound|80||orders.shop.svc.cluster.local")
	ok(t, err)
	if strings.Contains(string(b), orders.IP.String()) {
		t.Error("still there after it left")
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A proxy that says that it is another gets nothing, whatever it asks for.
func TestNodeClaimsAreHeldAgainstTheRecord(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	orders := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	mine := "sidecar~127.0.0.1~" + users.Name + ".shop~shop.svc.cluster.local"
	for name, n := range map[string]*corepb.Node{
		"another's node id":  node("sidecar~127.0.0.1~"+orders.Name+".shop~shop.svc.cluster.local", nil),
		"another namespace":  node("sidecar~127.0.0.1~"+users.Name+".bank~bank.svc.cluster.local", nil),
		"a gateway's role":   node("router~127.0.0.1~"+users.Name+".shop~shop.svc.cluster.local", nil),
		"metadata namespace": node(mine, map[string]any{"NAMESPACE": "bank"}),
		"metadata account":   node(mine, map[string]any{"SERVICE_ACCOUNT": "orders"}),
		"metadata name":      node(mine, map[string]any{"NAME": orders.Name}),
	} {
		for _, url := range everyType {
			s := r.delta(users.Token, n)
			_ = s.Subscribe(url, "", "*") // the stream may have ended already
			if got, err := s.Next(); status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s, %s: %v, %v", name, url, got, err)
			}
		}
	}
	for _, token := range []string{"", "wrong", users.Token + "x"} {
		for _, url := range everyType {
			s := r.delta(token, node(mine, nil))
			_ = s.Subscribe(url, "", "*") // the stream may have ended already
			if got, err := s.Next(); status.Code(err) != codes.Unauthenticated {
				t.Errorf("token %q, %s: %v, %v", token, url, got, err)
			}
		}
	}
	// Labels are not what a proxy says they are: they may be said, and do nothing.
	s := r.delta(users.Token, node(mine, map[string]any{"LABELS": map[string]any{"app": "orders"}}))
	ok(t, s.Subscribe(xds.ListenerType, "", "*"))
	got, err := s.Next()
	ok(t, err)
	for n := range got.Resources {
		if strings.Contains(n, "8080") {
			t.Errorf("the inbound listener of another: %s", n)
		}
	}
}

const secrets = `
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: edge}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 8443, name: https, protocol: HTTPS}
    hosts: ["shop.example.com"]
    tls: {mode: SIMPLE, credentialName: shop-cert}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: edge}
spec:
  hosts: ["shop.example.com"]
  gateways: [edge]
  http: [{route: [{destination: {host: orders.shop.svc.cluster.local}}]}]
`

// A TLS secret goes to the gateway that a Gateway selects, and to nobody else.
func TestSecretsGoToSelectedGatewaysOnly(t *testing.T) {
	cert, key := selfSigned(t, "shop.example.com")
	secret := func(ns string) string {
		return "---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: shop-cert, namespace: " + ns + "}\nstringData:\n  tls.crt: |\n" +
			indent(cert) + "  tls.key: |\n" + indent(key)
	}
	r := run(t, map[string]string{"shop.yaml": shop, "edge.yaml": secrets + secret("edge") + secret("bank")})
	type who struct {
		name string
		spec WorkloadSpec
		gets bool
	}
	for _, w := range []who{
		{"selected gateway", WorkloadSpec{Namespace: "edge", Gateway: true, Labels: map[string]string{"istio": "edge"}}, true},
		{"other gateway of the namespace", WorkloadSpec{Namespace: "edge", Gateway: true, Labels: map[string]string{"istio": "other"}}, false},
		{"sidecar with the labels", WorkloadSpec{Namespace: "edge", Labels: map[string]string{"istio": "edge"}}, false},
		{"sidecar", WorkloadSpec{Namespace: "shop", Deployment: "users"}, false},
	} {
		reg := r.register(w.spec)
		for _, names := range [][]string{{"kubernetes://shop-cert"}, {"*"}} {
			s := r.delta(reg.Token, node("x", nil))
			ok(t, s.Subscribe(xds.SecretType, "", names...))
			got, err := s.Next()
			ok(t, err)
			b := got.Resources["kubernetes://shop-cert"]
			if (b != nil) != w.gets {
				t.Errorf("%s asking for %v: got it: %v", w.name, names, b != nil)
			}
			for n := range got.Resources {
				if n != "kubernetes://shop-cert" && n != "default" && n != "ROOTCA" {
					t.Errorf("%s got %s", w.name, n)
				}
			}
		}
		s := r.delta(reg.Token, node("x", nil))
		ok(t, s.Subscribe(xds.SecretType, "", "kubernetes://bank/shop-cert", "kubernetes-gateway://bank/shop-cert"))
		got, err := s.Next()
		ok(t, err)
		if len(got.Resources) != 0 {
			t.Errorf("%s got a secret of another namespace", w.name)
		}
	}
}

func TestWorkloadSecrets(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	envoy := r.delta(users.Token, &corepb.Node{Id: "x", UserAgentName: "envoy"})
	ok(t, envoy.Subscribe(xds.SecretType, "", "default", "ROOTCA"))
	got, err := envoy.Next()
	ok(t, err)
	if !strings.Contains(string(got.Resources["default"]), "PRIVATE KEY") || !strings.Contains(string(got.Resources["ROOTCA"]), "BEGIN CERTIFICATE") {
		t.Error("Envoy needs its key and the roots")
	}
	own := r.delta(users.Token, &corepb.Node{Id: "x", UserAgentName: "tulle-proxy"})
	ok(t, own.Subscribe(xds.SecretType, "", "default", "ROOTCA"))
	got, err = own.Next()
	ok(t, err)
	if got.Resources["default"] != nil || got.Resources["ROOTCA"] == nil {
		t.Error("tulle-proxy makes its own key, and needs the roots")
	}
}

func TestStreamEndsWithTheRegistration(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	s := r.delta(users.Token, node("x", nil))
	ok(t, s.Subscribe(xds.ClusterType, ""))
	_, err := s.Next()
	ok(t, err)
	r.Deregister(users.ID)
	for err == nil {
		_, err = s.Next()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("ended with %v", err)
	}
	s = r.delta(users.Token, node("x", nil))
	_ = s.Subscribe(xds.ClusterType, "")
	if _, err := s.Next(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the token outlived the registration: %v", err)
	}
}

// A comment on top of a file moves every line, and pushes nothing.
func TestCommentPushesNothing(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	s := r.delta(users.Token, node("x", nil))
	for _, url := range everyType {
		ok(t, s.Subscribe(url, "", "*"))
	}
	for range everyType {
		got, err := s.Next()
		ok(t, err)
		ok(t, s.Answer(got, ""))
	}
	r.write("shop.yaml", "# a comment\n"+shop)
	r.until("the service a line further down", func() bool {
		return slices.ContainsFunc(r.Compiled().Fragment.Services, func(s *model.Service) bool { return s.Origin.Line == 3 })
	})
	r.write("shop.yaml", strings.Replace(shop, "port: 80,", "port: 81,", 1))
	got, err := s.Next()
	ok(t, err)
	if got.Type != xds.ClusterType || got.Resources["outbound|81||orders.shop.svc.cluster.local"] == nil {
		t.Errorf("something was pushed for the comment: %v", got)
	}
}

func TestBrokenFileKeepsTheLastGoodState(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	r.write("shop.yaml", "kind: [broken")
	r.until("a notice about the broken file", func() bool {
		return slices.ContainsFunc(r.Notices(), func(n model.Notice) bool {
			return n.Severity == model.Error && strings.HasSuffix(n.Origin.File, "shop.yaml")
		})
	})
	s := r.delta(users.Token, node("x", nil))
	ok(t, s.Subscribe(xds.ClusterType, ""))
	got, err := s.Next()
	ok(t, err)
	if got.Resources["outbound|80||orders.shop.svc.cluster.local"] == nil {
		t.Error("the good state was lost")
	}
	if !slices.ContainsFunc(r.Notices(), func(n model.Notice) bool {
		return n.Severity == model.Error && strings.Contains(n.Origin.File, "shop.yaml")
	}) {
		t.Errorf("notices: %v", r.Notices())
	}
}

// What a proxy refuses is told about the object that it was made from.
func TestRejectionBecomesANotice(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	s := r.delta(users.Token, node("x", nil))
	ok(t, s.Subscribe(xds.ClusterType, "", "outbound|80||orders.shop.svc.cluster.local"))
	got, err := s.Next()
	ok(t, err)
	ok(t, s.Answer(got, "outbound|80||orders.shop.svc.cluster.local: lb_policy: not today"))
	ok(t, s.Subscribe(xds.RouteType, "", "nothing")) // answered after the refusal was heard
	_, err = s.Next()
	ok(t, err)
	i := slices.IndexFunc(r.Notices(), func(n model.Notice) bool { return n.Reason == model.Rejected })
	if i < 0 {
		t.Fatal("no notice")
	}
	n := r.Notices()[i]
	if n.Origin.Kind != "Service" || n.Origin.Name != "orders" || !strings.HasSuffix(n.Origin.File, "shop.yaml") || n.Origin.Line != 2 ||
		!strings.Contains(n.Text, "lb_policy: not today") || !strings.Contains(n.Text, users.ID) {
		t.Errorf("notice: %v", n)
	}
}

func TestRegisterRefuses(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	for name, c := range map[string]struct {
		spec WorkloadSpec
		want error
	}{
		"no namespace":   {WorkloadSpec{}, ErrBadSpec},
		"no Deployment":  {WorkloadSpec{Namespace: "shop", Deployment: "nope"}, ErrBadSpec},
		"no Service":     {WorkloadSpec{Namespace: "shop", Service: "nope"}, ErrBadSpec},
		"both":           {WorkloadSpec{Namespace: "shop", Service: "orders", Deployment: "orders"}, ErrBadSpec},
		"bad account":    {WorkloadSpec{Namespace: "shop", Account: "a/b"}, ErrBadSpec},
		"bad name":       {WorkloadSpec{Namespace: "shop", Name: "a/b"}, ErrBadSpec},
		"long label":     {WorkloadSpec{Namespace: "shop", Labels: map[string]string{"a": strings.Repeat("x", 300)}}, ErrBadSpec},
		"port 0":         {WorkloadSpec{Namespace: "shop", Ports: []PortSpec{{}}}, ErrBadSpec},
		"too many ports": {WorkloadSpec{Namespace: "shop", Ports: make([]PortSpec, maxPorts+1)}, ErrBadSpec},
	} {
		if _, err := r.Register(c.spec, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.register(WorkloadSpec{Namespace: "shop", Name: "x"})
	if _, err := r.Register(WorkloadSpec{Namespace: "shop", Name: "x"}, nil); !errors.Is(err, ErrTaken) {
		t.Errorf("a name that is taken: %v", err)
	}
}

func TestAddressesAreTheirOwnAndComeBack(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	a := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	b := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	if a.IP == b.IP || a.Name == b.Name || !a.IP.IsLoopback() || !b.IP.IsLoopback() {
		t.Errorf("%v %v, %v %v", a.Name, a.IP, b.Name, b.IP)
	}
	if at := b.Local["orders.shop.svc.cluster.local:80"]; at.Addr() != b.IP || at.Port() < portOutbound {
		t.Errorf("socket of a dependency: %v", at)
	}
	if a.HTTPProxy != netip.AddrPortFrom(a.IP, portHTTPProxy) {
		t.Errorf("http proxy: %v", a.HTTPProxy)
	}
	r.Deregister(a.ID)
	c := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders", IP: a.IP})
	if c.IP != a.IP || c.Token == a.Token {
		t.Errorf("again: %v", c.IP)
	}
	d := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders", IP: b.IP})
	if d.IP == b.IP {
		t.Error("an address was given twice")
	}
	r.write("more.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: pay, namespace: shop}\nspec: {ports: [{name: http, port: 80}], selector: {app: pay}}\n")
	var now map[string]netip.AddrPort
	r.until("a socket for the new service", func() bool {
		now, _ = r.Local(b.ID)
		return now["pay.shop.svc.cluster.local:80"].IsValid()
	})
	if !now["pay.shop.svc.cluster.local:80"].IsValid() || now["orders.shop.svc.cluster.local:80"] != b.Local["orders.shop.svc.cluster.local:80"] {
		t.Errorf("sockets after a new service: %v", now)
	}
}

// shortDir is a directory whose path a unix socket can have.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func snapshot(objects []*source.Object) source.Snapshot { return source.Snapshot{Objects: objects} }
