//go:build linux

package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// debugBuild: built with the tag tulle_debug.
var debugBuild bool

// wait is how long a test waits for what must come.
const wait = 20 * time.Second

// start runs n loops for the length of the test.
func start(t testing.TB, n int) *Group {
	t.Helper()
	g, err := New(n)
	if err != nil {
		t.Fatal(err)
	}
	g.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !t.Failed() {
			t.Errorf("Run: %v", err)
		}
	})
	return g
}

// on runs fn on the loop and waits for it.
func on(t testing.TB, l *Loop, fn func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { defer close(done); fn() }) {
		t.Fatal("loop takes no more")
	}
	recv(t, done)
}

// recv waits for a value.
func recv[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(wait):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

// probe is a codec made of functions.
type probe struct {
	c          *Conn
	onConnect  func()
	onBytes    func(p []byte)
	onEOF      func()
	onWritable func()
	closed     chan error
}

func newProbe() *probe { return &probe{closed: make(chan error, 2)} }

func (p *probe) OnConnect() {
	if p.onConnect != nil {
		p.onConnect()
	}
}

func (p *probe) OnBytes(b []byte) {
	if p.onBytes != nil {
		p.onBytes(b)
	}
}

func (p *probe) OnEOF() {
	if p.onEOF != nil {
		p.onEOF()
	}
}

func (p *probe) OnWritable() {
	if p.onWritable != nil {
		p.onWritable()
	}
}
func (p *probe) OnClose(err error) { p.closed <- err }

// echo sends back what comes, with back-pressure.
func echo(c *Conn) *probe {
	p := newProbe()
	p.c = c
	p.onBytes = func(b []byte) {
		c.Write(b)
		if c.Blocked() {
			c.PauseRead(true)
		}
	}
	p.onWritable = func() { c.PauseRead(false) }
	p.onEOF = c.CloseWrite
	return p
}

// adopted makes a TCP connection whose one end is on the loop, the other a
// net.Conn. setup runs on the loop and returns the codec.
func adopted(t testing.TB, l *Loop, ip string, setup func(*Conn) *probe) (*net.TCPConn, *probe) {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skipf("no %s here: %v", ip, err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	ac, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd := dupFD(t, ac)
	var p *probe
	on(t, l, func() {
		c := l.Adopt(fd, LocalAddr(fd), RemoteAddr(fd))
		p = setup(c)
		p.c = c
		c.Start(p)
	})
	return nc.(*net.TCPConn), p
}

// dupFD takes the descriptor out of a net.Conn.
func dupFD(t testing.TB, c net.Conn) int {
	t.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := rc.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 3) }); err != nil || fd < 0 {
		t.Fatal(err)
	}
	c.Close()
	return fd
}

var addresses = []string{"127.0.0.1", "::1"}

func TestEchoLarge(t *testing.T) {
	g := start(t, 2)
	for i, ip := range addresses {
		nc, p := adopted(t, g.Loops()[i], ip, echo)
		if want, _ := netip.ParseAddrPort(nc.LocalAddr().String()); p.c.Remote() != want {
			t.Errorf("remote %s, want %s", p.c.Remote(), want)
		}
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
		go func() {
			nc.Write(data)
			nc.CloseWrite()
		}()
		got, err := io.ReadAll(nc)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: got %d bytes, %v", ip, len(got), err)
		}
		if err := recv(t, p.closed); err != nil {
			t.Errorf("close: %v", err)
		}
		on(t, p.c.loop, func() {
			if p.c.BytesIn() != uint64(len(data)) || p.c.BytesOut() != uint64(len(data)) {
				t.Errorf("counted %d in, %d out", p.c.BytesIn(), p.c.BytesOut())
			}
		})
	}
}

