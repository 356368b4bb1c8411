package rpc

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw passes *[]byte through grpc.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(d mem.BufferSlice, v any) error { *v.(*[]byte) = d.Materialize(); return nil }

func (raw) Name() string { return "proto" }

// server is a grpc-go server whose one handler is the test's.
type server struct {
	*grpc.Server
	handle func(method string, s grpc.ServerStream) error
}

func serve(t *testing.T, l net.Listener, handle func(string, grpc.ServerStream) error, o ...grpc.ServerOption) *server {
	t.Helper()
	s := &server{handle: handle}
	o = append(o, grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		m, _ := grpc.MethodFromServerStream(ss)
		return s.handle(m, ss)
	}))
	s.Server = grpc.NewServer(o...)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s
}

// socket listens in a directory of the test.
func socket(t *testing.T) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

func client(t *testing.T, dial func(context.Context) (net.Conn, error)) *Client {
	t.Helper()
	c := New(Options{Dial: dial, Scheme: "http", Authority: "localhost", UserAgent: "test/1", MaxMessage: 16 << 20,
		Token: func() (string, error) { return "secret", nil }})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func unixTo(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

func recv(s grpc.ServerStream) ([]byte, error) {
	var b []byte
	err := s.RecvMsg(&b)
	return b, err
}

func send(s grpc.ServerStream, b []byte) error { return s.SendMsg(&b) }

// echo answers every message by itself.
func echo(_ string, s grpc.ServerStream) error {
	for {
		b, err := recv(s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = send(s, b)
		}
		if err != nil {
			return err
		}
	}
}

// pattern is n bytes that are not alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> (i % 5))
	}
	return b
}

// Messages of all sizes come back whole, one after the other, on a stream and
// by single exchanges, with and without TLS.
func TestMessagesOfAllSizes(t *testing.T) {
	cert, pool := selfSigned(t)
	for name, secure := range map[string]bool{"unix": false, "tls": true} {
		t.Run(name, func(t *testing.T) {
			l, path := socket(t)
			var o []grpc.ServerOption
			dial := unixTo(path)
			if secure {
				o = append(o, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
				dial = func(ctx context.Context) (net.Conn, error) {
					nc, err := unixTo(path)(ctx)
					if err != nil {
						return nil, err
					}
					c := tls.Client(nc, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h2"}})
					return c, c.HandshakeContext(ctx)
				}
			}
			serve(t, l, echo, o...)
			c := client(t, dial)
			s, err := c.Open(t.Context(), "/x/Stream")
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{0, 1, 4, 16 << 10, 16<<10 + 1, 70_000, 1 << 20, 5<<20 + 3} {
				want := pattern(n)
				sent := make(chan error, 1)
				go func() { sent <- s.Send(want) }()
				got, err := s.Recv()
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("stream, %d bytes: got %d, %v", n, len(got), err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				if got, err = c.Call(t.Context(), "/x/Call", want); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("call, %d bytes: got %d, %v", n, len(got), err)
				}
			}
		})
	}
}

// What a call says of itself arrives; how the server ends it arrives too.
func TestHeadersAndStatus(t *testing.T) {
	l, path := socket(t)
	var seen metadata.MD
	var left time.Duration
	serve(t, l, func(m string, s grpc.ServerStream) error {
		seen, _ = metadata.FromIncomingContext(s.Context())
		if end, ok := s.Context().Deadline(); ok {
			left = time.Until(end)
		}
		if m == "/x/Late" {
			b := []byte("one")
			_ = send(s, b)
		}
		return status.Error(codes.PermissionDenied, "not you: 100% sure\nреально")
	})
	c := client(t, unixTo(path))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, m := range []string{"/x/Early", "/x/Late"} {
		_, err := c.Call(ctx, m, []byte("hello"))
		var st *Status
		if !errors.As(err, &st) || st.Code != PermissionDenied || st.Message != "not you: 100% sure\nреально" {
			t.Errorf("%s: %v", m, err)
		}
	}
	if got := strings.Join(seen["authorization"], " "); got != "Bearer secret" {
		t.Errorf("authorization: %q", got)
	}
	if got := strings.Join(seen["user-agent"], " "); got != "test/1" {
		t.Errorf("user-agent: %q", got)
	}
	if left < 50*time.Minute || left > time.Hour {
		t.Errorf("deadline: %v", left)
	}
	grpcless := serve2(t, grpc.NewServer())
	_, err := client(t, unixTo(grpcless)).Call(t.Context(), "/x/Nothing", nil)
	var st *Status
	if !errors.As(err, &st) || st.Code != Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
}

func serve2(t *testing.T, s *grpc.Server) string {
	l, path := socket(t)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return path
}

// A stream that is not read makes its server wait, and another call on the
// same connection goes on.
func TestUnreadStreamHoldsItsServer(t *testing.T) {
	l, path := socket(t)
	var sent atomic.Int64
	piece := pattern(100_000)
	stuck := make(chan struct{})
	serve(t, l, func(m string, s grpc.ServerStream) error {
		if m != "/x/Flood" {
			return echo(m, s)
		}
		for range 200 {
			if err := send(s, piece); err != nil {
				return err
			}
			if sent.Add(1) == 2 {
				close(stuck)
			}
		}
		return nil
	})
	c := client(t, unixTo(path))
	s, err := c.Open(t.Context(), "/x/Flood")
	if err != nil {
		t.Fatal(err)
	}
	<-stuck
	for range 20 { // others are served
		if _, err := c.Call(t.Context(), "/x/Echo", piece); err != nil {
			t.Fatal(err)
		}
	}
	if n := sent.Load(); n > 12 { // a window, and what grpc-go buffers
		t.Errorf("%d messages of 100 kB were taken from a stream that nobody reads", n)
	}
	n := 0
	for ; err == nil; n++ {
		var b []byte
		if b, err = s.Recv(); err == nil && !bytes.Equal(b, piece) {
			t.Fatal("a message differs")
		}
	}
	if n != 201 || !errors.Is(err, io.EOF) {
		t.Errorf("%d messages, then %v", n-1, err)
	}
}

// A server that does not read makes Send wait; the context ends that.
func TestUnreadServerHoldsSend(t *testing.T) {
	l, path := socket(t)
	end := make(chan struct{})
	defer close(end)
	serve(t, l, func(_ string, s grpc.ServerStream) error { <-end; return nil })
	c := client(t, unixTo(path))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Open(ctx, "/x/Deaf")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error)
	var n atomic.Int64
	go func() {
		for {
			if err := s.Send(pattern(50_000)); err != nil {
				over <- err
				return
			}
			n.Add(1)
		}
	}()
	// It waits when the count stands still while another call goes by.
	for last := int64(-1); ; {
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, _ = c.Call(ctx, "/x/Other", nil)
		stop()
		if now := n.Load(); now == last {
			break
		} else {
			last = now
		}
	}
	if n.Load() > 20 {
		t.Errorf("%d messages of 50 kB went to a server that reads none", n.Load())
	}
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("send: %v", err)
	}
}

