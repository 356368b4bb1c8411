package life

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// TestTerm: SIGTERM while a thousand requests fly, of HTTP/1 and HTTP/2, loses
// none; then the process ends by itself, though idle connections are open.
func TestTerm(t *testing.T) {
	const each = 500
	gate := make(chan struct{})
	var at atomic.Int64
	g := newGateway(t, web(t, func(w http.ResponseWriter, r *http.Request) {
		at.Add(1)
		<-gate
		echo(w, r)
	}), "HTTP")
	g.Boot.Drain = proxy.Duration(time.Minute) // all have ended before
	g.Boot.Concurrency = 2
	p := g.Serve(nil)
	idle := &raw{addr: g.http}
	idle.conn, idle.in = dial(t, g.http), bufio.NewReader(nil)
	h2 := client(t, true)
	errs := make(chan error, 2*each)
	for i := range each {
		go func() { errs <- post(client(t, false), g.http, fmt.Sprint("one ", i)) }()
		go func() { errs <- post(h2, g.http, fmt.Sprint("two ", i)) }()
	}
	Wait(t, "all requests are at the backend", func() bool { return at.Load() == 2*each })
	p.Term()
	Wait(t, "nobody listens", func() bool {
		c, err := net.Dial("tcp", g.http)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(gate)
	for range 2 * each {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := p.End(); err != nil {
		t.Error(err)
	}
}

// TestDrainAccept: for a time new connections are still taken, for one request
// each; HTTP/2 clients are told to go by GOAWAY.
func TestDrainAccept(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	g.Boot.Drain, g.Boot.DrainAccept = proxy.Duration(time.Minute), proxy.Duration(time.Minute)
	p := g.Serve(nil)
	kept := &raw{addr: g.http}
	if err := kept.post("before"); err != nil || kept.conn == nil {
		t.Fatal(err, kept.conn)
	}
	p.Term()
	Wait(t, "it drains", func() bool { code, text := p.Page("GET", "/ready"); return code == 503 && text == "draining\n" })
	if err := kept.post("last"); err != nil || kept.conn != nil {
		t.Error("a connection of before:", err, kept.conn)
	}
	late := &raw{addr: g.http}
	for range 3 {
		if err := late.post("late"); err != nil || late.conn != nil {
			t.Error("a new connection:", err, late.conn)
		}
	}
	if err := post(client(t, true), g.http, "late"); err != nil {
		t.Error(err)
	}
	// Until the client has gone, as it was told to.
	if code, text := p.Page("GET", "/server_info"); code != 200 || !strings.Contains(text, "DRAINING") {
		t.Error(code, text)
	}
	p.Term() // again: at once
	if p.End() == nil {
		t.Error("it ended as if nothing had been cut")
	}
}

// TestDrainLimit: what takes too long is cut, and seen to be cut.
func TestDrainLimit(t *testing.T) {
	g := newGateway(t, bytesBackend(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nthe beginning") // ends with the connection
		}
		_, _ = io.Copy(io.Discard, in)
	}), "HTTP")
	p := g.Serve(func(c *exec.Cmd) { c.Args = append(c.Args, "--drain", "300ms") })
	c := dial(t, g.http)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 13)
	if _, err := io.ReadFull(r.Body, b); err != nil || string(b) != "the beginning" {
		t.Fatal(err, string(b))
	}
	p.Term()
	if rest, err := io.ReadAll(r.Body); err == nil {
		t.Errorf("it looks whole: %q", rest)
	}
	if err := p.End(); err != nil {
		t.Error(err)
	}
}

