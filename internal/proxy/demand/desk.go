package demand

import (
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Desk is where one loop looks up and waits. Owned by that loop. A nil Desk knows
// nothing, and nothing is on demand.
type Desk struct {
	board   *Board
	loop    *loop.Loop
	waiting map[conf.Lookup][]*Wait
	count   atomic.Int64 // of Waits; written by the loop
}

// Wait is somebody who waits for answers. It is told once, unless it gives up.
type Wait struct {
	desk  *Desk
	open  []conf.Lookup // not answered yet
	told  func(ok bool)
	over  bool
	timer loop.Timer
}

// Learnt is what is known; nil: nothing is on demand.
func (d *Desk) Learnt() *conf.Learnt {
	if d == nil {
		return nil
	}
	return d.board.learnt.Load()
}

// Now is the clock of conf.Answer.Use.
func (d *Desk) Now() int64 { return conf.Seconds(d.loop.Wall()) }

// Wait asks for what is not known and calls told when all of it is answered, or
// with false after Patience; never from within this call. It returns nil when
// too many wait already.
func (d *Desk) Wait(what []conf.Lookup, told func(ok bool)) *Wait {
	if d.count.Load() >= maxWaits {
		return nil
	}
	w := &Wait{desk: d, open: what, told: told}
	for _, q := range what {
		d.waiting[q] = append(d.waiting[q], w)
	}
	d.count.Add(1)
	d.board.waited.Add(1)
	d.loop.Arm(&w.timer, Patience, w.late)
	for _, q := range what { // last: the answer finds who waits for it
		if !d.board.ask(q) {
			w.Cancel()
			d.board.failed.Add(1)
			return nil
		}
	}
	return w
}

// Ahead asks for what will be waited for, as far as can be told, unless somebody
// waits for it already. Nobody is told.
func (d *Desk) Ahead(q conf.Lookup) {
	if len(d.waiting[q]) == 0 {
		d.board.ask(q)
	}
}

// Cancel gives up: nothing is told any more. A nil Wait is none.
func (w *Wait) Cancel() {
	if w == nil || w.over {
		return
	}
	w.end()
	for _, q := range w.open {
		if w.desk.waiting[q] = without(w.desk.waiting[q], w); len(w.desk.waiting[q]) == 0 {
			delete(w.desk.waiting, q)
		}
	}
}

func (w *Wait) end() {
	w.over = true
	w.timer.Stop()
	w.desk.count.Add(-1)
}

// late tells that no answer came in time.
func (w *Wait) late() {
	w.Cancel()
	w.desk.board.failed.Add(1)
	w.told(false)
}

// answered tells those that wait for nothing else.
func (d *Desk) answered(list []conf.Lookup) {
	for _, q := range list {
		all := d.waiting[q]
		delete(d.waiting, q)
		for _, w := range all {
			if w.over { // by one that was told just now
				continue
			}
			if w.open = without(w.open, q); len(w.open) == 0 {
				w.end()
				w.told(true)
			}
		}
	}
}

// Forgot reports whether a listener of that name is not known only because it had
// to make room for others: what was said about it may still hold.
func (d *Desk) Forgot(name string) bool {
	known := d.Learnt()
	if known == nil {
		return false
	}
	_, ok := ext.ParseLookup(name)
	return ok && known.Find(conf.Lookup{Kind: conf.LookupListener, Name: name}) == nil
}
