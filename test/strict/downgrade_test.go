package strict

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// fields makes an HPACK block of names and values in turn.
func fields(pairs ...string) string {
	s := ""
	for i := 0; i < len(pairs); i += 2 {
		s += literal(pairs[i], pairs[i+1])
	}
	return s
}

// plus is a GET with more fields.
func plus(pairs ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/x"}, pairs...)
}

// but is a GET with another value of a pseudo-header.
func but(name, value string) []string {
	p := plus()
	p[slices.Index(p, name)+1] = value
	return p
}

// posted is a POST with more fields.
func posted(pairs ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/x"}, pairs...)
}

// downgrade is a request over HTTP/2 that HTTP/1 could carry in more than one
// meaning, or in none.
type downgrade struct {
	name     string
	head     []string
	body     []string // frames of DATA
	trailers []string
	want     string // what the program sees, "reset", or a status
}

// downgrades: RFC 9113 8.2, 8.3, 8.5, 10.3 and what HTTP/1 makes of it.
func downgrades() (all []downgrade) {
	add := func(want, name string, head []string) {
		all = append(all, downgrade{name: name, head: head, want: want})
	}
	const reset, x = "reset", "GET a /x"
	for _, f := range [][2]string{{"connection", "close"}, {"connection", "keep-alive"}, {"connection", "host"}, {"proxy-connection", "close"},
		{"keep-alive", "5"}, {"transfer-encoding", "chunked"}, {"transfer-encoding", "identity"}, {"transfer-encoding", ""},
		{"upgrade", "websocket"}, {"upgrade", "h2c"}, {"te", "gzip"}, {"te", "trailers, deflate"}, {"te", "chunked"}, {"te", ""}} {
		add(reset, fmt.Sprintf("%s: %s", f[0], f[1]), plus(f[0], f[1]))
	}
	add(x, "te: trailers", plus("te", "trailers"))
	for _, v := range []string{"a\r\nb: c", "a\nb: c", "a\rb", "\r\n", "a\x00b", "\x00", "a\x01", "a\x0b", "a\x7f", " a", "a ", "\ta", "a\t", " ",
		"a\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n"} {
		add(reset, fmt.Sprintf("value %q", v), plus("y", v))
		add(reset, fmt.Sprintf("cookie %q", v), plus("cookie", v))
	}
	for _, v := range []string{"", "a b", "a\tb", "é", "\xff", "\"", ",;:"} {
		add(x, fmt.Sprintf("value %q", v), plus("y", v))
	}
	for _, n := range []string{"", " ", "Y", "tRansfer-encoding", "Content-Length", "y ", " y", "y:", "y: z\r\nw", "y\r\n", "y\n", "y\x00", "y\x7f",
		"transfer-encoding ", "transfer-encoding\x0b", "é", "y(z", "y\"", "y,", "y/z", ":y", "content length", "host:", "x\r\ncontent-length"} {
		add(reset, fmt.Sprintf("name %q", n), plus(n, "1"))
	}
	for _, p := range []string{"", " ", "x", "/x y", "/x HTTP/1.1\r\ny: ", "/x\r\ny: z", "/x\n", "/x\r", "/x\x00", "/x\t", "/x\x7f", "/x#y", "#", "/é",
		"*", "?x", "http://a/x", "//\x80", "/x HTTP/1.1"} {
		add(reset, fmt.Sprintf(":path %q", p), but(":path", p))
	}
	add("GET a //b/x", ":path with two slashes", but(":path", "//b/x"))
	add("GET a /x?y=/../z", ":path with a query", but(":path", "/x?y=/../z"))
	for _, m := range []string{"", "G T", "GET /evil HTTP/1.1\r\nhost: b\r\n\r\nGET", "GET\r\n", "GET\x00", "GET:", "GÉT", "(GET)"} {
		add(reset, fmt.Sprintf(":method %q", m), but(":method", m))
	}
	add("get a /x", ":method get", but(":method", "get"))
	add("BREW-IT a /x", ":method BREW-IT", but(":method", "BREW-IT"))
	for _, a := range []string{"u@a", "u:p@a", "@a", "a b", "a\r\nx: y", "a\x00", "a/b", "a?b", "a#b", "a\\b", "a,b\"", "é", " a", "a\t", "a|b", "<a>"} {
		add(reset, fmt.Sprintf(":authority %q", a), but(":authority", a))
		add(reset, fmt.Sprintf("host %q", a), []string{":method", "GET", ":scheme", "http", ":path", "/x", "host", a})
	}
	add("GET b /x", "host alone", []string{":method", "GET", ":scheme", "http", ":path", "/x", "host", "b"})
	add(x, "host as :authority", plus("host", "A"))
	add(reset, "host other than :authority", plus("host", "b"))
	add(reset, "host twice", plus("host", "a", "host", "a"))
	add(reset, "host twice, no :authority", []string{":method", "GET", ":scheme", "http", ":path", "/x", "host", "a", "host", "b"})
	add("400", "no host at all", []string{":method", "GET", ":scheme", "http", ":path", "/x"})
	add("400", ":authority empty", but(":authority", ""))
	for i := 0; i < 8; i += 2 {
		n, v := plus()[i], plus()[i+1]
		add(reset, n+" twice", append([]string{n, v}, plus()...))
		add(reset, n+" twice, different", append([]string{n, v + "y"}, plus()...))
		add(reset, n+" behind a field", append([]string{"y", "z"}, plus()...))
		add(reset, n+" again behind a field", plus("y", "z", n, v))
		if n != ":authority" {
			add(reset, n+" missing", slices.Delete(plus(), i, i+2))
		}
	}
	add(reset, ":status in a request", append([]string{":status", "200"}, plus()...))
	add(reset, "an unknown pseudo-header", append([]string{":y", "z"}, plus()...))
	add(reset, ":protocol with GET", append([]string{":protocol", "websocket"}, plus()...))
	add(reset, ":protocol with a line end", []string{":method", "CONNECT", ":protocol", "x\r\ny: z", ":scheme", "http", ":authority", "a", ":path", "/"})
	add(reset, "CONNECT with :path", []string{":method", "CONNECT", ":authority", "a:1", ":path", "/"})
	add(reset, "CONNECT with :scheme", []string{":method", "CONNECT", ":authority", "a:1", ":scheme", "http"})
	add(reset, "CONNECT to nobody", []string{":method", "CONNECT"})
	for _, s := range []string{"http\r\ny: z", "http://b/x#", "ftp", ""} {
		add(x, fmt.Sprintf(":scheme %q, which is ours to say", s), but(":scheme", s))
	}
	add(x, "cookies in crumbs", plus("cookie", "a=1", "y", "z", "cookie", "b=2"))
	return append(all, bodies()...)
}