func TestSlowReaderBlocksAndResumes(t *testing.T) {
	g := start(t, 1)
	const total = 32 << 20
	sent, most := 0, 0
	piece := make([]byte, 10_000)
	full := make(chan struct{}, 1)
	nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		fill := func() {
			for !c.Blocked() && sent < total {
				n := min(len(piece), total-sent)
				if sent%3 == 0 { // both ways of sending
					c.SetOut(append(c.Out(), piece[:n]...))
				} else {
					c.Write(piece[:n])
				}
				sent += n
				most = max(most, c.pending())
			}
			if sent == total {
				c.Close()
			} else if sent > 0 {
				select {
				case full <- struct{}{}:
				default:
				}
			}
		}
		p.onWritable = fill
		c.loop.Next(fill)
		return p
	})
	recv(t, full)
	n, err := io.Copy(io.Discard, nc)
	if err != nil || n != total {
		t.Fatalf("read %d of %d: %v", n, total, err)
	}
	if err := recv(t, p.closed); err != nil {
		t.Error(err)
	}
	on(t, p.c.loop, func() {
		if most > highWater+len(piece) {
			t.Errorf("%d bytes were pending at most", most)
		}
		if p.c.out != nil || p.c.wire != nil {
			t.Error("a flushed connection keeps memory")
		}
	})
}

func TestPausedReadRemembersItsEdge(t *testing.T) {
	g := start(t, 1)
	got := make(chan string, 10)
	nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		p.onBytes = func(b []byte) { got <- string(b) }
		p.onEOF = func() { got <- "EOF" }
		c.PauseRead(true)
		return p
	})
	nc.Write([]byte("early"))
	nc.CloseWrite()
	// The edge has been seen when the loop has gone round after it.
	for seen := false; !seen; {
		on(t, p.c.loop, func() { seen = p.c.readable && p.c.hup })
	}
	if len(got) != 0 {
		t.Fatal("read while paused")
	}
	on(t, p.c.loop, func() { p.c.PauseRead(false) })
	if s := recv(t, got); s != "early" {
		t.Errorf("got %q", s)
	}
	if s := recv(t, got); s != "EOF" {
		t.Errorf("got %q", s)
	}
}

func TestHalfCloseByPeerThenAnswer(t *testing.T) {
	g := start(t, 1)
	nc, p := adopted(t, g.Loops()[0], "::1", func(c *Conn) *probe {
		p := newProbe()
		p.onEOF = func() {
			c.SetOut(append(c.Out(), "late answer"...))
			c.CloseWrite()
			c.Write([]byte("ignored"))
		}
		return p
	})
	nc.CloseWrite()
	b, err := io.ReadAll(nc)
	if err != nil || string(b) != "late answer" {
		t.Errorf("%q %v", b, err)
	}
	if err := recv(t, p.closed); err != nil {
		t.Error(err)
	}
}

func TestCloseDeliversAllDespiteUnreadInput(t *testing.T) {
	g := start(t, 1)
	answer := bytes.Repeat([]byte("x"), 300_000)
	nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		p.onBytes = func([]byte) {
			c.Write(answer)
			c.Close()
		}
		return p
	})
	go nc.Write(make([]byte, 1<<20)) // far more than is read
	b, err := io.ReadAll(nc)
	if err != nil || !bytes.Equal(b, answer) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if err := recv(t, p.closed); err != nil {
		t.Error(err)
	}
	nc.Close()
	select {
	case err := <-p.closed:
		t.Errorf("closed twice: %v", err)
	default:
	}
}

func TestAbortResets(t *testing.T) {
	g := start(t, 1)
	nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		p.onBytes = func([]byte) { c.Abort(); c.Write([]byte("x")); c.Abort() }
		return p
	})
	nc.Write([]byte("a"))
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer saw %v", err)
	}
	if err := recv(t, p.closed); !errors.Is(err, ErrAborted) {
		t.Error(err)
	}
}

