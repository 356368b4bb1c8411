package exchange

import "github.com/tulle-mesh/tulle/internal/proxy/loop"

// keptPiece is the most that one piece of a kept body holds, bytes: the
// largest buffer that a loop takes back.
const keptPiece = 64 << 10

// kept is the part of a request's body that is held back, in buffers of the
// loop: as it grows nothing is copied a second time, nor left to the garbage
// collector.
type kept struct {
	pieces [][]byte
	size   int
}

// add copies p.
func (k *kept) add(l *loop.Loop, p []byte) {
	for len(p) > 0 {
		at := len(k.pieces) - 1
		if at < 0 || len(k.pieces[at]) == cap(k.pieces[at]) {
			k.pieces = append(k.pieces, l.Buffer(min(max(len(p), k.size), keptPiece)))
			at++
		}
		b := k.pieces[at]
		n := copy(b[len(b):cap(b)], p)
		k.pieces[at] = b[:len(b)+n]
		k.size += n
		p = p[n:]
	}
}

// drop gives the buffers back.
func (k *kept) drop(l *loop.Loop) {
	for i, b := range k.pieces {
		l.Recycle(b)
		k.pieces[i] = nil
	}
	k.pieces, k.size = k.pieces[:0], 0
}
