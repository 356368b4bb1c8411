package route

import (
	"bytes"
	"math"
	"strings"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// String reports whether v satisfies m. A nil v is an absent value: only
// StrAbsent matches it. StrRange never matches here.
func String(m *conf.StringMatch, v []byte) bool {
	if v == nil {
		return m.Kind == conf.StrAbsent
	}
	return Text(m, view(v))
}

// Text is String for a value that is there.
func Text(m *conf.StringMatch, v string) bool {
	n := len(m.Value)
	switch m.Kind {
	case conf.StrExact:
		return equal(v, m.Value, m.IgnoreCase)
	case conf.StrPrefix:
		return len(v) >= n && equal(v[:n], m.Value, m.IgnoreCase)
	case conf.StrSuffix:
		return len(v) >= n && equal(v[len(v)-n:], m.Value, m.IgnoreCase)
	case conf.StrContains:
		return contains(v, m.Value, m.IgnoreCase)
	case conf.StrRegex:
		return m.Regex != nil && m.Regex.MatchString(v)
	case conf.StrPresent:
		return true
	}
	return false
}

// view is v as a string without a copy, for matchers that do not keep it.
func view(v []byte) string { return unsafe.String(unsafe.SliceData(v), len(v)) }

// Header reports whether h satisfies m. As in Envoy, a missing header matches
// nothing, not even inverted, unless it is taken as empty or the match is on
// presence. Of a repeated field it is enough that one value matches (inverted:
// that none does), so that nobody gets by with a second value.
func Header(m *conf.HeaderMatch, h *stream.Head) bool {
	if len(m.Name) > 0 && m.Name[0] != ':' && h.Count(m.Name) > 1 && m.Kind != conf.StrPresent && m.Kind != conf.StrAbsent {
		for i := range h.Fields {
			if f := &h.Fields[i]; string(f.Name) == m.Name && value(m, f.Value) {
				return !m.Invert
			}
		}
		return m.Invert
	}
	v := Value(h, m.Name)
	switch m.Kind {
	case conf.StrPresent:
		return (v != nil) != m.Invert
	case conf.StrAbsent:
		return (v == nil) != m.Invert
	}
	if v == nil {
		if !m.MissingAsEmpty {
			return false
		}
		v = emptyValue
	}
	return value(m, v) != m.Invert
}

// value reports whether one value is what m asks for, inverted or not.
func value(m *conf.HeaderMatch, v []byte) bool {
	if m.Kind == conf.StrRange {
		n, isInt := parseInt(v)
		return isInt && n >= m.Low && n < m.High
	}
	return String(&m.StringMatch, v)
}

var emptyValue = []byte{}

// Query reports whether the first parameter of that name in the path's query
// satisfies m. Names and values are compared as sent, not decoded.
func Query(m *conf.QueryMatch, path []byte) bool {
	v := QueryValue(path, m.Name)
	if v == nil {
		return m.Kind == conf.StrAbsent
	}
	return String(&m.StringMatch, v)
}

// QueryValue is the raw value of the first query parameter of that name; nil
// when there is none, empty when it has no value.
func QueryValue(path []byte, name string) []byte {
	i := bytes.IndexByte(path, '?')
	if i < 0 {
		return nil
	}
	q := path[i+1:]
	for len(q) > 0 {
		p := q
		if i := bytes.IndexByte(q, '&'); i >= 0 {
			p, q = q[:i], q[i+1:]
		} else {
			q = nil
		}
		k, v := p, emptyValue
		if i := bytes.IndexByte(p, '='); i >= 0 {
			k, v = p[:i], p[i+1:]
		}
		if string(k) == name {
			return v[:len(v):len(v)]
		}
	}
	return nil
}

func equal(v, s string, fold bool) bool {
	if fold {
		return equalFold(v, s)
	}
	return v == s
}

func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}

// equalFold compares in ASCII without regard to case.
func equalFold(v, s string) bool {
	if len(v) != len(s) {
		return false
	}
	for i := range len(v) {
		if lower(v[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

func contains(v, s string, fold bool) bool {
	if !fold {
		return strings.Contains(v, s)
	}
	for i := 0; i+len(s) <= len(v); i++ {
		if equalFold(v[i:i+len(s)], s) {
			return true
		}
	}
	return false
}

// parseInt reads a decimal integer as absl's SimpleAtoi does: optional white
// space around it, a sign, digits, no overflow.
func parseInt(v []byte) (int64, bool) {
	v = bytes.TrimSpace(v)
	neg := false
	if len(v) > 0 && (v[0] == '-' || v[0] == '+') {
		neg, v = v[0] == '-', v[1:]
	}
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range v {
		if c-'0' > 9 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	if neg {
		if n > 1<<63 {
			return 0, false
		}
		return -int64(n), true
	}
	return int64(n), n <= math.MaxInt64
}
