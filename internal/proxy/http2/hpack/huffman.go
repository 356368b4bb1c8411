package hpack

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

// move is what four bits do in a state of the decoder: a state is an inner
// node of the code tree. At most one byte comes out, since no code is shorter
// than five bits.
type move struct {
	next uint8
	emit bool
	bad  bool // no such code, or EOS
	out  byte
}

var (
	moves   [256][16]move
	padding [256]bool // states where a string may end: fewer than eight ones since the last byte
)

func init() {
	const leaf, none = 1 << 16, -1
	nodes := [][2]int{{none, none}}
	code := uint32(0)
	for bits := uint8(5); bits <= 30; bits++ {
		for c := range 256 {
			if codeLengths[c] != bits {
				continue
			}
			at := 0
			for i := int(bits) - 1; i > 0; i-- {
				b := code >> i & 1
				if nodes[at][b] == none {
					nodes = append(nodes, [2]int{none, none})
					nodes[at][b] = len(nodes) - 1
				}
				at = nodes[at][b]
			}
			nodes[at][code&1] = leaf | c
			code++
		}
		code <<= 1
	}
	if len(nodes) != 256 {
		panic("BUG: huffman code lengths")
	}
	for n := range nodes {
		for v := range 16 {
			moves[n][v] = walk(nodes, n, v)
		}
	}
	for n, i := 0, 0; i < 8; i++ {
		padding[n] = true
		n = nodes[n][1]
	}
}

func walk(nodes [][2]int, at, v int) (m move) {
	for i := 3; i >= 0; i-- {
		at = nodes[at][v>>i&1]
		if at < 0 {
			return move{bad: true}
		}
		if at >= 1<<16 {
			m.emit, m.out = true, byte(at)
			at = 0
		}
	}
	m.next = uint8(at)
	return m
}

// appendHuffman decodes b onto o.
func appendHuffman(o, b []byte) ([]byte, bool) {
	at := uint8(0)
	for _, c := range b {
		m := &moves[at][c>>4]
		if m.emit {
			o = append(o, m.out)
		}
		if m.bad {
			return o, false
		}
		m = &moves[m.next][c&15]
		if m.emit {
			o = append(o, m.out)
		}
		if m.bad {
			return o, false
		}
		at = m.next
	}
	return o, padding[at]
}
