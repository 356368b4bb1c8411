package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
)

// backends are the addresses of one backend process.
type backends struct{ h1, h2, tcp string }

// backendMain serves HTTP/1.1, HTTP/2 in clear text and TCP echo from one
// thread, cheaply enough that it is never what is measured. Its addresses are
// its arguments; in the mesh it has $HOST:$PORT, for HTTP/1.1.
func backendMain(args []string) error {
	if h := os.Getenv("HOST"); len(args) == 0 && h != "" {
		args = []string{net.JoinHostPort(h, os.Getenv("PORT"))}
	}
	if len(args) == 0 || len(args) > 3 {
		return errors.New("backend wants the addresses of HTTP/1.1, HTTP/2 and TCP")
	}
	s, err := newServer()
	if err != nil {
		return err
	}
	for i, a := range args {
		if err := s.listen(a, []func(*peer) bool{(*peer).http1, (*peer).http2, (*peer).echo}[i]); err != nil {
			return err
		}
	}
	// The wait below keeps its thread and processor: nothing may need it, and
	// signals end the process without our doing.
	signal.Reset()
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(1 << 30)
	runtime.LockOSThread()
	return s.serve()
}

// server is an edge-triggered loop over all connections.
type server struct {
	epoll     int
	listeners map[int]func(*peer) bool
	peers     []*peer // by descriptor
	scratch   []byte
	small     []byte // answers, ready to send
	large     []byte
	huge      []byte
	grpcHead  []byte
	grpcTail  []byte
	grpcBody  []byte
}

// peer is one connection. in holds what is incomplete, out what is not sent.
type peer struct {
	s       *server
	fd      int
	serve   func(*peer) bool // false closes
	in      []byte
	out     outbox
	write   func([]byte) (int, error)
	body    int                // HTTP/1.1: bytes of a request's body still to come
	rest    []byte             // HTTP/1.1: a large answer, sent after out
	preface bool               // HTTP/2: seen
	credit  int                // HTTP/2: bytes not yet given back to the connection's window
	calls   map[uint32]*served // HTTP/2: streams that have sent data
}

func newServer() (*server, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s := &server{epoll: ep, listeners: map[int]func(*peer) bool{}, scratch: make([]byte, 256<<10), peers: make([]*peer, 1024)}
	s.small, s.large, s.huge = answer(1<<10), answer(100<<10), answer(hugeSize)
	// 200 with content-type application/grpc; 1 KiB as one gRPC message; status 0.
	s.grpcHead = frame(1, 4, 0, append([]byte{0x88, 0x0f, 0x10, 16}, "application/grpc"...))
	s.grpcBody = frame(0, 0, 0, append([]byte{0, 0, 0, 3, 0xfb}, bytes.Repeat([]byte("x"), 1019)...))
	s.grpcTail = frame(1, 5, 0, append([]byte{0, 11}, "grpc-status\x010"...))
	return s, nil
}

// answer is a whole HTTP/1.1 response with a body of that size.
func answer(size int) []byte {
	body := bytes.Repeat([]byte(`{"item":42,"text":"lorem"} `), size/27+1)[:size]
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nserver: bench\r\ndate: Fri, 20 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\n"+
		"cache-control: no-store\r\nx-frame-options: DENY\r\n%s: 1.2.3\r\ncontent-length: %d\r\n\r\n%s", removeOnResponse, size, body)
}

// frame is an HTTP/2 frame.
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}, payload...)
}

func (s *server) listen(addr string, serve func(*peer) bool) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return err
	}
	_, _ = f.Close(), l.Close()
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	s.listeners[fd] = serve
	return syscall.EpollCtl(s.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

const edge = 1 << 31 // EPOLLET

func (s *server) serve() error {
	events := make([]syscall.EpollEvent, 512)
	for {
		n, err := epollWait(s.epoll, events, 10e6) // 10 ms; short: see load
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			if serve := s.listeners[int(e.Fd)]; serve != nil {
				s.accept(int(e.Fd), serve)
			} else if p := s.peers[e.Fd]; p != nil && !p.handle(e.Events) {
				_ = syscall.Close(p.fd)
				s.peers[e.Fd] = nil
			}
		}
	}
}

