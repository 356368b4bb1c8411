package http1

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// lowerToken makes the token at the start of b lower-case and returns its length.
func lowerToken(b []byte) int {
	for i, c := range b {
		t := tokens[c]
		if t == 0 {
			return i
		}
		b[i] = t
	}
	return len(b)
}

// isToken reports whether b is one (RFC 9110 5.6.2).
func isToken(b []byte) bool {
	if stream.NameOK(b) {
		return true
	}
	for _, c := range b {
		if tokens[c] == 0 {
			return false
		}
	}
	return len(b) > 0
}
