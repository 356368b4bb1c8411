package demand

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Patience is how long a first use waits for its answer.
const Patience = 2 * time.Second

// Bounds: of questions that the feed has not taken yet, and of those that wait
// on one loop, or beside the loops.
const (
	maxQuestions = 1024
	maxWaits     = 4096
)

// Board is what all loops of a proxy share. Its methods are safe for concurrent
// use.
type Board struct {
	learnt    atomic.Pointer[conf.Learnt]
	questions chan conf.Lookup
	desks     []*Desk

	waited, failed atomic.Uint64

	mu     sync.Mutex
	beside map[conf.Lookup][]chan struct{} // who asks from no loop
	asking int                             // in beside
}

// New makes a board with a desk for each loop.
func New(loops []*loop.Loop) *Board {
	b := &Board{questions: make(chan conf.Lookup, maxQuestions), beside: map[conf.Lookup][]chan struct{}{}}
	for _, l := range loops {
		b.desks = append(b.desks, &Desk{board: b, loop: l, waiting: map[conf.Lookup][]*Wait{}})
	}
	return b
}

// Questions is where the feed takes them from.
func (b *Board) Questions() <-chan conf.Lookup { return b.questions }

// Desk is that of a loop; nil for a nil Board, as long as nothing is on demand.
func (b *Board) Desk(id int) *Desk {
	if b == nil {
		return nil
	}
	return b.desks[id]
}

// Learn puts in force what is known from now on; nil: nothing is on demand.
func (b *Board) Learn(l *conf.Learnt) { b.learnt.Store(l) }

// Learnt is what is known; nil: nothing is on demand.
func (b *Board) Learnt() *conf.Learnt {
	if b == nil {
		return nil
	}
	return b.learnt.Load()
}

// Answered wakes those that wait for these lookups.
func (b *Board) Answered(list []conf.Lookup) {
	for _, d := range b.desks {
		if d.count.Load() > 0 {
			d.loop.Post(func() { d.answered(list) }) // an ended loop has nobody that waits
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range list {
		for _, ch := range b.beside[q] {
			close(ch)
		}
		delete(b.beside, q)
	}
}

// Counts of waits: begun, and ended without an answer.
func (b *Board) Counts() (waited, failed uint64) { return b.waited.Load(), b.failed.Load() }

// Waiting is how many wait on the loops now.
func (b *Board) Waiting() (n int) {
	for _, d := range b.desks {
		n += int(d.count.Load())
	}
	return n
}

var errBusy = errors.New("too many wait for an answer")

// Ask waits for the answer to q, from no loop.
func (b *Board) Ask(ctx context.Context, q conf.Lookup) error {
	ch := make(chan struct{})
	b.mu.Lock()
	busy := b.asking >= maxWaits
	if !busy {
		b.asking++
		b.beside[q] = append(b.beside[q], ch)
	}
	b.mu.Unlock()
	if busy {
		return errBusy
	}
	b.waited.Add(1)
	err := errBusy
	if b.ask(q) {
		ctx, cancel := context.WithTimeout(ctx, Patience)
		defer cancel()
		select {
		case <-ch:
			err = nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asking--
	if err != nil {
		b.failed.Add(1)
		b.beside[q] = without(b.beside[q], ch)
		if len(b.beside[q]) == 0 {
			delete(b.beside, q)
		}
	}
	return err
}

// ask hands a question to the feed.
func (b *Board) ask(q conf.Lookup) bool {
	select {
	case b.questions <- q:
		return true
	default:
		return false
	}
}

// without is a list without one element, or as it is.
func without[T comparable](list []T, x T) []T {
	for i := range list {
		if list[i] == x {
			list[i] = list[len(list)-1]
			var none T
			list[len(list)-1] = none
			return list[:len(list)-1]
		}
	}
	return list
}
