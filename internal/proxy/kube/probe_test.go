package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// pod has the program at 127.0.0.1, and probes as the injector writes them.
func pod(t *testing.T, probes string) *Pod {
	t.Helper()
	p := &Pod{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, Capture: true}
	var err error
	if p.Probes, err = parseProbes(probes); err != nil {
		t.Fatal(err)
	}
	return p
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, n, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// program is what probes ask; it tells what it saw.
type program struct {
	mu       sync.Mutex
	requests []string
	from     []string
}

func (p *program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	p.mu.Lock()
	p.from = append(p.from, host)
	p.requests = append(p.requests, fmt.Sprintf("%s %s host=%s agent=%s probe=%q", r.Method, r.URL, r.Host, r.UserAgent(), r.Header["X-Probe"]))
	p.mu.Unlock()
	switch r.URL.Path {
	case "/good", "/there/good":
		fmt.Fprint(w, strings.Repeat("x", 2*probeBody)) // more than anybody reads
	case "/moved":
		http.Redirect(w, r, "/there/good?a=b", http.StatusFound)
	case "/away":
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	case "/round":
		http.Redirect(w, r, "/round", http.StatusTemporaryRedirect)
	case "/slow":
		<-r.Context().Done()
	default:
		w.WriteHeader(503)
	}
}

func TestHTTPProbe(t *testing.T) {
	for _, scheme := range []string{"HTTP", "HTTPS"} {
		t.Run(scheme, func(t *testing.T) {
			app := &program{}
			s := httptest.NewUnstartedServer(app)
			if scheme == "HTTPS" {
				s.StartTLS() // a certificate that nobody trusts
			} else {
				s.Start()
			}
			t.Cleanup(s.Close)
			n := portOf(t, s.Listener.Addr().String())
			probes := map[string]any{}
			for _, path := range []string{"good", "moved", "away", "round", "slow", "bad"} {
				limit := 60
				if path == "slow" {
					limit = 1
				}
				probes["/"+path] = map[string]any{"timeoutSeconds": limit, "httpGet": map[string]any{"path": path, "port": json.RawMessage(n), "scheme": scheme,
					"httpHeaders": []map[string]string{{"name": "Host", "value": "app.example"}, {"name": "X-Probe", "value": "one"}, {"name": "X-Probe", "value": "two"}}}}
			}
			text, _ := json.Marshal(probes)
			p := pod(t, string(text))
			header := []Field{{"user-agent", "kube-probe/1.35"}, {"x-probe", "ours"}, {"accept", "*/*"}, {"connection", "close"}}
			for path, want := range map[string]int{"/good": 200, "/moved": 200, "/away": 302, "/round": 500, "/slow": 500, "/bad": 503, "/none": 404} {
				if got, why := p.Answer(t.Context(), path, header); got != want {
					t.Errorf("%s: %d (%s), want %d", path, got, why, want)
				}
			}
			app.mu.Lock()
			defer app.mu.Unlock()
			saw := func(want string) bool {
				for _, r := range app.requests {
					if r == want {
						return true
					}
				}
				return false
			}
			for _, want := range []string{
				`GET /good host=app.example agent=kube-probe/1.35 probe=["one" "two"]`,
				`GET /there/good?a=b host=app.example agent=kube-probe/1.35 probe=["one" "two"]`,
			} {
				if !saw(want) {
					t.Errorf("the program did not see %s, but\n%s", want, strings.Join(app.requests, "\n"))
				}
			}
			for _, from := range app.from {
				if from != "127.0.0.6" {
					t.Errorf("asked from %s, which is captured", from)
				}
			}
		})
	}
}

func TestTCPProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	probes := fmt.Sprintf(`{"/t":{"timeoutSeconds":60,"tcpSocket":{"port":%s}},"/named":{"tcpSocket":{"port":"web"}}}`, portOf(t, l.Addr().String()))
	p := pod(t, probes)
	if got, why := p.Answer(t.Context(), "/t", nil); got != 200 {
		t.Errorf("%d, %s", got, why)
	}
	if got, why := p.Answer(t.Context(), "/named", nil); got != 500 || why != errNoPort.Error() {
		t.Errorf("a port without a number: %d, %s", got, why)
	}
	l.Close()
	if got, _ := p.Answer(t.Context(), "/t", nil); got != 500 {
		t.Errorf("with nobody there: %d", got)
	}
}

