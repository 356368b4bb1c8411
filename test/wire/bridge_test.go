package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// The rows of the bridge's contract (internal/proxy/exchange/bridge.go), each
// through two sidecars with mTLS, with the bridge and without.

func ok(c net.Conn, extra string) {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n%s\r\n", extra)
}

func TestVersion(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		heads := make(chan string, 2)
		o.Server = func(p *proxytest.Parts) {
			p.Route.Request.Set = []conf.Header{{Name: "x-spoken", Value: "%PROTOCOL%", Dynamic: true}}
		}
		m := proxytest.NewMesh(t, answers(t, func(h string, c net.Conn, _ *bufio.Reader) { heads <- h; ok(c, "") }), o)
		for _, v := range []string{"1.1", "1.0"} {
			c := dial(t, m.Client.Addr).say("GET /v HTTP/%s\r\nhost: a\r\n\r\n", v)
			if h := c.head(); !strings.HasPrefix(h, "HTTP/"+v+" 200") {
				t.Errorf("%s is answered %q", v, h)
			}
			want := v
			if o.NoBridge {
				want = "1.1" // what the first sidecar spoke
			}
			if h := <-heads; !strings.HasPrefix(h, "GET /v HTTP/1.1\r\n") || field(h, "x-spoken") != "HTTP/"+want || field(h, "tulle-orig") != "-" {
				t.Errorf("%s reaches the program as %q", v, h)
			}
		}
	})
}

func TestUpgrade(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		heads := make(chan string, 1)
		more := func(p *proxytest.Parts) { p.HTTP.Upgrades = []string{"websocket", "chat"} }
		o.Client, o.Server = more, more
		addr := app(t, func(c net.Conn, in *bufio.Reader) {
			h, err := head(in)
			if err != nil {
				return
			}
			heads <- h
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: %s\r\n", field(h, "upgrade"))
			if field(h, "upgrade") == "websocket" {
				// RFC 6455 1.3: of the key dGhlIHNhbXBsZSBub25jZQ==
				fmt.Fprint(c, "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
			}
			fmt.Fprint(c, "\r\nwelcome\n")
			for line, err := in.ReadString('\n'); err == nil; line, err = in.ReadString('\n') {
				fmt.Fprint(c, "got "+line)
			}
			fmt.Fprint(c, "bye\n") // after the client has ended its side
		})
		m := proxytest.NewMesh(t, addr, o)
		for _, r := range [][2]string{{"GET", "websocket"}, {"GET", "chat"}, {"POST", "chat"}} {
			c := dial(t, m.Client.Addr).say("%s /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: %s\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly\n", r[0], r[1])
			h := c.head()
			if status(h) != "101" || field(h, "upgrade") != r[1] || r[1] == "websocket" && field(h, "sec-websocket-accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Fatalf("%v is answered %q", r, h)
			}
			if saw := <-heads; !strings.HasPrefix(saw, r[0]+" /chat HTTP/1.1\r\n") || field(saw, "upgrade") != r[1] {
				t.Fatalf("%v reaches the program as %q", r, saw)
			}
			if got := c.line() + c.line(); got != "welcome\ngot early\n" {
				t.Fatalf("got %q", got)
			}
			c.say("one\n")
			if got := c.line(); got != "got one\n" {
				t.Fatalf("got %q", got)
			}
			_ = c.CloseWrite()
			if got, err := c.rest(); got != "bye\n" || err != nil {
				t.Fatalf("after our end: %q, %v", got, err)
			}
		}
		idle(t, m.Client, m.Server)
		// Refused: an ordinary answer, and the connection is not lost.
		c := dial(t, m.Client.Addr).say("GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: nothing\r\n\r\n")
		if saw := <-heads; field(saw, "upgrade") != "-" {
			t.Errorf("a protocol that nobody allows goes on: %q", saw)
		}
		_ = c.Close()
	})
}

// TestUpgradePassedOver: a program may answer as if the upgrade had not been
// asked for (RFC 9110 7.8); nobody takes that for a switch.
func TestUpgradePassedOver(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		answer := ""
		m := proxytest.NewMesh(t, answers(t, func(_ string, c net.Conn, _ *bufio.Reader) { fmt.Fprint(c, answer) }), o)
		for _, a := range []string{"200 OK", "206 Partial Content", "404 Not Found", "501 Not Implemented"} {
			answer = "HTTP/1.1 " + a + "\r\ncontent-length: 4\r\ntulle-orig: 200\r\n\r\npage"
			c := dial(t, m.Client.Addr)
			for range 2 { // the connection goes on
				r, b := c.say("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").response("GET")
				if r.Status != a || b != "page" || r.Header.Get("tulle-orig") != "" && !o.NoBridge {
					t.Errorf("%s arrives as %s %v %q", a, r.Status, r.Header, b)
				}
			}
		}
		idle(t, m.Client, m.Server)
	})
}

