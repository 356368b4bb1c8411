//go:build linux

package loop

import (
	"math/bits"
	"time"
)

// tick is the resolution of timers.
const tick = 10 * time.Millisecond

// Timer calls a function on its loop once, after a time. It is meant to be
// embedded by value: arming and stopping allocate nothing. The zero value is
// not armed. It must not be copied while armed.
type Timer struct {
	// Owner, when set, is the connection that a panic in the function closes.
	Owner *Conn

	fn         func()
	wheel      *wheel
	next, prev *Timer
	when       int64 // tick
	slot       uint16
}

// Armed reports whether the timer will fire.
func (t *Timer) Armed() bool { return t.wheel != nil }

// Stop disarms the timer. On its loop, the function is not called afterwards.
func (t *Timer) Stop() {
	if t.wheel != nil {
		t.wheel.remove(t)
		t.fn = nil
	}
}

// The wheel has four levels. Level 0 has one slot per tick, each slot of a
// higher level spans all of the level below. A timer moves down when its slot's
// time begins, so it is touched at most four times and fires in its own tick.
const (
	bits0     = 8
	bitsN     = 6
	slots0    = 1 << bits0
	slotsN    = 1 << bitsN
	levels    = 4
	slotCount = slots0 + (levels-1)*slotsN
	never     = int64(1<<63 - 1)
)

// wheel holds timers by tick; it never looks at a clock itself.
type wheel struct {
	cur   int64 // the last tick that was fired
	count int
	heads [slotCount]*Timer
	used  [slotCount / 64]uint64
}

// shift of a level's slot number within a tick number.
func shift(level int) uint {
	if level == 0 {
		return 0
	}
	return uint(bits0 + (level-1)*bitsN)
}

// add arms t for tick when, which is later than cur.
func (w *wheel) add(t *Timer, when int64) {
	t.wheel, t.when = w, max(when, w.cur+1)
	w.count++
	w.place(t)
}

func (w *wheel) place(t *Timer) {
	slot := -1
	if t.when-w.cur < slots0 {
		slot = int(t.when & (slots0 - 1))
	} else {
		for level := 1; level < levels; level++ {
			s := shift(level)
			d := t.when>>s - w.cur>>s
			if d < slotsN {
				slot = slots0 + (level-1)*slotsN + int(t.when>>s)&(slotsN-1)
				break
			}
			if level == levels-1 { // beyond the wheel: look again at its far end
				slot = slots0 + (level-1)*slotsN + int(w.cur>>s-1)&(slotsN-1)
			}
		}
	}
	t.slot = uint16(slot)
	t.prev, t.next = nil, w.heads[slot]
	if t.next != nil {
		t.next.prev = t
	}
	w.heads[slot] = t
	w.used[slot/64] |= 1 << (slot % 64)
}

func (w *wheel) unlink(t *Timer) {
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		w.heads[t.slot] = t.next
		if t.next == nil {
			w.used[t.slot/64] &^= 1 << (t.slot % 64)
		}
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.next, t.prev = nil, nil
}

func (w *wheel) remove(t *Timer) {
	w.unlink(t)
	t.wheel = nil
	w.count--
}

// nextTick returns the first tick after cur at which something is to be done
// (timers fire or move down), or never.
func (w *wheel) nextTick() int64 {
	if w.count == 0 {
		return never
	}
	best := never
	if d := w.distance(0, slots0/64, int(w.cur&(slots0-1))); d > 0 {
		best = w.cur + int64(d)
	}
	for level := 1; level < levels; level++ {
		s := shift(level)
		base := (slots0 + (level-1)*slotsN) / 64
		if d := w.distance(base, 1, int(w.cur>>s)&(slotsN-1)); d > 0 {
			best = min(best, (w.cur>>s+int64(d))<<s)
		}
	}
	return best
}

// distance from slot from, exclusive and around, to the next used one in n
// words of the bitmap; 0: none.
func (w *wheel) distance(base, n, from int) int {
	size := n * 64
	for d := 1; d < size; {
		at := (from + d) % size
		word := w.used[base+at/64] >> (at % 64)
		if word != 0 {
			d += bits.TrailingZeros64(word)
			if d < size {
				return d
			}
			return 0
		}
		d += 64 - at%64
	}
	return 0
}

// pop moves the wheel forward, up to tick to, and returns the next timer whose
// time has come, disarmed; nil when there is none.
func (w *wheel) pop(to int64) *Timer {
	for {
		if t := w.heads[w.cur&(slots0-1)]; t != nil {
			w.remove(t)
			return t
		}
		if w.cur >= to {
			return nil
		}
		n := w.nextTick()
		if n > to {
			w.cur = to
			return nil
		}
		w.cur = n
		for level := levels - 1; level > 0; level-- {
			s := shift(level)
			if n&(1<<s-1) == 0 {
				w.cascade(slots0 + (level-1)*slotsN + int(n>>s)&(slotsN-1))
			}
		}
	}
}

func (w *wheel) cascade(slot int) {
	t := w.heads[slot]
	w.heads[slot] = nil
	w.used[slot/64] &^= 1 << (slot % 64)
	for t != nil {
		next := t.next
		w.place(t)
		t = next
	}
}