func (s *server) accept(l int, serve func(*peer) bool) {
	for {
		fd, _, err := syscall.Accept4(l, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		for fd >= len(s.peers) {
			s.peers = append(s.peers, make([]*peer, len(s.peers))...)
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		s.peers[fd] = &peer{s: s, fd: fd, serve: serve, write: func(b []byte) (int, error) { return rawWrite(fd, b) }}
		_ = syscall.EpollCtl(s.epoll, syscall.EPOLL_CTL_ADD, fd,
			&syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | edge, Fd: int32(fd)})
	}
}

// handle takes what an event brought; false closes.
func (p *peer) handle(events uint32) bool {
	if events&syscall.EPOLLOUT != 0 && !p.flush() {
		return false
	}
	for events&(syscall.EPOLLIN|syscall.EPOLLRDHUP|syscall.EPOLLHUP) != 0 {
		n, err := rawRead(p.fd, p.s.scratch)
		if err == syscall.EAGAIN {
			return true
		}
		if err != nil || n == 0 {
			return false
		}
		rest := p.in
		if len(rest) > 0 {
			p.in = append(rest, p.s.scratch[:n]...)
		} else {
			p.in = p.s.scratch[:n]
		}
		if !p.serve(p) {
			return false
		}
		if len(p.in) > 0 { // incomplete: keep it
			p.in = append(rest[:0:0], p.in...)
		} else {
			p.in = nil
		}
		if !p.flush() {
			return false
		}
		if n < len(p.s.scratch) && events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP) == 0 {
			return true
		}
	}
	return true
}

func (p *peer) flush() bool {
	if p.out.flush(p.write) != nil {
		return false
	}
	for len(p.rest) > 0 && p.out.empty() {
		n, err := p.write(p.rest)
		if err != nil {
			return err == syscall.EAGAIN
		}
		p.rest = p.rest[n:]
	}
	return true
}

func (p *peer) echo() bool {
	p.out.add(p.in...)
	p.in = nil
	return true
}

var (
	headEnd    = []byte("\r\n\r\n")
	lengthName = []byte("content-length:")
	echoMark   = []byte("?echo ")
	largeMark  = []byte("/100k?")
	hugeMark   = []byte("/10m?")
)