func TestResetByPeerIsTold(t *testing.T) {
	g := start(t, 1)
	for _, paused := range []bool{false, true} {
		nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
			c.PauseRead(paused)
			return newProbe()
		})
		nc.SetLinger(0)
		nc.Close()
		if err := recv(t, p.closed); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("paused=%v: %v", paused, err)
		}
	}
}

// An upstream that answers and closes before it has read the request must not
// have its answer lost by our failing write.
func TestEarlyAnswerSurvivesBrokenWrite(t *testing.T) {
	g := start(t, 1)
	got := make(chan string, 10)
	nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		c.PauseRead(true)
		p.onBytes = func(b []byte) { got <- string(b) }
		return p
	})
	nc.Write([]byte("early answer"))
	for seen := false; !seen; {
		on(t, p.c.loop, func() { seen = p.c.readable })
	}
	on(t, p.c.loop, func() {
		p.c.paused = false // reading was only held back by the test
		unix.Shutdown(p.c.FD(), unix.SHUT_WR)
		p.c.Write(make([]byte, 10_000)) // EPIPE
	})
	if s := recv(t, got); s != "early answer" {
		t.Errorf("got %q", s)
	}
	if err := recv(t, p.closed); !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
}

func TestDial(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	for _, ip := range addresses {
		ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Skip(err)
		}
		to := netip.MustParseAddrPort(ln.Addr().String())
		go func() {
			if c, err := ln.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		p := newProbe()
		got := make(chan string, 1)
		on(t, l, func() {
			c, err := l.Dial(to, DialOptions{Source: to.Addr(), Keepalive: &Keepalive{Probes: 3, Time: time.Minute}})
			if err != nil {
				t.Error(err)
				return
			}
			p.c = c
			p.onConnect = func() { c.Write([]byte(" there")) }
			p.onBytes = func(b []byte) { got <- string(b); c.Close() }
			c.Write([]byte("hello")) // before Start and before it stands
			c.Start(p)
		})
		if s := recv(t, got); s != "hello there" {
			t.Errorf("got %q", s)
		}
		if err := recv(t, p.closed); err != nil {
			t.Error(err)
		}
		ln.Close()

		p = newProbe()
		p.onConnect = func() { t.Error("connected to nobody") }
		on(t, l, func() {
			c, err := l.Dial(to, DialOptions{})
			if err != nil {
				p.closed <- err
				return
			}
			c.Start(p)
		})
		if err := recv(t, p.closed); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
	}
}

func TestDialUnix(t *testing.T) {
	g := start(t, 1)
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, _ := ln.Accept()
		io.Copy(c, c)
		c.Close()
	}()
	got := make(chan string, 1)
	p := newProbe()
	on(t, g.Loops()[0], func() {
		c, err := g.Loops()[0].DialUnix(path)
		if err != nil {
			t.Error(err)
			return
		}
		p.onConnect = func() { c.SetOut(append(c.Out(), "hi"...)) }
		p.onBytes = func(b []byte) { got <- string(b); c.Close() }
		c.Start(p)
	})
	if s := recv(t, got); s != "hi" {
		t.Errorf("got %q", s)
	}
	if err := recv(t, p.closed); err != nil {
		t.Error(err)
	}
}

func TestDetachAndAdoptElsewhere(t *testing.T) {
	g := start(t, 2)
	a, b := g.Loops()[0], g.Loops()[1]
	nc, p := adopted(t, a, "127.0.0.1", func(c *Conn) *probe { return newProbe() })
	p2 := make(chan *probe, 1)
	on(t, a, func() {
		local, remote := p.c.Local(), p.c.Remote()
		fd, pending, err := p.c.Detach()
		if err != nil || len(pending) != 0 {
			t.Error(err)
			return
		}
		b.Post(func() {
			c := b.Adopt(fd, local, remote)
			p := echo(c)
			c.Start(p)
			p2 <- p
		})
	})
	nc.Write([]byte("moved"))
	nc.CloseWrite()
	if s, err := io.ReadAll(nc); string(s) != "moved" {
		t.Errorf("%q %v", s, err)
	}
	if err := recv(t, recv(t, p2).closed); err != nil {
		t.Error(err)
	}
	if len(p.closed) != 0 {
		t.Error("OnClose after Detach")
	}
}

