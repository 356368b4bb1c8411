package http2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// far is the other end of a connection under test: it writes frames with
// x/net's framer and reads ours with it.
type far struct {
	t    testing.TB
	out  bytes.Buffer
	fr   *xhttp2.Framer
	henc *xhpack.Encoder
	hbuf bytes.Buffer
	hdec *xhpack.Decoder
	feed func(p []byte)
	w    *streamtest.Wire
}

func newFar(t testing.TB, w *streamtest.Wire, feed func([]byte)) *far {
	f := &far{t: t, w: w, feed: feed}
	f.fr = xhttp2.NewFramer(&f.out, nil)
	f.fr.AllowIllegalWrites = true
	f.henc = xhpack.NewEncoder(&f.hbuf)
	f.hdec = xhpack.NewDecoder(4096, nil)
	return f
}

func (f *far) send() {
	p := bytes.Clone(f.out.Bytes())
	f.out.Reset()
	f.feed(p)
}

func (f *far) block(fields ...string) []byte {
	f.hbuf.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.henc.WriteField(xhpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(f.hbuf.Bytes())
}

func (f *far) headers(id uint32, end bool, fields ...string) {
	f.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: f.block(fields...)})
	f.send()
}

func (f *far) data(id uint32, end bool, p string) {
	f.fr.WriteData(id, end, []byte(p))
	f.send()
}

// frames takes what was sent to us, a line per frame.
func (f *far) frames() []string {
	r := xhttp2.NewFramer(nil, strings.NewReader(strings.TrimPrefix(f.w.Take(), Preface)))
	r.SetMaxReadFrameSize(1 << 20)
	var out []string
	var block []byte
	for {
		x, err := r.ReadFrame()
		if err != nil {
			return out
		}
		end := ""
		if x.Header().Flags&1 != 0 {
			end = " end"
		}
		id := x.Header().StreamID
		switch x := x.(type) {
		case *xhttp2.DataFrame:
			d := fmt.Sprintf("%q", x.Data())
			if len(x.Data()) > 40 {
				d = fmt.Sprint(len(x.Data()))
			}
			out = append(out, fmt.Sprintf("data %d %s%s", id, d, end))
		case *xhttp2.HeadersFrame:
			block = append(block[:0], x.HeaderBlockFragment()...)
			if !x.HeadersEnded() {
				out = append(out, fmt.Sprintf("headers %d part%s", id, end))
				continue
			}
			out = append(out, fmt.Sprintf("headers %d %s%s", id, f.list(block), end))
		case *xhttp2.ContinuationFrame:
			block = append(block, x.HeaderBlockFragment()...)
			if x.HeadersEnded() {
				out = append(out, fmt.Sprintf("continuation %d %s", id, f.list(block)))
			}
		case *xhttp2.RSTStreamFrame:
			out = append(out, fmt.Sprintf("rst %d %v", id, x.ErrCode))
		case *xhttp2.GoAwayFrame:
			out = append(out, fmt.Sprintf("goaway %d %v %s", x.LastStreamID, x.ErrCode, x.DebugData()))
		case *xhttp2.WindowUpdateFrame:
			out = append(out, fmt.Sprintf("window %d %d", id, x.Increment))
		case *xhttp2.PingFrame:
			out = append(out, fmt.Sprintf("ping %s%s", x.Data[:], end))
		case *xhttp2.SettingsFrame:
			if x.IsAck() {
				out = append(out, "settings ack")
			} else {
				out = append(out, "settings")
			}
		}
	}
}

func (f *far) list(block []byte) string {
	fields, err := f.hdec.DecodeFull(block)
	if err != nil {
		f.t.Error(err)
	}
	var b strings.Builder
	for _, x := range fields {
		fmt.Fprintf(&b, "[%s: %s]", x.Name, x.Value)
	}
	return b.String()
}

func (f *far) want(lines ...string) {
	f.t.Helper()
	got := f.frames()
	if strings.Join(got, "\n") != strings.Join(lines, "\n") {
		f.t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(lines, "\n     "))
	}
}

