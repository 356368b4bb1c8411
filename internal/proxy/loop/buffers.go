package loop

import "time"

// Buffers come in three classes.
const (
	bufSmall = 4 << 10
	bufMid   = 16 << 10
	bufBig   = 64 << 10
)

var bufSizes = [...]int{bufSmall, bufMid, bufBig}

// A loop keeps the buffers it got back, of each class up to so many bytes, and
// leaves the rest to the garbage collector. Those that lay about for a whole
// interval go too, so that a loop that has become quiet keeps nothing.
const (
	bufKeep  = 4 << 20
	bufQuiet = 5 * time.Second
)

type buffers struct {
	free [len(bufSizes)][][]byte
	low  [len(bufSizes)]int // the fewest that were free since the last trim
}

// get returns an empty buffer with room for n bytes.
func (b *buffers) get(n int) []byte {
	for i, size := range bufSizes {
		if n > size {
			continue
		}
		k := len(b.free[i]) - 1
		if k < 0 {
			return make([]byte, 0, size)
		}
		p := b.free[i][k]
		b.free[i][k] = nil
		b.free[i] = b.free[i][:k]
		b.low[i] = min(b.low[i], k)
		return p
	}
	return make([]byte, 0, n)
}

// put takes a buffer back, from wherever it came.
func (b *buffers) put(p []byte) {
	for i := len(bufSizes) - 1; i >= 0; i-- {
		if cap(p) < bufSizes[i] {
			continue
		}
		if cap(p) < 2*bufSizes[i] && len(b.free[i]) < bufKeep/bufSizes[i] {
			b.free[i] = append(b.free[i], p[:0])
		}
		return
	}
}

// trim lets go of what nobody has needed since the last time. It reports
// whether anything is left.
func (b *buffers) trim() (more bool) {
	for i, free := range b.free {
		n := len(free) - b.low[i]
		clear(free[n:])
		b.free[i], b.low[i] = free[:n], n
		more = more || n > 0
	}
	return more
}

// recycle takes a buffer back and sees to it that it does not stay for ever.
func (l *Loop) recycle(p []byte) {
	l.bufs.put(p)
	l.armTrim()
}

func (l *Loop) armTrim() {
	if !l.trim.Armed() {
		l.Arm(&l.trim, bufQuiet, l.trimFn)
	}
}
