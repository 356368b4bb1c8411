package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/internal/xds/xdstest"
)

const ordersPod = `
apiVersion: v1
kind: Pod
metadata: {name: orders-1, namespace: shop, labels: {app: orders}, creationTimestamp: "%s", annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: orders, containers: [{name: app}]}
status: {%s}
`

// accounts are tokens of a test: "sa/pod", "sa", "down" and all that is wrong.
func accounts(_ context.Context, token string) (*identity.Caller, error) {
	account, pod, bound := strings.Cut(token, "/")
	switch {
	case account == "down":
		return nil, errors.New("the API server cannot be reached")
	case account != "orders" && account != "users":
		return nil, fmt.Errorf("%w: no such account", identity.ErrRefused)
	}
	c := &identity.Caller{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", Account: account}, Proof: identity.AccountToken}
	if bound {
		c.Workload = "shop/" + pod
	}
	return c, nil
}

// runForPods is a Plane as it runs for a cluster's pods.
func runForPods(t *testing.T, files map[string]string) *running {
	t.Helper()
	r := &running{t: t, dir: t.TempDir()}
	for name, text := range files {
		r.write(name, text)
	}
	m, err := ca.NewMaterial("cluster.local")
	ok(t, err)
	authority, err := ca.New(m, ca.Options{})
	ok(t, err)
	p, err := New(Options{Dir: shortDir(t), Source: &file.Watcher{Paths: []string{r.dir}}, CA: authority, Token: accounts, Names: []string{"mesh.test"}})
	ok(t, err)
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

func (r *running) tls(name string) grpc.DialOption {
	return grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(r.ca.Pool(), name))
}

func podNode(id string) *corepb.Node { return &corepb.Node{Id: id, UserAgentName: proxyAgent} }

// roots waits for the bundle that a proxy is given.
func roots(r *running, conn *grpc.ClientConn, token, id string) (*xdstest.Stream, []byte, error) {
	r.t.Helper()
	s, err := xdstest.Delta(r.bearer(token), conn, podNode(id))
	ok(r.t, err)
	ok(r.t, s.Subscribe(xds.SecretType, "", "ROOTCA"))
	b, err := s.Await(xds.SecretType, "ROOTCA")
	return s, b, err
}

func TestPodsAreClients(t *testing.T) {
	const born, address = "2026-01-01T00:00:00Z", "phase: Running, podIP: 10.1.0.1"
	r := runForPods(t, map[string]string{"shop.yaml": shop, "pod.yaml": fmt.Sprintf(ordersPod, born, address)})
	conn, err := grpc.NewClient(r.Address(), r.tls("mesh.test"))
	ok(t, err)
	t.Cleanup(func() { conn.Close() })
	const me = "sidecar~10.1.0.1~orders-1.shop~shop.svc.cluster.local"
	for _, c := range []struct {
		name, token, id string
		want            codes.Code
	}{
		{"bound to the pod", "orders/orders-1", me, codes.OK},
		{"the account, and the node says which pod", "orders", me, codes.OK},
		{"another account", "users", me, codes.PermissionDenied},
		{"another pod's", "users/orders-1", me, codes.PermissionDenied},
		{"the node says another pod", "orders/orders-1", "sidecar~10.1.0.1~orders-2.shop~x", codes.PermissionDenied},
		{"no gateway", "orders/orders-1", "router~10.1.0.1~orders-1.shop~x", codes.PermissionDenied},
		{"a bad token", "nobody", me, codes.Unauthenticated},
		{"nobody can say", "down", me, codes.Unavailable},
		{"which pod", "orders", "x", codes.PermissionDenied},
	} {
		if _, _, err := roots(r, conn, c.token, c.id); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := r.Register(WorkloadSpec{Namespace: "shop"}, nil); !errors.Is(err, ErrBadSpec) {
		t.Errorf("a process joined the cluster's mesh: %v", err)
	}

	// Another key of the authority: proxies hear of its root, and the next
	// handshake shows a certificate of it.
	s, old, err := roots(r, conn, "orders/orders-1", me)
	ok(t, err)
	m, err := ca.NewMaterial("cluster.local")
	ok(t, err)
	ok(t, r.ca.Replace(m))
	r.Rekeyed()
	fresh, err := s.Await(xds.SecretType, "ROOTCA")
	ok(t, err)
	if string(old) == string(fresh) {
		t.Error("the roots are what they were")
	}
	again, err := grpc.NewClient(r.Address(), r.tls("mesh.test"))
	ok(t, err)
	t.Cleanup(func() { again.Close() })
	s, _, err = roots(r, again, "orders/orders-1", me)
	ok(t, err)

	// The pod is made anew under its name: the old one's stream ends. Without an
	// address nothing is given out, and it is waited for.
	r.write("pod.yaml", fmt.Sprintf(ordersPod, "2026-01-01T00:00:01Z", "phase: Pending"))
	for err == nil {
		_, err = s.Next()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the stream of a pod that was replaced: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		for {
			_, _, err := roots(r, again, "orders/orders-1", "sidecar~10.1.0.2~orders-1.shop~x")
			if status.Code(err) != codes.Unavailable { // it was waited for long enough, on a slow machine
				got <- err
				return
			}
		}
	}()
	r.write("pod.yaml", fmt.Sprintf(ordersPod, "2026-01-01T00:00:01Z", "phase: Running, podIP: 10.1.0.2"))
	if err := <-got; err != nil {
		t.Errorf("a pod whose address comes: %v", err)
	}
}