type serverRig struct {
	*far
	a   *streamtest.Acceptor
	o   *ServerOptions
	s   *Server
	bad []string
}

func newServerRig(t testing.TB) *serverRig { return newServerRigWith(t, Limits{}) }

func newServerRigWith(t testing.TB, lim Limits) *serverRig {
	r := &serverRig{a: new(streamtest.Acceptor)}
	w := new(streamtest.Wire)
	r.o = &ServerOptions{Set: new(Set), Limits: lim}
	r.o.OnBadRequest = func(_ *Server, status int, detail string) {
		r.bad = append(r.bad, fmt.Sprint(status, " ", detail))
	}
	r.s = NewServer(w, r.a, r.o)
	r.far = newFar(t, w, r.s.OnBytes)
	r.out.WriteString(Preface)
	r.fr.WriteSettings()
	r.fr.WriteSettingsAck()
	r.send()
	if got := r.frames(); len(got) != 3 || got[0] != "settings" || got[2] != "settings ack" {
		t.Fatal(got)
	}
	return r
}

func (r *serverRig) get(id uint32, more ...string) {
	r.headers(id, true, append([]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a.example"}, more...)...)
}

func (r *serverRig) post(id uint32, more ...string) {
	r.headers(id, false, append([]string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a.example"}, more...)...)
}

func resp(status int, length int64, fields ...string) *stream.Head {
	h := &stream.Head{Status: status, Length: length}
	for i := 0; i < len(fields); i += 2 {
		h.AddString(fields[i], fields[i+1])
	}
	return h
}

func TestExchange(t *testing.T) {
	r := newServerRig(t)
	r.post(1, "x-a", "b", "cookie", "a=1", "cookie", "b=2", "te", "trailers", "host", "A.example", "cookie", "c=3")
	r.data(1, false, "hello ")
	r.headers(1, true, "x-sum", "9")
	p := r.a.Last()
	if got, want := p.String(), `POST a.example / [x-a: b] [cookie: a=1; b=2; c=3] [te: trailers] body="hello " trailers{[x-sum: 9]} end`; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	p.Stream.SendHead(resp(103, -1, "link", "</a>"), false)
	p.Stream.SendHead(resp(200, -1, "x", "y", "connection", "close", "bad\n", "x"), false)
	p.Stream.SendData([]byte("ok"), false)
	p.Stream.SendTrailers(resp(0, -1, "grpc-status", "0"))
	r.want("headers 1 [:status: 103][link: </a>]", "headers 1 [:status: 200][x: y]", `data 1 "ok"`, "headers 1 [grpc-status: 0] end")
	if !r.s.Idle() || r.s.streams.n != 0 {
		t.Error("stream left")
	}
	p.Stream.SendData([]byte("late"), true)
	r.want()
}

func TestByteByByte(t *testing.T) {
	r := newServerRig(t)
	feed := r.feed
	r.feed = func(p []byte) {
		for i := range p {
			feed([]byte{p[i]})
		}
	}
	r.post(1, "content-length", "5")
	r.data(1, true, "hello")
	if got, want := r.a.Last().String(), `POST a.example / [content-length: 5] length=5 body="hello" end`; got != want {
		t.Errorf("got %s", got)
	}
}

func TestResponseFraming(t *testing.T) {
	for _, c := range []struct {
		method string
		send   func(s stream.Stream)
		want   []string
	}{
		{"GET", func(s stream.Stream) { s.SendHead(resp(404, -1), true) }, []string{"headers 1 [:status: 404][content-length: 0] end"}},
		{"GET", func(s stream.Stream) { s.SendHead(resp(204, 0), true) }, []string{"headers 1 [:status: 204] end"}},
		{"GET", func(s stream.Stream) { s.SendHead(resp(304, 7), true) }, []string{"headers 1 [:status: 304][content-length: 7] end"}},
		{"HEAD", func(s stream.Stream) {
			s.SendHead(resp(200, 7), false)
			s.SendData([]byte("never"), true)
		}, []string{"headers 1 [:status: 200][content-length: 7] end"}},
		{"GET", func(s stream.Stream) {
			s.SendHead(resp(200, 2, "content-length", "5"), false)
			s.SendData([]byte("ab"), true)
		}, []string{"headers 1 [:status: 200][content-length: 2]", `data 1 "ab" end`}},
		{"GET", func(s stream.Stream) {
			s.SendHead(resp(200, -1), false)
			s.SendData(nil, false)
			s.SendData(nil, true)
		}, []string{"headers 1 [:status: 200]", `data 1 "" end`}},
		{"GET", func(s stream.Stream) { s.Reset(stream.Overflow) }, []string{"rst 1 ENHANCE_YOUR_CALM"}},
		{"GET", func(s stream.Stream) {
			s.SendHead(resp(200, -1), false)
			s.Reset(stream.ConnectionLost)
		}, []string{"headers 1 [:status: 200]", "rst 1 INTERNAL_ERROR"}},
	} {
		r := newServerRig(t)
		r.headers(1, true, ":method", c.method, ":scheme", "http", ":path", "/", ":authority", "a")
		c.send(r.a.Last().Stream)
		r.want(c.want...)
	}
}

func TestEarlyResponse(t *testing.T) {
	r := newServerRig(t)
	r.post(1)
	p := r.a.Last()
	p.Stream.SendHead(resp(403, 0), true)
	r.want("headers 1 [:status: 403][content-length: 0] end", "rst 1 NO_ERROR")
	r.data(1, true, "late body")
	r.want()
	if p.End || p.Lost != stream.NoReset || len(p.Body) > 0 {
		t.Errorf("told after the end: %s", p)
	}
}

func TestLargeHead(t *testing.T) {
	r := newServerRig(t)
	big := strings.Repeat("x", 40000)
	b := r.block(":method", "GET", ":scheme", "http", ":path", "/", "big", big)
	for first := true; len(b) > 0; first = false {
		n := min(len(b), 10000)
		if first {
			r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: b[:n], PadLength: 7, Priority: xhttp2.PriorityParam{StreamDep: 3}})
		} else {
			r.fr.WriteContinuation(1, n == len(b), b[:n])
		}
		b = b[n:]
	}
	r.send()
	p := r.a.Last()
	if got := string(p.Head().Get("big")); got != big {
		t.Fatalf("%d bytes", len(got))
	}
	p.Stream.SendHead(resp(200, 0, "big", big), true)
	got := r.frames()
	if len(got) != 2 || got[0] != "headers 1 part end" || !strings.Contains(got[1], big) {
		t.Errorf("%d frames", len(got))
	}
}

func TestTooLargeHead(t *testing.T) {
	r := newServerRig(t)
	r.get(1, "big", strings.Repeat("x", 9000))
	r.get(3, strings.Split(strings.Repeat("a,b,", 130)[:130*4-1], ",")...)
	r.headers(5, true, ":method", "GET", ":scheme", "http", ":path", "/", "still", "in step")
	if len(r.a.Requests) != 2 || r.a.Last().Head().Get("still") == nil {
		t.Errorf("%d requests", len(r.a.Requests))
	}
	r.want("headers 3 [:status: 431][content-length: 0] end")
	if len(r.bad) != 1 {
		t.Error(r.bad)
	}
}

// RFC 9113 8.1.1: a malformed request is an error of its stream.
func TestMalformedRequests(t *testing.T) {
	base := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	with := func(f ...string) []string { return append(append([]string{}, base...), f...) }
	for name, f := range map[string][]string{
		"upper-case name":     with("X-A", "b"),
		"empty name":          with("", "b"),
		"blank in name":       with("a b", "b"),
		"newline in value":    with("a", "b\r\nc: d"),
		"NUL in value":        with("a", "b\x00"),
		"blank before value":  with("a", " b"),
		"blank behind value":  with("a", "b\t"),
		"connection":          with("connection", "close"),
		"transfer-encoding":   with("transfer-encoding", "chunked"),
		"upgrade":             with("upgrade", "x"),
		"te":                  with("te", "gzip"),
		"pseudo behind field": {":method", "GET", ":scheme", "http", "a", "b", ":path", "/"},
		"pseudo twice":        with(":path", "/b"),
		"unknown pseudo":      with(":foo", "x"),
		"response pseudo":     with(":status", "200"),
		"no method":           base[2:],
		"no path":             {":method", "GET", ":scheme", "http"},
		"no scheme":           {":method", "GET", ":path", "/"},
		"empty path":          {":method", "GET", ":scheme", "http", ":path", ""},
		"path without slash":  {":method", "GET", ":scheme", "http", ":path", "x"},
		"blank in path":       {":method", "GET", ":scheme", "http", ":path", "/a b"},
		"fragment":            {":method", "GET", ":scheme", "http", ":path", "/a#b"},
		"scheme":              {":method", "GET", ":scheme", "ftp", ":path", "/"},
		"method":              {":method", "G T", ":scheme", "http", ":path", "/"},
		"userinfo":            {":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"},
		"host differs":        with("host", "b"),
		"two hosts":           with("host", "a", "host", "a"),
		"content-length":      with("content-length", "x"),
		"two content-lengths": with("content-length", "1", "content-length", "2"),
		"length but no body":  with("content-length", "1"),
		"connect with path":   {":method", "CONNECT", ":authority", "a:1", ":path", "/", ":scheme", "http"},
		"connect to nobody":   {":method", "CONNECT"},
		"protocol on get":     with(":protocol", "websocket"),
	} {
		r := newServerRig(t)
		r.headers(1, true, f...)
		if len(r.a.Requests) != 0 {
			t.Errorf("%s: accepted as %s", name, r.a.Last())
			continue
		}
		if got := r.frames(); len(got) != 1 || got[0] != "rst 1 PROTOCOL_ERROR" {
			t.Errorf("%s: %v", name, got)
		}
		r.get(3)
		if len(r.a.Requests) != 1 || r.w.Gone() {
			t.Errorf("%s: the connection did not survive", name)
		}
	}
}

func TestContentLengthMismatch(t *testing.T) {
	for _, c := range []struct{ length, body string }{{"3", "abcd"}, {"3", "ab"}} {
		r := newServerRig(t)
		r.post(1, "content-length", c.length)
		r.data(1, true, c.body)
		if p := r.a.Last(); p.End || p.Lost != stream.ProtocolError {
			t.Errorf("%v: %s", c, p)
		}
		r.want("rst 1 PROTOCOL_ERROR")
	}
}

// What ends the whole connection, with its error code.
func TestConnectionErrors(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(r *serverRig)
		want xhttp2.ErrCode
	}{
		"data on idle stream": {func(r *serverRig) { r.data(5, false, "x") }, xhttp2.ErrCodeProtocol},
		"data on stream 0":    {func(r *serverRig) { r.data(0, false, "x") }, xhttp2.ErrCodeProtocol},
		"even stream":         {func(r *serverRig) { r.get(2) }, xhttp2.ErrCodeProtocol},
		"lower stream":        {func(r *serverRig) { r.get(5); r.get(3) }, xhttp2.ErrCodeStreamClosed},
		"large frame":         {func(r *serverRig) { r.fr.WriteData(1, false, make([]byte, 16385)); r.send() }, xhttp2.ErrCodeFrameSize},
		"bad padding":         {func(r *serverRig) { r.post(1); r.fr.WriteRawFrame(0, 8, 1, []byte{9, 1}); r.send() }, xhttp2.ErrCodeProtocol},
		"bad block":           {func(r *serverRig) { r.fr.WriteRawFrame(1, 5, 1, []byte{0x80}); r.send() }, xhttp2.ErrCodeCompression},
		"interrupted block": {func(r *serverRig) {
			r.fr.WriteRawFrame(1, 1, 1, []byte{0x82})
			r.fr.WritePing(false, [8]byte{})
			r.send()
		}, xhttp2.ErrCodeProtocol},
		"lonely continuation": {func(r *serverRig) { r.fr.WriteContinuation(1, true, nil); r.send() }, xhttp2.ErrCodeProtocol},
		"push":                {func(r *serverRig) { r.fr.WriteRawFrame(5, 4, 1, []byte{0, 0, 0, 2}); r.send() }, xhttp2.ErrCodeProtocol},
		"window of 0":         {func(r *serverRig) { r.fr.WriteRawFrame(8, 0, 0, make([]byte, 4)); r.send() }, xhttp2.ErrCodeProtocol},
		"window overflow":     {func(r *serverRig) { r.fr.WriteWindowUpdate(0, 1<<31-1); r.send() }, xhttp2.ErrCodeFlowControl},
		"window on idle":      {func(r *serverRig) { r.fr.WriteWindowUpdate(9, 1); r.send() }, xhttp2.ErrCodeProtocol},
		"short window":        {func(r *serverRig) { r.fr.WriteRawFrame(8, 0, 0, make([]byte, 3)); r.send() }, xhttp2.ErrCodeFrameSize},
		"rst on idle":         {func(r *serverRig) { r.fr.WriteRSTStream(7, 0); r.send() }, xhttp2.ErrCodeProtocol},
		"initial window":      {func(r *serverRig) { r.fr.WriteSettings(xhttp2.Setting{ID: 4, Val: 1 << 31}); r.send() }, xhttp2.ErrCodeFlowControl},
		"max frame size":      {func(r *serverRig) { r.fr.WriteSettings(xhttp2.Setting{ID: 5, Val: 10}); r.send() }, xhttp2.ErrCodeProtocol},
		"enable push":         {func(r *serverRig) { r.fr.WriteSettings(xhttp2.Setting{ID: 2, Val: 2}); r.send() }, xhttp2.ErrCodeProtocol},
		"settings length":     {func(r *serverRig) { r.fr.WriteRawFrame(4, 0, 0, make([]byte, 5)); r.send() }, xhttp2.ErrCodeFrameSize},
		"settings ack length": {func(r *serverRig) { r.fr.WriteRawFrame(4, 1, 0, make([]byte, 6)); r.send() }, xhttp2.ErrCodeFrameSize},
		"ping length":         {func(r *serverRig) { r.fr.WriteRawFrame(6, 0, 0, make([]byte, 7)); r.send() }, xhttp2.ErrCodeFrameSize},
		"goaway on stream":    {func(r *serverRig) { r.fr.WriteRawFrame(7, 0, 1, make([]byte, 8)); r.send() }, xhttp2.ErrCodeProtocol},
		"depends on itself":   {func(r *serverRig) { r.fr.WritePriority(1, xhttp2.PriorityParam{StreamDep: 1}); r.send() }, xhttp2.ErrCodeProtocol},
		"ping flood":          {func(r *serverRig) { flood(r, func() { r.fr.WritePing(false, [8]byte{}) }) }, xhttp2.ErrCodeEnhanceYourCalm},
		"settings flood":      {func(r *serverRig) { flood(r, func() { r.fr.WriteSettings() }) }, xhttp2.ErrCodeEnhanceYourCalm},
		"empty data flood":    {func(r *serverRig) { r.post(1); flood(r, func() { r.fr.WriteData(1, false, nil) }) }, xhttp2.ErrCodeEnhanceYourCalm},
		"unknown frame flood": {func(r *serverRig) { flood(r, func() { r.fr.WriteRawFrame(99, 0, 0, nil) }) }, xhttp2.ErrCodeEnhanceYourCalm},
		"continuation flood": {func(r *serverRig) {
			r.fr.WriteRawFrame(1, 0, 1, nil)
			flood(r, func() { r.fr.WriteContinuation(1, false, nil) })
		}, xhttp2.ErrCodeEnhanceYourCalm},
		"endless continuations": {func(r *serverRig) {
			r.fr.WriteRawFrame(1, 0, 1, nil)
			flood(r, func() { r.fr.WriteContinuation(1, false, make([]byte, 9999)) })
		}, xhttp2.ErrCodeEnhanceYourCalm},
		"rapid reset": {func(r *serverRig) {
			for id := uint32(1); !r.w.Gone() && id < 10000; id += 2 {
				r.get(id)
				r.fr.WriteRSTStream(id, xhttp2.ErrCodeCancel)
				r.send()
			}
		}, xhttp2.ErrCodeEnhanceYourCalm},
		"connection window exceeded": {func(r *serverRig) {
			for id := uint32(1); !r.w.Gone() && id < 1000; id += 2 {
				r.post(id)
				r.a.Last().Stream.Pause(true)
				for range 16 {
					r.fr.WriteData(id, false, make([]byte, 16384))
				}
				r.send()
			}
		}, xhttp2.ErrCodeFlowControl},
	} {
		r := newServerRig(t)
		c.do(r)
		got := r.frames()
		if last := got[len(got)-1]; !strings.HasPrefix(last, "goaway ") || !strings.Contains(last, c.want.String()) || !r.w.Closed {
			t.Errorf("%s: %s closed %v", name, last, r.w.Closed)
		}
		r.s.OnClose(nil)
		for _, p := range r.a.Requests {
			if p.Lost == stream.NoReset && !r.s.closed {
				t.Errorf("%s: a request was not reset", name)
			}
		}
	}
}

func flood(r *serverRig, one func()) {
	for range 5000 {
		if r.w.Gone() {
			return
		}
		one()
		r.send()
	}
}

func TestBadPreface(t *testing.T) {
	w := new(streamtest.Wire)
	s := NewServer(w, new(streamtest.Acceptor), &ServerOptions{Set: new(Set)})
	s.OnBytes([]byte("GET / HTTP/1.1\r\n\r\n"))
	if !w.Closed {
		t.Error("open")
	}
}

func TestSendFlowControl(t *testing.T) {
	r := newServerRig(t)
	r.fr.WriteSettings(xhttp2.Setting{ID: 4, Val: 10})
	r.send()
	r.get(1)
	r.get(3)
	a, b := r.a.Requests[0], r.a.Requests[1]
	r.frames()
	a.Stream.SendHead(resp(200, -1), false)
	a.Stream.SendData([]byte("0123456789abcde"), false)
	a.Stream.SendTrailers(resp(0, -1, "x", "y"))
	b.Stream.SendHead(resp(200, -1), false)
	b.Stream.SendData([]byte("0123456789"), true)
	r.want("headers 1 [:status: 200]", `data 1 "0123456789"`, "headers 3 [:status: 200]", `data 3 "0123456789" end`)
	r.fr.WriteWindowUpdate(1, 3)
	r.send()
	r.want(`data 1 "abc"`)
	r.fr.WriteSettings(xhttp2.Setting{ID: 4, Val: 20})
	r.send()
	r.want("settings ack", `data 1 "de"`, "headers 1 [x: y] end")
}

// When the connection's window is small, streams take turns.
func TestFairRounds(t *testing.T) {
	r := newServerRig(t)
	r.fr.WriteSettings(xhttp2.Setting{ID: 4, Val: 1 << 20})
	r.send()
	for id := uint32(1); id < 7; id += 2 {
		r.get(id)
		p := r.a.Last().Stream
		p.SendHead(resp(200, -1), false)
		p.SendData(make([]byte, 100_000), true)
	}
	r.frames()
	r.fr.WriteWindowUpdate(0, 6*16384)
	r.send()
	var ids []string
	for _, f := range r.frames() {
		ids = append(ids, strings.Fields(f)[1])
	}
	if got := strings.Join(ids, ""); got != "135135" {
		t.Errorf("order %s", got)
	}
}

func TestBlockedAndWritable(t *testing.T) {
	r := newServerRig(t)
	r.get(1)
	p := r.a.Last()
	p.Stream.SendHead(resp(200, -1), false)
	p.Stream.SendData(make([]byte, 60000), false)
	if p.Stream.Blocked() {
		t.Error("blocked too early")
	}
	p.Stream.SendData(make([]byte, 100000), false)
	if !p.Stream.Blocked() {
		t.Error("not blocked")
	}
	r.fr.WriteWindowUpdate(1, 1<<20)
	r.fr.WriteWindowUpdate(0, 1<<20)
	r.send()
	if p.Writable != 1 || p.Stream.Blocked() {
		t.Errorf("writable %d", p.Writable)
	}
	r.w.Block = true
	if !p.Stream.Blocked() {
		t.Error("wire blocked, stream not")
	}
	r.frames()
	p.Stream.SendData([]byte("waits for the wire"), true)
	r.want()
	r.w.Block = false
	r.s.OnWritable()
	r.want(`data 1 "waits for the wire" end`)
}

// Credit is given for what was taken: none while paused.
func TestCredit(t *testing.T) {
	r := newServerRigWith(t, Limits{StreamWindow: 32768, ConnWindow: 65536, MaxHeld: 40000})
	r.post(1)
	p := r.a.Last()
	for range 2 {
		r.data(1, false, strings.Repeat("x", 8192))
	}
	r.want("window 1 16384")
	p.Stream.Pause(true)
	for range 4 {
		r.data(1, false, strings.Repeat("x", 8192))
	}
	r.want("window 0 32768")
	p.Stream.Pause(false)
	r.want("window 1 32768")
	if len(p.Body) != 6*8192 {
		t.Errorf("%d bytes", len(p.Body))
	}
}

// A connection whose paused streams hold too much gets no credit until one
// goes on.
func TestCreditHeld(t *testing.T) {
	r := newServerRigWith(t, Limits{StreamWindow: 32768, ConnWindow: 65536, MaxHeld: 40000})
	for _, id := range []uint32{1, 3} {
		r.post(id)
		r.a.Last().Stream.Pause(true)
		for range 4 {
			r.data(id, false, strings.Repeat("x", 8192))
		}
	}
	r.want("window 0 32768")
	r.post(5)
	r.data(5, false, strings.Repeat("x", 8192))
	r.data(5, false, strings.Repeat("x", 8192))
	r.want("window 5 16384")
	r.a.Requests[0].Stream.Pause(false)
	r.want("window 1 32768", "window 0 49152")
}

func TestStreamWindowExceeded(t *testing.T) {
	r := newServerRigWith(t, Limits{StreamWindow: 16384})
	r.post(1)
	r.a.Last().Stream.Pause(true)
	r.data(1, false, strings.Repeat("x", 16384))
	r.data(1, false, "y")
	r.want("rst 1 FLOW_CONTROL_ERROR")
	if p := r.a.Last(); p.Lost != stream.ProtocolError || r.w.Gone() {
		t.Errorf("%v", p.Lost)
	}
}

func TestStreamLimit(t *testing.T) {
	r := newServerRigWith(t, Limits{MaxStreams: 2})
	r.get(1)
	r.get(3)
	r.get(5)
	r.want("rst 5 REFUSED_STREAM")
	r.a.Requests[0].Stream.SendHead(resp(200, 0), true)
	r.frames()
	r.get(7)
	if len(r.a.Requests) != 3 {
		t.Error("no room after one has ended")
	}
}

func TestDrain(t *testing.T) {
	r := newServerRig(t)
	r.get(1)
	r.s.Drain()
	r.want("goaway 2147483647 NO_ERROR ", "ping "+pingDrain)
	r.get(3) // was under way
	r.fr.WritePing(true, [8]byte([]byte(pingDrain)))
	r.send()
	r.want("goaway 3 NO_ERROR ")
	r.get(5)
	if len(r.a.Requests) != 2 || r.w.Gone() {
		t.Fatalf("%d requests", len(r.a.Requests))
	}
	for _, p := range r.a.Requests {
		p.Stream.SendHead(resp(200, 0), true)
	}
	if !r.w.Closed {
		t.Error("open after the last stream")
	}
}

// A client of several threads: it has seen the first GOAWAY, and yet writes what
// it had begun before.
func TestDrainLate(t *testing.T) {
	r := newServerRig(t)
	seen := 0
	r.s.o.OnSeen = func(*Server) { seen++ }
	r.s.Drain()
	r.want("goaway 2147483647 NO_ERROR ", "ping "+pingDrain)
	for range 2 {
		r.fr.WritePing(true, [8]byte([]byte(pingDrain)))
	}
	r.send()
	r.get(1)
	r.s.Leave()
	r.want("goaway 1 NO_ERROR ")
	r.s.Leave()
	r.get(3)
	if len(r.a.Requests) != 1 || seen == 0 {
		t.Fatalf("%d requests, %d", len(r.a.Requests), seen)
	}
	r.a.Last().Stream.SendHead(resp(200, 0), true)
	if !r.w.Closed {
		t.Error("open after the last stream")
	}
	r = newServerRig(t)
	r.s.o.OnSeen = func(*Server) {}
	r.s.Drain()
	if r.s.Leave(); !r.w.Closed {
		t.Error("open without a stream")
	}
}

func TestPeerReset(t *testing.T) {
	r := newServerRig(t)
	r.post(1)
	r.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel)
	r.send()
	if got := r.a.Last().String(); got != "POST a.example / reset(1 reset by peer: CANCEL)" {
		t.Error(got)
	}
	r.a.Last().Stream.SendHead(resp(200, 0), true)
	r.want()
}

