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
	"github.com/tulle-mesh/tulle/internal/proxy/kube"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Bounds of a door: connections at a time, and how long one may be silent.
const (
	maxVisitors = 256
	doorIdle    = 2 * time.Minute
)

// asked is a request to the proxy itself.
type asked struct {
	method, path string
	query        url.Values
	header       []kube.Field
	from         netip.AddrPort // invalid on unix sockets
}

// visit answers a request off the loops; it may wait, and puts work that costs
// CPU behind the gate itself.
type visit func(r *asked, w *bytes.Buffer) (status int, contentType string)

// page writes an answer behind the gate: it must not wait.
type page func(w *bytes.Buffer, query url.Values) (status int, contentType string)

// door is a socket at which the proxy itself answers, by its own codec.
type door struct {
	p     *Proxy
	loop  *loop.Loop
	set   http1.Set
	watch *loop.Watch
	fd    int
	path  string // of a unix socket, or an address
	visit visit
	open  int // connections; of the loop
}

// serveAdmin listens where the bootstrap says, on a predecessor's socket if fd
// is one.
func (p *Proxy) serveAdmin(addr string, fd int) (*door, error) {
	if fd < 0 {
		var err error
		if fd, err = listenAdmin(addr); err != nil {
			return nil, fmt.Errorf("admin %s: %w", addr, err)
		}
	}
	d, err := p.openDoor(fd, addr, p.visitPages(p.pages()))
	if err != nil {
		return nil, fmt.Errorf("admin %s: %w", addr, err)
	}
	return d, nil
}

// openDoor serves a listening socket, which it owns from now on.
func (p *Proxy) openDoor(fd int, addr string, v visit) (*door, error) {
	d := &door{p: p, loop: p.group.Loops()[0], fd: fd, visit: v}
	d.path, _ = strings.CutPrefix(addr, "unix://")
	ready := make(chan error, 1)
	open := d.loop.Post(func() {
		var err error
		d.watch, err = d.loop.Watch(d.fd, unix.EPOLLIN, func(uint32) { d.accept() })
		ready <- err
	})
	if !open {
		return nil, loop.ErrEnded
	}
	return d, <-ready
}

// visitPages answers from pages, by "GET /path".
func (p *Proxy) visitPages(pages map[string]page) visit {
	return func(r *asked, w *bytes.Buffer) (status int, kind string) {
		f, known := pages[r.method+" "+r.path]
		if !known {
			w.WriteString("no such page; there are:\n")
			for _, k := range slices.Sorted(maps.Keys(pages)) {
				w.WriteString("  " + k + "\n")
			}
			return 404, "text/plain"
		}
		return p.gated(w, func() (int, string) { return f(w, r.query) })
	}
}

// gated runs f behind the gate.
func (p *Proxy) gated(w *bytes.Buffer, f func() (int, string)) (status int, kind string) {
	if err := p.group.Gate().Do(context.Background(), func() { status, kind = f() }); err != nil {
		w.WriteString(err.Error() + "\n")
		return 503, "text/plain"
	}
	return status, kind
}

// listenAdmin opens the socket; a stale unix socket of a dead process is
// replaced.
func listenAdmin(addr string) (int, error) {
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return -1, errors.New("another proxy listens there")
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return -1, err
		}
		return listen.OpenUnix(path)
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return -1, err
	}
	if !ap.Addr().IsLoopback() {
		return -1, errors.New("the admin server listens on loopback only")
	}
	return listen.Open(ap)
}

func (d *door) accept() {
	for {
		c, from, err := loop.Accept(d.fd)
		if err != nil {
			return
		}
		if d.open >= maxVisitors {
			_ = unix.Close(c)
			continue
		}
		d.open++
		v := &visitor{door: d, conn: d.loop.Adopt(c, netip.AddrPort{}, from)}
		v.opts = http1.ServerOptions{Set: &d.set, AcceptHTTP10: true, OnIdle: func(*http1.Server) { v.rest() }}
		v.Server = http1.NewServer(v.conn, v, &v.opts)
		v.bye = v.conn.Close
		v.conn.Start(v)
		v.rest()
	}
}

// visitor is one connection of a door.
type visitor struct {
	*http1.Server
	door *door
	conn *loop.Conn
	opts http1.ServerOptions
	idle loop.Timer
	bye  func()
}

// rest begins the time in which something has to come, or go.
func (v *visitor) rest() { v.door.loop.Arm(&v.idle, doorIdle, v.bye) }

// OnClose implements stream.Codec.
func (v *visitor) OnClose(err error) {
	v.idle.Stop()
	v.door.open--
	v.Server.OnClose(err)
}

// Accept answers a request off the loop and comes back with the page.
func (v *visitor) Accept(s stream.Stream, h *stream.Head, _ bool) stream.Peer {
	v.idle.Stop()
	path, raw, _ := strings.Cut(string(h.Path), "?")
	q := &asked{method: string(h.Method), path: path, from: v.conn.Remote()}
	q.query, _ = url.ParseQuery(raw) // what cannot be read is not there
	for _, f := range h.Fields {
		q.header = append(q.header, kube.Field{Name: string(f.Name), Value: string(f.Value)})
	}
	r := &visitorRequest{v: v, s: s}
	go func() {
		var b bytes.Buffer
		status, kind := v.door.visit(q, &b)
		v.door.loop.Post(func() { r.answer(status, kind, b.Bytes()) })
	}()
	return r
}

// close ends the serving; unlink: nobody goes on at the same path.
func (d *door) close(unlink bool) {
	done := make(chan struct{})
	end := func() {
		if d.watch != nil {
			d.watch.Close()
		}
		_ = unix.Close(d.fd)
		close(done)
	}
	if !d.loop.Post(end) {
		_ = unix.Close(d.fd)
		close(done)
	}
	<-done
	if unlink && strings.HasPrefix(d.path, "/") {
		_ = os.Remove(d.path)
	}
}

// visitorRequest is one request; its body, if any, is not read.
type visitorRequest struct {
	v    *visitor
	s    stream.Stream
	rest []byte
	over bool
}

func (r *visitorRequest) answer(status int, kind string, body []byte) {
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
	r.v.rest()
	r.OnWritable()
}

// OnWritable sends the next pieces of a large page.
func (r *visitorRequest) OnWritable() {
	if len(r.rest) > 0 && !r.over {
		r.v.rest()
	}
	for len(r.rest) > 0 && !r.over && !r.s.Blocked() {
		n := min(len(r.rest), 32<<10)
		piece := r.rest[:n]
		r.rest = r.rest[n:]
		r.s.SendData(piece, len(r.rest) == 0)
	}
}

func (r *visitorRequest) OnHead(*stream.Head, bool)    {}
func (r *visitorRequest) OnData([]byte, bool)          {}
func (r *visitorRequest) OnTrailers(*stream.Head)      {}
func (r *visitorRequest) OnReset(stream.Reset, string) { r.over = true }
