package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

const patience = 30 * time.Second

// app runs serve for every connection to an address on loopback.
func app(t testing.TB, serve func(c net.Conn, in *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			_ = c.Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			go func() {
				defer func() {
					_ = c.Close()
					mu.Lock()
					delete(open, c)
					mu.Unlock()
				}()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().String()
}

// head reads a message's head as it was sent, without its last empty line.
func head(in *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return b.String(), err
		}
		if line == "\r\n" {
			return b.String(), nil
		}
		b.WriteString(line)
	}
}

// answers runs an app that answers every head with what answer makes of it.
func answers(t testing.TB, answer func(head string, c net.Conn, in *bufio.Reader)) string {
	return app(t, func(c net.Conn, in *bufio.Reader) {
		for {
			h, err := head(in)
			if err != nil {
				return
			}
			answer(h, c, in)
		}
	})
}

// conn is a client's connection, with a deadline.
type conn struct {
	t testing.TB
	*net.TCPConn
	in *bufio.Reader
}

func dial(t testing.TB, addr string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return &conn{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

// say sends text as it is.
func (c *conn) say(format string, args ...any) *conn {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// head reads a head.
func (c *conn) head() string {
	c.t.Helper()
	h, err := head(c.in)
	if err != nil {
		c.t.Fatalf("after %q: %v", h, err)
	}
	return h
}

// line reads a line.
func (c *conn) line() string {
	c.t.Helper()
	s, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("after %q: %v", s, err)
	}
	return s
}

// rest reads to the end of the connection.
func (c *conn) rest() (string, error) {
	b, err := io.ReadAll(c.in)
	return string(b), err
}

// response reads a whole response to a method.
func (c *conn) response(method string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatalf("body after %q: %v", b, err)
	}
	return r, string(b)
}

// status is the code of a head.
func status(head string) string {
	_, s, _ := strings.Cut(head, " ")
	s, _, _ = strings.Cut(s, " ")
	return strings.TrimSpace(s)
}

// field of a head as it was sent, "-" when it has none.
func field(head, name string) string {
	v := "-"
	for _, l := range strings.Split(head, "\r\n") {
		if k, val, ok := strings.Cut(l, ":"); ok && strings.EqualFold(k, name) {
			if v != "-" {
				v += " | "
			} else {
				v = ""
			}
			v += strings.TrimSpace(val)
		}
	}
	return v
}

// eventually waits for something that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so after %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// idle waits until a proxy holds nothing of its cluster's limits any more.
func idle(t testing.TB, ps ...*proxytest.Proxy) {
	t.Helper()
	for _, p := range ps {
		h := p.Cluster("backend")
		eventually(t, "requests, pending and retries are given back", func() bool {
			return h.Used(cluster.Requests) == 0 && h.Used(cluster.Pending) == 0 && h.Used(cluster.Retries) == 0
		})
		for _, e := range h.Endpoints() {
			eventually(t, "nothing is active at "+e.String(), func() bool { return e.Active() == 0 })
		}
	}
}

// bothWays runs a test with the bridge and without: the answers are the same.
func bothWays(t *testing.T, test func(t *testing.T, o proxytest.Options)) {
	for name, off := range map[string]bool{"bridge": false, "no bridge": true} {
		t.Run(name, func(t *testing.T) { test(t, proxytest.Options{NoBridge: off}) })
	}
}
