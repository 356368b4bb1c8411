package demand

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// wire stands between proxies and a control plane's socket: it passes bytes on,
// or lets them lie, or lets each piece take its time.
type wire struct {
	t      testing.TB
	socket string
	to     string

	mu      sync.Mutex
	changed *sync.Cond
	stuck   bool
	late    time.Duration
	open    []net.Conn
}

func newWire(t testing.TB, to string) *wire {
	dir, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, socket: filepath.Join(dir, "wire"), to: to}
	w.changed = sync.NewCond(&w.mu)
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		w.cut()
		w.stick(false)
		_ = os.RemoveAll(dir)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(c)
		}
	}()
	return w
}

// serve passes on for one connection.
func (w *wire) serve(c net.Conn) {
	w.pass() // a new connection gets no further either
	far, err := net.Dial("unix", w.to)
	if err != nil {
		_ = c.Close()
		return
	}
	w.mu.Lock()
	w.open = append(w.open, c, far)
	w.mu.Unlock()
	both := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			w.pass()
			if _, e := to.Write(b[:n]); e != nil || err != nil {
				return
			}
		}
	}
	go both(far, c)
	both(c, far)
}

// pass waits until a piece may go on.
func (w *wire) pass() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.stuck {
		w.changed.Wait()
	}
	if d := w.late; d > 0 {
		w.mu.Unlock()
		time.Sleep(d)
		w.mu.Lock()
	}
}

// stick lets nothing through, in neither direction, or has all of it go on.
func (w *wire) stick(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stuck = on
	w.changed.Broadcast()
}

// slow has every piece take that long.
func (w *wire) slow(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = d
}

// cut ends all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		_ = c.Close()
	}
	w.open = nil
}
