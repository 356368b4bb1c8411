package http2

import (
	"bytes"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// quietPeer takes everything and keeps nothing.
type quietPeer struct {
	s    stream.Stream
	resp *stream.Head
	body []byte
	done int
}

func (p *quietPeer) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	p.s = s
	if end {
		p.answer()
	}
	return p
}

func (p *quietPeer) answer() {
	p.done++
	p.s.SendHead(p.resp, false)
	p.s.SendData(p.body, true)
}
func (p *quietPeer) OnHead(h *stream.Head, end bool) {
	if end {
		p.done++
	}
}
func (p *quietPeer) OnData(b []byte, end bool) {
	if end && p.resp != nil {
		p.answer()
	} else if end {
		p.done++
	}
}
func (p *quietPeer) OnTrailers(*stream.Head)      { p.done++ }
func (p *quietPeer) OnReset(stream.Reset, string) {}
func (p *quietPeer) OnWritable()                  {}

// serverLoop returns a function that makes a server take one POST of 128
// bytes and answer it with 1 KiB, and the peer that counts.
func serverLoop(t testing.TB) (func(), *quietPeer) {
	w := new(streamtest.Wire)
	p := &quietPeer{resp: resp(200, 1024, "content-type", "application/grpc", "server", "envoy"), body: make([]byte, 1024)}
	s := NewServer(w, p, &ServerOptions{Set: new(Set)})
	var out, hbuf bytes.Buffer
	fr := xhttp2.NewFramer(&out, nil)
	out.WriteString(Preface)
	fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 20})
	s.OnBytes(out.Bytes())
	enc := xhpack.NewEncoder(&hbuf)
	id := uint32(1)
	body := make([]byte, 128)
	return func() {
		out.Reset()
		hbuf.Reset()
		for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/Echo/Unary"}, {":authority", "orders.shop"}, {"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "grpc-go/1.85"}, {"x-request-id", "5a0a8d7e-6b1f-4d0b-9b7d-1d2c3b4a5f6e"}} {
			enc.WriteField(xhpack.HeaderField{Name: f[0], Value: f[1]})
		}
		fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: hbuf.Bytes()})
		fr.WriteData(id, true, body)
		fr.WriteWindowUpdate(0, 1024)
		s.OnBytes(out.Bytes())
		w.Sent = w.Sent[:0]
		id += 2
	}, p
}

func TestServerDoesNotAllocate(t *testing.T) {
	one, p := serverLoop(t)
	for range 200 {
		one()
	}
	before := p.done
	if n := testing.AllocsPerRun(500, one); n > 0 {
		t.Errorf("%v allocations per request", n)
	}
	if p.done != before+501 {
		t.Errorf("%d answered", p.done-before)
	}
}

// pairLoop returns a function that sends one request from our client to our
// server and its response back.
func pairLoop(t testing.TB) (func(), *quietPeer) {
	set := new(Set)
	cw, sw := new(streamtest.Wire), new(streamtest.Wire)
	p := &quietPeer{resp: resp(200, 1024, "content-type", "application/json", "server", "x"), body: make([]byte, 1024)}
	s := NewServer(sw, p, &ServerOptions{Set: set})
	c := NewClient(cw, &ClientOptions{Set: set})
	// pass carries what each side has sent to the other.
	pass := func() {
		for len(cw.Sent)+len(sw.Sent) > 0 {
			b := cw.Sent
			cw.Sent = nil
			s.OnBytes(b)
			cw.Sent = b[:0]
			b = sw.Sent
			sw.Sent = nil
			c.OnBytes(b)
			sw.Sent = append(b[:0], sw.Sent...)
		}
	}
	pass()
	up := new(quietPeer)
	h := request("POST", "content-type", "application/json", "user-agent", "x", "x-request-id", "5a0a8d7e-6b1f-4d0b-9b7d-1d2c3b4a5f6e")
	h.Length = 128
	body := make([]byte, 128)
	return func() {
		st := c.Open(up)
		st.SendHead(h, false)
		st.SendData(body, true)
		pass()
	}, up
}

func TestPairDoesNotAllocate(t *testing.T) {
	one, p := pairLoop(t)
	for range 200 {
		one()
	}
	before := p.done
	if n := testing.AllocsPerRun(2000, one); n >= 0.02 { // window updates make the buffer of the fake grow
		t.Errorf("%v allocations per exchange", n)
	}
	if p.done != before+2001 {
		t.Errorf("%d answered", p.done-before)
	}
}

func BenchmarkServerExchange(b *testing.B) {
	one, _ := serverLoop(b)
	b.ReportAllocs()
	for b.Loop() {
		one()
	}
}

// Client and server of ours, request and response with bodies.
func BenchmarkPairExchange(b *testing.B) {
	one, _ := pairLoop(b)
	b.ReportAllocs()
	for b.Loop() {
		one()
	}
}