func TestInterim(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		m := proxytest.NewMesh(t, answers(t, func(h string, c net.Conn, in *bufio.Reader) {
			fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
			if field(h, "expect") == "100-continue" {
				fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n")
				b := make([]byte, 4)
				_, _ = io.ReadFull(in, b)
				ok(c, "x-body: "+string(b)+"\r\n")
				return
			}
			ok(c, "")
		}), o)
		c := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
		if h := c.head(); status(h) != "103" || field(h, "link") != "</a.css>" {
			t.Fatalf("first %q", h)
		}
		if h := c.head(); status(h) != "100" {
			t.Fatalf("then %q", h)
		}
		c.say("body")
		if h := c.head(); status(h) != "200" || field(h, "x-body") != "body" {
			t.Fatalf("then %q", h)
		}
		c = dial(t, m.Client.Addr).say("GET / HTTP/1.0\r\nhost: a\r\n\r\n") // knows no interim answers
		if h := c.head(); status(h) != "200" {
			t.Fatalf("HTTP/1.0 got %q", h)
		}
	})
}

func TestBodyless(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		m := proxytest.NewMesh(t, answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
			switch {
			case strings.HasPrefix(h, "HEAD"):
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\ncontent-length: 42\r\n\r\n")
			case strings.HasPrefix(h, "GET /204"):
				fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
			default:
				fmt.Fprint(c, "HTTP/1.1 304 Not Modified\r\ncontent-length: 42\r\netag: \"x\"\r\n\r\n")
			}
		}), o)
		c := dial(t, m.Client.Addr) // one connection: a body too many would show
		for _, r := range [][3]string{{"HEAD /", "200", "42"}, {"GET /204", "204", "-"}, {"GET /304", "304", "42"}, {"HEAD /", "200", "42"}} {
			h := c.say("%s HTTP/1.1\r\nhost: a\r\n\r\n", r[0]).head()
			if status(h) != r[1] || field(h, "content-length") != r[2] || field(h, "transfer-encoding") != "-" {
				t.Errorf("%s: %q", r[0], h)
			}
		}
	})
}

func TestFraming(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		m := proxytest.NewMesh(t, app(t, func(c net.Conn, in *bufio.Reader) {
			for {
				h, err := head(in)
				if err != nil {
					return
				}
				switch {
				case strings.HasPrefix(h, "GET /close"):
					fmt.Fprint(c, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end")
					return
				case strings.HasPrefix(h, "GET /old"):
					fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nuntil the end")
					return
				}
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nuntil \r\n7\r\nthe end\r\n0\r\n\r\n")
			}
		}), o)
		c := dial(t, m.Client.Addr)
		for _, p := range []string{"/close", "/old", "/chunked"} {
			r, b := c.say("GET %s HTTP/1.1\r\nhost: a\r\n\r\n", p).response("GET")
			if r.StatusCode != 200 || b != "until the end" || len(r.TransferEncoding) != 1 {
				t.Errorf("%s: %v %q", p, r, b)
			}
			old := dial(t, m.Client.Addr).say("GET %s HTTP/1.0\r\nhost: a\r\n\r\n", p)
			if h := old.head(); status(h) != "200" || field(h, "transfer-encoding") != "-" {
				t.Errorf("%s to HTTP/1.0: %q", p, h)
			}
			if b, err := old.rest(); b != "until the end" || err != nil {
				t.Errorf("%s to HTTP/1.0: %q %v", p, b, err)
			}
		}
	})
}

// TestTruncated: a body that breaks off is never taken for a whole one.
func TestTruncated(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		at, saw := make(chan bool, 1), make(chan error, 1)
		m := proxytest.NewMesh(t, app(t, func(c net.Conn, in *bufio.Reader) {
			h, err := head(in)
			if err != nil {
				return
			}
			if strings.HasPrefix(h, "POST") {
				at <- true
				r := io.Reader(in)
				if field(h, "transfer-encoding") == "chunked" { // it must not see the last chunk
					b, err := io.ReadAll(r)
					if err == nil && strings.HasSuffix(string(b), "0\r\n\r\n") {
						saw <- nil
						return
					}
					saw <- io.ErrUnexpectedEOF
					return
				}
				_, err := io.ReadFull(r, make([]byte, 100))
				saw <- err
				return
			}
			switch {
			case strings.HasPrefix(h, "GET /sized"):
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
			case strings.HasPrefix(h, "GET /chunked"):
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
			case strings.HasPrefix(h, "GET /close"):
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf")
				_, _ = in.Peek(1) // until the client has it
				_ = c.(*net.TCPConn).SetLinger(0)
			}
		}), o)
		for _, p := range []string{"/sized", "/chunked"} {
			c := dial(t, m.Client.Addr).say("GET %s HTTP/1.1\r\nhost: a\r\n\r\n", p)
			if h := c.head(); status(h) != "200" {
				t.Fatalf("%s: %q", p, h)
			}
			if b, err := c.rest(); err == nil && strings.HasSuffix(b, "0\r\n\r\n") {
				t.Errorf("%s: a clean end after %q", p, b)
			}
		}
		for _, p := range []string{"content-length: 100\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"} {
			c := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\n%s", p)
			<-at
			_ = c.Close()
			if err := <-saw; err == nil {
				t.Errorf("the program took %q for whole", p)
			}
		}
		idle(t, m.Client, m.Server)
	})
}

