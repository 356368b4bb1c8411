package strict

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// seen is a request as a backend understood it.
type seen struct{ method, host, target, body string }

func (s seen) String() string {
	t := s.method + " " + s.host + " " + s.target
	if s.body != "" {
		t += " " + strconv.Quote(s.body)
	}
	return t
}

// reader takes the first request off b. n 0: it is not complete. An error: no
// request can be read here.
type reader interface {
	next(b []byte) (s seen, n int, err error)
}

// readAll is what a reader makes of all that a connection carried.
func readAll(r reader, b []byte) (all []string, err error) {
	for len(b) > 0 {
		s, n, err := r.next(b)
		if err != nil || n == 0 {
			return all, err
		}
		all = append(all, s.String())
		b = b[n:]
	}
	return all, nil
}

// strict reads what RFC 9112 says a sender may make, and nothing else.
type strict struct{}

var (
	lineRE   = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[!-\"$-~]*|\\*) HTTP/1\\.1$")
	fieldRE  = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)$")
	hostRE   = regexp.MustCompile(`^[-._~!$&'()*+,;=:\[\]%0-9A-Za-z]+$`)
	lengthRE = regexp.MustCompile(`^(0|[1-9][0-9]{0,17})$`)
	sizeRE   = regexp.MustCompile(`^[0-9a-f]{1,16}$`)
)

func (strict) next(b []byte) (s seen, n int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return s, 0, nil
	}
	lines := strings.Split(string(b[:end]), "\r\n")
	m := lineRE.FindStringSubmatch(lines[0])
	if m == nil {
		return s, 0, fmt.Errorf("request line %q", lines[0])
	}
	s.method, s.target = m[1], m[2]
	n = end + 4
	fields, err := strictFields(lines[1:])
	if err != nil {
		return s, 0, err
	}
	for _, name := range []string{"host", "content-length", "transfer-encoding"} {
		if len(fields[name]) > 1 {
			return s, 0, fmt.Errorf("%s twice", name)
		}
	}
	if len(fields["host"]) == 0 || !hostRE.MatchString(fields["host"][0]) {
		return s, 0, fmt.Errorf("host %q", fields["host"])
	}
	s.host = fields["host"][0]
	length, chunked := fields["content-length"], fields["transfer-encoding"]
	switch {
	case length != nil && chunked != nil:
		return s, 0, errors.New("two framings")
	case length != nil:
		if !lengthRE.MatchString(length[0]) {
			return s, 0, fmt.Errorf("content-length %q", length[0])
		}
		size, _ := strconv.Atoi(length[0])
		if len(b) < n+size {
			return s, 0, nil
		}
		s.body = string(b[n : n+size])
		return s, n + size, nil
	case chunked != nil && chunked[0] != "chunked":
		return s, 0, fmt.Errorf("transfer-encoding %q", chunked[0])
	case chunked != nil:
		return strictChunks(s, b, n)
	}
	return s, n, nil
}

func strictFields(lines []string) (map[string][]string, error) {
	fields := map[string][]string{}
	for _, l := range lines {
		m := fieldRE.FindStringSubmatch(l)
		if m == nil {
			return nil, fmt.Errorf("field %q", l)
		}
		name := strings.ToLower(m[1])
		fields[name] = append(fields[name], strings.TrimRight(m[2], " \t"))
	}
	return fields, nil
}

func strictChunks(s seen, b []byte, n int) (seen, int, error) {
	for {
		i := bytes.Index(b[n:], []byte("\r\n"))
		if i < 0 {
			return s, 0, nil
		}
		line := string(b[n : n+i])
		if !sizeRE.MatchString(line) {
			return s, 0, fmt.Errorf("chunk size %q", line)
		}
		size, _ := strconv.ParseUint(line, 16, 63)
		n += i + 2
		if size == 0 {
			break
		}
		if uint64(len(b)-n) < size+2 {
			return s, 0, nil
		}
		s.body += string(b[n : n+int(size)])
		if n += int(size); string(b[n:n+2]) != "\r\n" {
			return s, 0, fmt.Errorf("behind a chunk %q", b[n:n+2])
		}
		n += 2
	}
	if bytes.HasPrefix(b[n:], []byte("\r\n")) {
		return s, n + 2, nil
	}
	end := bytes.Index(b[n:], []byte("\r\n\r\n"))
	if end < 0 {
		return s, 0, nil
	}
	fields, err := strictFields(strings.Split(string(b[n:n+end]), "\r\n"))
	for _, name := range []string{"host", "content-length", "transfer-encoding", "te", "trailer", "connection"} {
		if fields[name] != nil {
			err = fmt.Errorf("%s among trailers", name)
		}
	}
	return s, n + end + 4, err
}

// lenient reads as servers in the field do or did: each switch is a liberty
// that some of them took.
type lenient struct {
	name              string
	bareLF            bool // LF alone ends a line
	bareCR            bool // so does CR alone
	fold              bool // a line that begins with a blank goes on with the last one
	lastOne           bool // of two content-lengths or hosts the last counts
	lengthFirst       bool // content-length counts more than transfer-encoding
	looseLength       bool // a sign, blanks and whatever stands behind the digits
	looseChunked      bool // a transfer-encoding that has "chunked" anywhere
	looseNames        bool // blanks and control bytes around names
	looseSizes        bool // 0x, blanks, and the low 32 bits of a chunk size
	looseData         bool // whatever two bytes stand behind a chunk
	trailersAreFields bool // they count as if they stood in the head
	endAtNUL          bool // a NUL ends a value
}

