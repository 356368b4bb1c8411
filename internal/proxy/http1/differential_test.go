package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/stream/streamtest"
)

// ours reads one request with our codec: its meaning, or "" when refused or
// incomplete.
func ours(raw []byte) (meaning, detail string) {
	r := newRig()
	r.s.OnBytes(raw)
	if len(r.bad) > 0 {
		return "", r.bad[0]
	}
	if len(r.a.Requests) == 0 || !r.a.Requests[0].End {
		return "", "incomplete"
	}
	p := r.a.Requests[0]
	h := p.Head()
	out := fmt.Sprintf("%s %s %s\n", h.Method, h.Authority, h.Path)
	return out + fieldLines(h.Fields) + fmt.Sprintf("%q\n", p.Body) + trailerLines(p.Trailers), ""
}

func fieldLines(fields []stream.Field) string {
	var l []string
	for _, f := range fields {
		switch string(f.Name) {
		case "content-length", "te":
			continue // net/http takes the one away, the other is by hop
		}
		l = append(l, fmt.Sprintf("%s: %q\n", f.Name, f.Value))
	}
	sort.Strings(l)
	return strings.Join(l, "")
}

func trailerLines(t *stream.Head) string {
	if t == nil {
		return ""
	}
	return "trailers\n" + fieldLines(t.Fields)
}

// theirs reads it with net/http.
func theirs(raw []byte) (meaning string, req *http.Request, err error) {
	req, err = http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(raw), 1<<17))
	if err != nil {
		return "", nil, err
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return "", req, err
	}
	target := req.RequestURI
	if u := req.URL; u.IsAbs() {
		target = u.EscapedPath()
		if u.RawQuery != "" || u.ForceQuery {
			target += "?" + u.RawQuery
		}
		if i := strings.Index(req.RequestURI, "://"); i >= 0 {
			rest := req.RequestURI[i+3:]
			target = "/"
			if j := strings.IndexAny(rest, "/?"); j >= 0 {
				target = rest[j:]
				if target[0] == '?' {
					target = "/" + target
				}
			} else if req.Method == "OPTIONS" {
				target = "*"
			}
		}
	}
	if req.Method == "CONNECT" {
		target = ""
	}
	return fmt.Sprintf("%s %s %s\n", req.Method, req.Host, target) + headerLines(req.Header) + fmt.Sprintf("%q\n", body) + httpTrailers(req.Trailer), req, nil
}

func headerLines(h http.Header) string {
	drop := map[string]bool{"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Upgrade": true, "Http2-Settings": true, "Content-Length": true, "Transfer-Encoding": true}
	for _, v := range h["Connection"] {
		for _, t := range strings.Split(v, ",") {
			drop[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(t))] = true
		}
	}
	var l []string
	for k, vs := range h {
		if drop[k] || drop[textproto.CanonicalMIMEHeaderKey(strings.ToLower(k))] {
			continue
		}
		for _, v := range vs {
			l = append(l, fmt.Sprintf("%s: %q\n", strings.ToLower(k), v))
		}
	}
	sort.Strings(l)
	return strings.Join(l, "")
}

func httpTrailers(h http.Header) string {
	h = h.Clone()
	for k := range h {
		switch strings.ToLower(k) {
		case "te", "expect", "host", "trailer":
			delete(h, k)
		}
	}
	n := 0
	for _, v := range h {
		n += len(v)
	}
	if n == 0 {
		return ""
	}
	return "trailers\n" + headerLines(h)
}

// stricter are refusals of ours where net/http is lenient, all meant:
// RFC 9112 forbids or allows to refuse each.
var stricter = map[string]bool{
	badNewline.text:    true, // bare LF
	badBoth.text:       true, // net/http takes chunked
	badLengths.text:    false,
	badLength.text:     true, // "+5" no; ReadRequest trims lists of equal values
	badCoding.text:     true, // ReadRequest reads identity for HTTP/1.0
	badCodingOld.text:  true,
	badTarget.text:     true, // fragments, bytes above ASCII, userinfo, other schemes
	badHost.text:       true, // checked by http.Server, not by ReadRequest
	badHostNone.text:   true, // the same
	badHostTwice.text:  true, // the same
	badValue.text:      true, // the same
	badVersion.text:    true,
	badLine.text:       true, // HTTP/1.2
	badMethod.text:     true, // over 64 bytes
	badConnect.text:    true,
	badConnection.text: true,
	badOptions.text:    true,
	badManyFields.text: true,
	badLongHead.text:   true,
	badLongTarget.text: true,
	badChunk.text:      true, // blanks behind the size, more than 16 digits
	badChunkExt.text:   true,
	badName.text:       true, // in trailers
	badFold.text:       true, // net/http joins folded lines
	badTrailers.text:   true,
}