func TestSwapRedelivers(t *testing.T) {
	g := start(t, 1)
	nc, _ := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		var buf []byte
		p.onBytes = func(b []byte) {
			if buf = append(buf, b...); len(buf) >= 4 {
				c.Swap(echo(c))
				c.Redeliver(buf)
			}
		}
		return p
	})
	nc.Write([]byte("ab"))
	nc.Write([]byte("cdef"))
	nc.CloseWrite()
	if s, err := io.ReadAll(nc); string(s) != "abcdef" {
		t.Errorf("%q %v", s, err)
	}
}

func TestSwapAfterEOFTellsAgain(t *testing.T) {
	g := start(t, 1)
	told := make(chan int, 4)
	nc, p := adopted(t, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		p.onEOF = func() {
			told <- 1
			next := newProbe()
			next.onEOF = func() { told <- 2; c.Close() }
			c.Start(next)
		}
		return p
	})
	nc.CloseWrite()
	if a, b := recv(t, told), recv(t, told); a != 1 || b != 2 {
		t.Errorf("told %d, %d", a, b)
	}
	io.Copy(io.Discard, nc)
	on(t, p.c.loop, func() {})
	if len(told) != 0 {
		t.Error("told again")
	}
}

// One event of each kind costs no allocation: read, pending output, flush,
// timer armed and stopped.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	nc, p := adopted(t, l, "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		var tm Timer
		fn := func() {}
		p.onBytes = func(b []byte) {
			l.Arm(&tm, 15*time.Second, fn)
			c.SetOut(append(c.Out(), b...))
			if len(b) > 20_000 {
				c.Write(b)
			}
			tm.Stop()
		}
		return p
	})
	defer func() { _ = p }()
	msg := make([]byte, 100)
	run := func() {
		if _, err := nc.Write(msg); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, msg); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		run()
	}
	if debugBuild {
		t.Skip("the owner check allocates")
	}
	if n := testing.AllocsPerRun(2000, run); n > 0 {
		t.Errorf("%v allocations per round trip", n)
	}
}

func BenchmarkEcho(b *testing.B) {
	g := start(b, 1)
	nc, _ := adopted(b, g.Loops()[0], "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		p.onBytes = func(b []byte) { c.SetOut(append(c.Out(), b...)) }
		return p
	})
	msg := make([]byte, 1000)
	b.ReportAllocs()
	for b.Loop() {
		nc.Write(msg)
		io.ReadFull(nc, msg)
	}
}

func mustAddr(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

// What is posted in masses does not keep a loop from what arrives meanwhile, and
// all of it is done in order.
func TestRoundsEnd(t *testing.T) {
	l := start(t, 1).Loops()[0]
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	defer unix.Close(pipe[0])
	const all = 16 * roundStep
	done, arrived := 0, -1
	over := make(chan struct{})
	on(t, l, func() {
		if _, err := l.Watch(pipe[0], unix.EPOLLIN|unix.EPOLLET, func(uint32) { arrived = done }); err != nil {
			t.Error(err)
		}
		for i := range all {
			l.Next(func() {
				if i != done {
					t.Errorf("%d is done after %d", i, done)
				}
				if done++; done == 1 {
					_, _ = unix.Write(pipe[1], []byte{1})
				}
				for until := Nanotime() + roundTime/2; Nanotime() < until; { // works
				}
				if done == all {
					close(over)
				}
			})
		}
	})
	recv(t, over)
	on(t, l, func() {
		if done != all || arrived < roundStep || arrived > 2*roundStep {
			t.Errorf("%d done; what arrived during the first was seen after %d", done, arrived)
		}
	})
}