// Too large a message ends its stream and nothing else.
func TestTooLargeMessage(t *testing.T) {
	l, path := socket(t)
	serve(t, l, func(m string, s grpc.ServerStream) error {
		if m == "/x/Large" {
			return send(s, make([]byte, 16<<20+1))
		}
		return echo(m, s)
	})
	c := client(t, unixTo(path))
	s, err := c.Open(t.Context(), "/x/Stream")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Call(t.Context(), "/x/Large", nil)
	var st *Status
	if !errors.As(err, &st) || st.Code != Internal || !strings.Contains(st.Message, "more than 16777216") {
		t.Errorf("%v", err)
	}
	if err := s.Send([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Recv(); string(b) != "x" {
		t.Errorf("the other stream: %q, %v", b, err)
	}
}

// A server that stops gracefully sees its streams move at once, exchanges
// finish, and the next stream comes to its successor.
func TestGoodbye(t *testing.T) {
	l, path := socket(t)
	called, answer := make(chan struct{}), make(chan struct{})
	one := serve(t, l, func(m string, s grpc.ServerStream) error {
		if m == "/x/Call" {
			close(called)
			<-answer
		}
		return echo(m, s)
	})
	c := client(t, unixTo(path))
	s, err := c.Open(t.Context(), "/x/Stream")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		_, err := c.Call(t.Context(), "/x/Call", []byte("slow"))
		result <- err
	}()
	<-called
	stopped := make(chan struct{})
	go func() { one.GracefulStop(); close(stopped) }()
	var st *Status
	if _, err := s.Recv(); !errors.As(err, &st) || st.Code != Unavailable || st.Message != "the other side says goodbye" {
		t.Errorf("stream: %v", err)
	}
	if _, err := c.Open(t.Context(), "/x/Stream"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}
	close(answer)
	if err := <-result; err != nil {
		t.Errorf("call under way: %v", err)
	}
	<-stopped
	l2, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l2, echo)
	if b, err := c.Call(t.Context(), "/x/Call", []byte("again")); string(b) != "again" {
		t.Errorf("successor: %q, %v", b, err)
	}
}

// A server that dies ends everything with the cause.
func TestServerDies(t *testing.T) {
	l, path := socket(t)
	one := serve(t, l, echo)
	c := client(t, unixTo(path))
	s, err := c.Open(t.Context(), "/x/Stream")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	one.Stop()
	var st *Status
	if _, err := s.Recv(); !errors.As(err, &st) || st.Code != Unavailable {
		t.Errorf("stream: %v", err)
	}
	if err := s.Send([]byte("x")); !errors.As(err, &st) {
		t.Errorf("send: %v", err)
	}
}

// A server that finds our pings too many is asked half as often.
func TestPingsTooMany(t *testing.T) {
	l, path := socket(t)
	serve(t, l, echo, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Hour}))
	c := client(t, unixTo(path))
	s, err := c.Open(t.Context(), "/x/Stream")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { _, err := s.Recv(); over <- err }()
	c.mu.Lock()
	x := c.now
	c.mu.Unlock()
	for end := false; !end; {
		x.locked(func() { // pings without waiting for the clock
			if x.codec.Greeted() && !x.closing {
				x.codec.Ping()
			}
		})
		select {
		case err = <-over:
			end = true
		case <-time.After(time.Millisecond):
		}
	}
	if !strings.Contains(err.Error(), "ENHANCE_YOUR_CALM") {
		t.Errorf("stream: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet != 2*firstQuiet {
		t.Errorf("pings after %v now", c.quiet)
	}
}

// Close ends everything, also what waits.
func TestClose(t *testing.T) {
	l, path := socket(t)
	serve(t, l, echo)
	c := client(t, unixTo(path))
	s, err := c.Open(t.Context(), "/x/Stream")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error)
	go func() { _, err := s.Recv(); over <- err }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-over; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("stream: %v", err)
	}
	if _, err := c.Call(t.Context(), "/x/Call", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("call: %v", err)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
