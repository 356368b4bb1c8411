package tcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// wait is how long a test waits for what must come.
const wait = 20 * time.Second

// world is a loop that carries the connections to its listener to one backend.
type world struct {
	t       *testing.T
	loop    *loop.Loop
	env     *Env
	handle  *cluster.Handle
	addr    string
	sndbuf  atomic.Int32 // of accepted connections, bytes; 0: the kernel's choice
	backend chan *net.TCPConn
	opened  chan *telemetry.Record
	closed  chan telemetry.Record
}

func (w *world) Opened(_ *loop.Loop, r *telemetry.Record) { w.opened <- r }

func (w *world) Closed(_ *loop.Loop, r *telemetry.Record, _ []*conf.AccessLog) { w.closed <- *r }

// listen accepts on loopback until the test ends.
func listen(t *testing.T, each func(*net.TCPConn)) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			each(c.(*net.TCPConn))
		}
	}()
	return l.(*net.TCPListener)
}

// newWorld edits the cluster; nobody listens at the backend when dead.
func newWorld(t *testing.T, edit func(*conf.Cluster, *conf.TCP), dead bool) *world {
	t.Helper()
	w := &world{t: t, backend: make(chan *net.TCPConn, 8), opened: make(chan *telemetry.Record, 8), closed: make(chan telemetry.Record, 8)}
	back := listen(t, func(c *net.TCPConn) { w.backend <- c })
	at := netip.MustParseAddrPort(back.Addr().String())
	if dead {
		_ = back.Close()
	}
	c := &conf.Cluster{Name: "b", Type: conf.ClusterStatic, Endpoints: &conf.Endpoints{Localities: []conf.Locality{{
		Endpoints: []conf.Endpoint{{Addr: at, Weight: 1, Health: conf.Healthy}}}}}}
	tcp := &conf.TCP{Clusters: []conf.WeightedCluster{{Name: "b", Weight: 1}}}
	if edit != nil {
		edit(c, tcp)
	}
	s := conf.NewSnapshot()
	s.Clusters["b"] = c
	clusters := cluster.New(cluster.Options{})
	clusters.Apply(s, loop.Nanotime())
	t.Cleanup(clusters.Close)
	g, err := loop.New(1)
	if err != nil {
		t.Fatal(err)
	}
	w.loop, w.handle = g.Loops()[0], clusters.Get("b")
	w.env = &Env{Loop: w.loop, Pool: pool.New(w.loop, pool.Options{}), Clusters: clusters, Reporter: w}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil || g.Panics() > 0 {
			t.Error(err, g.Panics())
		}
	})
	chain := &conf.Chain{TCP: tcp}
	w.addr = listen(t, func(c *net.TCPConn) {
		f, err := c.File()
		_ = c.Close()
		if err != nil {
			t.Error(err)
			return
		}
		fd, err := syscall.Dup(int(f.Fd()))
		_ = f.Close()
		if err == nil {
			err = syscall.SetNonblock(fd, true)
		}
		if err != nil {
			t.Error(err)
			return
		}
		if n := w.sndbuf.Load(); n > 0 {
			_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, int(n))
		}
		w.loop.Post(func() {
			wire := w.loop.Adopt(fd, loop.LocalAddr(fd), loop.RemoteAddr(fd))
			wire.Start(w.env.Serve(&Accepted{Wire: wire, Listener: &conf.Listener{Name: "l"}, Chain: chain}))
		})
	}).Addr().String()
	return w
}

func recv[T any](w *world, ch <-chan T) T {
	w.t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(wait):
		w.t.Fatal("nothing came")
	}
	panic("unreachable")
}

func (w *world) dial() *net.TCPConn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(wait))
	return c.(*net.TCPConn)
}

