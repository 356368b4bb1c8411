// Package overload tells how near the process is to the end of its memory, and
// what is to be given up so that it does not get there.
//
// In: a limit, and how much is in use. Out: a Level, which loops read with every
// request and connection.
// What does not belong here: giving anything up. Whoever owns a thing does that.
package overload

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
)

// Level says how much is to be given up. Each includes those before it.
type Level int32

// Levels.
const (
	Fine  Level = iota
	Tight       // idle connections, copies of request bodies
	Full        // new requests, with 503 and flag OM
	Over        // new connections
)

// String is a word for logs.
func (l Level) String() string { return [...]string{"fine", "tight", "full", "over"}[l] }

// Where each level begins, as a share of the limit; it ends 0.03 lower, so that
// what is given up does not come back at once.
var from = [...]float64{Tight: 0.85, Full: 0.92, Over: 0.97}

const slack = 0.03

// Watch compares memory with a limit. Safe for concurrent use; the zero Watch
// and nil are always Fine.
type Watch struct {
	limit int64
	used  func() int64
	level atomic.Int32
	shed  [Over + 1]atomic.Uint64
}

// New watches against a limit in bytes; 0: there is none. used gives the bytes
// that cannot be given back.
func New(limit int64, used func() int64) *Watch { return &Watch{limit: limit, used: used} }

// Limited reports whether there is a limit at all.
func (w *Watch) Limited() bool { return w != nil && w.limit > 0 }

// Level is that of the last Sample.
func (w *Watch) Level() Level {
	if w == nil {
		return Fine
	}
	return Level(w.level.Load())
}

// Pressure is what is in use, as a share of the limit; 0 without one.
func (w *Watch) Pressure() float64 {
	if !w.Limited() {
		return 0
	}
	return float64(w.used()) / float64(w.limit)
}

// Sample looks anew and reports whether the level has changed. One caller only.
func (w *Watch) Sample() (now Level, changed bool) {
	old, p := w.Level(), w.Pressure()
	for l := Over; l > Fine; l-- {
		if p >= from[l] || l <= old && p >= from[l]-slack {
			now = l
			break
		}
	}
	w.level.Store(int32(now))
	return now, now != old
}

// Shed counts one thing that was given up because of a level.
func (w *Watch) Shed(l Level) { w.shed[l].Add(1) }

// Count is how many things were given up because of a level.
func (w *Watch) Count(l Level) uint64 { return w.shed[l].Load() }

// Used is the memory that the collector could not free when it last looked,
// with the stacks and what the runtime needs for itself.
func Used() int64 {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"}, {Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/os-stacks:bytes"}, {Name: "/memory/classes/other:bytes"},
	}
	metrics.Read(s)
	var sum uint64
	for i := range s {
		sum += s[i].Value.Uint64()
	}
	return int64(sum)
}

// cgroupLimits hold the memory limit of cgroup v2, then v1.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// unlimited is what cgroup v1 says where there is no limit, or more than any
// machine has.
const unlimited = 1 << 50

// Limit is the collector's limit of GOMEMLIMIT, or else four fifths of the
// cgroup's, which it gives to the collector; 0: there is neither.
func Limit() int64 {
	if n := debug.SetMemoryLimit(-1); n < unlimited {
		return n
	}
	for _, path := range cgroupLimits {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 && n < unlimited {
			debug.SetMemoryLimit(n / 10 * 8)
			return n / 10 * 8
		}
	}
	return 0
}
