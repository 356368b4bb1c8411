package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
)

// loadOptions say what load to make.
type loadOptions struct {
	front front // plain, muxed, ending (HTTP/1.1 in TLS), stream
	addr  string
	conns int
	multi int           // requests under way on one connection, HTTP/2
	rate  int           // requests per second of all connections together; 0: as fast as answers come
	last  time.Duration // of the whole load
	size  int           // bytes of a message, TCP
	grpc  string        // HTTP/2: unary or streaming

	message []byte
}

// loadResult is what came of it. Latencies are in microseconds from the moment
// at which a request was due, not from when it could be sent, so that a stall
// counts for every request that it held up.
type loadResult struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
}

// loadMain is the command "load".
func loadMain(args []string) error {
	o := loadOptions{}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.StringVar((*string)(&o.front), "front", string(plain), "kind of load")
	f.StringVar(&o.addr, "addr", "", "where to")
	f.IntVar(&o.conns, "conns", 16, "connections")
	f.IntVar(&o.multi, "multi", 1, "streams of an HTTP/2 connection")
	f.IntVar(&o.rate, "rate", 0, "requests per second, 0: as fast as answers come")
	f.IntVar(&o.size, "size", 1024, "bytes of a TCP message")
	f.StringVar(&o.grpc, "grpc", unary, "kind of calls, HTTP/2: unary or stream")
	f.DurationVar(&o.last, "last", time.Second, "how long, at most 30s")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.last, o.message = min(o.last, 30*time.Second), make([]byte, o.size)
	signal.Reset()
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(1 << 30)
	runtime.LockOSThread()
	r, err := load(&o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// caller is one connection of the load.
type caller struct {
	o     *loadOptions
	fd    int
	tls   *tls.Conn // nil: in clear text
	due   []int64   // when each request that waits or is under way was due
	sent  int       // of due, those under way
	out   outbox
	in    []byte // incomplete answers
	left  int    // bytes of the present answer still to come
	calls *calls // HTTP/2
}

func load(o *loadOptions) (*loadResult, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(ep)
	callers := map[int32]*caller{}
	all := make([]*caller, o.conns)
	for i := range all {
		c, err := call(o)
		if err != nil {
			return nil, err
		}
		defer syscall.Close(c.fd)
		all[i], callers[int32(c.fd)] = c, c
		if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, c.fd,
			&syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | edge, Fd: int32(c.fd)}); err != nil {
			return nil, err
		}
	}
	var lat []float64
	start := time.Now()
	now := func() int64 { return int64(time.Since(start)) }
	if o.rate == 0 {
		for _, c := range all {
			for range map[bool]int{false: 1, true: max(o.multi, 1)}[o.front == muxed] {
				c.due = append(c.due, 0)
			}
			if err := c.send(); err != nil {
				return nil, err
			}
		}
	}
	buf := make([]byte, 256<<10)
	events := make([]syscall.EpollEvent, 256)
	next, count := int64(0), 0
	end := int64(o.last)
	for t := now(); t < end; t = now() {
		// The scheduler is not told of the wait, so it must be short: the
		// collector waits for us.
		wait := min(end-t, int64(time.Millisecond))
		if o.rate > 0 {
			for ; next <= t; next = int64(float64(count) * 1e9 / float64(o.rate)) {
				c := all[count%len(all)]
				c.due = append(c.due, next)
				if err := c.send(); err != nil {
					return nil, err
				}
				count++
			}
			wait = min(wait, max(next-now(), 0))
		}
		n, err := epollWait(ep, events, wait)
		if err != nil {
			return nil, err
		}
		for _, e := range events[:n] {
			c := callers[e.Fd]
			done, err := c.receive(buf)
			if err != nil {
				return nil, err
			}
			t := now()
			for range done {
				lat = append(lat, float64(t-c.due[0])/1e3)
				c.due, c.sent = c.due[1:], c.sent-1
				if o.rate == 0 {
					c.due = append(c.due, t)
				}
			}
			if err := c.send(); err != nil {
				return nil, err
			}
		}
	}
	return sum(all, lat, time.Since(start))
}

