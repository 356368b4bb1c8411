package loop

import (
	"context"
	"errors"
	"sync/atomic"
)

// ErrGateFull says that too many wait at the gate already.
var ErrGateFull = errors.New("work gate: too many waiting")

// Gate admits CPU work that runs beside the loops: handshakes, decoding of
// configuration, token checks, scrapes. It has as many slots as processors
// are left over by the loops, so that such work cannot delay a loop, and its
// queue is bounded; who holds a slot stays on a thread that lets the loops'
// threads go first (see Prompt). It is safe for concurrent use, but never from
// a loop: Acquire and Do block.
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
// full, or the context's error. The caller must Release in the same goroutine,
// also before it waits for anything else than the CPU.
func (g *Gate) Acquire(ctx context.Context) error {
	err := g.enter(ctx)
	if err == nil {
		stepBack()
	}
	return err
}

func (g *Gate) enter(ctx context.Context) error {
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
	stepForth()
	select {
	case <-g.slots:
	default:
		panic("loop: Gate.Release without Acquire")
	}
}

// Insist runs fn in a slot however many wait: for what must be done, of which
// there is little. The error is the context's.
func (g *Gate) Insist(ctx context.Context, fn func()) error {
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	stepBack()
	defer g.Release()
	fn()
	return nil
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
