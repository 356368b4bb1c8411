//go:build linux

package listen

import (
	"bufio"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// knock dials n times at once and returns those that were let in; the others
// must have been closed.
func knock(t testing.TB, addr string, n int) (in []net.Conn) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.SetDeadline(time.Now().Add(wait))
			_, err = bufio.NewReader(c).ReadString('\n')
			switch {
			case err == nil:
				mu.Lock()
				in = append(in, c)
				mu.Unlock()
				return
			case err != io.EOF && !strings.Contains(err.Error(), "reset"):
				t.Error(err)
			}
			_ = c.Close()
		})
	}
	wg.Wait()
	return in
}

func (b *bench) stat(t testing.TB, address string) Stat {
	t.Helper()
	all := b.Stats()
	i := slices.IndexFunc(all, func(s Stat) bool { return s.Address == address })
	if i < 0 {
		t.Fatalf("%s is not among %v", address, all)
	}
	return all[i]
}

// TestLimits: limits of open connections hold exactly, on four loops and however
// many come at once; what is let go makes room.
func TestLimits(t *testing.T) {
	var over, overAll atomic.Int64
	b := newBench(t, 4, Options{Limits: ext.Connections{All: 12, Listener: map[string]int{"small": 5}}, Full: func(f *Full) {
		if f.All {
			overAll.Add(1)
		} else {
			over.Add(1)
		}
		if !f.Remote.IsValid() || !f.Local.IsValid() || f.Listener == nil || f.Loop == nil {
			t.Errorf("%+v", f)
		}
	}})
	free := listener("free", "127.0.0.4:0")
	free.IgnoreLimit = true
	b.update(t, listener("small", "127.0.0.2:0", "[::1]:0"), listener("large", "127.0.0.3:0"), free)
	at := func(host string) string {
		i := slices.IndexFunc(b.Addresses(), func(a string) bool { return strings.HasPrefix(a, host) })
		return b.Addresses()[i]
	}
	small := knock(t, at("127.0.0.2"), 40)
	if len(small) != 5 || over.Load() != 35 {
		t.Errorf("a limit of 5 lets %d of 40 in, tells of %d", len(small), over.Load())
	}
	if in := knock(t, at("[::1]"), 3); len(in) != 0 { // the listener's other address
		t.Errorf("%d more at its other address", len(in))
	}
	if large := knock(t, at("127.0.0.3"), 60); len(large) != 7 || overAll.Load() != 53 {
		t.Errorf("a limit of 12 of which 5 are taken lets %d of 60 in, tells of %d", len(large), overAll.Load())
	}
	if in := knock(t, at("127.0.0.4"), 20); len(in) != 20 {
		t.Errorf("where the limit is ignored %d of 20 are let in", len(in))
	}
	if s := b.stat(t, "127.0.0.2_0"); s.Open != 5 || s.Accepted != 5 || s.Over != 38 || s.OverAll != 0 {
		t.Errorf("counted %+v", s)
	}
	// Of the large listener's place for one nothing is lost by many changes.
	for round := range 20 {
		_ = small[0].Close()
		for b.stat(t, "127.0.0.2_0").Open != 4 { // its end has to be seen
			time.Sleep(time.Millisecond)
		}
		in := knock(t, at("127.0.0.2"), 3)
		if len(in) != 1 {
			t.Fatalf("round %d: %d are let in where one has left", round, len(in))
		}
		small = append(small[1:], in...)
	}
	for _, c := range small {
		_ = c.Close()
	}
	for b.stat(t, "127.0.0.2_0").Open != 0 {
		time.Sleep(time.Millisecond)
	}
	if in := knock(t, at("127.0.0.2"), 10); len(in) != 5 {
		t.Errorf("when all have left %d are let in, want 5", len(in))
	}
}

// TestLimitOutlives: connections of a listener that was taken away count until
// they end, also when it comes back.
func TestLimitOutlives(t *testing.T) {
	b := newBench(t, 2, Options{Limits: ext.Connections{Listener: map[string]int{"a": 2}}})
	b.update(t, listener("a", "127.0.0.1:0"))
	in := knock(t, b.Addresses()[0], 2)
	b.update(t)
	b.update(t, listener("a", "127.0.0.1:0"))
	if more := knock(t, b.Addresses()[0], 4); len(more) != 0 {
		t.Errorf("%d more are let in", len(more))
	}
	for _, c := range in {
		_ = c.Close()
	}
	b.update(t)
	for len(b.Stats()) != 0 {
		time.Sleep(time.Millisecond)
	}
}
