package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

const mesh = `
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec: {serviceAccountName: orders, containers: [{name: app, image: x}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec: {hosts: [orders], http: 3}
`

// start serves the API of a plane on a directory of YAML.
func start(t *testing.T) (c *Client, dir string, ctx context.Context) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "mesh.yaml", mesh)
	state, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	p, err := control.New(control.Options{Dir: state, Source: &file.Watcher{Paths: []string{dir}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := control.ListenUnix(filepath.Join(state, Socket))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	ended := make(chan error, 2)
	go func() { ended <- p.Run(ctx) }()
	go func() { ended <- NewServer(p, "v1.2.3", nil).Serve(ctx, l) }()
	c = NewClient(l.Addr().String())
	t.Cleanup(func() {
		c.Close()
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := c.Wait(ctx, ""); err != nil {
		t.Fatal(err)
	}
	return c, dir, ctx
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestInfoAndNotices(t *testing.T) {
	c, _, ctx := start(t)
	info, err := c.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.Version != "v1.2.3" || info.Config == "" || info.Errors == 0 || !strings.Contains(info.Roots, "BEGIN CERTIFICATE") || strings.Contains(info.Roots, "PRIVATE") || info.PID != os.Getpid() {
		t.Errorf("info: %+v", info)
	}
	n, err := c.Notices(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(n) == 0 || n[0].Severity != "error" || n[0].Name != "bad" || n[0].Line == 0 || !strings.Contains(n[0].Text, "mesh.yaml:") {
		t.Errorf("notices: %+v", n)
	}
	if p, err := c.Proxies(ctx); err != nil || len(p) != 0 {
		t.Errorf("proxies: %v, %v", p, err)
	}
}

// A lease is a place in the mesh for as long as somebody holds it.
func TestLease(t *testing.T) {
	c, dir, ctx := start(t)
	count := func() (running int, ids string) {
		d, err := c.Deployments(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Workloads(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range w {
			ids += x.ID + " "
		}
		return d[0].Running, ids
	}
	if n, _ := count(); n != 0 {
		t.Fatalf("%d run before any does", n)
	}
	lease, err := c.Register(ctx, control.WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	if lease.ID != "shop/orders-1" || lease.Token == "" || len(lease.Ports) != 1 || lease.Ports[0].Port != 8080 {
		t.Errorf("registration: %+v", lease.Registration)
	}
	if n, ids := count(); n != 1 || ids != "shop/orders-1 " {
		t.Errorf("%d run: %s", n, ids)
	}
	if err := c.SetReady(ctx, lease.ID, true); err != nil {
		t.Error(err)
	}
	if w, _ := c.Workloads(ctx); !w[0].Ready {
		t.Error("not ready")
	}
	write(t, dir, "more.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: pay, namespace: shop}\nspec: {ports: [{name: http, port: 80}], selector: {app: pay}}\n")
	if e := <-lease.Events; !e.Local["pay.shop.svc.cluster.local:80"].IsValid() || e.Local["orders.shop.svc.cluster.local:80"] != lease.Local["orders.shop.svc.cluster.local:80"] {
		t.Errorf("event: %+v", e)
	}
	lease.Close()
	if n, _ := count(); n != 0 {
		t.Errorf("%d run after the end", n)
	}

	// A holder that dies says nothing: its connection ends.
	hold, die := context.WithCancel(ctx)
	lease, err = c.Register(hold, control.WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	die()
	for range lease.Events {
	}
	for n := 1; n != 0; n, _ = count() {
		if info, err = c.Wait(ctx, info.Config); err != nil {
			t.Fatal(err)
		}
	}

	// And one that is put out by another learns of it.
	lease, err = c.Register(ctx, control.WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Deregister(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	for range lease.Events {
	}
	lease.Close()
}

func TestRefusals(t *testing.T) {
	c, _, ctx := start(t)
	for _, x := range []struct {
		spec control.WorkloadSpec
		want string
	}{
		{control.WorkloadSpec{}, "namespace is missing"},
		{control.WorkloadSpec{Namespace: "shop", Deployment: "nope"}, "there is no Deployment or WorkloadGroup shop/nope"},
	} {
		if _, err := c.Register(ctx, x.spec); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %v", x.spec, err)
		}
	}
	if err := c.SetReady(ctx, "shop/nobody", true); err == nil || !strings.Contains(err.Error(), "no such workload") {
		t.Errorf("ready: %v", err)
	}
	if err := c.Deregister(ctx, "shop/nobody"); err == nil {
		t.Error("deregister of nobody")
	}
	resp, err := c.send(ctx, "POST", "/v1/workloads", map[string]any{"namespace": "shop", "nonsense": 1})
	if err == nil {
		resp.Body.Close()
		t.Error("an unknown field was taken")
	}
	big := map[string]string{"namespace": strings.Repeat("x", maxBody)}
	if resp, err := c.send(ctx, "POST", "/v1/workloads", big); err == nil {
		resp.Body.Close()
		t.Error("a huge body was taken")
	}
	none := NewClient(filepath.Join(t.TempDir(), "none.sock"))
	if _, err := none.Info(ctx); !errors.Is(err, ErrNoControlPlane) || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("no control plane: %v", err)
	}
}

// Whoever is not known to be our user is not served; here: a peer without
// credentials, as over TCP.
func TestStrangersAreNotServed(t *testing.T) {
	s := NewServer(nil, "", nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/v1/info")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", resp.StatusCode)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
