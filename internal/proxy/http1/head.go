package http1

import (
	"bytes"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// headEnd returns the length of the head at the start of p with its empty
// line, 0 when it is not complete yet. from is how much of p an earlier call
// has seen.
func headEnd(p []byte, from int) int {
	for i := max(0, from-2); i < len(p); {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		if i+1 < len(p) && p[i] == '\r' && p[i+1] == '\n' && i >= 2 && p[i-2] == '\r' {
			return i + 2
		}
	}
	return 0
}

// early looks at an incomplete head for what can never become a good one, so
// that the answer need not wait for bytes that may not come.
func early(p []byte, from, maxHead int) *bad {
	for i := max(0, from-1); i < len(p); {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			break
		}
		if i+n == 0 || p[i+n-1] != '\r' {
			return badNewline
		}
		i += n + 1
	}
	if len(p) > maxHead {
		if bytes.IndexByte(p[:maxHead], '\n') < 0 {
			return badLongTarget
		}
		return badLongHead
	}
	return nil
}

// earlyMethod is early for a request line that has not ended.
func earlyMethod(p []byte) *bad {
	for i, c := range p {
		if c == ' ' && i > 0 {
			return nil
		}
		if tokens[c] == 0 {
			return badMethod
		}
		if i == 64 {
			return badMethod
		}
	}
	return nil
}

// parseRequest reads a whole request head (with its empty line) into h.
func parseRequest(h *stream.Head, raw []byte, f *framing, maxFields int) *bad {
	*f = framing{length: -1}
	b := h.Keep(raw[:len(raw)-2])
	p := 0
	for p < len(b) && tokens[b[p]] != 0 {
		p++
	}
	if p == 0 || p > 64 || b[p] != ' ' {
		return badMethod
	}
	method := b[:p:p]
	line := b[p+1:]
	e := bytes.IndexByte(line, '\r')
	if e < 0 || line[e+1] != '\n' {
		return badNewline
	}
	fields := line[e+2:]
	line = line[:e]
	sp := bytes.IndexByte(line, ' ')
	if sp <= 0 {
		if bytes.IndexByte(line, '\n') >= 0 {
			return badNewline
		}
		return badLine
	}
	target, version := line[:sp:sp], line[sp+1:]
	if !stream.TargetOK(target) {
		return badTarget
	}
	switch {
	case string(version) == "HTTP/1.1":
		h.Version = 11
	case string(version) == "HTTP/1.0":
		h.Version = 10
	case len(version) == 8 && string(version[:5]) == "HTTP/" && version[5]-'0' < 10 && version[6] == '.' && version[7]-'0' < 10:
		return badVersion
	case bytes.IndexByte(line, '\n') >= 0:
		return badNewline
	default:
		return badLine
	}
	if err := parseFields(h, fields, f, maxFields, true); err != nil {
		return err
	}
	h.Method = method
	if err := setTarget(h, target); err != nil {
		return err
	}
	if f.hosts == 0 && h.Version == 11 {
		return badHostNone
	}
	if err := f.request(h); err != nil {
		return err
	}
	f.removeNamed(h)
	return nil
}

// setTarget takes the request target apart (RFC 9112 3.2).
func setTarget(h *stream.Head, t []byte) *bad {
	switch {
	case string(h.Method) == "CONNECT":
		i := bytes.LastIndexByte(t, ':')
		if i <= 0 || !stream.HostOK(t) {
			return badTarget
		}
		if port, ok := decimal(t[i+1:]); !ok || port == 0 || port > 65535 {
			return badTarget
		}
		h.Authority = t
	case t[0] == '/':
		h.Path = t
	case len(t) == 1 && t[0] == '*':
		if string(h.Method) != "OPTIONS" {
			return badTarget
		}
		h.Path = t
	default:
		i := bytes.Index(t, []byte("://"))
		if i < 0 || !fold(t[:i], "http") && !fold(t[:i], "https") {
			return badTarget
		}
		auth := t[i+3:]
		var path []byte
		if j := bytes.IndexAny(auth, "/?"); j >= 0 {
			auth, path = auth[:j:j], auth[j:]
		}
		if len(auth) == 0 || !stream.HostOK(auth) {
			return badTarget
		}
		h.Authority = auth
		switch {
		case len(path) == 0 && string(h.Method) == "OPTIONS":
			h.Path = h.KeepString("*")
		case len(path) == 0:
			h.Path = h.KeepString("/")
		case path[0] == '?':
			q := h.KeepString("/")
			h.Path = append(q, path...)
		default:
			h.Path = path
		}
	}
	return nil
}

// request settles a request's body (RFC 9112 6.3).
func (f *framing) request(h *stream.Head) *bad {
	if f.codings > 0 {
		if h.Version == 10 {
			return badCodingOld
		}
		if f.length >= 0 {
			return badBoth
		}
	}
	if string(h.Method) == "CONNECT" && (f.chunked || f.length > 0) {
		return badConnect
	}
	h.Length, h.Body = f.length, f.chunked || f.length > 0
	if !h.Body && h.Length < 0 && string(h.Method) != "CONNECT" {
		h.Length = -1
	}
	return nil
}

// parseResponse reads a whole response head (with its empty line) into h. The
// body is settled by response.
func parseResponse(h *stream.Head, raw []byte, f *framing, maxFields int) *bad {
	*f = framing{length: -1}
	b := h.Keep(raw[:len(raw)-2])
	e := bytes.IndexByte(b, '\r')
	if b[e+1] != '\n' {
		return badNewline
	}
	line, fields := b[:e], b[e+2:]
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || line[7]-'0' > 1 {
		return badStatusLine
	}
	status, ok := decimal(line[9:12])
	if !ok || status < 100 || len(line) > 12 && line[12] != ' ' {
		return badStatusLine
	}
	h.Version, h.Status = 10+line[7]-'0', int(status)
	if len(line) > 13 {
		if h.Reason = line[13:len(line):len(line)]; !stream.TextOK(h.Reason) {
			return badNewline
		}
	}
	if err := parseFields(h, fields, f, maxFields, false); err != nil {
		return err
	}
	if f.codings > 0 {
		if f.length >= 0 {
			return badBoth
		}
		if h.Version == 10 {
			return badCodingOld
		}
	}
	f.removeNamed(h)
	return nil
}

// response settles a final response's body (RFC 9112 6.3) and says how to
// read it.
func (f *framing) response(h *stream.Head, toHead bool) bodyKind {
	h.Length = f.length
	switch {
	case h.Status == 204 || h.Status < 200:
		h.Length = -1
		h.Del("content-length")
		return noBody
	case toHead || h.Status == 304:
		return noBody
	case f.chunked:
		h.Body = true
		return chunkedBody
	case f.length == 0:
		return noBody
	case f.length > 0:
		h.Body = true
		return sizedBody
	}
	h.Body = true
	return untilClose
}

// parseTrailers reads a trailer section (with its empty line) into h and
// drops the fields that RFC 9110 6.5.1 forbids there.
func parseTrailers(h *stream.Head, raw []byte, maxFields int) *bad {
	f := framing{length: -1}
	b := h.Keep(raw[:len(raw)-2])
	if err := parseFields(h, b, &f, maxFields, true); err != nil {
		if err == badManyFields {
			return badTrailers
		}
		return err
	}
	h.Authority = nil
	for _, n := range [...]string{"content-length", "te", "trailer", "expect"} {
		h.Del(n)
	}
	return nil
}
