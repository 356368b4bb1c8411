package control

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
)

const canary = `
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  clusterIP: 10.0.0.9
  selector: {app: echo}
  ports: [{name: grpc, port: 7070, targetPort: 7070}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: shop}
spec:
  host: echo
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: shop}
spec:
  hosts: [echo]
  http:
  - match: [{headers: {x-to: {exact: v2}}}]
    route: [{destination: {host: echo, subset: v2}}]
  - match: [{headers: {x-fail: {exact: "yes"}}}]
    fault: {abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}}
    route: [{destination: {host: echo, subset: v1}}]
  - route:
    - {destination: {host: echo, subset: v1}, weight: %d}
    - {destination: {host: echo, subset: v2}, weight: %d}
`

// backend is a grpc service that says which version it is.
func backend(t *testing.T, version string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := grpc.SetHeader(ctx, metadata.Pairs("version", version)); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return netip.MustParseAddrPort(l.Addr().String())
}

// grpc-go's own xDS client, which knows nothing of us but a bootstrap file,
// calls a service by its name; weights, header matches and faults are obeyed,
// and a change is followed without a failed call.
func TestGRPCClient(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop, "canary.yaml": fmt.Sprintf(canary, 90, 10)})
	uid := uint32(os.Getuid())
	for _, v := range []string{"v1", "v2"} {
		_, err := r.Register(WorkloadSpec{Namespace: "shop", Labels: map[string]string{"app": "echo", "version": v}, Ready: true,
			Ports: []PortSpec{{Port: 7070, Listen: backend(t, v)}}}, &uid)
		ok(t, err)
	}
	me, err := r.Register(WorkloadSpec{Namespace: "shop", Deployment: "users"}, &uid)
	ok(t, err)
	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{
		"xds_servers": [{"server_uri": "unix:%s", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "sidecar~%s~%s.shop~shop.svc.cluster.local", "metadata": {"GENERATOR": "grpc"}}}`, r.Socket(), me.IP, me.Name))
	ok(t, err)
	conn, err := grpc.NewClient("xds:///echo.shop.svc.cluster.local:7070", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ok(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(r.ctx, 40*time.Second)
	defer cancel()
	call := func(headers ...string) (string, error) {
		var h metadata.MD
		_, err := healthpb.NewHealthClient(conn).Check(metadata.AppendToOutgoingContext(ctx, headers...), &healthpb.HealthCheckRequest{}, grpc.Header(&h), grpc.WaitForReady(true))
		if err != nil {
			return "", err
		}
		return h.Get("version")[0], nil
	}
	share := func(n int) (v2 int) {
		t.Helper()
		for range n {
			v, err := call()
			ok(t, err)
			if v == "v2" {
				v2++
			}
		}
		return v2
	}
	if _, err := call(); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.Fatalf("%v; notices %v; log %v", err, r.Notices(), r.logs)
	}
	// 1,000 draws at 10 %: six standard deviations are 57.
	if n := share(1000); n < 43 || n > 157 {
		t.Errorf("%d of 1,000 calls went to v2, want about 100", n)
	}
	short, err := grpc.NewClient("xds:///echo.shop:7070", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ok(t, err)
	defer short.Close()
	if _, err := healthpb.NewHealthClient(short).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("by its short name: %v", err)
	}
	for range 20 {
		if v, err := call("x-to", "v2"); err != nil || v != "v2" {
			t.Fatalf("by header: %s, %v", v, err)
		}
	}
	if _, err := call("x-fail", "yes"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("fault: %v", err)
	}
	r.write("canary.yaml", fmt.Sprintf(canary, 0, 100))
	for n := 0; n < 50; { // every call succeeds while the change comes
		if v, err := call(); err != nil {
			t.Fatal(err)
		} else if v == "v2" {
			n++
		} else {
			n = 0
		}
	}
	for _, s := range r.Streams() {
		for _, ty := range s.Types {
			if len(ty.Refused) > 0 {
				t.Errorf("%s refused %s: %s", s.Key, ty.Refused, ty.Reason)
			}
		}
	}
}
