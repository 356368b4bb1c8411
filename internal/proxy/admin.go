package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// page writes an answer of the admin server; it runs off the loops.
type page func(w *bytes.Buffer, query url.Values) (status int, contentType string)

// admin serves health, metrics and dumps, by the proxy's own codec.
type admin struct {
	p     *Proxy
	loop  *loop.Loop
	set   http1.Set
	opts  http1.ServerOptions
	watch *loop.Watch
	fd    int
	path  string          // of a unix socket, or an address
	pages map[string]page // "GET /ready"
}

// serveAdmin listens where the bootstrap says, on a predecessor's socket if fd
// is one.
func (p *Proxy) serveAdmin(addr string, fd int) (*admin, error) {
	a := &admin{p: p, loop: p.group.Loops()[0], pages: p.pages()}
	a.opts = http1.ServerOptions{Set: &a.set, AcceptHTTP10: true}
	a.path, _ = strings.CutPrefix(addr, "unix://")
	if a.fd = fd; fd < 0 {
		var err error
		if a.fd, err = a.listen(addr); err != nil {
			return nil, fmt.Errorf("admin %s: %w", addr, err)
		}
	}
	ready := make(chan error, 1)
	open := a.loop.Post(func() {
		var err error
		a.watch, err = a.loop.Watch(a.fd, unix.EPOLLIN, func(uint32) { a.accept(a.fd) })
		ready <- err
	})
	if !open {
		return nil, fmt.Errorf("admin %s: %w", addr, loop.ErrEnded)
	}
	return a, <-ready
}

// listen opens the socket; a stale unix socket of a dead process is replaced.
func (a *admin) listen(addr string) (int, error) {
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return -1, errors.New("another proxy listens there")
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return -1, err
		}
		return listenFD(unix.AF_UNIX, &unix.SockaddrUnix{Name: path})
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return -1, err
	}
	if !ap.Addr().IsLoopback() {
		return -1, errors.New("the admin server listens on loopback only")
	}
	sa, err := loop.Sockaddr(ap)
	if err != nil {
		return -1, err
	}
	family := unix.AF_INET
	if ap.Addr().Is6() {
		family = unix.AF_INET6
	}
	return listenFD(family, sa)
}

func listenFD(family int, sa unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if family != unix.AF_UNIX {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (a *admin) accept(fd int) {
	for {
		c, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		w := a.loop.Adopt(c, netip.AddrPort{}, netip.AddrPort{})
		w.Start(http1.NewServer(w, a, &a.opts))
	}
}

// Accept answers a request off the loop and comes back with the page.
func (a *admin) Accept(s stream.Stream, h *stream.Head, _ bool) stream.Peer {
	path, raw, _ := strings.Cut(string(h.Path), "?")
	query, _ := url.ParseQuery(raw) // what cannot be read is not there
	r := &adminRequest{a: a, s: s}
	f, known := a.pages[string(h.Method)+" "+path]
	if !known {
		f = a.index
	}
	go func() {
		var b bytes.Buffer
		status, kind := 503, "text/plain"
		if err := a.p.group.Gate().Do(context.Background(), func() { status, kind = f(&b, query) }); err != nil {
			b.WriteString(err.Error() + "\n")
		}
		a.loop.Post(func() { r.answer(status, kind, b.Bytes()) })
	}()
	return r
}

func (a *admin) index(w *bytes.Buffer, _ url.Values) (int, string) {
	w.WriteString("no such page; there are:\n")
	for _, k := range slices.Sorted(maps.Keys(a.pages)) {
		w.WriteString("  " + k + "\n")
	}
	return 404, "text/plain"
}

// close ends the serving; unlink: nobody goes on at the same path.
func (a *admin) close(unlink bool) {
	done := make(chan struct{})
	end := func() {
		if a.watch != nil {
			a.watch.Close()
		}
		_ = unix.Close(a.fd)
		close(done)
	}
	if !a.loop.Post(end) {
		_ = unix.Close(a.fd)
		close(done)
	}
	<-done
	if unlink && strings.HasPrefix(a.path, "/") {
		_ = os.Remove(a.path)
	}
}

// adminRequest is one admin request; its body, if any, is not read.
type adminRequest struct {
	a    *admin
	s    stream.Stream
	rest []byte
	over bool
}

func (r *adminRequest) answer(status int, kind string, body []byte) {
	if r.over {
		return
	}
	var h stream.Head
	h.Reset()
	h.Status, h.Length, h.Body = status, int64(len(body)), len(body) > 0
	h.AddString("content-type", kind)
	h.AddString("cache-control", "no-cache, max-age=0")
	r.s.SendHead(&h, len(body) == 0)
	r.rest = body
	r.OnWritable()
}

// OnWritable sends the next pieces of a large page.
func (r *adminRequest) OnWritable() {
	for len(r.rest) > 0 && !r.over && !r.s.Blocked() {
		n := min(len(r.rest), 32<<10)
		piece := r.rest[:n]
		r.rest = r.rest[n:]
		r.s.SendData(piece, len(r.rest) == 0)
	}
}

func (r *adminRequest) OnHead(*stream.Head, bool)    {}
func (r *adminRequest) OnData([]byte, bool)          {}
func (r *adminRequest) OnTrailers(*stream.Head)      {}
func (r *adminRequest) OnReset(stream.Reset, string) { r.over = true }
