package http2

import (
	"github.com/tulle-mesh/tulle/internal/proxy/http2/hpack"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// verdict says what is wrong with a field list; nil: nothing. Compared by address.
type verdict struct{ text string }

var (
	tooLarge      = &verdict{"field list too large"}
	badName       = &verdict{"malformed field name"}
	badValue      = &verdict{"malformed field value"}
	badHop        = &verdict{"connection-specific field"}
	badTE         = &verdict{"te other than trailers"}
	badPseudo     = &verdict{"unknown or misplaced pseudo-header"}
	badTwice      = &verdict{"pseudo-header given twice"}
	badMissing    = &verdict{"pseudo-header missing"}
	badMethod     = &verdict{"malformed :method"}
	badPath       = &verdict{"malformed :path"}
	badScheme     = &verdict{"malformed :scheme"}
	badAuthority  = &verdict{"malformed :authority or host"}
	badHosts      = &verdict{":authority and host differ"}
	badProtocol   = &verdict{"malformed :protocol"}
	badStatus     = &verdict{"malformed :status"}
	badLength     = &verdict{"malformed content-length"}
	badLengthEnd  = &verdict{"body differs from content-length"}
	badConnect    = &verdict{"malformed connect"}
	badInterim    = &verdict{"malformed interim response"}
	badTrailerEnd = &verdict{"second head or trailers without end"}
)

// byteKinds: 1 lower-case token byte, 2 upper-case letter.
var byteKinds = func() (t [256]uint8) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		t[c] |= 1
	}
	for c := 'A'; c <= 'Z'; c++ {
		t[c] |= 2
	}
	return t
}()

func all(b []byte, kinds uint8) bool {
	for _, c := range b {
		if byteKinds[c]&kinds == 0 {
			return false
		}
	}
	return len(b) > 0
}

// valueOK: no control bytes (HTTP/1 could not carry them) and no blanks at
// either end (RFC 9113 8.2.1).
func valueOK(b []byte) bool {
	n := len(b)
	return n == 0 || b[0] != ' ' && b[0] != '\t' && b[n-1] != ' ' && b[n-1] != '\t' && stream.TextOK(b)
}

func foldEqual(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if byteKinds[x]&2 != 0 {
			x |= 0x20
		}
		if byteKinds[y]&2 != 0 {
			y |= 0x20
		}
		if x != y {
			return false
		}
	}
	return true
}

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

// fieldList collects a decoded field block into a Head.
type fieldList struct {
	h        *stream.Head
	bad      *verdict
	size     int
	count    int
	pseudo   uint8 // which were there
	regular  bool  // a regular field was there
	cookies  int
	host     []byte
	hasHost  bool
	response bool
	trailers bool
}

const (
	hasMethod = 1 << iota
	hasScheme
	hasPath
	hasAuthority
	hasProtocol
	hasStatus
)

// decode reads a whole field block. An error means that the connection's
// compression state is lost. The block is read to its end even when it is
// malformed, to keep that state.
func (c *conn) decode(l *fieldList, block []byte) error {
	c.dec.Start(block, &c.set.scratch)
	var f hpack.Field
	for {
		ok, err := c.dec.Next(&f)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if l.bad != nil {
			continue
		}
		l.size += len(f.Name) + len(f.Value) + 32
		if l.count++; l.size > c.lim.MaxHead || l.count > c.lim.MaxFields {
			l.bad = tooLarge
			continue
		}
		if f.Checked { // looked at when it came first
			l.regular = true
			l.h.AddKept(f.Name, f.Value)
			continue
		}
		ordinary := false
		if ordinary, l.bad = l.add(&f); ordinary {
			c.dec.Check()
		}
	}
	if l.bad == nil && l.cookies > 1 {
		l.joinCookies()
	}
	return nil
}

// fate is what becomes of a field.
type fate uint8

const (
	kept    fate = iota // as any list would
	noted               // kept, and to be looked at each time
	dropped             // it is noted elsewhere, or means nothing
)

// add takes a field up. ordinary: there is nothing to look at when the same
// field comes again.
func (l *fieldList) add(f *hpack.Field) (ordinary bool, bad *verdict) {
	if len(f.Name) == 0 {
		return false, badName
	}
	if f.Name[0] == ':' {
		return false, l.addPseudo(f)
	}
	l.regular = true
	if !stream.NameOK(f.Name) {
		return false, badName
	}
	if !valueOK(f.Value) {
		return false, badValue
	}
	what, bad := l.note(f)
	if bad == nil && what != dropped {
		l.h.AddKept(f.Name, f.Value)
	}
	return what == kept, bad
}