func TestTrailers(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		m := proxytest.NewMesh(t, answers(t, func(h string, c net.Conn, in *bufio.Reader) {
			body := ""
			for !strings.HasSuffix(body, "\r\n\r\n") {
				b, err := in.ReadByte()
				if err != nil {
					return
				}
				body += string(b)
			}
			_, trailer, _ := strings.Cut(body, "0\r\n")
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nx-saw: %s\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n", strings.TrimSpace(trailer))
		}), o)
		c := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-mine: 5\r\n\r\n")
		r, b := c.response("POST")
		if b != "hi" || r.Trailer.Get("x-sum") != "7" || r.Header.Get("x-saw") != "x-mine: 5" {
			t.Errorf("%q trailers %v head %v", b, r.Trailer, r.Header)
		}
	})
}

func TestFields(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		heads := make(chan string, 1)
		m := proxytest.NewMesh(t, answers(t, func(h string, c net.Conn, _ *bufio.Reader) {
			heads <- h
			ok(c, "keep-alive: timeout=5\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n")
		}), o)
		c := dial(t, m.Client.Addr).say("GET / HTTP/1.1\r\nhost: Orders:80\r\ncookie: a=1; b=2\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n" +
			"keep-alive: 5\r\nproxy-connection: x\r\nx-many: 1\r\nx-many: 2\r\nx-empty:\r\ntulle-orig: 1.0\r\ntulle-peer: evil;web;e;e;e\r\n\r\n")
		h := c.head()
		if field(h, "set-cookie") != "a=1 | b=2" || field(h, "keep-alive") != "-" {
			t.Errorf("answer %q", h)
		}
		saw := <-heads
		for name, want := range map[string]string{"host": "Orders:80", "cookie": "a=1; b=2", "x-hop": "-", "keep-alive": "-",
			"proxy-connection": "-", "x-many": "1 | 2", "x-empty": "", "tulle-orig": "-", "tulle-peer": "-", "connection": "-"} {
			if got := field(saw, name); got != want {
				t.Errorf("the program saw %s: %q, want %q", name, got, want)
			}
		}
	})
}

// TestAbort: who goes away is not waited for, and nothing is left behind.
func TestAbort(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		at, gone := make(chan bool, 1), make(chan error, 1)
		m := proxytest.NewMesh(t, app(t, func(c net.Conn, in *bufio.Reader) {
			h, err := head(in)
			if err != nil {
				return
			}
			if strings.HasPrefix(h, "GET /drop") {
				return // without an answer
			}
			at <- true
			_, err = in.ReadByte()
			gone <- err
		}), o)
		c := dial(t, m.Client.Addr).say("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
		<-at
		_ = c.Close()
		if err := <-gone; err == nil {
			t.Error("the program is not told that its client has gone")
		}
		r, b := dial(t, m.Client.Addr).say("GET /drop HTTP/1.1\r\nhost: a\r\n\r\n").response("GET")
		if r.StatusCode != 503 || !strings.Contains(b, "connection termination") {
			t.Errorf("%d %q", r.StatusCode, b)
		}
		idle(t, m.Client, m.Server)
		eventually(t, "DC is counted", func() bool {
			return m.Client.Requests(`response_flags="DC"`) == 1 && m.Server.Requests(`response_flags="DC"`) == 1
		})
		if m.Server.Requests(`response_flags="UC"`) != 1 {
			t.Errorf("no UC in\n%s", m.Server.Totals())
		}
	})
}

// TestEarlyResponse: an answer before the end of the request is kept.
func TestEarlyResponse(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		m := proxytest.NewMesh(t, app(t, func(c net.Conn, in *bufio.Reader) {
			if _, err := head(in); err == nil {
				fmt.Fprint(c, "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmuch")
				_, _ = io.Copy(io.Discard, in)
			}
		}), o)
		c := dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nsome")
		if r, b := c.response("POST"); r.StatusCode != 413 || b != "much" {
			t.Errorf("%d %q", r.StatusCode, b)
		}
		idle(t, m.Client, m.Server)
		// A small rest is read and forgotten: the connection serves on.
		c = dial(t, m.Client.Addr).say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nsome")
		if r, _ := c.response("POST"); r.StatusCode != 413 {
			t.Errorf("%d", r.StatusCode)
		}
		c.say("restPOST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nsome")
		if r, _ := c.response("POST"); r.StatusCode != 413 {
			t.Errorf("%d", r.StatusCode)
		}
	})
}
