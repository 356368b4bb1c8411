package http1

import (
	"bytes"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// bad says why a message was refused. Values are compared by address and
// never built at run time.
type bad struct {
	status int // what a server answers
	text   string
}

func (b *bad) Error() string { return b.text }

var (
	badLine       = &bad{400, "malformed request line"}
	badMethod     = &bad{400, "malformed method"}
	badTarget     = &bad{400, "malformed request target"}
	badVersion    = &bad{505, "http version not supported"}
	badOldVersion = &bad{426, "http/1.0 not accepted"}
	badStatusLine = &bad{502, "malformed status line"}
	badName       = &bad{400, "malformed field name"}
	badFold       = &bad{400, "folded field line"}
	badValue      = &bad{400, "control character in field value"}
	badNewline    = &bad{400, "bare CR or LF"}
	badHostNone   = &bad{400, "host missing"}
	badHostTwice  = &bad{400, "host given twice"}
	badHost       = &bad{400, "malformed host"}
	badLength     = &bad{400, "malformed content-length"}
	badLengths    = &bad{400, "differing content-length"}
	badBoth       = &bad{400, "content-length with transfer-encoding"}
	badCoding     = &bad{501, "transfer-encoding not supported"}
	badCodingOld  = &bad{400, "transfer-encoding in http/1.0"}
	badConnect    = &bad{400, "body on connect"}
	badConnection = &bad{400, "connection names a framing field"}
	badOptions    = &bad{400, "too many connection options"}
	badLongTarget = &bad{414, "request line too long"}
	badLongHead   = &bad{431, "head too large"}
	badManyFields = &bad{431, "too many fields"}
	badChunk      = &bad{400, "malformed chunk"}
	badChunkExt   = &bad{400, "chunk extensions too large"}
	badTrailers   = &bad{400, "trailers too large"}
	badInterim    = &bad{502, "too many interim responses"}
	badSwitch     = &bad{502, "protocol switched without being asked"}
	badAccept     = &bad{502, "wrong sec-websocket-accept"}
)

// tokens maps token bytes (RFC 9110 5.6.2) to their lower-case form, others to 0.
var tokens = func() (t [256]byte) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		t[c] = c
	}
	for c := 'A'; c <= 'Z'; c++ {
		t[c] = byte(c) | 0x20
	}
	return t
}()

// fold reports whether b equals the lower-case s, without regard to case.
func fold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c-'A' < 26 {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for n := len(b); n > 0 && (b[n-1] == ' ' || b[n-1] == '\t'); n = len(b) {
		b = b[:n-1]
	}
	return b
}

// decimal reads digits only; at most 18 of them.
func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var v int64
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, true
}

// framing is what a head says about its connection and body besides what the
// Head itself carries.
type framing struct {
	hosts     int
	length    int64 // -1: none
	chunked   bool
	codings   int // transfer-encoding lines
	close     bool
	keepAlive bool
	upgrade   bool   // connection: upgrade
	token     []byte // value of Upgrade
	expect    bool   // 100-continue
	wsKey     []byte
	wsAccept  []byte
	options   [4][]byte // values of Connection that name fields
	nOptions  int
}

// names that parseFields looks at, by length, to pass over the others quickly.
const special = 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<10 | 1<<14 | 1<<16 | 1<<17 | 1<<20

// parseFields reads field lines from b, each ended by CRLF, into h. b must
// belong to h: names are lower-cased in place.
func parseFields(h *stream.Head, b []byte, f *framing, maxFields int, request bool) *bad {
	for p, n := 0, 0; p < len(b); n++ {
		if n >= maxFields {
			return badManyFields
		}
		start := p
		p += lowerToken(b[p:])
		if p == len(b) || p == start || b[p] != ':' {
			return nameError(b[start:], p-start)
		}
		name := b[start:p:p]
		p++
		e := p + stream.TextEnd(b[p:])
		if e+1 >= len(b) || b[e] != '\r' || b[e+1] != '\n' {
			return valueError(b[p:])
		}
		value := trim(b[p:e])
		value = value[:len(value):len(value)]
		p = e + 2
		if l := len(name); l <= 20 && special>>l&1 != 0 {
			keep, err := f.note(name, value, request)
			if err != nil {
				return err
			}
			if !keep {
				if request && l == 4 {
					h.Authority = value
				}
				continue
			}
		}
		h.Fields = append(h.Fields, stream.Field{Name: name, Value: value})
	}
	return nil
}

