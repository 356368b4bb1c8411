package life

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var restarts = flag.Int("restarts", 6, "hot restarts under load")

// TestHotRestart: new processes take over from running ones under load, without
// a failed request; a long connection of the first goes on meanwhile.
func TestHotRestart(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	g.Boot.Concurrency = 2
	now := g.Serve(nil)
	first := now
	l := startLoad(t, g.http, 8, 4, 2*time.Millisecond)
	long := dial(t, g.tcp)
	fmt.Fprint(long, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
	for i := range *restarts {
		n := l.done.Load()
		Wait(t, "requests flow", func() bool { return l.done.Load() > n+50 })
		old := now
		now = g.Serve(nil)
		if old != first {
			if err := old.End(); err != nil {
				t.Fatalf("restart %d: the old process: %v", i, err)
			}
		}
	}
	l.end(t)
	select {
	case <-first.Ended():
		t.Error("the first process has ended, with a connection")
	default:
	}
	// A hundred restarts take longer than the deadline of a connection's dial.
	if err := long.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(long, "cd")
	r, err := http.ReadResponse(bufio.NewReader(long), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "abcd" {
		t.Errorf("%q %v", b, err)
	}
	_ = long.Close()
	if err := first.End(); err != nil {
		t.Error(err)
	}
	if n := l.done.Load(); n < int64(*restarts)*50 {
		t.Errorf("%d requests", n)
	}
	now.Term()
	if err := now.End(); err != nil {
		t.Error(err)
	}
	for _, f := range []string{"admin", "restart"} {
		if _, err := os.Stat(filepath.Join(g.dir, f)); !os.IsNotExist(err) {
			t.Errorf("%s is left behind: %v", f, err)
		}
	}
}

// TestSuccessorFails: whatever becomes of a new process before it serves, the
// running one goes on.
func TestSuccessorFails(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	now := g.Serve(nil)
	l := startLoad(t, g.http, 2, 1, time.Millisecond)
	boot := g.Boot
	g.Boot.XDS, g.Boot.StateDir = "unix:///nobody", "" // will never be ready
	next := g.Start(nil)
	Wait(t, "it has the sockets", func() bool {
		return strings.Contains(next.Said(), "sockets of the predecessor")
	})
	_ = next.Kill()
	<-next.Ended()
	g.Boot = boot
	c := dial(t, g.Boot.RestartSocket) // says nothing sensible
	_ = c.Close()
	n := l.done.Load()
	Wait(t, "requests flow", func() bool { return l.done.Load() > n+50 })
	if !now.Serves() {
		t.Error("the old process does not serve")
	}
	last := g.Serve(nil)
	if err := now.End(); err != nil {
		t.Error(err)
	}
	l.end(t)
	if !last.Serves() {
		t.Error("the new process does not serve")
	}
}

// TestRestartAlone: a proxy that was killed serves again from its disk, without
// a control plane; and takes up what has changed when that is back.
func TestRestartAlone(t *testing.T) {
	backend := web(t, echo)
	g := newGateway(t, backend, "HTTP")
	p := g.Serve(nil)
	c := client(t, false)
	if err := post(c, g.http, "one"); err != nil {
		t.Fatal(err)
	}
	Wait(t, "its configuration on disk", func() bool {
		st, err := os.Stat(filepath.Join(g.Boot.StateDir, "config.state"))
		return err == nil && st.Size() > 0
	})
	g.place.Shut()
	_ = p.Kill()
	_ = p.End()
	p = g.Serve(nil)
	if err := post(c, g.http, "two"); err != nil {
		t.Fatal(err)
	}
	other := web(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "other") })
	g.place.load(edgeYAML(other, "HTTP"))
	g.place.Open()
	Wait(t, "the new configuration", func() bool { return post(c, g.http, "other") == nil })
	if !p.Serves() {
		t.Error("not the same process")
	}
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unixpacket"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c
}
