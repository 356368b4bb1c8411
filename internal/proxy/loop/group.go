//go:build linux

package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// ErrEnded is told to connections that are still open when their loop ends,
// and returned by calls that come after.
var ErrEnded = errors.New("event loop ended")

// ErrPanic is told to a connection in whose event handling the program
// panicked.
var ErrPanic = errors.New("internal error")

// Panics within panicWindow that are too many.
const (
	panicLimit  = 5
	panicWindow = time.Minute
	gateQueue   = 4096
)

// Group is the set of loops of a process.
type Group struct {
	// Log gets panics, from outside the loops. Set before Run; default
	// slog.Default().
	Log *slog.Logger
	// OnSick, when set before Run, is called once from a goroutine of its own
	// when events panic several times a minute; Run then goes on until its
	// context ends, so that the caller can drain. When nil, Run ends at once.
	OnSick func(error)

	loops  []*Loop
	gate   *Gate
	panics atomic.Uint64
	fault  chan fault
	wg     sync.WaitGroup
}

// fault is a panic on its way to the log.
type fault struct {
	loop  int
	what  any
	stack []byte
	key   uint64
}

// New makes n loops (at least one), which begin to work in Run. The gate gets
// the processors (GOMAXPROCS) beyond n, at least one. It changes no global
// setting: the caller sets GOMAXPROCS before.
func New(n int) (*Group, error) {
	g := &Group{fault: make(chan fault, 16)}
	n = max(n, 1)
	g.gate = NewGate(runtime.GOMAXPROCS(0)-n, gateQueue)
	for i := range n {
		l, err := newLoop(g, i)
		if err != nil {
			for _, l := range g.loops {
				l.release()
			}
			return nil, fmt.Errorf("event loop %d: %w", i, err)
		}
		g.loops = append(g.loops, l)
	}
	return g, nil
}

// Loops returns the loops; the slice must not be changed.
func (g *Group) Loops() []*Loop { return g.loops }

// Gate returns the work gate.
func (g *Group) Gate() *Gate { return g.gate }

// Panics returns how many events have panicked.
func (g *Group) Panics() uint64 { return g.panics.Load() }

// Least returns the loop with the least work. Safe from everywhere.
func (g *Group) Least() *Loop {
	best, load := g.loops[0], g.loops[0].Load()
	for _, l := range g.loops[1:] {
		if n := l.Load(); n < load {
			best, load = l, n
		}
	}
	return best
}

// Run runs the loops until ctx ends, then closes every connection and returns
// nil. It returns an error when a loop fails or events panic several times a
// minute (see OnSick). It can be called once.
func (g *Group) Run(ctx context.Context) error {
	failed := make(chan error, len(g.loops))
	for _, l := range g.loops {
		g.wg.Add(1)
		go func() {
			defer g.wg.Done()
			if err := l.run(); err != nil {
				failed <- fmt.Errorf("event loop %d: %w", l.id, err)
			}
		}()
	}
	err := g.watch(ctx, failed)
	for _, l := range g.loops {
		l.end()
	}
	g.wg.Wait()
	return err
}

// watch waits for the end and logs panics: each stack once.
func (g *Group) watch(ctx context.Context, failed <-chan error) error {
	log := g.Log
	if log == nil {
		log = slog.Default()
	}
	seen := map[uint64]bool{}
	var recent []time.Time
	var sick error
	for {
		select {
		case <-ctx.Done():
			return sick
		case err := <-failed:
			return err
		case f := <-g.fault:
			if !seen[f.key] && len(seen) < 256 {
				seen[f.key] = true
				log.Error("panic on an event loop; its connection was closed", "loop", f.loop,
					"panic", fmt.Sprint(f.what), "stack", string(f.stack))
			}
			now := time.Now()
			recent = append(recent, now)
			for len(recent) > 0 && now.Sub(recent[0]) > panicWindow {
				recent = recent[1:]
			}
			if len(recent) < panicLimit || sick != nil {
				continue
			}
			sick = fmt.Errorf("%d panics in %s, last: %v", len(recent), panicWindow, f.what)
			if g.OnSick == nil {
				return sick
			}
			go g.OnSick(sick)
		}
	}
}

// report counts a panic and hands it to Run. It is called while the panic's
// stack still stands.
func (g *Group) report(loop int, what any) {
	g.panics.Add(1)
	var pcs [32]uintptr
	key := uint64(14695981039346656037)
	for _, pc := range pcs[:runtime.Callers(4, pcs[:])] {
		key = (key ^ uint64(pc)) * 1099511628211
	}
	select {
	case g.fault <- fault{loop, what, debug.Stack(), key}:
	default: // more at once than can be logged
	}
}