// bodies are those whose length could be taken for another.
func bodies() (all []downgrade) {
	const reset = "reset"
	add := func(want, name string, head []string, body ...string) {
		all = append(all, downgrade{name: name, head: head, body: body, want: want})
	}
	add(`POST a /x "abc"`, "content-length as it is", posted("content-length", "3"), "abc")
	add(`POST a /x "abc"`, "content-length in two frames", posted("content-length", "3"), "ab", "c")
	add(`POST a /x "abc"`, "content-length twice, the same", posted("content-length", "3", "content-length", "3"), "abc")
	add(`POST a /x "abc"`, "no content-length", posted(), "abc")
	add(reset, "content-length too large", posted("content-length", "5"), "abc")
	add(reset, "content-length too small", posted("content-length", "2"), "abc")
	add(reset, "content-length too small by a frame", posted("content-length", "3"), "abc", "d")
	add(reset, "content-length 0 and a body", posted("content-length", "0"), "abc")
	add(reset, "content-length without a body", posted("content-length", "3"))
	add(reset, "content-length twice, different", posted("content-length", "3", "content-length", "4"), "abc")
	for _, v := range []string{"", "+3", "-3", "3,3", "3, 3", "3 3", "0x3", "3.0", "3e0", "\x33\x00", "99999999999999999999", "18446744073709551619"} {
		add(reset, fmt.Sprintf("content-length %q", v), posted("content-length", v), "abc")
	}
	add(reset, "transfer-encoding and chunks", posted("transfer-encoding", "chunked"), "0\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n")
	add(reset, "both framings", posted("transfer-encoding", "chunked", "content-length", "5"), "0\r\n\r\n")
	add(`POST a /x "0\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n"`, "a body that looks like the end of chunks", posted(), "0\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n")
	add(`GET a /x "GET /evil HTTP/1.1\r\nhost: a\r\n\r\n"`, "a GET with a body", plus(), "GET /evil HTTP/1.1\r\nhost: a\r\n\r\n")
	for _, c := range []struct {
		name, want string
		trailers   []string
	}{
		{"trailers", `POST a /x "abc"`, []string{"y", "z"}},
		{"a host in trailers", `POST a /x "abc"`, []string{"host", "b"}},
		{"content-length in trailers", `POST a /x "abc"`, []string{"content-length", "9"}},
		{"transfer-encoding in trailers", reset, []string{"transfer-encoding", "chunked"}},
		{"connection in trailers", reset, []string{"connection", "close"}},
		{"a pseudo-header in trailers", reset, []string{":path", "/evil"}},
		{"a line end in trailers", reset, []string{"y", "z\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n"}},
		{"an upper-case name in trailers", reset, []string{"Y", "z"}},
	} {
		all = append(all, downgrade{name: c.name, head: posted(), body: []string{"abc"}, trailers: c.trailers, want: c.want})
	}
	all = append(all, downgrade{name: "trailers before content-length is full", head: posted("content-length", "5"), body: []string{"abc"},
		trailers: []string{"y", "z"}, want: reset})
	return all
}