// pair is a client and what the backend got of it.
func (w *world) pair() (client, backend *net.TCPConn) {
	w.t.Helper()
	client = w.dial()
	backend = recv(w, w.backend)
	w.t.Cleanup(func() { _ = backend.Close() })
	_ = backend.SetDeadline(time.Now().Add(wait))
	recv(w, w.opened) // what ends before the loop knows of the connection has failed to connect
	return client, backend
}

// on looks at the one session.
func (w *world) on(f func(*session)) {
	w.t.Helper()
	done := make(chan bool)
	w.loop.Post(func() {
		defer close(done)
		if len(w.env.live) != 1 {
			w.t.Errorf("%d sessions", len(w.env.live))
		}
		for s := range w.env.live {
			f(s)
		}
	})
	recv(w, done)
}

// left checks that nothing is.
func (w *world) left() {
	w.t.Helper()
	done := make(chan bool)
	w.loop.Post(func() {
		defer close(done)
		if w.env.Count() != 0 || w.handle.Used(cluster.Connections) != 0 || w.handle.Endpoints()[0].Active() != 0 {
			w.t.Errorf("left: %d sessions, %d connections counted, %d active", w.env.Count(), w.handle.Used(cluster.Connections), w.handle.Endpoints()[0].Active())
		}
	})
	recv(w, done)
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// TestHalfClose: whoever ends first, the other goes on, with little and with
// much under way, and every byte is counted.
func TestHalfClose(t *testing.T) {
	for _, size := range []int{0, 100, 3 << 20} {
		for _, first := range []string{"client", "backend", "both"} {
			t.Run(fmt.Sprint(first, size), func(t *testing.T) {
				w := newWorld(t, nil, false)
				client, backend := w.pair()
				data := noise(size)
				send := func(c *net.TCPConn) {
					_, _ = c.Write(data)
					_ = c.CloseWrite()
				}
				check := func(c *net.TCPConn) {
					t.Helper()
					if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
						t.Fatalf("got %d bytes, %v", len(got), err)
					}
				}
				switch first {
				case "client":
					go send(client)
					check(backend)
					go send(backend)
					check(client)
				case "backend":
					go send(backend)
					check(client)
					go send(client)
					check(backend)
				default:
					go send(client)
					go send(backend)
					other := make(chan bool)
					go func() { defer close(other); check(client) }()
					check(backend)
					recv(w, other)
				}
				if r := recv(w, w.closed); r.BytesReceived != uint64(size) || r.BytesSent != uint64(size) || r.Flags != 0 || r.Termination != "" {
					t.Errorf("%d received, %d sent, flags %v, %q", r.BytesReceived, r.BytesSent, r.Flags, r.Termination)
				}
				w.left()
			})
		}
	}
}

// TestBulk: a long transfer leaves the program's memory, a conversation after
// it comes back to it.
func TestBulk(t *testing.T) {
	w := newWorld(t, nil, false)
	client, backend := w.pair()
	data := noise(4 << 20)
	go func() { _, _ = client.Write(data) }()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(backend, got); err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
	w.on(func(s *session) {
		if s.out.run < bulkAfter || s.out.relay == nil || s.in.relay != nil {
			t.Errorf("%d bytes in a row: relayed %v, the other way %v", s.out.run, s.out.relay != nil, s.in.relay != nil)
		}
	})
	for i := range 3 {
		if _, err := client.Write([]byte("small")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(backend, got[:5]); err != nil || string(got[:5]) != "small" {
			t.Fatalf("message %d: %q %v", i, got[:5], err)
		}
	}
	w.on(func(s *session) {
		if s.out.run != 0 {
			t.Error("small messages are still spliced")
		}
	})
}

// TestSlowEnd: when both sides have ended, who still has to read is waited for.
func TestSlowEnd(t *testing.T) {
	w := newWorld(t, nil, false)
	w.sndbuf.Store(16 << 10)
	client, backend := w.pair()
	_ = client.SetReadBuffer(32 << 10)
	data := noise(16 << 20)
	_ = client.CloseWrite()
	if _, err := backend.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	sent, full := 0, false
	for ; !full; sent += 4 << 10 {
		if _, err := backend.Write(data[sent : sent+4<<10]); err != nil {
			t.Fatal(err)
		}
		w.on(func(s *session) { full = s.up.Paused() })
	}
	_ = backend.CloseWrite()
	w.on(func(s *session) { s.up.PauseRead(false) }) // so that the end is seen
	for ended := false; !ended && !t.Failed(); {
		w.on(func(s *session) { ended = s.upEOF && s.downEOF && s.down.Blocked() })
	}
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, data[:sent]) {
		t.Fatalf("%d of %d bytes, %v", len(got), sent, err)
	}
	recv(w, w.closed)
	w.left()
}

