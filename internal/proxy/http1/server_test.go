package http1

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

type rig struct {
	w   *streamtest.Wire
	a   *streamtest.Acceptor
	o   *ServerOptions
	s   *Server
	bad []string
}

func newRig() *rig {
	r := &rig{w: new(streamtest.Wire), a: new(streamtest.Acceptor)}
	r.o = &ServerOptions{Set: new(Set), AcceptHTTP10: true}
	r.o.OnBadRequest = func(_ *Server, status int, detail string) { r.bad = append(r.bad, detail) }
	r.s = NewServer(r.w, r.a, r.o)
	return r
}

func (r *rig) in(s string) { r.s.OnBytes([]byte(s)) }

func respond(p *streamtest.Peer, status int, body string) {
	h := &stream.Head{Status: status, Length: int64(len(body))}
	p.Stream.SendHead(h, body == "")
	if body != "" {
		p.Stream.SendData([]byte(body), true)
	}
}

const hostLine = "Host: a.example\r\n"

// Requests as they should be understood, whole and cut into single bytes.
var goodRequests = []struct{ name, in, want string }{
	{"get", "GET /x?y=1 HTTP/1.1\r\n" + hostLine + "\r\n", "GET a.example /x?y=1 end"},
	{"empty lines before", "\r\n\r\nGET / HTTP/1.1\r\n" + hostLine + "\r\n", "GET a.example / end"},
	{"names lower-case, values trimmed", "GET / HTTP/1.1\r\n" + hostLine + "X-Foo:\t bar baz \t\r\nEMPTY:\r\n\r\n", "GET a.example / [x-foo: bar baz] [empty: ] end"},
	{"length", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nhello", `POST a.example / [content-length: 5] length=5 body="hello" end`},
	{"length zero", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 0\r\n\r\n", `POST a.example / [content-length: 0] length=0 end`},
	{"same length twice", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", `POST a.example / [content-length: 2] length=2 body="hi" end`},
	{"chunked", "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", `POST a.example / body="hello0123456789" end`},
	{"trailers", "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: chunked\r\nTE: trailers, gzip;q=0.5\r\n\r\n1\r\na\r\n0\r\nX-Sum: 9\r\nContent-Length: 4\r\n\r\n", `POST a.example / [te: trailers, gzip;q=0.5] body="a" trailers{[x-sum: 9]} end`},
	{"hop by hop", "GET / HTTP/1.1\r\n" + hostLine + "Connection: keep-alive, X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\nX: y\r\n\r\n", "GET a.example / [x: y] end"},
	{"absolute form", "GET http://b.example:81/p?q HTTP/1.1\r\n" + hostLine + "\r\n", "GET b.example:81 /p?q end"},
	{"absolute form without path", "GET HTTP://b.example HTTP/1.1\r\n" + hostLine + "\r\n", "GET b.example / end"},
	{"absolute form with query", "GET http://b.example?q HTTP/1.1\r\n" + hostLine + "\r\n", "GET b.example /?q end"},
	{"options", "OPTIONS * HTTP/1.1\r\n" + hostLine + "\r\n", "OPTIONS a.example * end"},
	{"options absolute", "OPTIONS http://b.example HTTP/1.1\r\n" + hostLine + "\r\n", "OPTIONS b.example * end"},
	{"http/1.0 without host", "GET / HTTP/1.0\r\n\r\n", "GET  / end"},
	{"ipv6 host", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", "GET [2001:db8::1]:8080 / end"},
	{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET  / end"},
	{"obs-text", "GET / HTTP/1.1\r\n" + hostLine + "X: \xe4\xbd\xa0\r\n\r\n", "GET a.example / [x: \xe4\xbd\xa0] end"},
	{"upgrade", "GET /ws HTTP/1.1\r\n" + hostLine + "Connection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", "GET a.example /ws protocol=websocket"},
	{"upgrade of a kind we do not pass", "GET /ws HTTP/1.1\r\n" + hostLine + "Connection: Upgrade\r\nUpgrade: foo\r\n\r\n", "GET a.example /ws end"},
	{"connect", "CONNECT b.example:443 HTTP/1.1\r\n" + hostLine + "\r\n", "CONNECT b.example:443"},
	{"expect", "PUT / HTTP/1.1\r\n" + hostLine + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx", `PUT a.example / [expect: 100-continue] [content-length: 1] length=1 body="x" end`},
}

func TestRequests(t *testing.T) {
	for _, c := range goodRequests {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{len(c.in), 1, 3} {
				r := newRig()
				for i := 0; i < len(c.in); i += step {
					r.in(c.in[i:min(i+step, len(c.in))])
				}
				if got := r.a.Last().String(); got != c.want {
					t.Errorf("step %d\n got %s\nwant %s\n bad %v", step, got, c.want, r.bad)
				}
				if len(r.w.Sent) > 0 || r.w.Gone() {
					t.Errorf("step %d: unasked output %q", step, r.w.Sent)
				}
			}
		})
	}
}

var badRequests = []struct {
	name, in string
	status   int
	want     *bad
}{
	{"space before colon", "GET / HTTP/1.1\r\n" + hostLine + "X : y\r\n\r\n", 400, badName},
	{"bare LF", "GET / HTTP/1.1\n" + hostLine + "\r\n", 400, badNewline},
	{"bare LF after field", "GET / HTTP/1.1\r\n" + hostLine + "X: y\nZ: z\r\n\r\n", 400, badNewline},
	{"bare CR in value", "GET / HTTP/1.1\r\n" + hostLine + "X: y\rz\r\n\r\n", 400, badNewline},
	{"fold", "GET / HTTP/1.1\r\n" + hostLine + "X: y\r\n z\r\n\r\n", 400, badFold},
	{"NUL in value", "GET / HTTP/1.1\r\n" + hostLine + "X: y\x00z\r\n\r\n", 400, badValue},
	{"empty name", "GET / HTTP/1.1\r\n" + hostLine + ": y\r\n\r\n", 400, badName},
	{"no colon", "GET / HTTP/1.1\r\n" + hostLine + "xyz\r\n\r\n", 400, badNewline},
	{"no host", "GET / HTTP/1.1\r\n\r\n", 400, badHostNone},
	{"two hosts", "GET / HTTP/1.1\r\n" + hostLine + hostLine + "\r\n", 400, badHostTwice},
	{"host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, badHost},
	{"host with userinfo", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, badHost},
	{"length and chunked", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, badBoth},
	{"two lengths", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, badLengths},
	{"length list", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5, 5\r\n\r\n", 400, badLength},
	{"signed length", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: +5\r\n\r\n", 400, badLength},
	{"huge length", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 9999999999999999999\r\n\r\n", 400, badLength},
	{"gzip, chunked", "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, badCoding},
	{"chunked twice", "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501, badCoding},
	{"chunked with 1.0", "POST / HTTP/1.0\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n", 400, badCodingOld},
	{"chunked with vertical tab", "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: \x0bchunked\r\n\r\n", 400, badValue},
	{"version 2", "GET / HTTP/2.0\r\n" + hostLine + "\r\n", 505, badVersion},
	{"version 1.10", "GET / HTTP/1.10\r\n" + hostLine + "\r\n", 400, badLine},
	{"version 0.9", "GET /\r\n\r\n", 400, badLine},
	{"two spaces", "GET  / HTTP/1.1\r\n" + hostLine + "\r\n", 400, badLine},
	{"space in target", "GET /a b HTTP/1.1\r\n" + hostLine + "\r\n", 400, badLine},
	{"fragment", "GET /a#b HTTP/1.1\r\n" + hostLine + "\r\n", 400, badTarget},
	{"relative", "GET a HTTP/1.1\r\n" + hostLine + "\r\n", 400, badTarget},
	{"userinfo in target", "GET http://u@a/ HTTP/1.1\r\n" + hostLine + "\r\n", 400, badTarget},
	{"star", "GET * HTTP/1.1\r\n" + hostLine + "\r\n", 400, badTarget},
	{"connect without port", "CONNECT a HTTP/1.1\r\n" + hostLine + "\r\n", 400, badTarget},
	{"connect with body", "CONNECT a:1 HTTP/1.1\r\n" + hostLine + "content-length: 3\r\n\r\n", 400, badConnect},
	{"method", "G(T / HTTP/1.1\r\n" + hostLine + "\r\n", 400, badMethod},
	{"tls", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, badMethod},
	{"connection names length", "POST / HTTP/1.1\r\n" + hostLine + "Connection: content-length\r\nContent-Length: 1\r\n\r\n", 400, badConnection},
	{"many fields", "GET / HTTP/1.1\r\n" + hostLine + strings.Repeat("a: b\r\n", 100) + "\r\n", 431, badManyFields},
	{"large head", "GET / HTTP/1.1\r\n" + hostLine + "a: " + strings.Repeat("b", 70000) + "\r\n\r\n", 431, badLongHead},
	{"endless head", "GET / HTTP/1.1\r\n" + hostLine + "a: " + strings.Repeat("b", 70000), 431, badLongHead},
	{"long target", "GET /" + strings.Repeat("b", 70000), 414, badLongTarget},
	{"chunk size", chunkedHead + "x\r\n", 400, badChunk},
	{"chunk size with space", chunkedHead + "5 \r\nhello\r\n", 400, badChunk},
	{"chunk size overflow", chunkedHead + "fffffffffffffffff\r\n", 400, badChunk},
	{"chunk size zeros", chunkedHead + strings.Repeat("0", 17) + "1\r\n", 400, badChunk},
	{"chunk without CRLF", chunkedHead + "1\r\nab\r\n", 400, badChunk},
	{"chunk line LF", chunkedHead + "1\na\r\n0\r\n\r\n", 400, badChunk},
	{"chunk extension", chunkedHead + "1;" + strings.Repeat("x", 2000) + "\r\na\r\n", 400, badChunkExt},
	{"trailer", chunkedHead + "0\r\nx y: z\r\n\r\n", 400, badName},
	{"long trailers", chunkedHead + "0\r\nx: " + strings.Repeat("y", 70000), 400, badTrailers},
}

const chunkedHead = "POST / HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n"

func TestBadRequests(t *testing.T) {
	for _, c := range badRequests {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{len(c.in), 7} {
				r := newRig()
				for i := 0; i < len(c.in); i += step {
					r.in(c.in[i:min(i+step, len(c.in))])
				}
				if len(r.bad) != 1 || r.bad[0] != c.want.text {
					t.Errorf("step %d: detail %q, want %q", step, r.bad, c.want.text)
				}
				want := "HTTP/1.1 " + strings.TrimSpace(statusLines[c.status-100][9:])
				if got := r.w.Take(); !strings.HasPrefix(got, want) || !strings.Contains(got, "connection: close") {
					t.Errorf("step %d: answer %q, want %q", step, got, want)
				}
				if !r.w.Closed {
					t.Error("not closed")
				}
				if p := r.a.Last(); len(r.a.Requests) > 0 && p.Lost != stream.ProtocolError {
					t.Errorf("request was not reset: %s", p)
				}
				r.in("GET / HTTP/1.1\r\n" + hostLine + "\r\n")
				r.s.OnClose(nil)
				if len(r.w.Sent) > 0 {
					t.Errorf("output after close %q", r.w.Sent)
				}
			}
		})
	}
}

func TestHTTP10Refused(t *testing.T) {
	r := newRig()
	r.o.AcceptHTTP10 = false
	r.in("GET / HTTP/1.0\r\n\r\n")
	if got := r.w.Take(); !strings.HasPrefix(got, "HTTP/1.1 426 Upgrade Required\r\n") {
		t.Error(got)
	}
}

func TestResponses(t *testing.T) {
	head := func(status int, length int64, fields ...string) *stream.Head {
		h := &stream.Head{Status: status, Length: length}
		for i := 0; i < len(fields); i += 2 {
			h.AddString(fields[i], fields[i+1])
		}
		return h
	}
	get := "GET / HTTP/1.1\r\n" + hostLine + "\r\n"
	for _, c := range []struct {
		name, req string
		send      func(s stream.Stream)
		want      string
		closed    bool
	}{
		{"length", get, func(s stream.Stream) {
			s.SendHead(head(200, 5, "content-length", "5", "x", "y"), false)
			s.SendData([]byte("hello"), true)
		}, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\nhello", false},
		{"chunked", get, func(s stream.Stream) {
			s.SendHead(head(200, -1, "content-length", "77"), false)
			s.SendData([]byte("hello, chunks of it"), false)
			s.SendData(nil, true)
		}, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n13\r\nhello, chunks of it\r\n0\r\n\r\n", false},
		{"trailers", get, func(s stream.Stream) {
			s.SendHead(head(200, -1), false)
			s.SendData([]byte("a"), false)
			s.SendTrailers(head(0, -1, "x-sum", "1"))
		}, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n", false},
		{"no body", get, func(s stream.Stream) { s.SendHead(head(404, -1), true) }, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false},
		{"204", get, func(s stream.Stream) { s.SendHead(head(204, 0, "content-length", "0"), true) }, "HTTP/1.1 204 No Content\r\n\r\n", false},
		{"304 keeps its length", get, func(s stream.Stream) { s.SendHead(head(304, 9), true) }, "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", false},
		{"head", "HEAD / HTTP/1.1\r\n" + hostLine + "\r\n", func(s stream.Stream) {
			s.SendHead(head(200, 1234), false)
			s.SendData([]byte("never"), true)
		}, "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", false},
		{"interim", "PUT / HTTP/1.1\r\n" + hostLine + "Content-Length: 1\r\nExpect: 100-continue\r\n\r\nx", func(s stream.Stream) {
			s.SendHead(head(100, -1), false)
			s.SendHead(head(103, -1, "link", "</a>"), false)
			s.SendHead(head(200, 0), true)
		}, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false},
		{"expect refused", "PUT / HTTP/1.1\r\n" + hostLine + "Content-Length: 1\r\nExpect: 100-continue\r\n\r\n", func(s stream.Stream) {
			s.SendHead(head(413, 0), true)
		}, "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", true},
		{"connection: close", "GET / HTTP/1.1\r\n" + hostLine + "Connection: close\r\n\r\n", func(s stream.Stream) {
			s.SendHead(head(200, 0), true)
		}, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", true},
		{"http/1.0 until close", "GET / HTTP/1.0\r\n\r\n", func(s stream.Stream) {
			s.SendHead(head(103, -1), false)
			s.SendHead(head(200, -1), false)
			s.SendData([]byte("ab"), true)
		}, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nab", true},
		{"http/1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", func(s stream.Stream) {
			s.SendHead(head(200, 2), false)
			s.SendData([]byte("ab"), true)
		}, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nab", false},
		{"own reason, unknown status", get, func(s stream.Stream) {
			h := head(799, 0)
			h.Reason = []byte("So\tWhat")
			s.SendHead(h, true)
		}, "HTTP/1.1 799 So\tWhat\r\ncontent-length: 0\r\n\r\n", false},
		{"injected lines are left out", get, func(s stream.Stream) {
			s.SendHead(head(200, 0, "a", "b\r\nc: d", "e f", "g", "h", "i"), true)
		}, "HTTP/1.1 200 OK\r\nh: i\r\ncontent-length: 0\r\n\r\n", false},
		{"early response discards a small rest", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nab", func(s stream.Stream) {
			s.SendHead(head(403, 0), true)
		}, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", false},
		{"early response to a large rest", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5000000\r\n\r\nab", func(s stream.Stream) {
			s.SendHead(head(403, 0), true)
		}, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig()
			r.in(c.req)
			c.send(r.a.Last().Stream)
			if got := r.w.Take(); got != c.want {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
			if r.w.Closed != c.closed || r.w.Aborted {
				t.Errorf("closed %v aborted %v", r.w.Closed, r.w.Aborted)
			}
		})
	}
}

func TestEarlyResponseThenNext(t *testing.T) {
	r := newRig()
	r.in("POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nab")
	first := r.a.Last()
	respond(first, 403, "")
	r.in("cdeGET /2 HTTP/1.1\r\n" + hostLine + "\r\n")
	if got, want := r.a.Last().String(), "GET a.example /2 end"; got != want || len(r.a.Requests) != 2 {
		t.Errorf("got %s", got)
	}
	if got, want := first.String(), `POST a.example / [content-length: 5] length=5 body="ab"`; got != want {
		t.Errorf("the first was told of more: %s", got)
	}
}

func TestPipelining(t *testing.T) {
	for _, later := range []bool{false, true} {
		r := newRig()
		var due *Server
		idle := 0
		if later {
			r.o.Later = func(s *Server) { due = s }
		}
		r.o.OnIdle = func(*Server) { idle++ }
		var in strings.Builder
		for range 3 {
			in.WriteString("GET / HTTP/1.1\r\n" + hostLine + "\r\n")
		}
		r.in(in.String())
		for i := 1; i <= 3; i++ {
			if len(r.a.Requests) != i {
				t.Fatalf("%d requests before response %d", len(r.a.Requests), i)
			}
			old := r.a.Last()
			respond(old, 200, "x")
			old.Stream.Reset(stream.Cancelled) // late: must not reach the next
			if later && i < 3 {
				if len(r.a.Requests) != i || due == nil {
					t.Fatal("the next request did not wait for Continue")
				}
				due.Continue()
				due = nil
			}
		}
		if n := strings.Count(r.w.Take(), "200 OK"); n != 3 || r.w.Gone() {
			t.Errorf("%d responses, gone %v", n, r.w.Gone())
		}
		if idle != 1 || !r.s.Idle() {
			t.Errorf("idle told %d times", idle)
		}
	}
}

func TestPipelineBackPressure(t *testing.T) {
	r := newRig()
	one := "GET / HTTP/1.1\r\n" + hostLine + "\r\n"
	n := 2*maxAhead/len(one) + 1
	r.in(strings.Repeat(one, n))
	if !r.w.Paused {
		t.Fatal("reading goes on")
	}
	for i := range n {
		respond(r.a.Requests[i], 200, "")
	}
	if r.w.Paused || len(r.a.Requests) != n {
		t.Errorf("paused %v, %d of %d requests", r.w.Paused, len(r.a.Requests), n)
	}
}

// Trailers that come in pieces are read to their end, or to their limit, however
// much of them is kept.
func TestTrailersInPieces(t *testing.T) {
	for _, size := range []int{100, maxAhead - 1, maxAhead, 40_000, 70_000} {
		r := newRig()
		text := chunkedHead + "1\r\na\r\n0\r\nx-sum: " + strings.Repeat("y", size) + "\r\n\r\n"
		for len(text) > 0 && !r.w.Closed {
			n := min(len(text), 9_000)
			r.in(text[:n])
			if text = text[n:]; r.w.Paused && len(text) > 0 {
				t.Fatalf("%d: reading has stopped, %d bytes to come", size, len(text))
			}
		}
		if tooLarge := strings.Contains(r.w.Take(), " 400 "); tooLarge != (size == 70_000) {
			t.Errorf("%d: refused %v", size, tooLarge)
		}
		if size < 70_000 && (len(r.a.Requests) != 1 || r.a.Last().Trailers == nil || !r.a.Last().End) {
			t.Errorf("%d: the request has not ended", size)
		}
	}
}

func TestSynchronousAnswers(t *testing.T) {
	r := newRig()
	r.a.Handle = func(p *streamtest.Peer, h *stream.Head, end bool) { respond(p, 200, "y") }
	idle := 0
	r.o.OnIdle = func(*Server) { idle++ }
	r.in(strings.Repeat("GET / HTTP/1.1\r\n"+hostLine+"\r\n", 5000))
	if len(r.a.Requests) != 5000 || idle != 1 {
		t.Errorf("%d requests, idle %d", len(r.a.Requests), idle)
	}
}

func TestDrain(t *testing.T) {
	r := newRig()
	r.in("GET / HTTP/1.1\r\n" + hostLine + "\r\n")
	r.s.Drain()
	respond(r.a.Last(), 200, "x")
	if got := r.w.Take(); !strings.Contains(got, "connection: close\r\n") || !r.w.Closed {
		t.Error(got)
	}
}

func TestClientGone(t *testing.T) {
	for _, c := range []struct {
		name, in string
		eof      bool
		half     bool
		want     string
	}{
		{"eof before response", "GET / HTTP/1.1\r\n" + hostLine + "\r\n", true, false, "GET a.example / end reset(6 downstream closed before the response ended)"},
		{"eof in body", "POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nab", true, true, `POST a.example / [content-length: 5] length=5 body="ab" reset(6 downstream closed within the request)`},
		{"lost", "GET / HTTP/1.1\r\n" + hostLine + "\r\n", false, true, "GET a.example / end reset(6 downstream connection lost)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig()
			r.o.HalfClose = c.half
			r.in(c.in)
			if c.eof {
				r.s.OnEOF()
			}
			r.s.OnClose(nil)
			if got := r.a.Last().String(); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
			respond(r.a.Last(), 200, "late")
			if len(r.w.Sent) > 0 {
				t.Errorf("output %q", r.w.Sent)
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	r := newRig()
	r.o.HalfClose = true
	one := "GET / HTTP/1.1\r\n" + hostLine + "\r\n"
	r.in(one + one)
	r.s.OnEOF()
	respond(r.a.Requests[0], 200, "a")
	if r.w.Gone() || len(r.a.Requests) != 2 {
		t.Fatal("the pipelined request was lost")
	}
	respond(r.a.Requests[1], 200, "b")
	if got := r.w.Take(); strings.Count(got, "200 OK") != 2 || !r.w.Closed {
		t.Errorf("%q closed %v", got, r.w.Closed)
	}
}

const wsRequest = "GET /ws HTTP/1.1\r\n" + hostLine + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

func TestUpgrade(t *testing.T) {
	r := newRig()
	r.in(wsRequest + "early")
	p := r.a.Last()
	if p.End || len(p.Body) > 0 {
		t.Fatalf("before the switch: %s", p)
	}
	p.Stream.SendHead(&stream.Head{Status: 101, Protocol: []byte("websocket"), Length: -1}, false)
	want := "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	if got := r.w.Take(); got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	r.in("more")
	p.Stream.SendData([]byte("GET / back"), false)
	if got := r.w.Take(); string(p.Body) != "earlymore" || got != "GET / back" {
		t.Errorf("in %q out %q", p.Body, got)
	}
	r.s.OnEOF()
	if !p.End || r.w.Gone() {
		t.Errorf("half-close: %s", p)
	}
	p.Stream.SendData([]byte("!"), true)
	if got := r.w.Take(); got != "!" || !r.w.Closed {
		t.Errorf("%q closed %v", got, r.w.Closed)
	}
}

func TestUpgradeRefused(t *testing.T) {
	for _, c := range []struct {
		behind string
		closed bool
	}{{"", false}, {"GET /smuggled HTTP/1.1\r\n" + hostLine + "\r\n", true}} {
		r := newRig()
		r.in(wsRequest + c.behind)
		respond(r.a.Last(), 403, "no")
		if r.w.Closed != c.closed || len(r.a.Requests) != 1 {
			t.Errorf("behind %q: closed %v, %d requests", c.behind, r.w.Closed, len(r.a.Requests))
		}
		if !c.closed {
			r.in("GET /2 HTTP/1.1\r\n" + hostLine + "\r\n")
			if len(r.a.Requests) != 2 {
				t.Error("no second request")
			}
		}
	}
}

func TestConnect(t *testing.T) {
	r := newRig()
	r.in("CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n")
	p := r.a.Last()
	p.Stream.SendHead(&stream.Head{Status: 200, Length: -1}, false)
	r.in("\x16\x03")
	if got := r.w.Take(); got != "HTTP/1.1 200 OK\r\n\r\n" || string(p.Body) != "\x16\x03" {
		t.Errorf("%q %q", got, p.Body)
	}
	p.Stream.SendData(nil, true)
	if !r.w.Half || r.w.Gone() {
		t.Error("no half-close")
	}
	r.s.OnEOF()
	if !r.w.Closed {
		t.Error("open")
	}
}

func TestBrokenPromise(t *testing.T) {
	for _, body := range []string{"toolong", "x"} {
		r := newRig()
		r.in("GET / HTTP/1.1\r\n" + hostLine + "\r\n")
		p := r.a.Last()
		p.Stream.SendHead(&stream.Head{Status: 200, Length: 3}, false)
		p.Stream.SendData([]byte(body), true)
		if !r.w.Aborted || p.Lost != stream.NoReset {
			t.Errorf("aborted %v %s", r.w.Aborted, p)
		}
		r.s.OnClose(nil)
		if p.Lost != stream.ProtocolError {
			t.Errorf("%s", p)
		}
		if got := r.w.Take(); len(got) > len("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nxxx") {
			t.Errorf("more than promised: %q", got)
		}
	}
}

// A response that is broken off never has a clean end: no last chunk, or RST
// where the end of the connection would be the end of the body.
func TestResetIsSeen(t *testing.T) {
	for _, v := range []string{"1.0", "1.1"} {
		r := newRig()
		r.in("GET / HTTP/" + v + "\r\n" + hostLine + "\r\n")
		p := r.a.Last()
		p.Stream.SendHead(&stream.Head{Status: 200, Length: -1}, false)
		p.Stream.SendData([]byte("part"), false)
		p.Stream.Reset(stream.ConnectionLost)
		p.Stream.SendData([]byte("late"), true)
		r.s.OnClose(nil)
		if r.w.Aborted != (v == "1.0") || r.w.Closed != (v == "1.1") || p.Lost != stream.NoReset {
			t.Errorf("%s: aborted %v closed %v %s", v, r.w.Aborted, r.w.Closed, p)
		}
		if out := r.w.Take(); strings.HasSuffix(out, "0\r\n\r\n") || strings.Contains(out, "late") {
			t.Errorf("%q", out)
		}
	}
}

func TestPause(t *testing.T) {
	r := newRig()
	r.in("POST / HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nab")
	s := r.a.Last().Stream
	s.Pause(true)
	if !r.w.Paused {
		t.Error("reads on")
	}
	s.Pause(false)
	r.in("cde")
	r.w.Block = true
	if r.w.Paused || !s.Blocked() {
		t.Error("paused or not blocked")
	}
	r.s.OnWritable()
	if r.a.Last().Writable != 1 {
		t.Error("not told")
	}
	s.Pause(true)
	respond(r.a.Last(), 200, "")
	if r.w.Paused {
		t.Error("the pause outlived its exchange")
	}
}

func TestReject(t *testing.T) {
	r := newRig()
	r.in("GET / HT")
	r.s.Reject(408)
	if got := r.w.Take(); !strings.HasPrefix(got, "HTTP/1.1 408 Request Timeout\r\n") || !r.w.Closed {
		t.Error(got)
	}
}
