//go:build linux

package loop

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// forward carries bytes from one connection to another, on one loop, as the
// TCP proxy does.
type forward struct {
	c, peer *Conn
	ended   chan<- error
}

func (f *forward) OnBytes(b []byte) {
	f.peer.Write(b)
	if f.peer.Blocked() {
		f.c.PauseRead(true)
	}
}
func (f *forward) OnEOF()      { f.peer.CloseWrite() }
func (f *forward) OnWritable() { f.peer.PauseRead(false) }
func (f *forward) OnClose(err error) {
	if err != nil {
		f.peer.Abort()
	}
	f.ended <- err
}

// Many connections at once, through two hops on two loops, with readers and
// writers that stop and go: every byte arrives, in order, and nothing is left.
func TestManyForwardedTransfers(t *testing.T) {
	g := start(t, 2)
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	go func() { // echo server that reads in odd pieces
		for {
			c, err := back.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1+rand.IntN(40_000))
				io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
			}()
		}
	}()
	const conns = 40
	ended := make(chan error, 4*conns)
	var all sync.WaitGroup
	for i := range conns {
		l := g.Loops()[i%2]
		nc, _ := adopted(t, l, "127.0.0.1", func(c *Conn) *probe {
			up, err := l.Dial(mustAddr(back.Addr()), DialOptions{})
			if err != nil {
				t.Error(err)
				return newProbe()
			}
			up.Start(&forward{up, c, ended})
			l.Next(func() { c.Swap(&forward{c, up, ended}) })
			c.PauseRead(true)
			l.Next(func() { c.PauseRead(false) })
			return newProbe()
		})
		data := make([]byte, rand.IntN(1<<20))
		for i := range data {
			data[i] = byte(i * 7)
		}
		all.Add(2)
		go func() {
			defer all.Done()
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(100_000))
				if _, err := nc.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
				runtime.Gosched()
			}
			nc.CloseWrite()
		}()
		go func() {
			defer all.Done()
			got, err := io.ReadAll(nc)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
			}
		}()
	}
	all.Wait()
	for range 2 * conns {
		if err := recv(t, ended); err != nil {
			t.Errorf("ended with %v", err)
		}
	}
	for _, l := range g.Loops() {
		for end := time.Now().Add(wait); l.Conns() > 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d connections left", l.Conns())
			}
		}
	}
}

// What a flush at the end of a round sets free must not wait for an event that
// may never come.
func TestOutputMadeByTheLastFlushIsSent(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	quiet, q := adopted(t, l, "127.0.0.1", func(c *Conn) *probe { return newProbe() })
	nc, _ := adopted(t, l, "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		c.Lazy(true)
		p.onBytes = func([]byte) {
			// More than the high-water mark, which the kernel takes at the flush.
			for !c.Blocked() {
				c.out = append(c.out, make([]byte, 10_000)...)
				c.gauge()
			}
			c.mark()
		}
		p.onWritable = func() { q.c.SetOut(append(q.c.Out(), "made by the flush"...)) }
		return p
	})
	go io.Copy(io.Discard, nc)
	nc.Write([]byte("x"))
	quiet.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 17)
	if _, err := io.ReadFull(quiet, b); err != nil || string(b) != "made by the flush" {
		t.Errorf("%q %v", b, err)
	}
}

// Everything that can happen to a connection, in any order, from both sides:
// no panic, OnClose exactly once, nothing left.
func TestAnyOrderOfCalls(t *testing.T) {
	g := start(t, 2)
	const conns = 200
	var all sync.WaitGroup
	for i := range conns {
		l := g.Loops()[i%2]
		nc, p := adopted(t, l, "127.0.0.1", func(c *Conn) *probe {
			p := newProbe()
			act := func() {
				for range 3 {
					switch l.Rand() % 12 {
					case 0:
						c.Close()
					case 1:
						c.Abort()
					case 2:
						c.CloseWrite()
					case 3, 4:
						c.Write(make([]byte, l.Rand()%200_000))
					case 5, 6:
						c.SetOut(append(c.Out(), make([]byte, l.Rand()%30_000)...))
					case 7:
						c.PauseRead(true)
						l.Next(func() { c.PauseRead(false) })
					case 8:
						c.Lazy(l.Rand()%2 == 0)
					case 9:
						c.Swap(p)
					case 10:
						c.Redeliver(nil)
					}
				}
			}
			p.onBytes = func([]byte) { act() }
			p.onEOF, p.onWritable = act, act
			l.Next(act)
			return p
		})
		all.Add(1)
		go func() {
			defer all.Done()
			buf := make([]byte, 50_000)
			for range 20 {
				nc.SetReadDeadline(time.Now().Add(time.Millisecond))
				nc.Read(buf)
				nc.Write(buf[:1+rand.IntN(len(buf)-1)])
			}
			if rand.IntN(2) == 0 {
				nc.SetLinger(0)
			}
			nc.Close()
			recv(t, p.closed)
		}()
	}
	all.Wait()
	for _, l := range g.Loops() {
		for end := time.Now().Add(wait); l.Conns() > 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d connections left", l.Conns())
			}
		}
	}
	if g.Panics() > 0 {
		t.Errorf("%d panics", g.Panics())
	}
}

// An idle connection owns its Conn and nothing else.
func TestIdleConnectionsAreSmall(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	const n = 500
	open := func() {
		for range n {
			nc, _ := adopted(t, l, "127.0.0.1", echo)
			nc.Write([]byte("x"))
			io.ReadFull(nc, make([]byte, 1))
		}
	}
	open()
	on(t, l, func() {
		held := 0
		for _, s := range l.slots {
			if c := s.conn; c != nil && (cap(c.out) > 0 || cap(c.wire) > 0) {
				held++
			}
		}
		if held > 0 {
			t.Errorf("%d of %d idle connections hold buffers", held, n)
		}
		free := 0
		for i, list := range l.bufs.free {
			free += len(list) * bufSizes[i]
		}
		if free > 2<<20 {
			t.Errorf("%d bytes in free buffers", free)
		}
	})
}
