package loop

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
)

// ErrGateFull says that too many wait at the gate already.
var ErrGateFull = errors.New("work gate: too many waiting")

// Gate admits CPU work that runs beside the loops: handshakes, decoding of
// configuration, token checks, scrapes. It has as many slots as processors
// are left over by the loops, so that such work cannot delay a loop, and its
// queue is bounded. It is safe for concurrent use, but never from a loop:
// Acquire and Do block.
type Gate struct {
	slots   chan struct{}
	queue   int32
	waiting atomic.Int32
}

// NewGate returns a gate with that many slots (at least one) in which at most
// queue goroutines wait.
func NewGate(slots, queue int) *Gate {
	return &Gate{slots: make(chan struct{}, max(slots, 1)), queue: int32(queue)}
}

// Acquire waits for a slot. It returns ErrGateFull at once when the queue is
// full, or the context's error. The caller must Release, also before it waits
// for anything else than the CPU.
func (g *Gate) Acquire(ctx context.Context) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	if g.waiting.Add(1) > g.queue {
		g.waiting.Add(-1)
		return ErrGateFull
	}
	defer g.waiting.Add(-1)
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Release gives the slot back.
func (g *Gate) Release() {
	select {
	case <-g.slots:
	default:
		panic("loop: Gate.Release without Acquire")
	}
}

// Yield lets others run between two pieces of work (about 1 ms each). The
// slot is given up and taken again behind those who wait; when that fails the
// slot is not held.
func (g *Gate) Yield(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		g.Release()
		return err
	}
	if g.waiting.Load() == 0 {
		runtime.Gosched()
		return nil
	}
	g.Release()
	// Not Acquire: who was admitted once is not turned away by a full queue.
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Do runs fn in a slot.
func (g *Gate) Do(ctx context.Context, fn func()) error {
	if err := g.Acquire(ctx); err != nil {
		return err
	}
	defer g.Release()
	fn()
	return nil
}

// Waiting returns how many goroutines wait for a slot.
func (g *Gate) Waiting() int { return int(g.waiting.Load()) }
