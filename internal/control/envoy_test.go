package control

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/envoy"
)

// churn is a configuration in which each turn has clusters of its own: routes
// go to the subset of this turn, and that of the turn before is no more.
func churn(turn int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy: {tls: {mode: DISABLE}, connectionPool: {tcp: {maxConnections: %d}}}
  subsets:
  - {name: turn%d, labels: {version: v1}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - route: [{destination: {host: orders, subset: turn%d}}]
    headers: {response: {set: {turn: "%d"}}}
`, 1000+turn, turn, turn, turn)
}

// A real Envoy follows changes that replace clusters under its routes, and no
// request fails: what is new is there before it is used, what is old stays
// until it is not.
func TestEnvoyFollowsChangesWithoutAFailedRequest(t *testing.T) {
	for _, delta := range []bool{true, false} {
		t.Run(fmt.Sprintf("delta %v", delta), func(t *testing.T) { followChanges(t, delta) })
	}
}

func followChanges(t *testing.T, delta bool) {
	r := run(t, map[string]string{"shop.yaml": shop, "churn.yaml": churn(0)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "orders") })}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders", Ready: true, Ports: []PortSpec{{Port: 8080, Listen: l.Addr().(*net.TCPAddr).AddrPort()}}})
	me := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	conf, err := envoy.Bootstrap(envoy.Node{
		ID:       "sidecar~" + me.IP.String() + "~" + me.Name + ".shop~shop.svc.cluster.local",
		Metadata: map[string]string{"authorization": "Bearer " + me.Token}, Delta: delta,
	}, r.Socket())
	ok(t, err)
	p := envoy.Start(t, conf, false)
	url := "http://" + me.Local["orders.shop.svc.cluster.local:80"].String() + "/"
	tr := &http.Transport{MaxIdleConnsPerHost: 4}
	defer tr.CloseIdleConnections()
	get := func() (turn string, err error) {
		resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get(url)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 {
			return "", fmt.Errorf("status %d: %s (%s)", resp.StatusCode, b, resp.Header.Get("x-envoy-response-flags"))
		}
		return resp.Header.Get("turn"), nil
	}
	until := func(turn int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			got, err := get()
			if err == nil && got == fmt.Sprint(turn) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("turn %d never came: %s, %v", turn, got, err)
			}
		}
	}
	until(0)
	var wg sync.WaitGroup
	var stop atomic.Bool
	var n, bad atomic.Int64
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				n.Add(1)
				if _, err := get(); err != nil && bad.Add(1) <= 3 {
					t.Error(err)
				}
			}
		})
	}
	const turns = 15
	for i := 1; i <= turns; i++ {
		r.write("churn.yaml", churn(i))
		until(i)
		neverWaited(t, p)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d requests over %d changes, %d failed", n.Load(), turns, bad.Load())
	p.Await(t, "/clusters", "only the last subset", func(body string) bool {
		return strings.Contains(body, fmt.Sprintf("|turn%d|", turns)) && strings.Count(body, "::observability_name::outbound|80|turn") == 1
	})
	for _, s := range r.Streams() {
		for _, ty := range s.Types {
			if !ty.Synced() {
				t.Errorf("%s: %+v", s.Key, ty)
			}
		}
	}
}

// neverWaited: no change came into force because Envoy had waited long enough
// for a resource that it was told of and not given. Its own counters say so, of
// clusters, endpoints, listeners and routes alike.
func neverWaited(t *testing.T, p *envoy.Process) {
	t.Helper()
	_, body, err := p.Get("/stats?filter=init_fetch_timeout")
	ok(t, err)
	kinds := map[string]bool{}
	for line := range strings.Lines(body) {
		name, n, _ := strings.Cut(strings.TrimSpace(line), ": ")
		kinds[strings.SplitN(name, ".", 2)[0]] = true
		if n != "0" {
			t.Errorf("%s: %s", name, n)
		}
	}
	for _, k := range []string{"cluster", "cluster_manager", "http", "listener_manager"} {
		if !kinds[k] {
			t.Fatalf("nothing is counted of %s:\n%s", k, body)
		}
	}
}