// sum refuses a load that did not get what it should. At a fixed rate a request
// that still waits counts with the time that it has waited.
func sum(all []*caller, lat []float64, took time.Duration) (*loadResult, error) {
	r := &loadResult{Requests: len(lat), Seconds: took.Seconds()}
	if len(lat) == 0 {
		return nil, errors.New("no request was answered")
	}
	for _, c := range all {
		if c.o.rate > 0 {
			for _, due := range c.due {
				lat = append(lat, float64(int64(took)-due)/1e3)
			}
		}
	}
	r.P50, r.P99, r.P999 = percentile(lat, .5), percentile(lat, .99), percentile(lat, .999)
	return r, nil
}

// percentile sorts v.
func percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)-1, int(float64(len(v))*p))]
}

// call opens a connection; TLS is established when it returns.
func call(o *loadOptions) (*caller, error) {
	conn, err := net.DialTimeout("tcp", o.addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &caller{o: o, calls: newCalls(), fd: -1}
	if o.front == ending {
		w := &wire{Conn: conn, c: c}
		c.tls = tls.Client(w, &tls.Config{InsecureSkipVerify: true, ServerName: hostName(loadHost), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13})
		if err := c.tls.Handshake(); err != nil {
			return nil, err
		}
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dup error
	if err := raw.Control(func(f uintptr) { fd, dup = syscall.Dup(int(f)) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, dup
	}
	c.fd = fd
	_ = conn.Close() // the copy is ours alone
	if o.front == muxed {
		c.out.add([]byte(preface)...)
		c.out.add(frame(4, 0, 0, []byte{0, 2, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff})...)
		c.out.add(frame(8, 0, 0, []byte{0x3f, 0xff, 0, 0})...)
	}
	return c, nil
}

// wire is what TLS reads and writes: the net.Conn in the handshake, then the
// descriptor, which never blocks.
type wire struct {
	net.Conn
	c *caller
}

func (w *wire) Read(b []byte) (int, error) {
	if w.c.fd < 0 {
		return w.Conn.Read(b)
	}
	n, err := rawRead(w.c.fd, b)
	if err == syscall.EAGAIN {
		return 0, again{}
	}
	if err == nil && n == 0 {
		return 0, net.ErrClosed
	}
	return n, err
}

func (w *wire) Write(b []byte) (int, error) {
	if w.c.fd < 0 {
		return w.Conn.Write(b)
	}
	return rawWrite(w.c.fd, b) // requests are smaller than the socket's buffer
}

// again is the error of a read that would block; TLS goes on after it.
type again struct{}

func (again) Error() string   { return "nothing to read" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// send starts what is due and may be under way, and writes.
func (c *caller) send() error {
	limit := 1
	if c.o.front == muxed {
		limit = max(c.o.multi, 1)
	}
	for c.sent < len(c.due) && c.sent < limit {
		if c.sent++; c.o.grpc != streaming || c.sent > len(c.calls.open) {
			c.request()
		}
	}
	if err := c.out.flush(c.write); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// write is one call of the connection.
func (c *caller) write(b []byte) (int, error) {
	if c.tls != nil {
		return c.tls.Write(b)
	}
	return rawWrite(c.fd, b)
}

// request appends one.
func (c *caller) request() {
	switch c.o.front {
	case stream:
		c.out.add(c.o.message...)
		c.left = c.o.size
	case muxed:
		c.calls.start(c)
	default:
		c.out.add(plainRequest...)
	}
}

// receive reads until there is no more and returns how many answers ended.
func (c *caller) receive(buf []byte) (done int, err error) {
	for {
		var n int
		if c.tls != nil {
			n, err = c.tls.Read(buf)
		} else {
			n, err = rawRead(c.fd, buf)
		}
		if err == syscall.EAGAIN || errors.Is(err, again{}) {
			return done, nil
		}
		if err != nil || n == 0 {
			return done, fmt.Errorf("the connection ended: %w", errors.Join(err, net.ErrClosed))
		}
		k, err := c.take(buf[:n])
		if err != nil {
			return done, err
		}
		done += k
		// Closed loop on bytes: go on writing what did not fit.
		if !c.out.empty() {
			if err := c.send(); err != nil {
				return done, err
			}
		}
		if c.tls == nil && n < len(buf) {
			return done, nil
		}
	}
}
