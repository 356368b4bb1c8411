package http1

import (
	"errors"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

type clientRig struct {
	w    *streamtest.Wire
	o    *ClientOptions
	c    *Client
	idle int
	gone int
	err  error
}

func newClientRig() *clientRig {
	r := &clientRig{w: new(streamtest.Wire)}
	r.o = &ClientOptions{
		Set:    new(Set),
		OnIdle: func(*Client) { r.idle++ },
		OnGone: func(_ *Client, err error) { r.gone++; r.err = err },
	}
	r.c = NewClient(r.w, r.o)
	return r
}

// start sends a request without body.
func (r *clientRig) start(method string) *streamtest.Peer {
	p := new(streamtest.Peer)
	p.Stream = r.c.Start(p)
	p.Stream.SendHead(request(method), true)
	r.w.Take()
	return p
}

func (r *clientRig) in(s string) { r.c.OnBytes([]byte(s)) }

func request(method string) *stream.Head {
	return &stream.Head{Method: []byte(method), Authority: []byte("a.example"), Path: []byte("/p"), Length: -1}
}

func TestResponsesRead(t *testing.T) {
	for _, c := range []struct {
		name, method, in string
		eof              bool
		want             string
		idle             bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nab", false, `200 [content-length: 2] [x: y] length=2 body="ab" end`, true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, `200 [content-length: 0] length=0 end`, true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", false, `200 body="abc" end`, true},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nab\r\n0\r\nX: 1\r\n\r\n", false, `200 [trailer: X] body="ab" trailers{[x: 1]} end`, true},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nabc", true, `200 body="abc" end`, false},
		{"connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false, `200 [content-length: 0] length=0 end`, false},
		{"http/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", false, `200 [content-length: 1] length=1 body="x" end`, false},
		{"http/1.0 keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", false, `200 [content-length: 1] length=1 body="x" end`, true},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", false, `200 [content-length: 20] length=20 end`, true},
		{"head with chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, `200 end`, true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", false, `204 end`, true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", false, `304 [content-length: 3] length=3 end`, true},
		{"interim", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, `100 + 103 [link: a] + 200 [content-length: 0] length=0 end`, true},
		{"hop by hop", "GET", "HTTP/1.1 200 OK\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nKeep-Alive: timeout=1\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", false, `200 [content-length: 0] length=0 end`, true},
		{"bytes behind", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n", false, `200 [content-length: 0] length=0 end`, false},

		{"truncated length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", true, `200 [content-length: 3] length=3 body="ab" reset(6 upstream closed within the response)`, false},
		{"truncated chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n", true, `200 body="ab" reset(6 upstream closed within the response)`, false},
		{"truncated head", "GET", "HTTP/1.1 200 OK\r\nConte", true, `reset(6 upstream closed within the response head)`, false},
		{"closed before", "GET", "", true, `reset(6 upstream closed before the response)`, false},
		{"garbage", "GET", "SSH-2.0-x", false, `reset(7 malformed status line)`, false},
		{"length and chunked", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", false, `reset(7 content-length with transfer-encoding)`, false},
		{"bad chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", false, `200 reset(7 malformed chunk)`, false},
		{"unasked switch", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", false, `reset(7 protocol switched without being asked)`, false},
		{"endless interims", "GET", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 65), false, strings.Repeat("102 + ", 63) + "102 reset(7 too many interim responses)", false},
		{"status 99", "GET", "HTTP/1.1 099 X\r\n\r\n", false, `reset(7 malformed status line)`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{max(1, len(c.in)), 1} {
				r := newClientRig()
				p := r.start(c.method)
				for i := 0; i < len(c.in); i += step {
					r.in(c.in[i:min(i+step, len(c.in))])
				}
				if c.eof {
					r.c.OnEOF()
				}
				if got := p.String(); got != c.want {
					t.Errorf("step %d\n got %s\nwant %s", step, got, c.want)
				}
				if c.name == "bytes behind" && step == 1 {
					continue // they come while idle, then
				}
				if (r.idle == 1) != c.idle || (r.gone == 1) == c.idle {
					t.Errorf("step %d: idle %d gone %d", step, r.idle, r.gone)
				}
				if c.idle == r.w.Gone() {
					t.Errorf("step %d: closed %v aborted %v", step, r.w.Closed, r.w.Aborted)
				}
				r.c.OnClose(nil)
				if r.gone != 1 {
					t.Errorf("gone told %d times", r.gone)
				}
			}
		})
	}
}

func TestRequestsWritten(t *testing.T) {
	for _, c := range []struct {
		name string
		send func(s stream.Stream)
		want string
	}{
		{"get", func(s stream.Stream) { s.SendHead(request("GET"), true) }, "GET /p HTTP/1.1\r\nhost: a.example\r\n\r\n"},
		{"post without body", func(s stream.Stream) { s.SendHead(request("POST"), true) }, "POST /p HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n"},
		{"length", func(s stream.Stream) {
			h := request("PUT")
			h.Length = 3
			h.AddString("content-length", "9")
			s.SendHead(h, false)
			s.SendData([]byte("abc"), true)
		}, "PUT /p HTTP/1.1\r\nhost: a.example\r\ncontent-length: 3\r\n\r\nabc"},
		{"chunked with trailers", func(s stream.Stream) {
			h := request("PUT")
			h.AddString("te", "trailers")
			s.SendHead(h, false)
			s.SendData([]byte("abc"), false)
			tr := new(stream.Head)
			tr.AddString("x", "y")
			s.SendTrailers(tr)
		}, "PUT /p HTTP/1.1\r\nhost: a.example\r\nte: trailers\r\ntransfer-encoding: chunked\r\nconnection: te\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"},
		{"connect", func(s stream.Stream) {
			h := request("CONNECT")
			h.Path, h.Authority = nil, []byte("b:443")
			s.SendHead(h, false)
			s.SendData([]byte("held back"), false)
		}, "CONNECT b:443 HTTP/1.1\r\nhost: b:443\r\n\r\n"},
		{"options", func(s stream.Stream) {
			h := request("OPTIONS")
			h.Path = []byte("*")
			s.SendHead(h, true)
		}, "OPTIONS * HTTP/1.1\r\nhost: a.example\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newClientRig()
			c.send(r.c.Start(new(streamtest.Peer)))
			if got := r.w.Take(); got != c.want || r.w.Gone() {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestRequestThatCannotBeWritten(t *testing.T) {
	for _, h := range []*stream.Head{
		{Method: []byte("GET"), Path: []byte("/a b")},
		{Method: []byte("GET"), Path: []byte("/\r\nx: y")},
		{Method: []byte("G T"), Path: []byte("/")},
		{Method: []byte("GET"), Path: []byte("/"), Authority: []byte("a\r\nx: y")},
		{Method: []byte("GET"), Path: []byte("/"), Protocol: []byte("a b")},
	} {
		r := newClientRig()
		p := new(streamtest.Peer)
		r.c.Start(p).SendHead(h, true)
		if len(r.w.Sent) > 0 || !r.w.Aborted || p.Lost != stream.NoReset {
			t.Errorf("%q: %q", streamtest.HeadString(h), r.w.Sent)
		}
		r.c.OnClose(nil)
		if p.Lost != stream.ProtocolError {
			t.Error("peer not told")
		}
	}
}

func TestReuse(t *testing.T) {
	r := newClientRig()
	for i := range 3 {
		if r.c.Reused() != (i > 0) {
			t.Error("reused", i)
		}
		p := r.start("GET")
		if r.c.Start(p) != nil {
			t.Fatal("two exchanges at once")
		}
		old := p.Stream
		r.in("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
		old.Reset(stream.Cancelled)
		if !p.End || r.idle != i+1 || r.w.Gone() {
			t.Fatalf("%s idle %d", p, r.idle)
		}
	}
	p := r.start("GET")
	r.c.OnClose(errors.New("reset by peer"))
	if begun, sent, answered := r.c.Progress(); !begun || !sent || answered || !r.c.Reused() {
		t.Error(begun, sent, answered)
	}
	if p.Lost != stream.ConnectionLost || r.gone != 1 || r.err == nil {
		t.Errorf("%s gone %d %v", p, r.gone, r.err)
	}
	if r.c.Start(p) != nil {
		t.Error("started on a dead connection")
	}
}

func TestUnsolicitedBytes(t *testing.T) {
	r := newClientRig()
	r.in("HTTP/1.1 408 Request Timeout\r\n\r\n")
	if !r.w.Closed || r.gone != 1 || r.c.Idle() {
		t.Error("kept")
	}
}

// A connection that ends between Start and SendHead has seen nothing of the
// request: it is safe to send it elsewhere.
func TestLostBeforeSending(t *testing.T) {
	for name, lose := range map[string]func(r *clientRig){
		"farewell": func(r *clientRig) { r.in("HTTP/1.1 408 Request Timeout\r\n\r\n") },
		"eof":      func(r *clientRig) { r.c.OnEOF() },
		"lost":     func(r *clientRig) { r.c.OnClose(errors.New("reset")) },
	} {
		r := newClientRig()
		p := new(streamtest.Peer)
		s := r.c.Start(p)
		lose(r)
		s.SendHead(request("GET"), true)
		if p.Lost != stream.Refused || len(r.w.Sent) > 0 || r.gone != 1 {
			t.Errorf("%s: %s", name, p)
		}
	}
}

func TestEarlyFinalResponse(t *testing.T) {
	r := newClientRig()
	p := new(streamtest.Peer)
	s := r.c.Start(p)
	h := request("POST")
	h.Length = 1000
	s.SendHead(h, false)
	s.SendData([]byte("abc"), false)
	r.in("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n")
	s.SendData([]byte("def"), false)
	r.in("no")
	if !p.End || p.Lost != stream.NoReset || !r.w.Gone() || r.gone != 1 || r.idle != 0 {
		t.Errorf("%s gone %d idle %d", p, r.gone, r.idle)
	}
	if _, sent, answered := r.c.Progress(); sent || !answered {
		t.Error("progress")
	}
}

func TestResetBeforeSending(t *testing.T) {
	r := newClientRig()
	s := r.c.Start(new(streamtest.Peer))
	s.Pause(true)
	s.Reset(stream.Cancelled)
	if r.idle != 1 || r.w.Gone() || r.w.Paused {
		t.Error("a connection nothing was sent on is still good")
	}
	s = r.c.Start(new(streamtest.Peer))
	s.SendHead(request("GET"), true)
	s.Reset(stream.Cancelled)
	if !r.w.Aborted || r.gone != 1 {
		t.Error("kept")
	}
}

func TestClientUpgrade(t *testing.T) {
	r := newClientRig()
	p := new(streamtest.Peer)
	s := r.c.Start(p)
	h := request("GET")
	h.Protocol = []byte("websocket")
	h.AddString("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
	s.SendHead(h, false)
	want := "GET /p HTTP/1.1\r\nhost: a.example\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
	if got := r.w.Take(); got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	s.SendData([]byte("early"), false)
	if !s.Blocked() || len(r.w.Sent) > 0 {
		t.Error("not held")
	}
	r.in("HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello")
	if got, want := p.String(), `101 protocol=websocket [sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=] body="hello"`; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got := r.w.Take(); got != "early" || s.Blocked() || p.Writable != 1 {
		t.Errorf("%q blocked %v writable %d", got, s.Blocked(), p.Writable)
	}
	s.SendData([]byte("x"), true)
	if !r.w.Half || r.w.Gone() {
		t.Error("no half-close")
	}
	r.c.OnEOF()
	if !p.End || !r.w.Closed || r.idle != 0 || r.gone != 1 {
		t.Errorf("%s", p)
	}
}

// A handshake that came over HTTP/2 has no key: ours is checked and not shown.
func TestClientUpgradeOwnKey(t *testing.T) {
	for _, good := range []bool{true, false} {
		r := newClientRig()
		p := new(streamtest.Peer)
		h := request("CONNECT")
		h.Protocol = []byte("websocket")
		r.c.Start(p).SendHead(h, false)
		out := r.w.Take()
		_, key, _ := strings.Cut(out, "sec-websocket-key: ")
		key, _, _ = strings.Cut(key, "\r\n")
		if !strings.HasPrefix(out, "GET /p ") || len(key) != 24 {
			t.Fatalf("%q", out)
		}
		accept := string(appendAccept(nil, []byte(key)))
		if !good {
			accept = string(appendAccept(nil, []byte("another key")))
		}
		r.in("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n")
		if got := p.String(); good && got != "101 protocol=websocket" || !good && p.Lost != stream.ProtocolError {
			t.Errorf("%v: %s", good, got)
		}
	}
}

func TestClientUpgradeRefused(t *testing.T) {
	r := newClientRig()
	p := new(streamtest.Peer)
	h := request("GET")
	h.Protocol = []byte("websocket")
	r.c.Start(p).SendHead(h, false)
	r.in("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 1\r\n\r\nx")
	if !p.End || r.idle != 1 || r.w.Gone() {
		t.Errorf("%s idle %d", p, r.idle)
	}
}