// note sees to the fields that are more than a name and a value.
func (l *fieldList) note(f *hpack.Field) (fate, *verdict) {
	switch string(f.Name) {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return dropped, badHop
	case "te":
		if string(f.Value) != "trailers" {
			return dropped, badTE
		}
	case "content-length":
		if l.trailers {
			return dropped, nil
		}
		n, ok := decimal(f.Value)
		if !ok || l.h.Length >= 0 && l.h.Length != n {
			return dropped, badLength
		}
		if l.h.Length >= 0 {
			return dropped, nil
		}
		l.h.Length = n
		return noted, nil
	case "cookie":
		l.cookies++
		return noted, nil
	case "host":
		if l.trailers {
			return dropped, nil
		}
		if l.response {
			return noted, nil
		}
		if l.hasHost || !stream.HostOK(f.Value) {
			return dropped, badAuthority
		}
		l.host, l.hasHost = l.h.Keep(f.Value), true
		return dropped, nil
	}
	return kept, nil
}

func (l *fieldList) addPseudo(f *hpack.Field) *verdict {
	var bit uint8
	var to *[]byte
	switch string(f.Name) {
	case ":method":
		bit, to = hasMethod, &l.h.Method
	case ":scheme":
		bit, to = hasScheme, &l.h.Scheme
	case ":path":
		bit, to = hasPath, &l.h.Path
	case ":authority":
		bit, to = hasAuthority, &l.h.Authority
	case ":protocol":
		bit, to = hasProtocol, &l.h.Protocol
	case ":status":
		bit = hasStatus
	}
	switch {
	case bit == 0 || l.regular || l.trailers || l.response != (bit == hasStatus):
		return badPseudo
	case l.pseudo&bit != 0:
		return badTwice
	}
	l.pseudo |= bit
	if to != nil {
		*to = l.h.Keep(f.Value)
		return nil
	}
	n, ok := decimal(f.Value)
	if !ok || len(f.Value) != 3 || n < 100 {
		return badStatus
	}
	l.h.Status = int(n)
	return nil
}

// joinCookies makes one field of the crumbs (RFC 9113 8.2.3).
func (l *fieldList) joinCookies() {
	h := l.h
	n := 0
	for _, f := range h.Fields {
		if string(f.Name) == "cookie" {
			n += len(f.Value) + 2
		}
	}
	var joined []byte
	at := -1
	out := h.Fields[:0]
	for _, f := range h.Fields {
		if string(f.Name) != "cookie" {
			out = append(out, f)
			continue
		}
		if at < 0 {
			at = len(out)
			out = append(out, f)
			joined = h.Keep(l.space(n))[:0]
		} else {
			joined = append(joined, "; "...)
		}
		joined = append(joined, f.Value...)
	}
	out[at].Value = joined
	clear(h.Fields[len(out):])
	h.Fields = out
}

var blanks = make([]byte, 64<<10)

// space returns n bytes of no meaning.
func (l *fieldList) space(n int) []byte {
	if n <= len(blanks) {
		return blanks[:n]
	}
	return make([]byte, n)
}

// request checks a request head (RFC 9113 8.3.1, 8.5; RFC 8441 4) and brings
// it into its form above the waist.
func (l *fieldList) request(scheme string, extended bool) *verdict {
	h := l.h
	connect := string(h.Method) == "CONNECT"
	const base = hasMethod | hasScheme | hasPath
	switch {
	case l.pseudo&hasProtocol != 0:
		if !extended || !connect || l.pseudo != base|hasAuthority|hasProtocol {
			return badConnect
		}
		if !all(h.Protocol, 1|2) {
			return badProtocol
		}
		h.Protocol = h.KeepLower(h.Protocol)
		h.Method = h.KeepString("GET")
	case connect:
		if l.pseudo != hasMethod|hasAuthority || len(h.Authority) == 0 {
			return badConnect
		}
	case l.pseudo&base != base:
		return badMissing
	}
	if !all(h.Method, 1|2) {
		return badMethod
	}
	if !stream.HostOK(h.Authority) {
		return badAuthority
	}
	if l.hasHost {
		if l.pseudo&hasAuthority == 0 {
			h.Authority = l.host
		} else if !foldEqual(l.host, h.Authority) {
			return badHosts
		}
	}
	if l.pseudo&hasPath != 0 {
		star := len(h.Path) == 1 && h.Path[0] == '*' && string(h.Method) == "OPTIONS"
		if len(h.Path) == 0 || h.Path[0] != '/' && !star || !stream.TargetOK(h.Path) {
			return badPath
		}
	}
	switch {
	case scheme != "":
		h.Scheme = h.KeepString(scheme)
	case l.pseudo&hasScheme != 0 && string(h.Scheme) != "http" && string(h.Scheme) != "https":
		return badScheme
	}
	return nil
}
