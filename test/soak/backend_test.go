package soak

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/port"
)

// backend is a program that dies and returns: HTTP/1, HTTP/2 with prior
// knowledge, WebSocket on one port, bytes on another.
type backend struct {
	t         testing.TB
	web, tcp  string // addresses
	mu        sync.Mutex
	server    *http.Server
	listeners []net.Listener
	open      map[net.Conn]bool // of tcp, and upgraded
	up        bool
}

func startBackend(t testing.TB) *backend {
	b := &backend{t: t, web: port.Free(t).String(), tcp: port.Free(t).String(), open: map[net.Conn]bool{}}
	b.rise()
	t.Cleanup(b.die)
	return b
}

// rise listens.
func (b *backend) rise() {
	b.mu.Lock()
	defer b.mu.Unlock()
	web, tcp := b.listen(b.web), b.listen(b.tcp)
	b.up = true
	b.listeners = []net.Listener{web, tcp}
	b.server = &http.Server{Handler: http.HandlerFunc(b.serve), Protocols: &http.Protocols{}, ReadHeaderTimeout: time.Minute}
	b.server.Protocols.SetHTTP1(true)
	b.server.Protocols.SetUnencryptedHTTP2(true)
	go func(s *http.Server) {
		if err := s.Serve(web); !errors.Is(err, http.ErrServerClosed) {
			b.t.Error(err)
		}
	}(b.server)
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go b.echo(c, c)
		}
	}()
}

func (b *backend) listen(addr string) net.Listener {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return l
		}
		if time.Now().After(end) {
			b.t.Error(err)
			return l
		}
	}
}

// die ends like a process that is killed: everything is closed at once.
func (b *backend) die() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.up {
		return
	}
	b.up = false
	_ = b.server.Close()
	for _, l := range b.listeners {
		_ = l.Close()
	}
	for c := range b.open {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

// echo gives back what comes.
func (b *backend) echo(c net.Conn, in io.Reader) {
	b.mu.Lock()
	b.open[c] = true
	b.mu.Unlock()
	_, _ = io.Copy(c, in)
	_ = c.Close()
	b.mu.Lock()
	delete(b.open, c)
	b.mu.Unlock()
}

// serve answers with the body that came, as gRPC does if it is gRPC.
func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	if strings.EqualFold(r.Header.Get("upgrade"), "websocket") {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		b.echo(c, bufio.NewReader(rw))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // a proxy cut it
	}
	if r.Header.Get("content-type") == "application/grpc" {
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		_, _ = w.Write(body)
		w.Header().Set("grpc-status", "0")
		return
	}
	if r.URL.Path == "/chunked" {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = w.Write(body)
}
