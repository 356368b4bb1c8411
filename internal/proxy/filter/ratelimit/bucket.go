package ratelimit

import (
	"hash/maphash"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// bucket fills steadily. It is one number, the moment at which it was or will be
// empty: what flowed in since then is in it.
type bucket struct {
	every float64 // nanoseconds per token
	full  float64 // nanoseconds that fill it
	most  float64 // tokens
	empty atomic.Int64
	_     [24]byte // alone in its cache line
}

func newBucket(c *conf.Bucket) *bucket {
	b := &bucket{every: float64(c.Interval) / float64(c.Fill), most: float64(c.Size)}
	b.full = b.every * b.most
	b.empty.Store(-1 << 62) // long ago
	return b
}

// inside is what has flowed in, in nanoseconds.
func (b *bucket) inside(empty, now int64) float64 {
	return max(0, min(float64(now-empty), b.full))
}

// take takes a token if there is one.
func (b *bucket) take(now int64) bool {
	for {
		empty := b.empty.Load()
		in := b.inside(empty, now)
		if in < b.every {
			return false
		}
		if b.empty.CompareAndSwap(empty, now-int64(in-b.every)) {
			return true
		}
	}
}

// state tells the whole tokens inside, and the whole seconds until there is one.
func (b *bucket) state(now int64) (tokens uint32, wait int64) {
	in := b.inside(b.empty.Load(), now)
	if in >= b.every {
		return uint32(in / b.every), 0
	}
	return 0, int64(b.every-in) / 1e9
}

// table holds a bucket for each value that came lately. It is bounded: when half
// of the bound has come since the last time, what was not asked for since then
// is forgotten, and is full if it comes again.
type table struct {
	conf *conf.Bucket
	half int64
	gen  atomic.Pointer[generation]
	turn sync.Mutex // of those that begin a generation
}

// maxValue is how long a value is kept as it is; of longer ones a hash is.
const maxValue = 128

var seed = maphash.MakeSeed()

type generation struct {
	now, old *sync.Map // value (string) -> *bucket
	n        atomic.Int64
}

func newTable(c *conf.Bucket, bound int) *table {
	t := &table{conf: c, half: int64(max(1, bound/2))}
	t.gen.Store(&generation{now: new(sync.Map), old: new(sync.Map)})
	return t
}

func (t *table) get(value []byte) *bucket {
	g := t.gen.Load()
	key := string(value)
	if len(value) > maxValue {
		key = strconv.FormatUint(maphash.Bytes(seed, value), 36)
	}
	if b, ok := g.now.Load(key); ok {
		return b.(*bucket)
	}
	b, ok := g.old.Load(key)
	if !ok {
		b = newBucket(t.conf)
	}
	b, there := g.now.LoadOrStore(key, b)
	if !there && g.n.Add(1) >= t.half {
		t.next(g)
	}
	return b.(*bucket)
}

func (t *table) next(g *generation) {
	if !t.turn.TryLock() {
		return // somebody does it
	}
	defer t.turn.Unlock()
	if t.gen.Load() == g {
		t.gen.Store(&generation{now: new(sync.Map), old: g.now})
	}
}