// health is a gRPC server that has one service.
func health(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("content-type", "application/grpc")
	w.Header().Set("trailer", "grpc-status")
	if r.URL.Path != "/grpc.health.v1.Health/Check" || bytes.Contains(body, []byte("unknown")) {
		w.Header().Set("grpc-status", "5")
		return
	}
	status := byte(1)
	if bytes.Contains(body, []byte("down")) {
		status = 2
	}
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, status})
	w.Header().Set("grpc-status", "0")
}

func TestGRPCProbe(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(health))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	n := portOf(t, s.Listener.Addr().String())
	p := pod(t, strings.ReplaceAll(strings.ReplaceAll(`{"/all":{"grpc":{"port":P},L},"/up":{"grpc":{"port":P,"service":"up"},L},"/down":{"grpc":{"port":P,"service":"down"},L},
		"/unknown":{"grpc":{"port":P,"service":"unknown"},L},"/nobody":{"grpc":{"port":1},L}}`, "P", n), "L", `"timeoutSeconds":60`))
	for path, want := range map[string]int{"/all": 200, "/up": 200, "/down": 500, "/unknown": 500, "/nobody": 500} {
		if got, why := p.Answer(t.Context(), path, nil); got != want {
			t.Errorf("%s: %d (%s), want %d", path, got, why, want)
		}
	}
}

func TestScrape(t *testing.T) {
	answer, status := "", 200
	var asked http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	c, err := parseScrape(`{"scrape":"true","path":"m","port":"` + portOf(t, s.Listener.Addr().String()) + `"}`)
	if err != nil || c.path != "/m" {
		t.Fatal(c, err)
	}
	header := []Field{{"x-prometheus-scrape-timeout-seconds", "59.5"}, {"user-agent", "Prometheus"}, {"accept", "application/openmetrics-text"}, {"cookie", "x"}}
	for text, want := range map[string]string{"a 1\n# EOF\n": "a 1\n", "b 2": "b 2\n", "": ""} {
		answer = text
		if got, err := c.Get(t.Context(), header); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	asked.Del("Content-Length")
	if want := (http.Header{"Accept": {plainTextAsked}, "User-Agent": {"Prometheus"}, "X-Prometheus-Scrape-Timeout-Seconds": {"59.5"}}); !reflect.DeepEqual(asked, want) {
		t.Errorf("asked with %v, want %v", asked, want)
	}
	status = 500
	if _, err := c.Get(t.Context(), nil); err == nil {
		t.Error("an error was taken for metrics")
	}
	s.Close()
	if _, err := c.Get(context.Background(), nil); err == nil {
		t.Error("metrics came from nobody")
	}
}

func TestOurs(t *testing.T) {
	in := "# HELP istio_requests_total Requests.\n# TYPE istio_requests_total counter\nistio_requests_total{a=\"b\"} 1\n# HELP go_x X.\n# TYPE go_x gauge\ngo_x 1\ntulle_proxy_connections 2\n"
	want := "# HELP istio_requests_total Requests.\n# TYPE istio_requests_total counter\nistio_requests_total{a=\"b\"} 1\ntulle_proxy_connections 2\n"
	if got := string(Ours([]byte(in))); got != want {
		t.Errorf("got %q", got)
	}
}

func TestCommands(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(503)
		}
		fmt.Fprintf(w, "%s %s", r.Method, r.URL)
	}))
	t.Cleanup(s.Close)
	n := portOf(t, s.Listener.Addr().String())
	var out, say strings.Builder
	if code := Wait([]string{"--url", "http://localhost:" + n + "/ready", "--periodMillis", "1"}, &say); code != 0 || asked != 3 {
		t.Errorf("%d after %d questions: %s", code, asked, say.String())
	}
	if code := Request([]string{"--debug-port", n, "post", "drain?graceful"}, &out, &say); code != 0 || out.String() != "POST /drain?graceful" {
		t.Errorf("%d: %q, %s", code, out.String(), say.String())
	}
	for _, args := range [][]string{{"--url", "x"}, {"--nonsense"}, {"more"}, {"--periodMillis", "0"}} {
		if code := Wait(args, io.Discard); code != 2 {
			t.Errorf("wait %q: %d, want 2", args, code)
		}
	}
	s.Close()
	if code := Wait([]string{"--url", "http://localhost:" + n, "--timeoutSeconds", "1", "--periodMillis", "400"}, &say); code != 1 || !strings.Contains(say.String(), "not ready after 1 s: dial") {
		t.Errorf("%d: %s", code, say.String())
	}
	if code := Request([]string{"--debug-port", n, "GET", "/"}, &out, &say); code != 1 {
		t.Errorf("%d", code)
	}
}
