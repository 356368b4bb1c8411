package http1

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

const benchRequest = "GET /api/v1/items?id=42 HTTP/1.1\r\nHost: orders.shop.svc.cluster.local\r\nUser-Agent: wrk/4.2.0\r\nAccept: */*\r\n" +
	"Accept-Encoding: gzip\r\nX-Request-Id: 5a0a8d7e-6b1f-4d0b-9b7d-1d2c3b4a5f6e\r\nX-Forwarded-Proto: http\r\nX-Tenant: some-tenant-name\r\nConnection: keep-alive\r\n\r\n"

const benchResponse = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nServer: backend\r\nCache-Control: no-cache\r\nVary: Accept\r\nX-Upstream: b\r\n\r\n"

// through forwards one exchange from a server codec to a client codec.
type through struct {
	s, c   stream.Stream
	client *Client
	down   downPeer
	done   int
}

func (x *through) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	x.s = s
	x.down.x = x
	x.c = x.client.Start(&x.down)
	x.c.SendHead(h, end)
	return x
}
func (x *through) OnHead(h *stream.Head, end bool)  {}
func (x *through) OnData(p []byte, end bool)        { x.c.SendData(p, end) }
func (x *through) OnTrailers(t *stream.Head)        { x.c.SendTrailers(t) }
func (x *through) OnReset(r stream.Reset, d string) {}
func (x *through) OnWritable()                      {}

type downPeer struct{ x *through }

func (d *downPeer) OnHead(h *stream.Head, end bool) { d.x.s.SendHead(h, end) }
func (d *downPeer) OnData(p []byte, end bool) {
	d.x.s.SendData(p, end)
	if end {
		d.x.done++
	}
}
func (d *downPeer) OnTrailers(t *stream.Head)        { d.x.s.SendTrailers(t); d.x.done++ }
func (d *downPeer) OnReset(r stream.Reset, _ string) {}
func (d *downPeer) OnWritable()                      {}

// exchange returns a function that carries one request and its response
// through a server and a client codec, each cut into pieces of that size.
func exchange(req, resp []byte, piece int) (func(), *through) {
	set := new(Set)
	sw, cw := new(streamtest.Wire), new(streamtest.Wire)
	x := new(through)
	x.client = NewClient(cw, &ClientOptions{Set: set})
	s := NewServer(sw, x, &ServerOptions{Set: set})
	feed := func(c stream.Codec, p []byte) {
		for len(p) > 0 {
			n := min(piece, len(p))
			c.OnBytes(p[:n])
			p = p[n:]
		}
	}
	return func() {
		feed(s, req)
		feed(x.client, resp)
		sw.Sent, cw.Sent = sw.Sent[:0], cw.Sent[:0]
	}, x
}

var (
	chunkedRequest  = []byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
	chunkedResponse = []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
)

func TestExchangeDoesNotAllocate(t *testing.T) {
	sized := append([]byte(benchResponse), make([]byte, 1024)...)
	for _, c := range []struct {
		name      string
		req, resp []byte
		piece     int
	}{
		{"whole", []byte(benchRequest), sized, 1 << 20},
		{"in pieces", []byte(benchRequest), sized, 100},
		{"chunked with trailers", chunkedRequest, chunkedResponse, 1 << 20},
		{"chunked byte by byte", chunkedRequest, chunkedResponse, 1},
	} {
		one, x := exchange(c.req, c.resp, c.piece)
		for range 10 {
			one()
		}
		before := x.done
		if n := testing.AllocsPerRun(200, one); n > 0 {
			t.Errorf("%s: %v allocations per exchange", c.name, n)
		}
		if x.done != before+201 {
			t.Errorf("%s: %d of 201 done", c.name, x.done-before)
		}
	}
}

func BenchmarkParseRequest(b *testing.B) {
	h := new(stream.Head)
	var f framing
	raw := []byte(benchRequest)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		h.Reset()
		if err := parseRequest(h, raw, &f, 100); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	h := new(stream.Head)
	var f framing
	raw := []byte(benchResponse)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		h.Reset()
		if err := parseResponse(h, raw, &f, 100); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEmitFields(b *testing.B) {
	h := new(stream.Head)
	h.Reset()
	var f framing
	if err := parseResponse(h, []byte(benchResponse), &f, 100); err != nil {
		b.Fatal(err)
	}
	var o []byte
	b.ReportAllocs()
	for b.Loop() {
		o, _ = appendFields(appendStatus(o[:0], 11, h), h.Fields, 1024)
	}
	b.SetBytes(int64(len(o)))
}

// One request and response with 1 KiB through both codecs.
func BenchmarkExchange(b *testing.B) {
	one, _ := exchange([]byte(benchRequest), append([]byte(benchResponse), make([]byte, 1024)...), 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		one()
	}
}

func BenchmarkChunked64K(b *testing.B) {
	resp := []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for range 16 {
		resp = append(resp, "1000\r\n"...)
		resp = append(append(resp, make([]byte, 4096)...), "\r\n"...)
	}
	resp = append(resp, "0\r\n\r\n"...)
	one, _ := exchange([]byte(benchRequest), resp, 1<<20)
	b.SetBytes(int64(len(resp)))
	b.ReportAllocs()
	for b.Loop() {
		one()
	}
}
