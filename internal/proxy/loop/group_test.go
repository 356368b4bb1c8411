//go:build linux

package loop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPanicClosesOnlyItsConnection(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	good, _ := adopted(t, l, "127.0.0.1", echo)
	bad, p := adopted(t, l, "127.0.0.1", func(c *Conn) *probe {
		p := newProbe()
		p.onBytes = func([]byte) { panic("boom") }
		return p
	})
	var timed *probe
	_, timed = adopted(t, l, "127.0.0.1", func(c *Conn) *probe { return newProbe() })
	bad.Write([]byte("x"))
	if err := recv(t, p.closed); !errors.Is(err, ErrPanic) {
		t.Error(err)
	}
	on(t, l, func() {
		tm := &Timer{Owner: timed.c}
		l.Arm(tm, 0, func() { panic("in a timer") })
	})
	if err := recv(t, timed.closed); !errors.Is(err, ErrPanic) {
		t.Error(err)
	}
	good.Write([]byte("still"))
	good.CloseWrite()
	if s, err := io.ReadAll(good); string(s) != "still" {
		t.Errorf("%q %v", s, err)
	}
	if n := g.Panics(); n != 2 {
		t.Errorf("counted %d panics", n)
	}
}

func TestManyPanicsEndRun(t *testing.T) {
	g, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	g.Log = slog.New(slog.NewTextHandler(&log, nil))
	done := make(chan error, 1)
	go func() { done <- g.Run(context.Background()) }()
	boom := func() { panic("boom") }
	for range panicLimit {
		g.Loops()[0].Post(boom)
	}
	if err := recv(t, done); err == nil {
		t.Error("Run returned nil")
	}
	if n := bytes.Count(log.Bytes(), []byte("msg=")); n != 1 {
		t.Errorf("one stack, %d log lines", n)
	}
	if g.Loops()[0].Post(func() {}) {
		t.Error("Post to an ended loop")
	}
}

func TestSickGroupCanDrain(t *testing.T) {
	g, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	g.Log = slog.New(slog.DiscardHandler)
	sick := make(chan error, 1)
	g.OnSick = func(err error) { sick <- err }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	for range panicLimit {
		g.Loops()[0].Post(func() { panic("boom") })
	}
	recv(t, sick)
	on(t, g.Loops()[0], func() {}) // still at work
	cancel()
	if err := recv(t, done); err == nil {
		t.Error("Run returned nil")
	}
}

func TestEndClosesEverything(t *testing.T) {
	g, err := New(2)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	nc, p := adopted(t, g.Loops()[1], "127.0.0.1", echo)
	cancel()
	if err := recv(t, done); err != nil {
		t.Error(err)
	}
	if err := recv(t, p.closed); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
}

