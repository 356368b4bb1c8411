package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peer is the other side of a connection, frame by frame.
type peer struct {
	t *testing.T
	net.Conn
	f *http2.Framer
}

// pipe is a client whose peer is the test's, in memory.
func pipe(t *testing.T) (*Client, chan *peer) {
	peers := make(chan *peer, 4)
	c := New(Options{Scheme: "http", Authority: "localhost", UserAgent: "t", MaxMessage: 1 << 20, Dial: func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		peers <- &peer{t, b, http2.NewFramer(b, b)}
		return a, nil
	}})
	return c, peers
}

// said is a frame of the client.
type said struct {
	kind http2.FrameType
	ping [8]byte
}

// greet reads up to the first HEADERS, answers SETTINGS, and goes on reading
// what the client says.
func (p *peer) greet() (id uint32, rest chan said) {
	b := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p, b); err != nil || string(b) != http2.ClientPreface {
		p.t.Errorf("preface: %q, %v", b, err)
	}
	rest = make(chan said, 100)
	first := make(chan uint32, 1)
	go func() {
		defer close(rest)
		for {
			f, err := p.f.ReadFrame()
			if err != nil {
				return
			}
			if f.Header().Type == http2.FrameHeaders {
				first <- f.Header().StreamID
			}
			x := said{kind: f.Header().Type}
			if ping, ok := f.(*http2.PingFrame); ok {
				x.ping = ping.Data
			}
			rest <- x
		}
	}()
	id = <-first
	if err := p.f.WriteSettings(); err != nil {
		p.t.Error(err)
	}
	return id, rest
}

func (p *peer) headers(id uint32, end bool, kv ...string) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(kv); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	if err := p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: end}); err != nil {
		p.t.Error(err)
	}
}

func framed(b string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// What a peer may answer beside gRPC, and the error that comes of it.
func TestOddAnswers(t *testing.T) {
	ok := []string{":status", "200", "content-type", "application/grpc"}
	cases := []struct {
		name string
		do   func(p *peer, id uint32)
		want string
	}{
		{"page", func(p *peer, id uint32) {
			p.headers(id, false, ":status", "200", "content-type", "text/html")
			_ = p.f.WriteData(id, true, []byte("<html>"))
		}, `Unknown: the answer is not gRPC: HTTP status 200, content-type "text/html"`},
		{"overloaded", func(p *peer, id uint32) { p.headers(id, true, ":status", "503") },
			`Unavailable: the answer is not gRPC: HTTP status 503, content-type ""`},
		{"no status", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			_ = p.f.WriteData(id, true, framed("x"))
		}, "Internal: the stream ended without a status"},
		{"ends within a message", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			_ = p.f.WriteData(id, false, framed("abcdef")[:8])
			p.headers(id, true, "grpc-status", "0")
		}, "Internal: the stream ended within a message"},
		{"dies within a message", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			_ = p.f.WriteData(id, false, framed("abcdef")[:8])
			synctest.Wait() // the client has nothing left to write, so its read ends the connection
			_ = p.Close()
		}, "Unavailable: the other side closed the connection"},
		{"compressed", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			_ = p.f.WriteData(id, false, []byte{1, 0, 0, 0, 1, 'x'})
		}, "Internal: a compressed message, which was not offered"},
		{"compressed, announced", func(p *peer, id uint32) { p.headers(id, false, append(slices.Clone(ok), "grpc-encoding", "gzip")...) },
			`Internal: messages are compressed by "gzip", which was not offered`},
		{"bad flag", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			_ = p.f.WriteData(id, false, []byte{9, 0, 0, 0, 1, 'x'})
		}, "Internal: a message with flag 0x9"},
		{"no message", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			p.headers(id, true, "grpc-status", "0")
		}, "Internal: no message in the answer"},
		{"two messages", func(p *peer, id uint32) {
			p.headers(id, false, ok...)
			_ = p.f.WriteData(id, false, append(framed("x"), framed("y")...))
		}, "Internal: more than one message in the answer"},
		{"status without sense", func(p *peer, id uint32) { p.headers(id, true, append(slices.Clone(ok), "grpc-status", "-1")...) },
			"Unknown: malformed grpc-status"},
		{"status of the future", func(p *peer, id uint32) { p.headers(id, true, append(slices.Clone(ok), "grpc-status", "99")...) },
			"code 99"},
		{"reset", func(p *peer, id uint32) { _ = p.f.WriteRSTStream(id, http2.ErrCodeInternal) },
			"Unavailable: reset by peer: INTERNAL_ERROR"},
		{"data before the head", func(p *peer, id uint32) { _ = p.f.WriteData(id, false, framed("x")) },
			"Internal: data before the response head"},
		{"garbage", func(p *peer, _ uint32) { _, _ = p.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
			"Internal: frame too large"},
		{"goodbye before it was taken", func(p *peer, _ uint32) { _ = p.f.WriteGoAway(0, http2.ErrCodeNo, nil) },
			"Unavailable: connection is going away"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peers := pipe(t)
				defer c.Close()
				result := make(chan error, 1)
				go func() {
					_, err := c.Call(t.Context(), "/x", []byte("in"))
					result <- err
				}()
				p := <-peers
				defer p.Close()
				id, rest := p.greet()
				go func() {
					for range rest {
					}
				}()
				tc.do(p, id)
				if err := <-result; err == nil || err.Error() != tc.want {
					t.Errorf("%v\nwant %s", err, tc.want)
				}
			})
		})
	}
}