func compare(t *testing.T, raw []byte) {
	for len(raw) > 1 && raw[0] == '\r' && raw[1] == '\n' {
		raw = raw[2:] // net/http refuses empty lines before a request
	}
	got, detail := ours(raw)
	want, req, err := theirs(raw)
	switch {
	case got == "" && err != nil:
	case got == "":
		if detail == "incomplete" && (req.Method == "CONNECT" || req.Header.Get("Upgrade") != "") {
			return // tunnels do not end
		}
		if !stricter[detail] {
			t.Errorf("we refuse %q (%s), net/http reads %q", raw, detail, want)
		}
	case err != nil:
		// net/http refuses what it cannot represent, not what is malformed.
		for _, known := range []string{"invalid URL escape", "invalid character", "invalid port", "missing ']'", "bad trailer key", "cannot assign requested", "first path segment", "invalid userinfo", "invalid IP", "unexpected EOF", "malformed MIME header", "trailer header without chunked", "too large", "empty list of", "invalid URI", "missing port", "mime"} {
			if strings.Contains(err.Error(), known) {
				return
			}
		}
		t.Errorf("we read %q as %q, net/http: %v", raw, got, err)
	case got != want:
		t.Errorf("%q\n got %q\nwant %q", raw, got, want)
	}
}

func TestRequestsLikeNetHTTP(t *testing.T) {
	for _, c := range goodRequests {
		if c.name != "trailers" { // net/http keeps content-length there
			compare(t, []byte(c.in))
		}
	}
	for _, c := range badRequests {
		compare(t, []byte(c.in))
	}
}

func FuzzRequest(f *testing.F) {
	for _, c := range goodRequests {
		f.Add([]byte(c.in))
	}
	for _, c := range badRequests {
		if len(c.in) < 2000 {
			f.Add([]byte(c.in))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 4096 {
			return
		}
		compare(t, raw)
		// Cut anywhere, the meaning is the same.
		whole, one := newRig(), newRig()
		whole.s.OnBytes(raw)
		for i := range raw {
			one.s.OnBytes(raw[i : i+1])
		}
		// A refusal may come before bytes that the whole has still read.
		for i, p := range one.a.Requests {
			if i < len(whole.a.Requests) && meaning(p) != meaning(whole.a.Requests[i]) {
				t.Errorf("%q: whole %s, byte by byte %s", raw, whole.a.Requests[i], p)
			}
		}
		if len(one.a.Requests) != len(whole.a.Requests) {
			t.Errorf("%q: %d and %d requests", raw, len(whole.a.Requests), len(one.a.Requests))
		}
	})
}

// meaning is what a peer was told, without the words of a refusal: of two
// mistakes the one that is seen first depends on where the input is cut.
func meaning(p fmt.Stringer) string { return refusal.ReplaceAllString(p.String(), "reset($1)") }

var refusal = regexp.MustCompile(`reset\((\d+) [^)]*\)`)

// oursResponse reads a response to a GET.
func oursResponse(raw []byte) (string, string) {
	r := newClientRig()
	p := r.start("GET")
	r.c.OnBytes(raw)
	r.c.OnEOF()
	r.c.OnClose(nil)
	if !p.End {
		return "", p.Detail
	}
	h := p.Head()
	return fmt.Sprintf("%d\n", h.Status) + fieldLines(h.Fields) + fmt.Sprintf("%q\n", p.Body) + trailerLines(p.Trailers), ""
}

func theirsResponse(raw []byte) (string, error) {
	br := bufio.NewReaderSize(bytes.NewReader(raw), 1<<17)
	for {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return "", err
		}
		if res.StatusCode < 200 && res.StatusCode != 101 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d\n", res.StatusCode) + headerLines(res.Header) + fmt.Sprintf("%q\n", body) + httpTrailers(res.Trailer), nil
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nab",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: 1\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil close",
		"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304\r\nContent-Length: 5\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 4096 {
			return
		}
		got, detail := oursResponse(raw)
		want, err := theirsResponse(raw)
		switch {
		case got == "" && err != nil:
		case got == "":
			if !stricter[detail] && detail != badStatusLine.text && detail != badInterim.text && detail != badSwitch.text &&
				!strings.HasPrefix(detail, "upstream closed") {
				t.Errorf("we refuse %q (%s), net/http reads %q", raw, detail, want)
			}
		case err != nil:
			t.Logf("net/http refuses %q: %v", raw, err)
			for _, known := range []string{"malformed MIME", "bad trailer key", "unexpected EOF", "EOF", "invalid", "too large", "malformed HTTP status", "malformed HTTP version", "bad Content-Length"} {
				if strings.Contains(err.Error(), known) {
					return
				}
			}
			t.Errorf("we read %q as %q, net/http: %v", raw, got, err)
		case got != want:
			t.Errorf("%q\n got %q\nwant %q", raw, got, want)
		}
	})
}

// What we write, net/http reads as what was meant.
func TestWrittenRequestsLikeNetHTTP(t *testing.T) {
	for _, c := range goodRequests {
		r := newRig()
		r.in(c.in)
		p := r.a.Last()
		if len(p.Head().Protocol) > 0 || string(p.Head().Method) == "CONNECT" {
			continue
		}
		cr := newClientRig()
		s := cr.c.Start(new(streamtest.Peer))
		s.SendHead(p.Head(), p.End && len(p.Body) == 0)
		if len(p.Body) > 0 {
			s.SendData(p.Body, p.Trailers == nil)
			if p.Trailers != nil {
				s.SendTrailers(p.Trailers)
			}
		}
		want, _ := ours([]byte(c.in))
		got, _, err := theirs([]byte(cr.w.Take()))
		if err != nil || got != want {
			t.Errorf("%s: %v\n got %q\nwant %q", c.name, err, got, want)
		}
	}
}
