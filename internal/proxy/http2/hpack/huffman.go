package hpack

import (
	"encoding/binary"
	"slices"
)

// codeLengths are the bit lengths of RFC 7541 appendix B by byte value. The
// code is canonical (codes of one length are in the order of their bytes), so
// that the lengths say everything. EOS is 30 ones.
var codeLengths = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

// quickBits is how far one look goes: two letters or digits most often.
const quickBits = 12

// found is what one look finds: up to two whole codes, none when the first one
// is longer.
type found struct{ out, next, count, bits uint8 }

var (
	quick [1 << quickBits]found // by the first bits of what is left
	// The codes of one length are numbers in a row: the first of them, how many
	// there are, and where their bytes begin in inOrder.
	ofLength [31]struct{ first, count, at uint32 }
	inOrder  [256]uint8
)

func init() {
	code, n := uint32(0), uint32(0)
	for bits := range ofLength {
		l := &ofLength[bits]
		l.first, l.at = code, n
		for c := range codeLengths {
			if int(codeLengths[c]) == bits {
				inOrder[n] = uint8(c)
				code, n = code+1, n+1
				l.count++
			}
		}
		code <<= 1
	}
	if n != 256 || code != 2*(1<<30-1) { // what is left is EOS
		panic("BUG: huffman code lengths")
	}
	for i := range quick {
		q := &quick[i]
		if q.out, q.bits = oneCode(uint64(i)<<(64-quickBits), quickBits); q.bits > 0 {
			q.count = 1
			if c, bits := oneCode(uint64(i)<<(64-quickBits+q.bits), quickBits-q.bits); bits > 0 {
				q.next, q.count, q.bits = c, 2, q.bits+bits
			}
		}
	}
}

// oneCode finds the code that acc begins with; bits is 0 when it is longer
// than most, or EOS.
func oneCode(acc uint64, most uint8) (c, bits uint8) {
	for bits := uint8(5); bits <= most; bits++ {
		l := &ofLength[bits]
		if i := uint32(acc>>(64-bits)) - l.first; i < l.count {
			return inOrder[l.at+i], bits
		}
	}
	return 0, 0
}

// appendHuffman decodes b onto o.
func appendHuffman(o, b []byte) ([]byte, bool) {
	o = slices.Grow(o, len(b)*8/5+2) // no code is shorter than five bits; two bytes are written at once
	at := len(o)
	o = o[:cap(o)]
	var acc uint64 // what was read and not decoded, from the highest bit on
	n := uint8(0)  // how many bits of it
	for len(b) > 0 {
		if len(b) >= 8 { // as many whole bytes as there is room for
			acc |= binary.BigEndian.Uint64(b) >> n
			k := (63 - n) / 8
			b, n = b[k:], n+8*k
		} else {
			for ; n <= 56 && len(b) > 0; b = b[1:] {
				acc |= uint64(b[0]) << (56 - n)
				n += 8
			}
		}
		for n >= quickBits {
			q := &quick[acc>>(64-quickBits)]
			if q.count == 0 {
				c, bits := oneCode(acc, min(n, 30))
				if bits == 0 {
					break
				}
				o[at] = c
				at, acc, n = at+1, acc<<bits, n-bits
				continue
			}
			o[at], o[at+1] = q.out, q.next
			at, acc, n = at+int(q.count), acc<<(q.bits&63), n-q.bits
		}
		if n >= 30 {
			return o[:at], false // EOS: any other code would have been found
		}
	}
	for n >= 5 {
		c, bits := oneCode(acc, n)
		if bits == 0 {
			break
		}
		o[at] = c
		at, acc, n = at+1, acc<<bits, n-bits
	}
	// Padding is fewer than eight ones (RFC 7541 5.2).
	return o[:at], n < 8 && acc>>(64-n) == 1<<n-1
}