// TestAdminDrain: health checks can be made to fail and listeners closed without
// ending the process.
func TestAdminDrain(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	g.Boot.ListenersDrain, g.Boot.Drain = proxy.Duration(time.Hour), proxy.Duration(100*time.Millisecond)
	p := g.Serve(nil)
	say := func(path string, want int) {
		t.Helper()
		if code, text := p.Page("POST", path); code != want {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	r := &raw{addr: g.http}
	closes := func(want bool) {
		t.Helper()
		if err := r.post("x"); err != nil || (r.conn == nil) != want {
			t.Errorf("closed: %t, want %t; %v", r.conn == nil, want, err)
		}
	}
	closes(false)
	say("/healthcheck/fail", 200)
	if code, _ := p.Page("GET", "/ready"); code != 503 {
		t.Errorf("ready: %d", code)
	}
	closes(true)
	closes(true)
	say("/healthcheck/ok", 200)
	if code, _ := p.Page("GET", "/ready"); code != 200 {
		t.Errorf("ready: %d", code)
	}
	closes(false)
	say("/drain_listeners?skip_exit", 400)
	say("/drain_listeners?graceful", 200)
	Wait(t, "it is under way", func() bool { _, text := p.Page("GET", "/server_info"); return strings.Contains(text, "DRAINING") })
	closes(true)
	closes(true) // still open
	fmt.Fprint(dial(t, g.tcp), "x")
	say("/drain_listeners", 200)
	Wait(t, "nobody listens", func() bool { return r.post("x") != nil })
	if _, text := p.Page("GET", "/listeners"); strings.Contains(text, "open=true") {
		t.Error(text)
	}
	say("/quitquitquit", 200)
	if err := p.End(); err != nil {
		t.Error(err)
	}
}

// TestListenerGone: connections of a listener that configuration takes away, or
// whose policy it changes, may go on for a time, those of others are not touched.
func TestListenerGone(t *testing.T) {
	backend := bytesBackend(t, func(c net.Conn, in *bufio.Reader) { _, _ = io.Copy(c, in) })
	g := newGateway(t, backend, "HTTP")
	g.Boot.ListenersDrain = proxy.Duration(6 * time.Second)
	p := g.Serve(nil)
	text := edgeYAML(backend, "HTTP")
	const policy = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: some, namespace: shop}
spec:
  selector: {matchLabels: {istio: edge}}
  action: DENY
  rules: [{from: [{source: {ipBlocks: [%s]}}], to: [{operation: {ports: ["9000"]}}]}]
`
	says := func(c net.Conn, in *bufio.Reader, what string) {
		t.Helper()
		fmt.Fprintln(c, what)
		if s, err := in.ReadString('\n'); err != nil || s != what+"\n" {
			t.Fatal(s, err)
		}
	}
	for name, change := range map[string]struct {
		text string
		done func() bool
	}{
		"removed": {strings.Replace(text, "  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: [\"*\"]}\n", "", 1), func() bool {
			c, err := net.Dial("tcp", g.tcp)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}},
		"policy": {text + fmt.Sprintf(policy, "127.0.0.0/8"), func() bool { // new ones are denied at once
			c := dial(t, g.tcp)
			defer c.Close()
			fmt.Fprintln(c, "let me in")
			_, err := bufio.NewReader(c).ReadByte()
			return err != nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g.place.Change(text)
			var one net.Conn
			var in *bufio.Reader
			Wait(t, "the listener", func() bool {
				c, err := net.Dial("tcp", g.tcp)
				if err != nil {
					return false
				}
				one, in = c, bufio.NewReader(c)
				_ = c.SetDeadline(time.Now().Add(2 * patience))
				fmt.Fprintln(c, "hello")
				s, err := in.ReadString('\n')
				return err == nil && s == "hello\n"
			})
			defer one.Close()
			// A change that does not concern it.
			g.place.Change(strings.Replace(text, "timeout: 0s, ", "timeout: 0s, headers: {response: {set: {x-new: \"yes\"}}}, ", 1))
			says(one, in, "still")
			g.place.Change(change.text)
			Wait(t, "the change", change.done)
			says(one, in, "go on")
			if s, err := in.ReadString('\n'); err != io.EOF {
				t.Errorf("it was not ended: %q %v", s, err)
			}
		})
	}
	if !p.Serves() {
		t.Error("it does not serve")
	}
}