// TestPeerReset: a reset of one side reaches the other as a reset, and says in
// the record whose it was.
func TestPeerReset(t *testing.T) {
	for _, much := range []bool{false, true} {
		for _, who := range []string{"client", "backend"} {
			t.Run(fmt.Sprint(who, much), func(t *testing.T) {
				w := newWorld(t, nil, false)
				client, backend := w.pair()
				one, other := client, backend
				if who == "backend" {
					one, other = backend, client
				}
				data := noise(1 << 20)
				written := make(chan error, 1)
				if much { // and something spliced is on its way to the one that resets
					go func() {
						_, err := other.Write(bytes.Repeat(data, 64))
						written <- err
					}()
					if _, err := io.ReadFull(one, make([]byte, len(data))); err != nil {
						t.Fatal(err)
					}
				}
				_ = one.SetLinger(0)
				_ = one.Close()
				var err error
				if much {
					err = recv(w, written) // a socket tells of a reset once
				} else {
					_, err = io.Copy(io.Discard, other)
				}
				if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("the other side sees %v", err)
				}
				r := recv(w, w.closed)
				if uc := r.Flags&telemetry.FlagUC != 0; uc != (who == "backend") || r.Termination == "" {
					t.Errorf("flags %v, %q", r.Flags, r.Termination)
				}
				w.left()
			})
		}
	}
}

// TestEnds: why a session never began, or ended by itself.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*conf.Cluster, *conf.TCP)
		dead  bool
		flag  telemetry.Flags
		why   string
		tries int
	}{
		{"no cluster", func(_ *conf.Cluster, p *conf.TCP) { p.Clusters[0].Name = "x" }, false, telemetry.FlagNC, "", 0},
		{"no endpoint", func(c *conf.Cluster, _ *conf.TCP) { c.Endpoints = &conf.Endpoints{} }, false, telemetry.FlagUH, "", 0},
		{"limit", func(c *conf.Cluster, _ *conf.TCP) { c.Limits = conf.Limits{Requests: 1} }, false, telemetry.FlagUO, "", 0},
		{"refused", func(_ *conf.Cluster, p *conf.TCP) { p.MaxConnect = 3 }, true, telemetry.FlagUF, "", 3},
		{"idle", func(_ *conf.Cluster, p *conf.TCP) { p.IdleTimeout = 20 * time.Millisecond }, false, 0, "idle timeout", 1},
		{"duration", func(_ *conf.Cluster, p *conf.TCP) { p.MaxDuration = 20 * time.Millisecond }, false, telemetry.FlagDT, "maximum duration", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.edit, c.dead)
			if c, err := net.Dial("tcp", w.addr); err == nil { // it may be reset at once
				t.Cleanup(func() { _ = c.Close() })
			}
			r := recv(w, w.closed)
			if r.Flags != c.flag || r.Termination != c.why || c.tries > 1 && r.TransportFailure == "" {
				t.Errorf("flags %v, want %v; %q, %q", r.Flags, c.flag, r.Termination, r.TransportFailure)
			}
			if w.handle.Used(cluster.Connections) != 0 {
				t.Error("a connection is still counted")
			}
		})
	}
}
