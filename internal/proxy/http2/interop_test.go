package http2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

func listen(t testing.TB) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// half is one direction of a forwarded exchange.
type half struct {
	to   stream.Stream
	from stream.Stream
	name string
	peer *half
	over bool
}

func (h *half) OnHead(m *stream.Head, end bool) { h.to.SendHead(m, end); h.flow() }
func (h *half) OnData(p []byte, end bool)       { h.to.SendData(p, end); h.flow() }
func (h *half) OnTrailers(t *stream.Head)       { h.to.SendTrailers(t) }
func (h *half) OnWritable()                     { h.peer.flow() }
func (h *half) OnReset(r stream.Reset, detail string) {
	h.over, h.peer.over = true, true
	h.to.Reset(r)
}
func (h *half) flow() {
	if h.from != nil {
		h.from.Pause(h.to.Blocked())
	}
}

// forwarder hands every request to a client connection.
type forwarder struct {
	open func(p stream.Peer) stream.Stream
}

func (f *forwarder) Accept(s stream.Stream, h *stream.Head, end bool) stream.Peer {
	down := &half{to: s, name: "response"}
	up := f.open(down)
	req := &half{to: up, from: s, name: "request", peer: down}
	down.from, down.peer = up, req
	up.SendHead(h, end)
	return req
}

// proxy serves h2c and forwards to addr over one h2c connection.
func proxy(t testing.TB, addr string, lim Limits) string {
	l := streamtest.NewLoop()
	set := new(Set)
	up, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var c *Client
	ready := make(chan struct{})
	var once sync.Once
	l.Serve(up, func(w stream.Wire) stream.Codec {
		c = NewClient(w, &ClientOptions{Set: set, Limits: lim, OnCapacity: func(*Client) { once.Do(func() { close(ready) }) }})
		return c
	})
	<-ready
	ln := listen(t)
	f := &forwarder{open: func(p stream.Peer) stream.Stream { return c.Open(p) }}
	o := &ServerOptions{Set: set, Limits: lim, OnFault: func(_ *Server, d string) { t.Log("server fault:", d) }}
	l.Listen(ln, func(w stream.Wire) stream.Codec { return NewServer(w, f, o) })
	t.Cleanup(func() {
		ln.Close()
		l.Wait(func() { c.Close() })
		l.Close()
	})
	return ln.Addr().String()
}

// backend is x/net's server with a few pages.
func backend(t testing.TB) string {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(201)
		sum := sha256.New()
		io.Copy(io.MultiWriter(w, sum), r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(103)
		w.WriteHeader(204)
	})
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ln := listen(t)
	srv := &http.Server{Handler: h2c.NewHandler(mux, &xhttp2.Server{})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

func xclient(t testing.TB) *http.Client {
	tr := &xhttp2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// The same bodies through x/net's client, our server, our client and x/net's
// server, with windows that are always too small.
func TestXNetThroughBothSides(t *testing.T) {
	base := "http://" + proxy(t, backend(t), Limits{StreamWindow: 16384, ConnWindow: 65535})
	hc := xclient(t)
	var wg sync.WaitGroup
	for _, size := range []int{0, 1, 100, 16384, 70000, 300_000, 2_000_000} {
		for range 4 {
			wg.Go(func() {
				body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
				req, _ := http.NewRequest("POST", base+"/echo", io.MultiReader(bytes.NewReader(body)))
				req.Header.Set("Cookie", "a=1; b=2")
				res, err := hc.Do(req)
				if err != nil {
					t.Errorf("size %d: %v", size, err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !bytes.Equal(got, body) || res.StatusCode != 201 {
					t.Errorf("size %d: %d of %d bytes, %v", size, len(got), len(body), err)
				}
				if want := fmt.Sprintf("%x", sha256.Sum256(body)); res.Trailer.Get("X-Sum") != want || res.Header.Get("X-Cookie") != "a=1; b=2" {
					t.Errorf("size %d: trailer %v cookie %q", size, res.Trailer, res.Header.Get("X-Cookie"))
				}
			})
		}
	}
	wg.Wait()
}

func TestXNetOddities(t *testing.T) {
	base := "http://" + proxy(t, backend(t), Limits{})
	hc := xclient(t)
	if res, err := hc.Get(base + "/hints"); err != nil || res.StatusCode != 204 {
		t.Errorf("hints: %v %v", res, err)
	}
	if res, err := hc.Head(base + "/echo"); err != nil || res.StatusCode != 201 {
		t.Errorf("head: %v %v", res, err)
	}
	if res, err := hc.Get(base + "/abort"); err == nil {
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("abort: a clean end after %q", b)
		}
	}
	if res, err := hc.Post(base+"/early", "text/plain", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)))); err != nil || res.StatusCode != 403 {
		t.Errorf("early: %v %v", res, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", base+"/slow", nil)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := hc.Do(req); err == nil {
		t.Error("cancelled request was answered")
	}
	if res, err := hc.Get(base + "/echo"); err != nil || res.StatusCode != 201 {
		t.Errorf("after all that: %v %v", res, err)
	}
}

// echo methods without generated code.
func unary(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	m := new(wrapperspb.BytesValue)
	if err := dec(m); err != nil {
		return nil, err
	}
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
	if string(m.Value) == "fail" {
		return nil, status.Error(codes.FailedPrecondition, "as asked: 错误")
	}
	return m, nil
}

func bidi(_ any, ss grpc.ServerStream) error {
	for {
		m := new(wrapperspb.BytesValue)
		if err := ss.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := ss.SendMsg(m); err != nil {
			return err
		}
	}
}

func grpcBackend(t testing.TB) string {
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
		Streams:     []grpc.StreamDesc{{StreamName: "Bidi", Handler: bidi, ServerStreams: true, ClientStreams: true}},
	}, struct{}{})
	ln := listen(t)
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	return ln.Addr().String()
}

func TestGRPC(t *testing.T) {
	cc, err := grpc.NewClient(proxy(t, grpcBackend(t), Limits{}), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				in := wrapperspb.Bytes(bytes.Repeat([]byte{byte(j)}, (i*j*97)%30000))
				out := new(wrapperspb.BytesValue)
				var trailer metadata.MD
				if err := cc.Invoke(ctx, "/Echo/Unary", in, out, grpc.Trailer(&trailer)); err != nil || !bytes.Equal(in.Value, out.Value) {
					t.Errorf("unary: %v", err)
					return
				}
				if len(trailer["x-trailer"]) != 1 {
					t.Errorf("trailer %v", trailer)
				}
			}
		})
	}
	wg.Go(func() {
		err := cc.Invoke(ctx, "/Echo/Unary", wrapperspb.Bytes([]byte("fail")), new(wrapperspb.BytesValue))
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "错误") {
			t.Errorf("status: %v", err)
		}
	})
	wg.Go(func() {
		ss, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/Echo/Bidi")
		if err != nil {
			t.Error(err)
			return
		}
		for i := range 200 {
			in := wrapperspb.Bytes(bytes.Repeat([]byte{byte(i)}, i*500))
			out := new(wrapperspb.BytesValue)
			if err := ss.SendMsg(in); err != nil {
				t.Error(err)
				return
			}
			if err := ss.RecvMsg(out); err != nil || !bytes.Equal(in.Value, out.Value) {
				t.Errorf("message %d: %v", i, err)
				return
			}
		}
		ss.CloseSend()
		if err := ss.RecvMsg(new(wrapperspb.BytesValue)); err != io.EOF {
			t.Errorf("end: %v", err)
		}
	})
	wg.Wait()
}
