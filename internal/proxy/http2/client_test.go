package http2

import (
	"fmt"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

type clientRig struct {
	*far
	c    *Client
	room int
	gone int
	done int
	err  error
}

func newClientRig(t testing.TB, settings ...xhttp2.Setting) *clientRig {
	r := &clientRig{}
	w := new(streamtest.Wire)
	o := &ClientOptions{
		Set:        new(Set),
		OnCapacity: func(*Client) { r.room++ },
		OnGone:     func(_ *Client, err error) { r.gone++; r.err = err },
		OnClosed:   func(*Client) { r.done++ },
	}
	r.c = NewClient(w, o)
	r.far = newFar(t, w, r.c.OnBytes)
	if !strings.HasPrefix(string(w.Sent), Preface) {
		t.Fatal("no preface")
	}
	r.frames()
	r.fr.WriteSettings(settings...)
	r.send()
	r.want("settings ack")
	return r
}

func request(method string, fields ...string) *stream.Head {
	h := &stream.Head{Method: []byte(method), Scheme: []byte("http"), Authority: []byte("a"), Path: []byte("/p"), Length: -1}
	for i := 0; i < len(fields); i += 2 {
		h.AddString(fields[i], fields[i+1])
	}
	return h
}

func (r *clientRig) start(method string) *streamtest.Peer {
	p := new(streamtest.Peer)
	p.Stream = r.c.Open(p)
	p.Stream.SendHead(request(method), true)
	r.frames()
	return p
}

func TestClientExchange(t *testing.T) {
	r := newClientRig(t)
	p := new(streamtest.Peer)
	s := r.c.Open(p)
	s.SendHead(request("POST", "x", "y", "te", "trailers, deflate", "keep-alive", "1"), false)
	s.SendData([]byte("ab"), false)
	s.SendTrailers(resp(0, -1, "t", "u"))
	r.want("headers 1 [:method: POST][:scheme: http][:path: /p][:authority: a][x: y][te: trailers]", `data 1 "ab"`, "headers 1 [t: u] end")
	r.headers(1, false, ":status", "100")
	r.headers(1, false, ":status", "200", "content-length", "2")
	r.data(1, false, "ok")
	r.headers(1, true, "grpc-status", "0")
	if got, want := p.String(), `100 + 200 [content-length: 2] length=2 body="ok" trailers{[grpc-status: 0]} end`; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	r.want()
	if r.c.Active() != 0 || r.gone != 0 {
		t.Errorf("active %d", r.c.Active())
	}
}

func TestClientMessages(t *testing.T) {
	for _, c := range []struct {
		name, method string
		do           func(r *clientRig)
		want         string
		sent         []string
	}{
		{"head", "HEAD", func(r *clientRig) { r.headers(1, true, ":status", "200", "content-length", "9") }, "200 [content-length: 9] length=9 end", nil},
		{"304", "GET", func(r *clientRig) { r.headers(1, true, ":status", "304", "content-length", "9") }, "304 [content-length: 9] length=9 end", nil},
		{"empty data", "GET", func(r *clientRig) { r.headers(1, false, ":status", "200"); r.data(1, true, "") }, "200 end", nil},
		{"length too short", "GET", func(r *clientRig) { r.headers(1, false, ":status", "200", "content-length", "9"); r.data(1, true, "x") },
			"200 [content-length: 9] length=9 reset(7 body differs from content-length)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"length without body", "GET", func(r *clientRig) { r.headers(1, true, ":status", "200", "content-length", "9") },
			"reset(7 body differs from content-length)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"body of head", "HEAD", func(r *clientRig) { r.headers(1, false, ":status", "200"); r.data(1, true, "x") },
			"200 reset(7 body differs from content-length)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"no status", "GET", func(r *clientRig) { r.headers(1, true, "x", "y") }, "reset(7 pseudo-header missing)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"101", "GET", func(r *clientRig) { r.headers(1, false, ":status", "101") }, "reset(7 malformed interim response)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"interim with end", "GET", func(r *clientRig) { r.headers(1, true, ":status", "103") }, "reset(7 malformed interim response)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"data first", "GET", func(r *clientRig) { r.data(1, true, "x") }, "reset(7 data before the response head)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"bad field", "GET", func(r *clientRig) { r.headers(1, true, ":status", "200", "connection", "close") }, "reset(7 connection-specific field)", []string{"rst 1 PROTOCOL_ERROR"}},
		{"refused", "GET", func(r *clientRig) { r.fr.WriteRSTStream(1, xhttp2.ErrCodeRefusedStream); r.send() }, "reset(2 reset by peer: REFUSED_STREAM)", nil},
		{"broken off", "GET", func(r *clientRig) {
			r.headers(1, false, ":status", "200")
			r.fr.WriteRSTStream(1, xhttp2.ErrCodeInternal)
			r.send()
		}, "200 reset(10 reset by peer: INTERNAL_ERROR)", nil},
		{"lost", "GET", func(r *clientRig) { r.headers(1, false, ":status", "200"); r.c.OnClose(nil) }, "200 reset(6 connection lost)", nil},
		{"eof", "GET", func(r *clientRig) { r.headers(1, false, ":status", "200"); r.c.OnEOF() }, "200 reset(6 peer closed the connection)", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newClientRig(t)
			p := r.start(c.method)
			c.do(r)
			if got := p.String(); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
			r.want(c.sent...)
			if r.c.Active() != 0 {
				t.Errorf("active %d", r.c.Active())
			}
		})
	}
}

func TestClientEarlyResponse(t *testing.T) {
	r := newClientRig(t)
	p := new(streamtest.Peer)
	s := r.c.Open(p)
	s.SendHead(request("POST"), false)
	s.SendData([]byte("ab"), false)
	r.frames()
	r.headers(1, true, ":status", "403")
	s.SendData([]byte("cd"), true)
	r.want("rst 1 CANCEL")
	if p.String() != "403 end" {
		t.Error(p)
	}
}

func TestGoAway(t *testing.T) {
	r := newClientRig(t)
	a, b, c := r.start("GET"), r.start("GET"), new(streamtest.Peer)
	c.Stream = r.c.Open(c)
	r.fr.WriteGoAway(1, xhttp2.ErrCodeNo, nil)
	r.send()
	if a.Lost != stream.NoReset || b.Lost != stream.Refused || c.Lost != stream.Refused {
		t.Errorf("%s; %s; %s", a, b, c)
	}
	if r.c.Capacity() != 0 || r.c.Open(c) != nil || r.gone != 1 || r.w.Gone() {
		t.Errorf("capacity %d gone %d", r.c.Capacity(), r.gone)
	}
	r.headers(1, true, ":status", "200")
	if !a.End || !r.w.Closed {
		t.Errorf("%s closed %v", a, r.w.Closed)
	}
	r.c.OnClose(nil)
	if r.done != 1 || r.gone != 1 {
		t.Error(r.done, r.gone)
	}
}

func TestCapacity(t *testing.T) {
	r := newClientRig(t, xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 2})
	room := r.room
	a, b := r.start("GET"), new(streamtest.Peer)
	s := r.c.Open(b)
	if r.c.Capacity() != 0 || r.c.Open(b) != nil {
		t.Error("over the limit")
	}
	s.Reset(stream.Cancelled) // never sent: nothing on the wire
	r.want()
	r.headers(1, true, ":status", "200")
	if !a.End || r.c.Capacity() != 2 || r.room < room+2 {
		t.Errorf("capacity %d, told %d times", r.c.Capacity(), r.room-room)
	}
}