// http1 answers each request of p.in: with its own head where the path ends in
// ?echo, with 100 KiB where it is /100k, 10 MiB where it is /10m, else with
// 1 KiB; if it has a body once that has come.
func (p *peer) http1() bool {
	for len(p.in) > 0 {
		if p.body > 0 {
			n := min(p.body, len(p.in))
			if p.in, p.body = p.in[n:], p.body-n; p.body == 0 {
				p.answer(p.s.small)
			}
			continue
		}
		end := bytes.Index(p.in, headEnd)
		if end < 0 {
			return len(p.in) < 64<<10
		}
		head := p.in[:end+4]
		line := head[:bytes.IndexByte(head, '\n')]
		p.in = p.in[end+4:]
		if line[0] == 'P' { // POST, PUT
			lower := bytes.ToLower(head)
			if i := bytes.Index(lower, lengthName); i >= 0 {
				v := lower[i+len(lengthName):]
				n, err := strconv.Atoi(string(bytes.TrimSpace(v[:bytes.IndexByte(v, '\r')])))
				if err != nil {
					return false
				}
				p.body = n
			}
		}
		switch {
		case p.body > 0:
		case bytes.Contains(line, echoMark):
			p.answer(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n%s: 1.2.3\r\ncontent-length: %d\r\n\r\n%s", removeOnResponse, len(head), head))
		case bytes.Contains(line, largeMark):
			p.answer(p.s.large)
		case bytes.Contains(line, hugeMark):
			p.answer(p.s.huge)
		default:
			p.answer(p.s.small)
		}
	}
	return true
}

// answer queues what outlives it; the huge answer is not copied.
func (p *peer) answer(b []byte) {
	if len(b) > hugeSize && len(p.rest) == 0 {
		p.rest = b
		return
	}
	if len(p.rest) > 0 { // pipelined behind a huge one
		p.out.add(p.rest...)
		p.rest = nil
	}
	p.out.add(b...)
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// http2 answers each stream that the peer has ended like a gRPC server. It
// does not look at header blocks.
func (p *peer) http2() bool {
	if !p.preface {
		if len(p.in) < len(preface) {
			return true
		}
		if string(p.in[:len(preface)]) != preface {
			return false
		}
		p.in, p.preface = p.in[len(preface):], true
		// 4096 streams, windows as large as they may be.
		p.out.add(frame(4, 0, 0, []byte{0, 3, 0, 0, 0x10, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff})...)
		p.out.add(frame(8, 0, 0, []byte{0x3f, 0xff, 0, 0})...)
	}
	for len(p.in) >= 9 {
		n := int(p.in[0])<<16 | int(p.in[1])<<8 | int(p.in[2])
		if len(p.in) < 9+n {
			break
		}
		kind, flags, id := p.in[3], p.in[4], uint32(p.in[5]&0x7f)<<24|uint32(p.in[6])<<16|uint32(p.in[7])<<8|uint32(p.in[8])
		switch {
		case kind == 4 && flags&1 == 0:
			p.out.add(frame(4, 1, 0, nil)...)
		case kind == 6 && flags&1 == 0:
			p.out.add(frame(6, 1, 0, p.in[9:9+n])...)
		case kind == 0:
			p.credit += n
			if !p.data(id, p.in[9:9+n], flags&1 != 0) {
				return false
			}
		case kind == 1 && flags&1 != 0:
			p.send(id, p.s.grpcHead, p.s.grpcBody, p.s.grpcTail)
		case kind == 3:
			delete(p.calls, id)
		}
		p.in = p.in[9+n:]
	}
	if c := p.credit; c > 1<<20 {
		p.out.add(frame(8, 0, 0, []byte{byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)})...)
		p.credit = 0
	}
	return true
}

// served is a gRPC stream: how much of its messages has come, and whether it
// was answered to.
type served struct {
	bytes     int
	streaming bool
	answered  bool
}

// data takes a part of a request. A call whose message begins with streamMark
// is answered to with a message for each, any other at its end.
func (p *peer) data(id uint32, b []byte, end bool) bool {
	c := p.calls[id]
	if c == nil {
		if end { // all of a unary call at once: no state
			p.send(id, p.s.grpcHead, p.s.grpcBody, p.s.grpcTail)
			return true
		}
		if p.calls == nil {
			p.calls = map[uint32]*served{}
		}
		c = &served{}
		p.calls[id] = c
	}
	if len(p.calls) > 1<<16 {
		return false
	}
	if c.bytes <= 5 && c.bytes+len(b) > 5 {
		c.streaming = b[5-c.bytes] == streamMark
	}
	before := c.bytes / grpcRequest
	c.bytes += len(b)
	if c.streaming {
		for range c.bytes/grpcRequest - before {
			if !c.answered {
				p.send(id, p.s.grpcHead)
			}
			c.answered = true
			p.send(id, p.s.grpcBody)
		}
	}
	if end {
		delete(p.calls, id)
		if !c.answered {
			p.send(id, p.s.grpcHead, p.s.grpcBody)
		}
		p.send(id, p.s.grpcTail)
	}
	return true
}

// send queues frames for a stream.
func (p *peer) send(id uint32, frames ...[]byte) {
	for _, f := range frames {
		at := len(p.out.b) + 5
		p.out.add(f...)
		o := p.out.b[at:]
		o[0], o[1], o[2], o[3] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
	}
}
