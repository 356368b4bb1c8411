package life

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// TestPanic: tulle-proxy, built so that some requests panic in it, under load. A
// panic at any moment of a request's life ends its connection alone; the fifth
// in a minute ends the process, by a drain that loses nothing; the next one
// serves again.
func TestPanic(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "tulle-proxy")
	build := exec.Command("go", "build", "-pgo=off", "-tags", "tulle_broken", "-o", bin, "../../cmd/tulle-proxy")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	gate := make(chan struct{})
	var held atomic.Int64
	g := newGateway(t, web(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			held.Add(1)
			<-gate
		}
		echo(w, r)
	}), "HTTP")
	g.Boot.Concurrency = 2
	g.Boot.Drain = proxy.Duration(time.Minute)
	broken := func(c *exec.Cmd) { c.Path, c.Args = bin, append([]string{bin}, c.Args[2:]...) }
	p := g.Serve(broken)
	send := func(path, at string) error {
		c := dial(t, g.http)
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nhost: a\r\nx-broken: %s\r\ncontent-length: 4\r\n\r\nbody", path, at)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			err = fmt.Errorf("answered with %d", r.StatusCode)
		}
		return err
	}
	l := startLoad(t, g.http, 4, 4, time.Millisecond)
	defer l.end(t)
	for i, at := range []string{"head", "body", "ready", "timer"} {
		path := "/"
		if at == "timer" {
			path = "/held" // else it would be answered before
		}
		done := l.done.Load()
		if err := send(path, at); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("panic at %s: %v", at, err)
		}
		Wait(t, "the panic at "+at+" is counted", func() bool { return p.Metric("tulle_proxy_panics_total", "") == float64(i+1) })
		Wait(t, "the others go on", func() bool { return l.done.Load() > done+50 })
	}
	l.end(t)
	Wait(t, "every stack is logged", func() bool { return strings.Count(p.Said(), "panic on an event loop") == 4 })
	const n = 50
	errs := make(chan error, n)
	before := held.Load()
	h2 := client(t, true)
	for i := range n {
		c := h2
		if i%2 == 0 {
			c = client(t, false)
		}
		go func() { errs <- postTo(c, "http://"+g.http+"/held", fmt.Sprint("held ", i)) }()
	}
	Wait(t, "requests wait at the backend", func() bool { return held.Load() == before+n })
	_ = send("/", "answer") // its backend's connection ends: an answer is as good
	Wait(t, "the process drains", func() bool { return strings.Contains(p.Said(), "too many internal errors; draining") })
	close(gate)
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	h2.CloseIdleConnections()
	var exit *exec.ExitError
	if err := p.End(); !errors.As(err, &exit) {
		t.Errorf("it ended with %v, want a failure", err)
	}
	g.Serve(nil) // as it is made for users: nothing is broken on demand
	for _, at := range []string{"head", "body", "ready", "timer", "answer"} {
		if err := send("/", at); err.Error() != "answered with 200" {
			t.Errorf("without the tag, x-broken: %s: %v", at, err)
		}
	}
}
