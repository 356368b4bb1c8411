//go:build linux

package loop

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// spliced is two connections of one loop, each relayed to the other, and what
// stands at their other ends. read counts what came to the codecs.
type spliced struct {
	l        *Loop
	a, b     *net.TCPConn
	pa, pb   *probe
	read     int
	moved    int
	released int // times that a codec was told to go on
}

func newSpliced(t testing.TB, l *Loop) *spliced {
	s := &spliced{l: l}
	s.a, s.pa = adopted(t, l, "127.0.0.1", func(*Conn) *probe { return newProbe() })
	s.b, s.pb = adopted(t, l, "127.0.0.1", func(*Conn) *probe { return newProbe() })
	on(t, l, func() {
		for _, p := range [][2]*probe{{s.pa, s.pb}, {s.pb, s.pa}} {
			from, to := p[0].c, p[1].c
			hold := func() {
				if to.Blocked() {
					from.PauseRead(true)
				}
			}
			p[0].onBytes = func(b []byte) { s.read += len(b); to.Write(b); hold() }
			p[0].onEOF = to.CloseWrite
			p[1].onWritable = func() { s.released++; from.PauseRead(false) }
			from.Relay(&Relay{To: to, Moved: func(n int) { s.moved += n; hold() }})
		}
	})
	return s
}

// noise is the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func TestRelay(t *testing.T) {
	g := start(t, 1)
	s := newSpliced(t, g.Loops()[0])
	on(t, s.l, func() { s.l.trimFn = func() {} }) // it is trimmed below, and only there
	const size = 8 << 20
	there, back := noise(1, size), noise(2, size)
	type result struct {
		b   []byte
		err error
	}
	got := make(chan result, 2)
	for _, x := range []struct {
		c          *net.TCPConn
		send, want []byte
	}{{s.a, there, back}, {s.b, back, there}} {
		go func() {
			_, _ = x.c.Write(x.send)
			_ = x.c.CloseWrite()
		}()
		go func() {
			b, err := io.ReadAll(x.c)
			if err == nil && !bytes.Equal(b, x.want) {
				err = io.ErrUnexpectedEOF
			}
			got <- result{b, err}
		}()
	}
	for range 2 {
		if r := recv(t, got); r.err != nil {
			t.Fatalf("after %d bytes: %v", len(r.b), r.err)
		}
	}
	recv(t, s.pa.closed)
	recv(t, s.pb.closed)
	on(t, s.l, func() {
		if s.read != 0 || s.moved != 2*size || s.pa.c.BytesIn() != size || s.pa.c.BytesOut() != size || s.pb.c.BytesIn() != size {
			t.Errorf("%d bytes were read and %d moved; %d in, %d out", s.read, s.moved, s.pa.c.BytesIn(), s.pa.c.BytesOut())
		}
		if p := &s.l.pipes; p.made == 0 || len(p.free) != p.made {
			t.Errorf("%d pipes, %d of them free", p.made, len(p.free))
		}
		// Those that were not needed for a whole interval are closed.
		if s.l.pipes.trim(); s.l.pipes.made == 0 {
			t.Error("closed at once")
		}
		if s.l.pipes.trim() || s.l.pipes.made != 0 {
			t.Errorf("%d pipes are kept", s.l.pipes.made)
		}
	})
}

// TestRelaySlow: who does not read stops the sender; what is in the pipe
// arrives before what is written after it.
func TestRelaySlow(t *testing.T) {
	g := start(t, 1)
	s := newSpliced(t, g.Loops()[0])
	_ = s.b.SetReadBuffer(64 << 10)
	data := noise(3, 32<<20)
	go func() { _, _ = s.a.Write(data) }()
	settled(t, s, func() bool { return s.pa.c.Paused() && s.pb.c.Blocked() })
	on(t, s.l, func() {
		if s.moved >= len(data) || s.pb.c.pipe == nil || s.pb.c.pending() > spliceMax {
			t.Errorf("%d bytes moved, %d pending", s.moved, s.pb.c.pending())
		}
		s.pa.c.Relay(nil) // the rest goes the other way, behind what is in the pipe
	})
	got := make([]byte, len(data))
	if n, err := io.ReadFull(s.b, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	on(t, s.l, func() {
		if s.read == 0 || s.read+s.moved != len(data) || s.released == 0 {
			t.Errorf("%d read, %d moved, %d times released", s.read, s.moved, s.released)
		}
	})
}

// settled waits for a state of the loop.
func settled(t testing.TB, s *spliced, ok func() bool) {
	t.Helper()
	for range 1 << 20 {
		is := false
		on(t, s.l, func() { is = ok() })
		if is {
			return
		}
	}
	t.Fatal("never came so far")
}

// TestRelayWithoutPipe: bytes go through the codec where no pipe is to be had.
func TestRelayWithoutPipe(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	on(t, l, func() { l.pipes.made = pipeStock })
	s := newSpliced(t, l)
	data := noise(4, 1<<20)
	go func() { _, _ = s.a.Write(data) }()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(s.b, got); err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
	on(t, l, func() {
		if s.moved != 0 || s.read != len(data) {
			t.Errorf("%d read, %d moved", s.read, s.moved)
		}
	})
}

// TestRelayReset: a receiver that resets takes its pipe with it, and what it
// sent before is not lost.
func TestRelayReset(t *testing.T) {
	g := start(t, 1)
	s := newSpliced(t, g.Loops()[0])
	_ = s.b.SetReadBuffer(64 << 10)
	go func() { _, _ = s.a.Write(noise(5, 32<<20)) }()
	settled(t, s, func() bool { return s.pb.c.pipe != nil })
	_ = s.b.SetLinger(0)
	_ = s.b.Close()
	if err := recv(t, s.pb.closed); err == nil {
		t.Error("a reset ends without an error")
	}
	on(t, s.l, func() {
		if p := &s.l.pipes; p.made != len(p.free) {
			t.Errorf("%d pipes, %d of them free: one that was not empty was kept or lost", p.made, len(p.free))
		}
		s.pa.c.Abort()
	})
	recv(t, s.pa.closed)
}

func BenchmarkRelay(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(map[bool]string{false: "read and written", true: "spliced"}[on], func(b *testing.B) {
			s := newSpliced(b, start(b, 1).Loops()[0])
			if !on {
				disarm(b, s)
			}
			const piece = 1 << 20
			b.SetBytes(piece)
			go func() {
				p := make([]byte, piece)
				for range b.N {
					_, _ = s.a.Write(p)
				}
				_ = s.a.CloseWrite()
			}()
			_, _ = io.Copy(io.Discard, s.b)
		})
	}
}

// disarm has bytes read again.
func disarm(t testing.TB, s *spliced) { on(t, s.l, func() { s.pa.c.Relay(nil) }) }