func TestHeadersAfterEnd(t *testing.T) {
	r := newServerRig(t)
	r.get(1)
	r.headers(1, true, "a", "b")
	r.want("rst 1 STREAM_CLOSED")
	r.post(3)
	r.headers(3, false, "a", "b")
	r.want("rst 3 PROTOCOL_ERROR")
	r.post(5)
	r.headers(5, true, ":path", "/")
	r.want("rst 5 PROTOCOL_ERROR")
}

func TestExtendedConnect(t *testing.T) {
	r := newServerRig(t)
	r.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/ws", ":authority", "a", "sec-websocket-version", "13")
	p := r.a.Last()
	if got, want := p.String(), "GET a /ws protocol=websocket [sec-websocket-version: 13]"; got != want {
		t.Errorf("got %s", got)
	}
	p.Stream.SendHead(resp(101, -1), false)
	r.data(1, false, "ping")
	p.Stream.SendData([]byte("pong"), true)
	r.want("headers 1 [:status: 200]", `data 1 "pong" end`)
	r.data(1, true, "bye")
	if got := string(p.Body); got != "pingbye" || !p.End || r.s.streams.n != 0 {
		t.Errorf("%s", p)
	}
	r.want()
}

func TestConnect(t *testing.T) {
	r := newServerRig(t)
	r.headers(1, false, ":method", "CONNECT", ":authority", "a:1")
	p := r.a.Last()
	p.Stream.SendHead(resp(200, -1), false)
	r.data(1, true, "x")
	p.Stream.SendData([]byte("y"), false)
	p.Stream.SendData([]byte("z"), true)
	r.want("headers 1 [:status: 200]", `data 1 "y"`, `data 1 "z" end`)
	if p.String() != `CONNECT a:1 body="x" end` {
		t.Error(p)
	}
}

func TestConnectionLost(t *testing.T) {
	r := newServerRig(t)
	for id := uint32(1); id < 20; id += 2 {
		r.post(id)
	}
	r.s.OnClose(nil)
	for _, p := range r.a.Requests {
		if p.Lost != stream.ConnectionLost {
			t.Errorf("%s", p)
		}
		p.Stream.SendHead(resp(200, 0), true)
	}
}

func headersParam(id uint32, end bool, block []byte) xhttp2.HeadersFrameParam {
	return xhttp2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: block}
}
