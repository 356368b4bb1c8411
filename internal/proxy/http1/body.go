package http1

import "bytes"

type bodyKind uint8

const (
	noBody bodyKind = iota
	sizedBody
	chunkedBody
	untilClose
	rawBody // a tunnel: until the peer's half-close
)

// body reads one message body. It keeps no bytes.
type body struct {
	kind   bodyKind
	state  chunkState
	digits uint8  // of the chunk size seen
	ext    uint16 // bytes of this chunk's extensions
	left   int64  // bytes left of the sized body or of the chunk
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkCR
	chunkLF
	chunkTrailer // at the start of the trailer section
)

// Bounds of one chunk's line: hex digits (leading zeros count) and bytes of
// extensions.
const (
	maxChunkDigits = 16
	maxChunkExt    = 1 << 10
)

// lastChunk is what mostly follows the data of the last but one chunk.
var lastChunk = []byte("\r\n0\r\n\r\n")

// next reads the next piece of a body from p: data is the piece, n the bytes
// used up with it. end says that the body ended with it. trailers says that
// what follows is a trailer section, to be read with trailerEnd.
func (d *body) next(p []byte) (data []byte, n int, end, trailers bool, err *bad) {
	switch d.kind {
	case noBody:
		return nil, 0, true, false, nil
	case sizedBody:
		n = int(min(int64(len(p)), d.left))
		d.left -= int64(n)
		return p[:n], n, d.left == 0, false, nil
	case untilClose, rawBody:
		return p, len(p), false, false, nil
	}
	for n < len(p) || d.state == chunkTrailer {
		switch d.state {
		case chunkTrailer:
			return nil, n, false, true, nil
		case chunkData:
			k := int(min(int64(len(p)-n), d.left))
			data = p[n : n+k]
			n += k
			if d.left -= int64(k); d.left == 0 {
				d.state = chunkCR
				if bytes.HasPrefix(p[n:], lastChunk) {
					return data, n + len(lastChunk), true, false, nil
				}
			}
			return data, n, false, false, nil
		default:
			if err = d.step(p[n]); err != nil {
				return nil, n, false, false, err
			}
			n++
		}
	}
	return nil, n, false, false, nil
}

// step takes one byte of what stands between chunks.
func (d *body) step(c byte) *bad {
	switch d.state {
	case chunkSize:
		switch {
		case c-'0' < 10:
			return d.size(c - '0')
		case c|0x20-'a' < 6:
			return d.size(c | 0x20 - 'a' + 10)
		case c == '\r' && d.digits > 0:
			d.state = chunkSizeLF
		case c == ';' && d.digits > 0:
			d.state = chunkExt
		default:
			return badChunk
		}
	case chunkExt:
		if d.ext++; d.ext > maxChunkExt {
			return badChunkExt
		}
		if c == '\r' {
			d.state = chunkSizeLF
		} else if c < 0x20 && c != '\t' || c == 0x7f {
			return badChunk
		}
	case chunkSizeLF:
		if c != '\n' {
			return badChunk
		}
		d.state = chunkData
		if d.left == 0 {
			d.state = chunkTrailer
		}
	case chunkCR:
		if c != '\r' {
			return badChunk
		}
		d.state = chunkLF
	case chunkLF:
		if c != '\n' {
			return badChunk
		}
		d.state, d.digits, d.ext = chunkSize, 0, 0
	}
	return nil
}

func (d *body) size(v byte) *bad {
	if d.left > 1<<55 || d.digits == maxChunkDigits {
		return badChunk
	}
	d.left, d.digits = d.left<<4|int64(v), d.digits+1
	return nil
}

// trailerEnd returns the length of the trailer section at the start of p with
// its empty line: 2 when there is no trailer, 0 when it is not complete. from is
// how much of p an earlier call has seen.
func trailerEnd(p []byte, from, maxHead int) (int, *bad) {
	if len(p) >= 2 && p[0] == '\r' && p[1] == '\n' {
		return 2, nil
	}
	if n := headEnd(p, from); n > 0 && n <= maxHead {
		return n, nil
	} else if n > 0 || len(p) > maxHead {
		return 0, badTrailers
	}
	return 0, early(p, from, maxHead)
}
