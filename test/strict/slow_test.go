package strict

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// short is a configured limit: what happens in its stead would take minutes.
const short = 60 * time.Millisecond

// listening starts a proxy in front of a program that reads strictly.
func listening(t *testing.T, edit func(*proxytest.Parts)) *proxytest.Proxy {
	t.Helper()
	s := proxytest.Forward(proxytest.To(newBackend(t, strict{}).addr), edit)
	s.Secrets = proxytest.NewCA(t).Secrets(t, proxytest.ServerURI, time.Hour)
	return proxytest.Start(t, &proxy.Bootstrap{}, s)
}

// connect dials, with a deadline that no good test meets.
func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

// ends reads to the end of a connection.
func ends(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatalf("the connection stays, after %q", b)
	}
	return string(b)
}

// drip sends some bytes, then one at a time as long as the connection lasts:
// each comes well before any limit.
func drip(c net.Conn, begin, rest string) {
	_, err := io.WriteString(c, begin)
	for i := 0; err == nil && rest != ""; i++ {
		time.Sleep(short / 20)
		_, err = io.WriteString(c, rest[i%len(rest):][:1])
	}
}

// TestSilentClients: a connection on which nothing is asked ends by the idle
// timeout, also while its protocol is not known yet.
func TestSilentClients(t *testing.T) {
	for _, c := range []struct {
		name  string
		codec conf.HTTPCodec
		send  string
		tls   bool
	}{
		{"nothing", conf.CodecAuto, "", false},
		{"nothing, HTTP/1", conf.CodecHTTP1, "", false},
		{"nothing under TLS", conf.CodecAuto, "", true},
		{"half a preface", conf.CodecAuto, "PRI * HTTP/2.0\r\n", false},
		{"half a preface under TLS", conf.CodecAuto, "PRI", true},
		{"between requests", conf.CodecAuto, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", false},
		{"empty lines", conf.CodecAuto, "\r\n\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := listening(t, func(p *proxytest.Parts) {
				p.HTTP.Codec, p.HTTP.IdleTimeout = c.codec, short
				if c.tls {
					p.Listener.Chains[0].TLS = &conf.ServerTLS{Certificates: []string{"default"}}
				}
			})
			conn := connect(t, p.Addr)
			if c.tls {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			if got := ends(t, conn); strings.HasPrefix(got, "HTTP") != strings.HasPrefix(c.send, "GET") {
				t.Errorf("said %q", got)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		p := listening(t, func(p *proxytest.Parts) { p.HTTP.IdleTimeout = short })
		c := connect(t, p.Addr)
		_, _ = io.WriteString(c, preface)
		f := frames{t, c}
		f.until(frameGoAway)
		_, _ = io.WriteString(c, frame(6, 1, 0, f.until(framePing))) // we have seen it
		f.until(-1)
	})
}

// TestSlowHeads: a head that comes byte by byte is over after the limit for
// heads, for requests, or for quiet streams, whichever is the shortest.
func TestSlowHeads(t *testing.T) {
	const whole = "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
	limits := map[string]func(*conf.HTTP){
		"SI": func(h *conf.HTTP) { h.StreamIdle = short },
		"-":  func(h *conf.HTTP) { h.HeadersTimeout, h.StreamIdle = short, time.Hour },
		"- ": func(h *conf.HTTP) { h.RequestTimeout, h.StreamIdle = short, -1 },
	}
	for flag, set := range limits {
		p := listening(t, func(p *proxytest.Parts) { set(p.HTTP) })
		for n, c := range []struct{ begin, rest string }{
			{"G", ""},
			{"GET / HTTP/1.1\r\nhost: a\r\n", ""},
			{"GET / HTTP/1.1\r\n", "a: b\r\n"},
			{whole + "GET", ""}, // behind a whole one
			{whole + whole + "GET / HTTP/1.1\r\n", "a: b\r\n"},
		} {
			conn := connect(t, p.Addr)
			go drip(conn, c.begin, c.rest)
			in := bufio.NewReader(conn)
			for range strings.Count(c.begin, whole) {
				if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != 200 {
					t.Fatalf("%v %v", r, err)
				}
			}
			if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != 408 {
				t.Errorf("%s: %q: %v %v, want 408", flag, c.begin, r, err)
			}
			ends(t, conn)
			if got := p.Requests(`response_code="408",[^}]*response_flags="` + strings.TrimSpace(flag) + `"`); got != n+1 {
				t.Errorf("%d recorded after %d\n%s", got, n+1, p.Totals())
			}
		}
		for _, begin := range []string{preface[:24], preface + frame(1, 1, 1, get), preface + "\x00\x00\x05"} {
			conn := connect(t, p.Addr)
			go drip(conn, begin, frame(9, 0, 1, "x"))
			f := frames{t, conn}
			if len(begin) > len(preface)+9 { // a request has begun
				if got := f.until(frameHeaders); !strings.Contains(got, "408") {
					t.Errorf("%s: answered %q over HTTP/2, want 408", flag, got)
				}
				f.until(frameGoAway)
			}
			f.until(-1)
		}
		if heard := verdict(t, p.Addr, []byte("GET /probe HTTP/1.1\r\nhost: a\r\n\r\n")); len(heard) != 1 {
			t.Errorf("another client hears %q", heard)
		}
	}
}

// TestSlowBodies: a body on which nothing comes is over by the stream idle
// timeout; one that comes byte by byte by the limit for whole requests; the
// rest of one that was answered before its end too.
func TestSlowBodies(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nhost: a\r\n"
	for _, c := range []struct {
		name, begin, rest, flag string
		set                     func(*proxytest.Parts)
	}{
		{"quiet", head + "content-length: 9\r\n\r\nhalf", "", "SI", func(p *proxytest.Parts) { p.HTTP.StreamIdle = short }},
		{"quiet, chunked", head + "transfer-encoding: chunked\r\n\r\n4\r\nha", "", "SI", func(p *proxytest.Parts) { p.HTTP.StreamIdle = short }},
		{"dripping", head + "content-length: 99999\r\n\r\n", "x", "-", func(p *proxytest.Parts) { p.HTTP.RequestTimeout = short }},
		{"dripping chunks", head + "transfer-encoding: chunked\r\n\r\n", "1\r\nx\r\n", "-", func(p *proxytest.Parts) { p.HTTP.RequestTimeout = short }},
		{"dripping trailers", head + "transfer-encoding: chunked\r\n\r\n0\r\n", "a: b\r\n", "SI", func(p *proxytest.Parts) { p.HTTP.StreamIdle = short }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := listening(t, c.set)
			conn := connect(t, p.Addr)
			go drip(conn, c.begin, c.rest)
			if got := ends(t, conn); !strings.HasPrefix(got, "HTTP/1.1 408 ") {
				t.Errorf("got %q", got)
			}
			if p.Requests(`response_code="408",[^}]*response_flags="`+c.flag+`"`) != 1 {
				t.Errorf("not recorded\n%s", p.Totals())
			}
		})
		t.Run(c.name+", HTTP/2", func(t *testing.T) {
			p := listening(t, c.set)
			conn := connect(t, p.Addr)
			rest := ""
			if c.rest != "" && c.flag == "-" {
				rest = frame(0, 0, 1, "x")
			}
			go drip(conn, preface+frame(1, 4, 1, post)+frame(0, 0, 1, "half"), rest)
			f := frames{t, conn}
			if block := f.until(1); !strings.Contains(block, "408") {
				t.Errorf("answered %q", block)
			}
		})
	}
	t.Run("answered", func(t *testing.T) {
		p := listening(t, func(p *proxytest.Parts) {
			p.HTTP.StreamIdle = short
			p.Route.Forward, p.Route.Direct = nil, &conf.Direct{Status: 200}
		})
		conn := connect(t, p.Addr)
		go drip(conn, head+"content-length: 9999\r\n\r\n", "x")
		if got := ends(t, conn); !strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Count(got, "HTTP/1.1") != 1 {
			t.Errorf("got %q", got)
		}
	})
}

// TestStoppedReader: who asks for much and does not read it is cut by the
// stream idle timeout, and what is held for it until then is bounded.
func TestStoppedReader(t *testing.T) {
	gone := make(chan int, 1)
	app := listen(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n")
		n, b := 0, make([]byte, 64<<10)
		for ; err == nil; n += len(b) {
			_, err = c.Write(b)
		}
		gone <- n
	})
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(app),
		func(p *proxytest.Parts) { p.HTTP.StreamIdle = 5 * short }))
	for name, ask := range map[string]string{
		"HTTP/1": "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
		"HTTP/2": preface + frame(1, 5, 1, get),
	} {
		conn := connect(t, p.Addr)
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		if _, err := io.WriteString(conn, ask); err != nil {
			t.Fatal(err)
		}
		select {
		case n := <-gone: // sockets of both sides hold some MiB
			if t.Logf("%s: %d KiB went", name, n>>10); n > 32<<20 {
				t.Errorf("%s: %d MiB went to who does not read", name, n>>20)
			}
		case <-time.After(2 * patience):
			t.Fatalf("%s: the program still waits", name)
		}
	}
}
