//go:build linux

package loop

import "sync/atomic"

// Tally counts the connections that are open of some kind, against a limit.
// Exact over all loops: no more than the limit are ever held at once. Safe from
// everywhere.
type Tally struct {
	limit int64  // 0: none
	all   *Tally // counts these and others; nil: nobody does
	open  atomic.Int64
}

// NewTally makes a tally with a limit, 0 being none, of what all counts too;
// nil: nobody does.
func NewTally(limit int, all *Tally) *Tally { return &Tally{limit: int64(limit), all: all} }

// Limit sets the limit of a zero Tally, before it is used.
func (t *Tally) Limit(n int) { t.limit = int64(n) }

// Open is how many are held now.
func (t *Tally) Open() int64 { return t.open.Load() }

// Take counts one more, in all too, or returns which of the two is full and
// counts nothing.
func (t *Tally) Take() (full *Tally) {
	if t.all != nil {
		if full = t.all.Take(); full != nil {
			return full
		}
	}
	if n := t.open.Add(1); t.limit > 0 && n > t.limit {
		t.Give()
		return t
	}
	return nil
}

// Give counts one less, after a Take.
func (t *Tally) Give() {
	t.open.Add(-1)
	if t.all != nil {
		t.all.Give()
	}
}

// Hold has the connection, for which t was taken, give it back when its
// descriptor is closed or taken away.
func (c *Conn) Hold(t *Tally) {
	c.loop.check()
	if c.phase == gone {
		t.Give()
		return
	}
	c.tally = t
}