func TestClientReset(t *testing.T) {
	r := newClientRig(t)
	p := r.start("GET")
	p.Stream.Reset(stream.LocalReset)
	r.want("rst 1 CANCEL")
	r.headers(1, false, ":status", "200")
	r.data(1, true, "late")
	r.want()
	if len(p.Heads) > 0 || r.w.Gone() {
		t.Error(p)
	}
	// Its field block still had to be decoded: the tables must agree.
	p = r.start("GET")
	r.headers(3, true, ":status", "200")
	if p.String() != "200 end" {
		t.Error(p)
	}
}

func TestClientUpgrade(t *testing.T) {
	r := newClientRig(t, xhttp2.Setting{ID: 8, Val: 1})
	p := new(streamtest.Peer)
	s := r.c.Open(p)
	h := request("GET")
	h.Protocol = []byte("websocket")
	s.SendHead(h, false)
	r.want("headers 1 [:method: CONNECT][:scheme: http][:path: /p][:authority: a][:protocol: websocket]")
	r.headers(1, false, ":status", "200")
	r.data(1, true, "bye")
	s.SendData([]byte("x"), true)
	r.want(`data 1 "x" end`)
	if p.String() != `101 protocol=websocket body="bye" end` || r.c.Active() != 0 {
		t.Error(p)
	}
}

