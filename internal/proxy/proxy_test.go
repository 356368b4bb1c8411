package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// start runs a proxy with a configuration made by hand.
func start(t *testing.T, s *conf.Snapshot) (*Proxy, string) {
	t.Helper()
	p, err := newProxy(&Bootstrap{Concurrency: 2}, slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.group.Run(ctx) }()
	t.Cleanup(func() {
		p.sockets.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		p.clusters.Close()
		p.telemetry.Close()
	})
	p.publish(ctx, s)
	if !p.ready.Load() {
		t.Fatal(p.waiting.Load())
	}
	addrs := p.sockets.Addresses()
	if len(addrs) != 1 {
		t.Fatalf("listening on %v", addrs)
	}
	return p, addrs[0]
}

// toBackend is a listener that forwards everything to one endpoint.
func toBackend(addr string, edit func(*conf.HTTP, *conf.Route, *conf.Cluster)) *conf.Snapshot {
	s := conf.NewSnapshot()
	c := &conf.Cluster{Name: "backend", Type: conf.ClusterStatic, Endpoints: &conf.Endpoints{Cluster: "backend",
		Localities: []conf.Locality{{Endpoints: []conf.Endpoint{{Addr: netip.MustParseAddrPort(addr), Weight: 1, Health: conf.Healthy}}}}}}
	r := &conf.Route{Name: "all", Match: conf.Match{Kind: conf.PathPrefix, Path: "/"},
		Forward: &conf.Forward{Clusters: []conf.WeightedCluster{{Name: "backend", Weight: 1}}, Total: 1}}
	v := &conf.VirtualHost{Name: "all", Domains: []string{"*"}, Routes: []*conf.Route{r}, AttemptCount: true}
	h := &conf.HTTP{StatPrefix: "test", Routes: &conf.RouteTable{Name: "inline", Hosts: []*conf.VirtualHost{v}, Any: v},
		Upgrades: []string{"websocket"}}
	if edit != nil {
		edit(h, r, c)
	}
	s.Clusters["backend"] = c
	s.Listeners["in"] = &conf.Listener{Name: "in", Bind: true, Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Chains: []*conf.Chain{{Name: "http", HTTP: h}}}
	return s
}

func TestForward(t *testing.T) {
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("x-saw", r.Method+" "+r.URL.String()+" "+r.Host+" "+r.Header.Get("x-forwarded-proto")+" "+r.Header.Get("x-envoy-attempt-count"))
		w.Header().Set("x-length", r.Header.Get("content-length"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(b)
	}))
	defer back.Close()
	_, addr := start(t, toBackend(strings.TrimPrefix(back.URL, "http://"), nil))
	for _, body := range []string{"", "hello", strings.Repeat("x", 1<<20)} {
		resp, err := http.Post("http://"+addr+"/a?b=c", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusTeapot || string(got) != body {
			t.Fatalf("got %d with %d bytes, want 418 with %d", resp.StatusCode, len(got), len(body))
		}
		if saw, want := resp.Header.Get("x-saw"), "POST /a?b=c "+addr+" http 1"; saw != want {
			t.Errorf("backend saw %q, want %q", saw, want)
		}
		if resp.Header.Get("server") != "envoy" || resp.Header.Get("date") == "" || resp.Header.Get("x-envoy-upstream-service-time") == "" {
			t.Errorf("response headers %v", resp.Header)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, proxy := start(t, toBackend(addr, nil))
	resp, err := http.Get("http://" + proxy + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 503 || !strings.Contains(string(b), "remote connection failure") {
		t.Fatalf("got %d %s", resp.StatusCode, b)
	}
}

func TestTimeout(t *testing.T) {
	gate := make(chan struct{})
	back := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))
	defer back.Close()
	defer close(gate)
	_, proxy := start(t, toBackend(strings.TrimPrefix(back.URL, "http://"), func(_ *conf.HTTP, r *conf.Route, _ *conf.Cluster) {
		r.Forward.Timeout = 50 * time.Millisecond
	}))
	resp, err := http.Get("http://" + proxy + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 504 || string(b) != "upstream request timeout" {
		t.Fatalf("got %d %s", resp.StatusCode, b)
	}
}

func TestRetry(t *testing.T) {
	n := 0
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if n++; n < 3 {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("x-attempt", r.Header.Get("x-envoy-attempt-count"))
		_, _ = w.Write(b)
	}))
	defer back.Close()
	_, proxy := start(t, toBackend(strings.TrimPrefix(back.URL, "http://"), func(_ *conf.HTTP, r *conf.Route, _ *conf.Cluster) {
		r.Forward.Retry = &conf.Retry{On: conf.On5xx, Attempts: 2}
	}))
	resp, err := http.Post("http://"+proxy+"/", "text/plain", strings.NewReader("again"))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 200 || string(b) != "again" || resp.Header.Get("x-attempt") != "3" {
		t.Fatalf("got %d %s %v", resp.StatusCode, b, resp.Header)
	}
}
