package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/overload"
)

// TestMemory: with memory running out, idle connections go first, then new
// requests are answered with 503, then new connections end at once; when there
// is memory again, all is served.
func TestMemory(t *testing.T) {
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }))
	defer back.Close()
	const room = 256 << 20
	runtime.GC()
	was := debug.SetMemoryLimit(overload.Used() + room)
	defer debug.SetMemoryLimit(was)
	p, addr := start(t, toBackend(strings.TrimPrefix(back.URL, "http://"), nil))
	limit := debug.SetMemoryLimit(-1)
	go p.watchMemory(t.Context())

	var ballast []byte
	// fill makes the process use a share of its limit, really.
	fill := func(share float64) {
		ballast = nil
		runtime.GC()
		if n := int64(share*float64(limit)) - overload.Used(); n > 0 {
			ballast = make([]byte, n)
		}
		runtime.GC()
	}
	until := func(l overload.Level) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); p.memory.Level() != l; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("memory is %v at %.2f, want %v", p.memory.Level(), p.memory.Pressure(), l)
			}
		}
	}
	get := func(c net.Conn) (*http.Response, string) {
		t.Helper()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		return r, string(b)
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}

	idle := dial()
	if r, body := get(idle); r.StatusCode != 200 || body != "served" {
		t.Fatalf("at first: %d %s", r.StatusCode, body)
	}
	fill(0.88)
	until(overload.Tight)
	if n, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("an idle connection gave %d bytes, %v", n, err)
	}
	if r, _ := get(dial()); r.StatusCode != 200 {
		t.Errorf("while memory is tight: %d", r.StatusCode)
	}
	fill(0.945)
	until(overload.Full)
	if r, body := get(dial()); r.StatusCode != 503 || body != "envoy overloaded" {
		t.Errorf("while memory is full: %d %s", r.StatusCode, body)
	}
	fill(0.99)
	until(overload.Over)
	if n, err := dial().Read(make([]byte, 1)); err == nil {
		t.Errorf("a connection beyond it gave %d bytes", n)
	}
	fill(0)
	until(overload.Fine)
	if r, body := get(dial()); r.StatusCode != 200 || body != "served" {
		t.Errorf("afterwards: %d %s", r.StatusCode, body)
	}
	var b strings.Builder
	_ = p.telemetry.Expose(&b, 0)
	for _, l := range []overload.Level{overload.Tight, overload.Full, overload.Over} {
		if p.memory.Count(l) == 0 {
			t.Errorf("nothing was counted as given up while %v", l)
		}
	}
	if !strings.Contains(b.String(), `response_flags="OM"`) {
		t.Error("no request is counted with flag OM")
	}
	runtime.KeepAlive(ballast)
}