// An upgrade before the peer's SETTINGS waits for them.
func TestClientUpgradeWaits(t *testing.T) {
	for _, takes := range []uint32{0, 1} {
		w := new(streamtest.Wire)
		c := NewClient(w, &ClientOptions{Set: new(Set)})
		f := newFar(t, w, c.OnBytes)
		f.frames()
		p := new(streamtest.Peer)
		s := c.Open(p)
		h := request("GET")
		h.Protocol = []byte("websocket")
		s.SendHead(h, false)
		s.SendData([]byte("x"), false)
		f.want()
		if !s.Blocked() {
			t.Error("not blocked")
		}
		f.fr.WriteSettings(xhttp2.Setting{ID: 8, Val: takes})
		f.send()
		if takes == 1 {
			f.want("settings ack", "headers 1 [:method: CONNECT][:scheme: http][:path: /p][:authority: a][:protocol: websocket]", `data 1 "x"`)
			if p.Writable != 1 {
				t.Error("not told")
			}
			continue
		}
		f.frames()
		f.fr.WritePing(true, [8]byte([]byte(pingDoom)))
		f.send()
		if p.Lost != stream.ProtocolError || c.Active() != 0 {
			t.Error(p)
		}
	}
}

func TestPing(t *testing.T) {
	r := newClientRig(t)
	if !r.c.Ping() || r.c.Ping() {
		t.Error("second ping before the first was answered")
	}
	r.want("ping " + pingAlive)
	r.fr.WritePing(true, [8]byte([]byte(pingAlive)))
	r.send()
	if !r.c.Ping() {
		t.Error("answered, yet dead")
	}
}

func TestStreamTable(t *testing.T) {
	var tab streamTable
	want := map[uint32]*h2stream{}
	x := uint32(1)
	for i := range 20000 {
		x = x*1664525 + 1013904223
		id := x >> 8 % 400
		switch s := want[id]; {
		case s == nil && i < 15000:
			s = &h2stream{id: id}
			want[id] = s
			tab.put(s)
		case s != nil:
			delete(want, id)
			tab.del(id)
		}
		id = x >> 16 % 400
		if tab.get(id) != want[id] || tab.n != len(want) {
			t.Fatalf("step %d: id %d", i, id)
		}
	}
}

// TestBulk: a stream counts as large by its length or by what it has moved,
// either way, and no longer than it lives.
func TestBulk(t *testing.T) {
	r := newClientRig(t, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 4 << 20})
	r.fr.WriteWindowUpdate(0, 8<<20)
	r.send()
	r.frames()
	piece := strings.Repeat("x", 16<<10)
	is := func(what string, want int) {
		t.Helper()
		if got := r.c.Bulk(); got != want {
			t.Errorf("%s: %d large streams, want %d", what, got, want)
		}
	}
	r.start("GET") // 1
	r.headers(1, false, ":status", "200", "content-length", fmt.Sprint(bulkSize-1))
	is("an answer below", 0)
	r.start("GET") // 3
	r.headers(3, false, ":status", "200", "content-length", fmt.Sprint(bulkSize))
	is("an answer that says so", 1)
	r.start("GET") // 5
	r.headers(5, false, ":status", "200")
	for range bulkSize/len(piece) - 1 {
		r.data(5, false, piece)
	}
	is("before it has moved so much", 1)
	r.data(5, false, piece)
	is("after", 2)
	said := new(streamtest.Peer)
	said.Stream = r.c.Open(said)
	h := request("POST")
	h.Length = bulkSize
	said.Stream.SendHead(h, false)
	is("a request that says so", 3)
	up := new(streamtest.Peer)
	up.Stream = r.c.Open(up)
	up.Stream.SendHead(request("POST"), false)
	for range bulkSize / len(piece) {
		up.Stream.SendData([]byte(piece), false)
		r.frames()
	}
	is("a request that has moved so much", 4)
	r.data(5, true, "")
	said.Stream.Reset(stream.Cancelled)
	is("two have ended", 2)
	r.fr.WriteRSTStream(3, xhttp2.ErrCodeCancel)
	r.send()
	up.Stream.Reset(stream.Cancelled)
	is("all have ended", 0)
}

// TestCongested: streams that are not read use up a connection for others.
func TestCongested(t *testing.T) {
	r := newClientRig(t)
	var slow []*streamtest.Peer
	for i := 0; !r.c.Congested(); i++ {
		if i == 100 {
			t.Fatal("never congested")
		}
		p := r.start("GET")
		p.Stream.Pause(true)
		slow = append(slow, p)
		id := uint32(2*i + 1)
		r.headers(id, false, ":status", "200")
		for range 256 / 16 {
			r.data(id, false, strings.Repeat("x", 16<<10))
		}
	}
	if n := len(slow) * 256 << 10; n > 4<<20 {
		t.Errorf("only after %d bytes", n)
	}
	slow[0].Stream.Pause(false)
	if r.c.Congested() {
		t.Error("still congested when one goes on")
	}
}
