package life

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// TestBackendDies: a backend that dies in the middle of a response is never
// taken for one that has ended, in whichever form either side has the body; the
// log tells what it was.
func TestBackendDies(t *testing.T) {
	const began = "the beginning"
	h1 := func(head string) string {
		return bytesBackend(t, func(c net.Conn, in *bufio.Reader) {
			if _, err := http.ReadRequest(in); err == nil {
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\n"+head+began)
			}
			if strings.Contains(head, "reset") {
				_ = c.(*net.TCPConn).SetLinger(0)
			}
		})
	}
	h2 := web(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, began)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	cut := httptest.NewUnstartedServer(nil) // dies with its connection
	cut.Config.Protocols = &http.Protocols{}
	cut.Config.Protocols.SetUnencryptedHTTP2(true)
	cut.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, began)
		_ = http.NewResponseController(w).Flush()
		go cut.CloseClientConnections()
		select {}
	})
	cut.Start()
	for name, b := range map[string]struct{ addr, protocol, flag string }{
		"content-length":       {h1("content-length: 1000\r\n\r\n"), "HTTP", "UC"},
		"content-length reset": {h1("content-length: 1000\r\nx: reset\r\n\r\n"), "HTTP", "UC"},
		"chunked":              {h1("transfer-encoding: chunked\r\n\r\nd\r\n"), "HTTP", "UC"},
		"HTTP/2 stream":        {h2, "HTTP2", "UR"},
		"HTTP/2 connection":    {strings.TrimPrefix(cut.URL, "http://"), "HTTP2", "UC"},
	} {
		t.Run(name, func(t *testing.T) {
			log := &output{}
			g := newGateway(t, b.addr, b.protocol)
			p := g.Serve(stdout(log))
			for _, two := range []bool{false, true} {
				r, err := client(t, two).Get("http://" + g.http + "/")
				if err != nil {
					if !strings.Contains(name, "reset") { // may overtake what came before
						t.Error(err)
					}
					continue
				}
				got, err := io.ReadAll(r.Body)
				_ = r.Body.Close()
				if err == nil {
					t.Errorf("h2 %t: %d %q looks whole", two, r.StatusCode, got)
				}
				if !strings.HasPrefix(began, string(got)) {
					t.Errorf("h2 %t: %q", two, got)
				}
			}
			p.Term()
			if err := p.End(); err != nil {
				t.Error(err)
			}
			for _, l := range lines(log) {
				if f := strings.Fields(l); len(f) != 5 || !strings.Contains(f[2], b.flag) {
					t.Errorf("log: %q, want %s", l, b.flag)
				}
			}
		})
	}
}

// TestSlowReaders: clients that ask for much and read nothing cost little, and
// others notice nothing.
func TestSlowReaders(t *testing.T) {
	const clients, size = 50, 64 << 20
	piece := make([]byte, 64<<10)
	backend := web(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			echo(w, r)
			return
		}
		w.Header().Set("content-length", fmt.Sprint(size))
		for range size / len(piece) {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	g := newGateway(t, backend, "HTTP")
	p := g.Serve(nil)
	c := client(t, false)
	for range 100 {
		if err := post(c, g.http, "warm"); err != nil {
			t.Fatal(err)
		}
	}
	before := p.Resident()
	two := client(t, true)
	var held []io.Closer
	for i := range clients {
		if i%2 == 0 {
			c := dial(t, g.http)
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			fmt.Fprint(c, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")
			held = append(held, c)
			continue
		}
		r, err := two.Get("http://" + g.http + "/")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r.Body)
	}
	for range 500 { // meanwhile what can pile up does
		if err := post(c, g.http, "others"); err != nil {
			t.Fatal(err)
		}
	}
	if grown := p.Resident() - before; grown > clients*512 {
		t.Errorf("%d KiB more for %d clients that do not read", grown, clients)
	}
	for _, c := range held {
		_ = c.Close()
	}
	Wait(t, "their requests are over", func() bool {
		_, text := p.Page("GET", "/clusters")
		return strings.Contains(text, "outbound|80||backend.shop::active_requests::0")
	})
	if err := post(c, g.http, "after"); err != nil {
		t.Error(err)
	}
}

// TestStuckPeer: a client that asks and reads nothing does not hold up the end
// of the process beyond its limit.
func TestStuckPeer(t *testing.T) {
	g := newGateway(t, bytesBackend(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", 1<<30)
		b := make([]byte, 1<<20)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}), "HTTP")
	g.Boot.Drain = proxy.Duration(500 * time.Millisecond)
	p := g.Serve(nil)
	c := dial(t, g.http)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil); err != nil {
		t.Fatal(err)
	}
	p.Term()
	if err := p.End(); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("what was cut looks whole")
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