// send is the request's frames.
func (d *downgrade) send() string {
	end := func(last bool) byte {
		if last {
			return 1
		}
		return 0
	}
	s := frame(frameHeaders, 4|end(len(d.body) == 0), 1, fields(d.head...))
	for i, b := range d.body {
		s += frame(frameData, end(i == len(d.body)-1 && d.trailers == nil), 1, b)
	}
	if d.trailers != nil {
		s += frame(frameHeaders, 5, 1, fields(d.trailers...))
	}
	return s
}

// outcome sends the request and one behind it, and tells how the first ended;
// the second must be served.
func (d *downgrade) outcome(t *testing.T, addr string) string {
	t.Helper()
	c := connect(t, addr)
	defer func() { _ = c.Close() }()
	go func() { _, _ = io.WriteString(c, preface+d.send()) }()
	f := frames{t, c}
	for first := ""; ; {
		kind, _, id, payload := f.next()
		said := ""
		switch {
		case kind == -1:
			return first + " and the end"
		case kind == frameGoAway:
			return fmt.Sprintf("%s GOAWAY %d %q", first, binary.BigEndian.Uint32([]byte(payload)[4:]), payload[8:])
		case kind == frameReset && payload == "\x00\x00\x00\x01":
			said = "reset"
		case kind == frameReset:
			said = fmt.Sprintf("reset with %q", payload)
		case kind == frameHeaders && payload[0] == 0x88:
			said = "200"
		case kind == frameHeaders && payload[0] == 0x8c:
			said = "400"
		case kind == frameHeaders:
			said = fmt.Sprintf("head %q", payload)
		}
		switch {
		case said == "":
		case id == 3 && said == "200":
			return first
		case id == 3:
			return first + ", then " + said
		case first == "":
			first = said
			_, _ = io.WriteString(c, frame(frameHeaders, 5, 3, fields(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/next")))
		}
	}
}

// TestDowngrade: requests over HTTP/2 reach programs that speak HTTP/1 with one
// meaning only, or not at all.
func TestDowngrade(t *testing.T) {
	all := downgrades()
	topologies(t, func(t *testing.T, start func(string) string) {
		for name, r := range map[string]reader{"strict": strict{}, "lenient": everything} {
			t.Run(name, func(t *testing.T) {
				k := newBackend(t, r)
				addr := start(k.addr)
				for _, d := range all {
					want, saw := d.want, []string{"GET a /next"}
					if strings.Contains(want, " ") {
						want, saw = "200", append([]string{d.want}, saw...)
					}
					if got := d.outcome(t, addr); got != want {
						t.Errorf("%s: %s, want %s", d.name, got, want)
					}
					if got := k.take(); !slices.Equal(got, saw) {
						t.Errorf("%s: the program saw %q, want %q", d.name, got, saw)
					}
				}
				k.agree(t)
			})
		}
	})
	t.Logf("%d vectors", len(all))
}