// lenients are single liberties, and all at once.
var lenients = []*lenient{
	{name: "bare LF", bareLF: true},
	{name: "bare CR", bareLF: true, bareCR: true},
	{name: "folds", fold: true},
	{name: "last of two", lastOne: true},
	{name: "length first", lengthFirst: true},
	{name: "loose length", looseLength: true},
	{name: "loose chunked", looseChunked: true},
	{name: "loose names", looseNames: true},
	{name: "loose sizes", bareLF: true, looseSizes: true},
	{name: "loose data", bareLF: true, looseData: true},
	{name: "trailers", trailersAreFields: true},
	{name: "NUL", endAtNUL: true},
	everything,
}

var everything = &lenient{name: "everything", bareLF: true, fold: true, lastOne: true, lengthFirst: true, looseLength: true,
	looseChunked: true, looseNames: true, looseSizes: true, looseData: true, trailersAreFields: true, endAtNUL: true}

// line takes a line off b; rest nil: it is not complete.
func (l *lenient) line(b []byte) (line string, rest []byte) {
	for i, c := range b {
		switch {
		case c == '\n' && (l.bareLF || i > 0 && b[i-1] == '\r'):
			return strings.TrimSuffix(string(b[:i]), "\r"), b[i+1:]
		case c == '\r' && l.bareCR && i+1 < len(b) && b[i+1] != '\n':
			return string(b[:i]), b[i+1:]
		}
	}
	return "", nil
}

// fields reads lines up to an empty one; rest nil: it has not come yet.
func (l *lenient) fields(b []byte) (out [][2]string, rest []byte) {
	for {
		var line string
		if line, b = l.line(b); b == nil || line == "" {
			return out, b
		}
		if l.fold && len(out) > 0 && (line[0] == ' ' || line[0] == '\t') {
			out[len(out)-1][1] += " " + strings.TrimSpace(line)
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if l.looseNames {
			name = strings.TrimFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f })
		}
		if l.endAtNUL {
			value, _, _ = strings.Cut(value, "\x00")
		}
		out = append(out, [2]string{strings.ToLower(name), strings.TrimSpace(value)})
	}
}

func (l *lenient) get(fields [][2]string, name string) (value string, ok bool) {
	for _, f := range fields {
		if f[0] == name && (!ok || l.lastOne) {
			value, ok = f[1], true
		}
	}
	return value, ok
}

func (l *lenient) next(b []byte) (s seen, n int, err error) {
	all := len(b)
	for len(b) > 0 && (b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	line, b := l.line(b)
	if b == nil {
		return s, 0, nil
	}
	words := strings.Fields(line)
	if len(words) < 2 {
		return s, 0, fmt.Errorf("request line %q", line)
	}
	s.method, s.target = words[0], words[1]
	fields, b := l.fields(b)
	if b == nil {
		return s, 0, nil
	}
	s.host, _ = l.get(fields, "host")
	coding, _ := l.get(fields, "transfer-encoding")
	chunked := strings.EqualFold(coding, "chunked") || l.looseChunked && strings.Contains(strings.ToLower(coding), "chunked")
	length, sized := l.get(fields, "content-length")
	if sized && (!chunked || l.lengthFirst) {
		size, ok := l.length(length)
		if ok && size > len(b) {
			return s, 0, nil
		}
		if ok {
			s.body, b = string(b[:size]), b[size:]
			return s, all - len(b), nil
		}
	}
	if chunked {
		return l.chunks(s, fields, b, all)
	}
	return s, all - len(b), nil
}

func (l *lenient) length(v string) (int, bool) {
	if l.looseLength {
		v = strings.TrimLeft(v, "+ ")
		end := strings.IndexFunc(v, func(r rune) bool { return r < '0' || r > '9' })
		if end >= 0 {
			v = v[:end]
		}
	}
	n, err := strconv.ParseUint(v, 10, 62)
	return int(n), err == nil
}

func (l *lenient) chunks(s seen, fields [][2]string, b []byte, all int) (seen, int, error) {
	for {
		line, rest := l.line(b)
		if rest == nil {
			return s, 0, nil
		}
		b = rest
		digits, _, _ := strings.Cut(line, ";")
		if l.looseSizes {
			digits = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(digits)), "0x")
			digits = digits[max(0, len(digits)-8):]
		}
		size, err := strconv.ParseUint(digits, 16, 62)
		if err != nil {
			return s, 0, fmt.Errorf("chunk size %q", line)
		}
		if size == 0 {
			break
		}
		if uint64(len(b)) < size+2 {
			return s, 0, nil
		}
		s.body, b = s.body+string(b[:size]), b[size:]
		if l.looseData {
			b = b[2:]
		} else if end, rest := l.line(b); rest == nil || end != "" {
			return s, 0, fmt.Errorf("behind a chunk %q", b[:2])
		} else {
			b = rest
		}
	}
	trailers, b := l.fields(b)
	if b == nil {
		return s, 0, nil
	}
	if l.trailersAreFields {
		if h, ok := l.get(append(fields, trailers...), "host"); ok {
			s.host = h
		}
	}
	return s, all - len(b), nil
}
