package listen

import "bytes"

// preface of HTTP/2, RFC 9113 section 3.4.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxLine bounds a request line that is being looked at.
const maxLine = 64 << 10

// methods that make a first line HTTP. Others are passed on as plain bytes.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
	"ACL", "BIND", "CHECKOUT", "COPY", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
	"MOVE", "NOTIFY", "PROPFIND", "PROPPATCH", "PURGE", "REBIND", "REPORT", "SEARCH", "SUBSCRIBE", "UNBIND",
	"UNLINK", "UNLOCK", "UNSUBSCRIBE", "SOURCE"}

// parseHTTP looks for HTTP at the beginning of b: protocol is "http/1.0",
// "http/1.1" or "h2c", as Envoy's http_inspector names them. It says no with
// the first byte that cannot be HTTP's.
func parseHTTP(b []byte) (protocol string, v verdict) {
	switch v := parsePreface(b); v {
	case yes:
		return "h2c", yes
	case more:
		return "", more
	}
	for len(b) > 0 && (b[0] == '\r' || b[0] == '\n') { // RFC 9112 section 2.2
		b = b[1:]
	}
	method, rest, found := bytes.Cut(b, []byte(" "))
	if !found {
		if isMethod(method, true) {
			return "", more
		}
		return "", no
	}
	if !isMethod(method, false) {
		return "", no
	}
	line, _, found := bytes.Cut(rest, []byte("\n"))
	if !found {
		if len(line) > maxLine || bytes.IndexFunc(bytes.TrimSuffix(line, []byte("\r")), isControl) >= 0 {
			return "", no
		}
		return "", more
	}
	line = bytes.TrimSuffix(line, []byte("\r"))
	target, version, found := bytes.Cut(line, []byte(" "))
	if !found || len(target) == 0 || bytes.IndexFunc(target, isControl) >= 0 {
		return "", no
	}
	switch string(version) {
	case "HTTP/1.1":
		return "http/1.1", yes
	case "HTTP/1.0":
		return "http/1.0", yes
	}
	return "", no
}

// maxHost bounds the hosts that are looked up, in bytes: names of the DNS have no
// more.
const maxHost = 253

// hostIn is the Host of an HTTP/1 request whose head begins b, as far as it came;
// nil: it was not found.
func hostIn(b []byte) []byte {
	if p, v := parseHTTP(b); v != yes || p == "h2c" {
		return nil
	}
	for b = bytes.TrimLeft(b, "\r\n"); ; {
		var found bool
		if _, b, found = bytes.Cut(b, []byte("\n")); !found {
			return nil
		}
		line, _, found := bytes.Cut(b, []byte("\n"))
		if line = bytes.TrimSuffix(line, []byte("\r")); !found || len(line) == 0 {
			return nil
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("host")) {
			return bytes.Trim(value, " \t")
		}
	}
}

// parsePreface looks for the preface of HTTP/2.
func parsePreface(b []byte) verdict {
	n := min(len(b), len(preface))
	switch {
	case string(b[:n]) != preface[:n]:
		return no
	case n < len(preface):
		return more
	}
	return yes
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// isMethod reports whether b is a method, or the beginning of one.
func isMethod(b []byte, part bool) bool {
	for _, m := range methods {
		if m == string(b) || part && len(b) < len(m) && m[:len(b)] == string(b) {
			return true
		}
	}
	return false
}
