package http1

import (
	"slices"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// reasons are the phrases of RFC 9110 15 and the registry.
var reasons = map[int]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
	205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
	305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
	409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Payload Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
	421: "Misdirected Request", 422: "Unprocessable Entity", 423: "Locked", 424: "Failed Dependency",
	425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
	507: "Insufficient Storage", 508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}

// statusLines are whole status lines of HTTP/1.1 for the codes above, by code - 100.
var statusLines = func() (t [500]string) {
	for code, text := range reasons {
		t[code-100] = "HTTP/1.1 " + strconv.Itoa(code) + " " + text + "\r\n"
	}
	return t
}()

// Reason returns the registered reason phrase of a status code, "Unknown" for
// codes without one.
func Reason(status int) string {
	if r := reasons[status]; r != "" {
		return r
	}
	return "Unknown"
}

// appendStatus appends a status line; version is 10 or 11.
func appendStatus(o []byte, version uint8, h *stream.Head) []byte {
	if i := h.Status - 100; version == 11 && len(h.Reason) == 0 && i >= 0 && i < len(statusLines) && statusLines[i] != "" {
		return append(o, statusLines[i]...)
	}
	o = append(o, "HTTP/1."...)
	o = append(o, '0'+version-10, ' ')
	o = strconv.AppendInt(o, int64(h.Status), 10)
	o = append(o, ' ')
	if len(h.Reason) > 0 && stream.TextOK(h.Reason) {
		o = append(o, h.Reason...)
	} else {
		o = append(o, Reason(h.Status)...)
	}
	return append(o, "\r\n"...)
}

// appendFields appends field lines. A content-length among the fields takes
// the value of length, at its place; withLength reports that it was there.
// Fields that would break the message (filters may have made them) are left
// out: this is the last gate against injected lines.
func appendFields(o []byte, fields []stream.Field, length int64) (out []byte, withLength bool) {
	for i := range fields {
		f := &fields[i]
		switch len(f.Name) {
		case 14:
			if string(f.Name) == "content-length" {
				if length >= 0 && !withLength {
					o = appendLength(o, length)
					withLength = true
				}
				continue
			}
		case 17:
			if string(f.Name) == "transfer-encoding" {
				continue
			}
		case 10:
			if string(f.Name) == "connection" {
				continue
			}
		case 7:
			if string(f.Name) == "upgrade" {
				continue
			}
		case 4:
			if string(f.Name) == "host" {
				continue
			}
		}
		if !isToken(f.Name) || !stream.TextOK(f.Value) {
			continue
		}
		n, more := len(o), len(f.Name)+len(f.Value)+4
		o = slices.Grow(o, more)[:n+more]
		n += copy(o[n:], f.Name)
		o[n], o[n+1] = ':', ' '
		n += 2 + copy(o[n+2:], f.Value)
		o[n], o[n+1] = '\r', '\n'
	}
	return o, withLength
}

func appendLength(o []byte, n int64) []byte {
	o = append(o, "content-length: "...)
	o = strconv.AppendInt(o, n, 10)
	return append(o, "\r\n"...)
}

// appendTrailers ends a chunked body.
func appendTrailers(o []byte, t *stream.Head) []byte {
	o = append(o, "0\r\n"...)
	o, _ = appendFields(o, t.Fields, -1)
	return append(o, "\r\n"...)
}

// outBody frames an outgoing body.
type outBody struct {
	kind bodyKind
	left int64 // of a sized body
}

// send writes a piece. It reports false when the sender broke its own
// content-length: what was promised cannot be kept, so that the message must
// end in a way that the receiver sees as broken.
func (b *outBody) send(w stream.Wire, p []byte, end bool) bool {
	ok := true
	switch b.kind {
	case noBody:
		return true
	case sizedBody:
		if int64(len(p)) > b.left {
			p, ok = p[:b.left], false
		}
		b.left -= int64(len(p))
		if end && b.left > 0 {
			ok = false
		}
		writeRaw(w, p)
	case chunkedBody:
		writeChunk(w, p, end)
	default:
		writeRaw(w, p)
	}
	return ok
}

func writeRaw(w stream.Wire, p []byte) {
	if len(p) >= directWrite {
		w.Write(p)
	} else if len(p) > 0 {
		w.SetOut(append(w.Out(), p...))
	}
}

func writeChunk(w stream.Wire, p []byte, end bool) {
	o := w.Out()
	if len(p) > 0 {
		o = strconv.AppendUint(o, uint64(len(p)), 16)
		o = append(o, "\r\n"...)
		if len(p) >= directWrite {
			w.SetOut(o)
			w.Write(p)
			o = w.Out()
		} else {
			o = append(o, p...)
		}
		o = append(o, "\r\n"...)
	}
	if end {
		o = append(o, "0\r\n\r\n"...)
	}
	w.SetOut(o)
}
