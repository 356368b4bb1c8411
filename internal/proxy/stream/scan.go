package stream

import (
	"encoding/binary"
	"math/bits"
)

// What the bytes of a message may be, for codecs. The functions below look at
// eight bytes at a time, for what is common, and at single ones where that does
// not settle it. A word's verdict is the high bit of each of its bytes.
const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

func word(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8]) }

// between marks the bytes of x that are in lo..hi; those of x must be below 0x80.
func between(x uint64, lo, hi byte) uint64 {
	return (x + ones*uint64(0x80-lo)) &^ (x + ones*uint64(0x7f-hi)) & highs
}

// controls marks the first control byte of x, tab among them, right; those
// behind it perhaps wrongly.
func controls(x uint64) uint64 {
	del := x ^ ones*0x7f
	return ((x-ones*0x20)&^x | (del-ones)&^del) & highs
}

// TextEnd returns how long b is free of control bytes other than tab
// (RFC 9110 5.5).
func TextEnd(b []byte) int {
	n := 0
	for n+8 <= len(b) {
		c := controls(word(b, n))
		if c == 0 {
			n += 8
			continue
		}
		n += bits.TrailingZeros64(c) / 8
		if b[n] != '\t' {
			return n
		}
		n++
	}
	for n < len(b) && (b[n] >= 0x20 && b[n] != 0x7f || b[n] == '\t') {
		n++
	}
	return n
}

// TextOK reports whether b is free of control bytes other than tab.
func TextOK(b []byte) bool {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		if controls(word(b, i)) != 0 {
			return TextEnd(b[i:]) == len(b)-i
		}
	}
	if i == len(b) || i > 0 && controls(word(b, len(b)-8)) == 0 {
		return true
	}
	return TextEnd(b[i:]) == len(b)-i
}

// TargetOK reports whether b is printable ASCII without space and '#': what a
// request target may hold.
func TargetOK(b []byte) bool {
	for i := 0; i < len(b); i += 8 {
		if at := min(i, len(b)-8); at >= 0 {
			x := word(b, at)
			y := x &^ highs
			if between(y, '!', '~')&^between(y, '#', '#')&^x == highs {
				continue
			}
		}
		for _, c := range b[i:min(i+8, len(b))] {
			if c-0x21 > 0x7e-0x21 || c == '#' {
				return false
			}
		}
	}
	return true
}

// HostOK reports whether b has only bytes of hosts and ports.
func HostOK(b []byte) bool {
	for i := 0; i < len(b); i += 8 {
		if at := min(i, len(b)-8); at >= 0 {
			x := word(b, at)
			y := x &^ highs
			if (between(y, 'a', 'z')|between(y, '-', ':')&^between(y, '/', '/'))&^x == highs {
				continue
			}
		}
		for _, c := range b[i:min(i+8, len(b))] {
			if !hostBytes[c] {
				return false
			}
		}
	}
	return true
}

// NameOK reports whether b is a field name in lower case (RFC 9113 8.2.1).
func NameOK(b []byte) bool {
	i := 0
	for ; i+8 <= len(b) && named(word(b, i)); i += 8 {
	}
	if i > 0 && named(word(b, len(b)-8)) && i+8 > len(b) {
		return true
	}
	for _, c := range b[i:] {
		if !nameBytes[c] {
			return false
		}
	}
	return len(b) > 0
}

// named reports whether all of x are letters in lower case or hyphens.
func named(x uint64) bool {
	y := x &^ highs
	return (between(y, 'a', 'z')|between(y, '-', '-'))&^x == highs
}

// bytesOf is the set of the bytes of s.
func bytesOf(s string) (t [256]bool) {
	for _, c := range []byte(s) {
		t[c] = true
	}
	return t
}

const lowerAndDigits = "abcdefghijklmnopqrstuvwxyz0123456789"

var (
	// nameBytes are those of tokens (RFC 9110 5.6.2), without upper case.
	nameBytes = bytesOf("!#$%&'*+-.^_`|~" + lowerAndDigits)
	// hostBytes are those of RFC 3986 host and port, without userinfo.
	hostBytes = bytesOf("-._~!$&'()*+,;=:[]%ABCDEFGHIJKLMNOPQRSTUVWXYZ" + lowerAndDigits)
)
