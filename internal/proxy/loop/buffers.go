package loop

// Buffers come in three classes. A loop keeps the ones it got back, up to a
// bound, and leaves the rest to the garbage collector.
const (
	bufSmall = 4 << 10
	bufMid   = 16 << 10
	bufBig   = 64 << 10
)

var bufSizes = [...]int{bufSmall, bufMid, bufBig}

// bufKeep is how many free buffers of each class a loop keeps.
var bufKeep = [...]int{64, 32, 8}

type buffers struct {
	free [len(bufSizes)][][]byte
}

// get returns an empty buffer with room for n bytes.
func (b *buffers) get(n int) []byte {
	for i, size := range bufSizes {
		if n > size {
			continue
		}
		if k := len(b.free[i]); k > 0 {
			p := b.free[i][k-1]
			b.free[i] = b.free[i][:k-1]
			return p
		}
		return make([]byte, 0, size)
	}
	return make([]byte, 0, n)
}

// put takes a buffer back, from wherever it came.
func (b *buffers) put(p []byte) {
	for i := len(bufSizes) - 1; i >= 0; i-- {
		if cap(p) < bufSizes[i] {
			continue
		}
		if cap(p) <= 2*bufBig && len(b.free[i]) < bufKeep[i] {
			b.free[i] = append(b.free[i], p[:0])
		}
		return
	}
}