func nameError(b []byte, n int) *bad {
	if n == 0 && len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		return badFold
	}
	if n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		return badNewline
	}
	return badName
}

// valueError says what is wrong with the field value at the start of b.
func valueError(b []byte) *bad {
	e := bytes.IndexByte(b, '\r')
	if e < 0 || e+1 >= len(b) || b[e+1] != '\n' || bytes.IndexByte(b[:e], '\n') >= 0 {
		return badNewline
	}
	return badValue
}

// note takes up a field that concerns framing or the connection and reports
// whether it stays among the fields.
func (f *framing) note(name, value []byte, request bool) (keep bool, err *bad) {
	switch string(name) {
	case "host":
		if !request {
			return true, nil
		}
		if f.hosts++; f.hosts > 1 {
			return false, badHostTwice
		}
		if !stream.HostOK(value) {
			return false, badHost
		}
		return false, nil
	case "content-length":
		v, ok := decimal(value)
		if !ok {
			return false, badLength
		}
		if f.length >= 0 {
			if f.length != v {
				return false, badLengths
			}
			return false, nil
		}
		f.length = v
	case "transfer-encoding":
		if f.codings++; f.codings > 1 || !fold(value, "chunked") {
			return false, badCoding
		}
		f.chunked = true
		return false, nil
	case "connection":
		return false, f.connection(value)
	case "upgrade":
		if f.token == nil {
			f.token = value
		}
		return false, nil
	case "te":
		return request && hasToken(value, "trailers"), nil
	case "keep-alive", "proxy-connection", "http2-settings":
		return false, nil
	case "expect":
		f.expect = f.expect || fold(value, "100-continue")
	case "sec-websocket-key":
		f.wsKey = value
	case "sec-websocket-accept":
		f.wsAccept = value
	}
	return true, nil
}

// connection reads the options of one Connection field.
func (f *framing) connection(value []byte) *bad {
	named := false
	for v, count := value, 0; len(v) > 0; count++ {
		if count == 32 {
			return badOptions
		}
		var t []byte
		t, v = nextToken(v)
		switch {
		case len(t) == 0:
		case fold(t, "close"):
			f.close = true
		case fold(t, "keep-alive"):
			f.keepAlive = true
		case fold(t, "upgrade"):
			f.upgrade = true
		case fold(t, "te"): // note has seen to that field
		case fold(t, "host"), fold(t, "content-length"), fold(t, "transfer-encoding"):
			return badConnection
		default:
			named = true
		}
	}
	if !named {
		return nil
	}
	if f.nOptions == len(f.options) {
		return badOptions
	}
	f.options[f.nOptions] = value
	f.nOptions++
	return nil
}

// removeNamed deletes the fields that Connection named (RFC 9110 7.6.1).
func (f *framing) removeNamed(h *stream.Head) {
	for _, v := range f.options[:f.nOptions] {
		for len(v) > 0 {
			var t []byte
			t, v = nextToken(v)
			if len(t) == 0 || fold(t, "te") {
				continue
			}
			out := h.Fields[:0]
			for _, x := range h.Fields {
				if !bytes.EqualFold(x.Name, t) {
					out = append(out, x)
				}
			}
			clear(h.Fields[len(out):])
			h.Fields = out
		}
	}
}

// nextToken cuts the first element off a comma-separated list.
func nextToken(v []byte) (token, more []byte) {
	if i := bytes.IndexByte(v, ','); i >= 0 {
		return trim(v[:i]), v[i+1:]
	}
	return trim(v), nil
}

func hasToken(v []byte, s string) bool {
	for len(v) > 0 {
		var t []byte
		t, v = nextToken(v)
		if i := bytes.IndexByte(t, ';'); i >= 0 {
			t = trim(t[:i])
		}
		if fold(t, s) {
			return true
		}
	}
	return false
}
