package life

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requests sends n, each of which must succeed.
func requests(t testing.TB, addr string, n int) {
	t.Helper()
	r := &raw{addr: addr}
	for range n {
		if err := r.post("x"); err != nil {
			t.Fatal(err)
		}
	}
}

const dropped = "tulle_proxy_access_log_dropped_total"

// TestNobodyReadsLogs: standard output and standard error are pipes that nobody
// reads. Requests, configuration and the end of the process do not wait for it.
func TestNobodyReadsLogs(t *testing.T) {
	out, outEnd := pipe(t)
	errs, errEnd := pipe(t)
	g := newGateway(t, web(t, echo), "HTTP")
	g.Boot.Drain = 1e9
	fill(t, errEnd)
	p := g.Serve(func(c *exec.Cmd) { c.Stdout, c.Stderr = outEnd, errEnd })
	long := "/" + strings.Repeat("x", 2000) // what the log repeats
	c := client(t, false)
	sent := 0
	Wait(t, "lines are dropped", func() bool {
		for range 100 {
			r, err := c.Get("http://" + g.http + long)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			sent++
		}
		return p.Metric(dropped, "") > 0
	})
	before := p.Metric(dropped, "")
	for range 10 {
		r, err := c.Get("http://" + g.http + long)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
	}
	if n := p.Metric(dropped, "") - before; n != 10 {
		t.Errorf("of 10 more lines %v were dropped", n)
	}
	other := web(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "other") })
	g.place.Change(edgeYAML(other, "HTTP"))
	Wait(t, "the new configuration", func() bool { return post(c, g.http, "other") == nil })
	c.CloseIdleConnections()
	p.Term()
	if err := p.End(); err != nil {
		t.Error(err)
	}
	_, _ = out, errs
}

// pipe is one that ends with the test; nothing is read unless the test does.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// fill writes until a pipe takes no more.
func fill(t testing.TB, w *os.File) {
	t.Helper()
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	if err := raw.Write(func(fd uintptr) bool {
		for {
			if _, err := unix.Write(int(fd), b); err != nil {
				return true
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk: nothing can be written, neither the log nor the state. Requests
// go on, and what is lost is counted.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	g := newGateway(t, web(t, echo), "HTTP")
	g.Boot.StateDir = filepath.Join(dir, "file", "below") // cannot be made
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := g.Serve(stdout(full))
	requests(t, g.http, 300)
	Wait(t, "every line is counted as lost", func() bool { return p.Metric(dropped, "") == 300 })
	Wait(t, "the state that cannot be kept is told", func() bool { return strings.Contains(p.Said(), "is not kept") })
	p.Term()
	if err := p.End(); err != nil {
		t.Error(err)
	}
}

// TestNoDescriptors: when descriptors run out accepting rests, without spinning,
// and goes on when there are some again.
func TestNoDescriptors(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	p := g.Serve(nil)
	requests(t, g.http, 10)
	// No more than it has: the limit of connections is still the old one.
	few := uint64(p.Descriptors() + 8)
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: few, Max: few}, nil); err != nil {
		t.Fatal(err)
	}
	admin := dialAdmin(t, g) // has its connection already
	var held []net.Conn
	for range 40 {
		held = append(held, dial(t, g.http)) // in the backlog, at least
	}
	starved := func() float64 {
		fmt.Fprint(admin, "GET /stats/prometheus HTTP/1.1\r\nhost: a\r\n\r\n")
		return metricOf(t, admin, "tulle_proxy_accept_starved_total")
	}
	Wait(t, "it has found that out", func() bool { return starved() > 0 })
	used, n := p.CPU(), starved()
	Wait(t, "it has tried again and again", func() bool { time.Sleep(50 * time.Millisecond); return starved() >= n+10 })
	if used = p.CPU() - used; used > 500*time.Millisecond {
		t.Errorf("%s of CPU for ten attempts", used)
	}
	for _, c := range held {
		_ = c.Close()
	}
	requests(t, g.http, 100)
}

// TestConnectionLimit: beyond three quarters of the descriptors connections are
// closed at once, so that something is left for all else.
func TestConnectionLimit(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	p := g.Serve(func(c *exec.Cmd) {
		c.Args = append([]string{"sh", "-c", `ulimit -n 80; exec "$0" "$@"`}, append([]string{"/proc/self/exe"}, c.Args[1:]...)...)
		c.Args[3], _ = os.Executable()
		c.Path = "/bin/sh"
	})
	requests(t, g.http, 10)
	var held []net.Conn
	for range 100 {
		held = append(held, dial(t, g.http))
	}
	Wait(t, "some are refused", func() bool { return p.Metric("tulle_proxy_connections_refused_total", "") > 0 })
	if !p.Serves() {
		t.Error("nothing is left for the admin server")
	}
	for _, c := range held {
		_ = c.Close()
	}
	Wait(t, "it serves again", func() bool { return (&raw{addr: g.http}).post("x") == nil })
	requests(t, g.http, 100)
}

func dialAdmin(t testing.TB, g *gateway) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", strings.TrimPrefix(g.Boot.Admin, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

// metricOf reads a response with metrics.
func metricOf(t testing.TB, c net.Conn, name string) (v float64) {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, rest, ok := strings.Cut(string(b), "\n"+name+" "); ok {
		_, _ = fmt.Sscan(rest, &v)
	}
	return v
}