func TestPostsFromManyGoroutines(t *testing.T) {
	g := start(t, 2)
	const workers, each = 8, 2000
	counts := make([]int, 2) // each written by its loop only
	var ran sync.WaitGroup
	for w := range workers {
		l := g.Loops()[w%2]
		ran.Add(each)
		go func() {
			for range each {
				for !l.Post(func() {
					counts[l.ID()]++
					other := g.Loops()[1-l.ID()]
					other.Post(ran.Done)
				}) {
					time.Sleep(time.Millisecond) // full: allowed, not expected
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() { ran.Wait(); close(done) }()
	recv(t, done)
	on(t, g.Loops()[0], func() {})
	on(t, g.Loops()[1], func() {})
	if n := counts[0] + counts[1]; n != workers*each {
		t.Errorf("ran %d", n)
	}
}

func TestTimers(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	const n = 10_000
	timers := make([]Timer, n)
	var fired, early, wrong atomic.Int32
	left := make(chan struct{})
	on(t, l, func() {
		for i := range timers {
			d := time.Duration(l.Rand()%300) * time.Millisecond
			due := l.Now() + int64(d)
			l.Arm(&timers[i], d, func() {
				if l.Now() < due {
					early.Add(1)
				}
				if timers[i].Armed() {
					wrong.Add(1)
				}
				if i%4 == 3 {
					wrong.Add(1) // was stopped
				}
				if fired.Add(1) == n*3/4 {
					close(left)
				}
			})
		}
		for i := 3; i < n; i += 4 {
			timers[i].Stop()
			timers[i].Stop()
		}
	})
	recv(t, left)
	if early.Load() != 0 || wrong.Load() != 0 {
		t.Errorf("%d early, %d wrong", early.Load(), wrong.Load())
	}
	on(t, l, func() {
		if l.wheel.count != 0 {
			t.Errorf("%d left", l.wheel.count)
		}
	})
}

// A loop that sleeps must be woken for a timer that is set sooner than the one
// it sleeps for, and one stopped must not keep it awake.
func TestTimerRearm(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	var a, b Timer
	fired := make(chan int, 2)
	on(t, l, func() { l.Arm(&a, time.Hour, func() { fired <- 1 }) })
	on(t, l, func() {
		l.Arm(&b, 20*time.Millisecond, func() { fired <- 2 })
		l.Arm(&a, 40*time.Millisecond, func() { fired <- 3 })
	})
	if x, y := recv(t, fired), recv(t, fired); x != 2 || y != 3 {
		t.Errorf("fired %d, %d", x, y)
	}
}

func TestGate(t *testing.T) {
	g := NewGate(2, 1)
	ctx := context.Background()
	for range 2 {
		if err := g.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithCancel(ctx)
	got := make(chan error, 1)
	go func() { got <- g.Acquire(short) }()
	for g.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := g.Do(ctx, func() { t.Error("ran") }); !errors.Is(err, ErrGateFull) {
		t.Error(err)
	}
	cancel()
	if err := recv(t, got); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() { got <- g.Do(ctx, func() {}) }()
	for g.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	g.Release()
	if err := recv(t, got); err != nil {
		t.Error(err)
	}
	if err := g.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	var insisted []chan error
	for range 3 { // more than may wait
		c := make(chan error, 1)
		insisted = append(insisted, c)
		go func() { c <- g.Insist(ctx, func() {}) }()
	}
	if err := g.Insist(short, func() { t.Error("ran") }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	g.Release()
	for _, c := range insisted {
		if err := recv(t, c); err != nil {
			t.Error(err)
		}
	}
	g.Release()
	if len(g.slots) != 0 {
		t.Errorf("%d slots taken", len(g.slots))
	}
}

// Threads are prompt, but for the one that works behind the gate.
func TestGateLetsLoopsGoFirst(t *testing.T) {
	prompt := Prompt() // not before Linux 6.12
	slice := func() (now uint64) {
		on(t, start(t, 1).Loops()[0], func() { now = sliceOf(0) })
		return now
	}
	var behind uint64
	if err := NewGate(1, 1).Do(t.Context(), func() { behind = sliceOf(0) }); err != nil {
		t.Fatal(err)
	}
	if loops := slice(); prompt && (loops != promptSlice || behind <= loops) {
		t.Errorf("slices of %d ns on a loop, of %d ns behind the gate", loops, behind)
	}
	if after := slice(); prompt && after != promptSlice {
		t.Errorf("slices of %d ns after the gate", after)
	}
	if !prompt && behind == promptSlice {
		t.Errorf("the slice is %d ns, which nobody asked for", behind)
	}
}

// A callback that holds its loop for long shows.
func TestLongRoundsAreCounted(t *testing.T) {
	g := start(t, 1)
	l := g.Loops()[0]
	for i := uint64(1); i <= 3; i++ {
		on(t, l, func() {
			for until := Nanotime() + int64(11*time.Millisecond); Nanotime() < until; {
			}
		})
		on(t, l, func() {}) // that round is over
		busy, rounds := g.Spent()
		long := uint64(0)
		for i, n := range rounds {
			if i > slices.Index(RoundBounds[:], 10*time.Millisecond) {
				long += n
			}
		}
		if busy < time.Duration(i)*11*time.Millisecond || long < i {
			t.Errorf("after %d long ones: %v in rounds %v", i, busy, rounds)
		}
	}
}