// Silence is asked about, an answer heard, and none taken for the end. The
// clock is the bubble's.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peers := pipe(t)
		defer c.Close()
		opened := make(chan *Stream, 1)
		go func() {
			s, err := c.Open(t.Context(), "/x")
			if err != nil {
				t.Error(err)
			}
			opened <- s
		}()
		p := <-peers
		defer p.Close()
		_, rest := p.greet()
		var pings []time.Duration
		start := time.Now()
		over := make(chan struct{})
		go func() {
			defer close(over)
			for x := range rest {
				if x.kind != http2.FramePing {
					continue
				}
				pings = append(pings, time.Since(start))
				if len(pings) <= 2 {
					_ = p.f.WritePing(true, x.ping)
				}
			}
		}()
		<-over
		if _, err := (<-opened).Recv(); err == nil || !strings.Contains(err.Error(), "no answer to a ping within 8s") {
			t.Errorf("stream: %v", err)
		}
		if want := []time.Duration{firstQuiet, 2 * firstQuiet, 3 * firstQuiet}; !slices.Equal(pings, want) {
			t.Errorf("pings at %v", pings)
		}
		if got := time.Since(start); got != pings[len(pings)-1]+pongWithin {
			t.Errorf("given up after %v, pings at %v", got, pings)
		}
		if silence := firstQuiet + pongWithin; silence > 20*time.Second {
			t.Errorf("silence is noticed after %v", silence)
		}
	})
}

// A peer that accepts and says nothing is given up.
func TestNoGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peers := pipe(t)
		defer c.Close()
		go func() {
			p := <-peers
			_, _ = io.Copy(io.Discard, p)
		}()
		start := time.Now()
		_, err := c.Call(t.Context(), "/x", nil)
		if err == nil || !strings.Contains(err.Error(), "it does not speak HTTP/2") || time.Since(start) != greetWithin {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A server of HTTP/1 is told apart.
func TestHTTP1Server(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	c := client(t, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	})
	if _, err := c.Call(t.Context(), "/x", nil); err == nil || !strings.Contains(err.Error(), "frame too large") {
		t.Errorf("%v", err)
	}
}

// Nobody there is told apart, and so is a call that had no time.
func TestUnreachable(t *testing.T) {
	_, path := socket(t)
	c := client(t, unixTo(path+"no"))
	if _, err := c.Open(t.Context(), "/x"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Open(ctx, "/x"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// FuzzSplitter cuts a body as the fuzzer says and compares with the body in
// one piece, read the plain way.
func FuzzSplitter(f *testing.F) {
	f.Add(append(framed("hello"), framed("")...), []byte{1, 2, 3})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff}, []byte{})
	f.Add([]byte{1, 0, 0, 0, 0}, []byte{5})
	f.Fuzz(func(t *testing.T, body, cuts []byte) {
		const most = 1000
		var want [][]byte
		bad := false
		rest := body
		for len(rest) >= prefix && !bad {
			n := binary.BigEndian.Uint32(rest[1:])
			if bad = rest[0] != 0 || n > most; bad || len(rest) < prefix+int(n) {
				break
			}
			want = append(want, rest[prefix:prefix+int(n)])
			rest = rest[prefix+int(n):]
		}
		s := splitter{max: most}
		var got [][]byte
		var err error
		for p := body; len(p) > 0 && err == nil; {
			k := len(p)
			if len(cuts) > 0 {
				k, cuts = min(k, 1+int(cuts[0])), cuts[1:]
			}
			err = s.feed(p[:k], func(m []byte) { got = append(got, m) })
			p = p[k:]
		}
		if (err != nil) != bad || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("got %q, %v; want %q, bad %t", got, err, want, bad)
		}
		if err == nil && s.partial() != (len(rest) > 0) {
			t.Errorf("partial %t with %d bytes left", s.partial(), len(rest))
		}
	})
}

// FuzzPeer has a peer say anything: a call ends with an error or an answer, and
// the client closes.
func FuzzPeer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings()
	f.Add(slices.Clone(b.Bytes()))
	var h bytes.Buffer
	e := hpack.NewEncoder(&h)
	for _, kv := range [][2]string{{":status", "200"}, {"content-type", "application/grpc"}} {
		_ = e.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1]})
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.Bytes(), EndHeaders: true})
	_ = fr.WriteData(1, false, framed("hello"))
	h.Reset()
	_ = e.WriteField(hpack.HeaderField{Name: "grpc-status", Value: "0"})
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.Bytes(), EndHeaders: true, EndStream: true})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, say []byte) {
		c, peers := pipe(t)
		go func() {
			p := <-peers
			go func() { _, _ = io.Copy(io.Discard, p) }()
			_, _ = p.Write(say)
			_ = p.Close()
		}()
		out, err := c.Call(t.Context(), "/x", []byte("in"))
		if (out == nil) == (err == nil) {
			t.Errorf("%q, %v", out, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
