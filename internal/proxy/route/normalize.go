package route

import (
	"bytes"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// PathAction is what Normalize asks for.
type PathAction uint8

// Actions: go on with the path, answer 400, or answer 307 with the path as
// Location.
const (
	PathGoOn PathAction = iota
	PathReject
	PathRedirect
)

// Normalize returns the path as the manager wants it matched and forwarded:
// escaped slashes first, then dot segments and needless escapes, then repeated
// slashes; the query is never touched. A path that needs no change is returned
// as it is and dst is not used; one with a fragment is never accepted; else the new one is dst with the path
// appended (dst may be a scratch buffer of the caller).
func Normalize(dst, path []byte, c *conf.HTTP) ([]byte, PathAction) {
	action := PathGoOn
	if len(path) == 0 || len(path) == 1 && path[0] == '*' {
		return path, action
	}
	if bytes.IndexByte(path, '#') >= 0 {
		return path, PathReject // a fragment has no business in a request
	}
	end := bytes.IndexByte(path, '?')
	if end < 0 {
		end = len(path)
	}
	p, query := path[:end], path[end:]
	at, changed := len(dst), false
	if c.EscapedSlashes != conf.KeepEscaped && hasEscapedSlash(p) {
		switch c.EscapedSlashes {
		case conf.RejectEscaped:
			return path, PathReject
		case conf.RedirectEscaped:
			action = PathRedirect
		}
		dst = unescapeSlashes(dst, p)
		p, changed = dst[at:], true
	}
	if c.NormalizePath && !isCanonical(p) {
		from := len(dst)
		ok := false
		if dst, ok = canonical(dst, p); !ok {
			return path, PathReject
		}
		p, changed = dst[from:], true
	}
	if c.MergeSlashes && bytes.Contains(p, []byte("//")) {
		from := len(dst)
		dst = mergeSlashes(dst, p)
		p, changed = dst[from:], true
	}
	if !changed {
		return path, action
	}
	// p is the tail of dst; move it to the front, then the query follows.
	n := copy(dst[at:], p)
	return append(dst[:at+n], query...)[at:], action
}

func hasEscapedSlash(p []byte) bool {
	for i := 0; i+2 < len(p); i++ {
		if p[i] == '%' {
			if c := unhex2(p[i+1], p[i+2]); c == '/' || c == '\\' {
				return true
			}
		}
	}
	return false
}

func unescapeSlashes(dst, p []byte) []byte {
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			if c := unhex2(p[i+1], p[i+2]); c == '/' || c == '\\' {
				dst = append(dst, byte(c))
				i += 2
				continue
			}
		}
		dst = append(dst, p[i])
	}
	return dst
}

func mergeSlashes(dst, p []byte) []byte {
	for i, c := range p {
		if c == '/' && i > 0 && p[i-1] == '/' {
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// unhex2 is the byte of two hex digits, -1 if they are none.
func unhex2(a, b byte) int {
	x, y := unhex(a), unhex(b)
	if x < 0 || y < 0 {
		return -1
	}
	return x<<4 | y
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Classes of path bytes, after the URL canonicaliser that Envoy uses.
const (
	classPass     = iota // stays, escaped or not
	classUnescape        // an escaped one is unescaped: RFC 3986 unreserved
	classEscape          // must be escaped
)

var class = func() (t [256]uint8) {
	for i := range t {
		c := byte(i)
		switch {
		case c <= ' ' || c >= 0x7f:
			t[i] = classEscape
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '.', c == '_', c == '~':
			t[i] = classUnescape
		case c == '"', c == '<', c == '>', c == '`', c == '{', c == '|', c == '}', c == '#', c == '?', c == '^':
			t[i] = classEscape
		}
	}
	return t
}()

// isCanonical reports that canonical would change nothing: the common case.
func isCanonical(p []byte) bool {
	if len(p) == 0 || p[0] != '/' {
		return false
	}
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\', c == '%' || class[c] == classEscape:
			return false
		case c == '.' && p[i-1] == '/':
			return false // perhaps a dot segment
		}
	}
	return true
}

// canonical appends p with dot segments resolved, backslashes turned, needless
// escapes undone and odd bytes escaped. It is false for an escaped NUL and
// for bytes that are not UTF-8.
func canonical(dst, p []byte) ([]byte, bool) {
	at := len(dst)
	if len(p) == 0 || p[0] != '/' && p[0] != '\\' {
		dst = append(dst, '/')
	}
	for i := 0; i < len(p); {
		c, size := p[i], 1
		escaped := false
		if c == '%' && i+2 < len(p) {
			if x := unhex2(p[i+1], p[i+2]); x >= 0 {
				c, size, escaped = byte(x), 3, true
			}
		}
		startsSegment := len(dst) > at && dst[len(dst)-1] == '/'
		switch {
		case escaped && c == 0:
			return dst, false
		case c == '.' && startsSegment:
			n, up, isDot := dotSegment(p[i:])
			if !isDot {
				dst = append(dst, '.')
				i += size
				continue
			}
			if up {
				dst = parent(dst, at)
			}
			i += n
			continue
		case c == '\\' && !escaped:
			dst = append(dst, '/')
		case escaped && class[c] == classUnescape:
			dst = append(dst, c)
		case escaped:
			dst = append(dst, p[i:i+3]...)
		case c == '%':
			dst = append(dst, c) // not an escape: left alone
		case class[c] == classEscape:
			if c >= utf8.RuneSelf {
				if r, n := utf8.DecodeRune(p[i:]); r == utf8.RuneError && n == 1 {
					return dst, false
				} else {
					size = n
				}
			}
			const hex = "0123456789ABCDEF"
			for _, c := range p[i : i+size] {
				dst = append(dst, '%', hex[c>>4], hex[c&15])
			}
		default:
			dst = append(dst, c)
		}
		i += size
	}
	return dst, true
}

// dotSegment reads a "." or ".." (dots may be escaped, parameters after ';'
// are dropped, as newer Envoys do) at the start of s up to and with the
// following slash, and returns its length.
func dotSegment(s []byte) (n int, up, ok bool) {
	dots := 0
	for n < len(s) {
		if s[n] == '.' {
			n++
		} else if len(s) >= n+3 && s[n] == '%' && unhex2(s[n+1], s[n+2]) == '.' {
			n += 3
		} else {
			break
		}
		dots++
	}
	if dots > 2 {
		return 0, false, false
	}
	if n < len(s) && s[n] == ';' {
		for n < len(s) && s[n] != '/' && s[n] != '\\' {
			n++
		}
	}
	switch {
	case n == len(s):
		return n, dots == 2, true
	case s[n] == '/' || s[n] == '\\':
		return n + 1, dots == 2, true
	}
	return 0, false, false
}

// parent removes the last segment of dst[at:], which ends with a slash; the
// root stays.
func parent(dst []byte, at int) []byte {
	end := len(dst) - 1
	for end > at && dst[end-1] != '/' {
		end--
	}
	if end == at {
		return dst[:at+1]
	}
	return dst[:end]
}
