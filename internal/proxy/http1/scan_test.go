package http1

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// TestScanByWords: what looks at eight bytes at a time says the same of a byte
// in every place as what looks at one.
func TestScanByWords(t *testing.T) {
	text := func(c byte) bool { return c == '\t' || c >= 0x20 && c != 0x7f }
	token := func(c byte) bool { return tokens[c] != 0 }
	target := func(c byte) bool { return c > ' ' && c < 0x7f && c != '#' }
	host := func(c byte) bool { return hostBytes[c] }
	first := func(b []byte, ok func(byte) bool) int {
		n := 0
		for n < len(b) && ok(b[n]) {
			n++
		}
		return n
	}
	check := func(b []byte) {
		t.Helper()
		low := bytes.Clone(b)
		n := first(b, token)
		if got := lowerToken(low); got != n || !bytes.Equal(low[:n], bytes.ToLower(b[:n])) || !bytes.Equal(low[n:], b[n:]) {
			t.Fatalf("lowerToken of %q: %d, %q", b, got, low)
		}
		if got := textEnd(b); got != first(b, text) {
			t.Fatalf("textEnd of %q: %d", b, got)
		}
		for _, f := range []struct {
			name string
			got  bool
			want bool
		}{
			{"textOK", textOK(b), first(b, text) == len(b)},
			{"isToken", isToken(b), len(b) > 0 && n == len(b)},
			{"visible", visible(b), first(b, target) == len(b)},
			{"hostOK", hostOK(b), first(b, host) == len(b)},
		} {
			if f.got != f.want {
				t.Fatalf("%s of %q: %v", f.name, b, f.got)
			}
		}
	}
	for size := range 27 {
		for _, fill := range []byte("ax-Z9:/\t\xff") {
			b := bytes.Repeat([]byte{fill}, size)
			check(b)
			for at := range b {
				for c := range 256 {
					b[at] = byte(c)
					check(b)
				}
				b[at] = fill
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		b := make([]byte, r.IntN(40))
		for i := range b {
			b[i] = byte(r.IntN(256) &^ (r.IntN(2) * 0x80))
		}
		check(b)
	}
}

// TestBytesThatEndLikeAHead: what ends with an empty line need not be one head.
func TestBytesThatEndLikeAHead(t *testing.T) {
	const get = "GET /a HTTP/1.1\r\n" + hostLine + "\r\n"
	post := func(body string) string {
		return "POST /b HTTP/1.1\r\n" + hostLine + "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	}
	posted := func(body string) string {
		return fmt.Sprintf("POST a.example /b [content-length: %d] length=%d body=%q end", len(body), len(body), body)
	}
	const got = "GET a.example /a end"
	for _, c := range []struct {
		in   string
		want []string
	}{
		{get, []string{got}},
		{get + get + get, []string{got, got, got}},
		{"\r\n" + get, []string{got}},
		{post("\r\n\r\n"), []string{posted("\r\n\r\n")}},
		{post("A: b\r\n\r\n") + get, []string{posted("A: b\r\n\r\n"), got}},
		{post(get), []string{posted(get)}},
		{post(get) + post("x: y\r\n\r\n"), []string{posted(get), posted("x: y\r\n\r\n")}},
	} {
		r := newRig()
		r.in(c.in)
		var all []string
		for i := 0; i < len(r.a.Requests); i++ { // an answer lets the next one be read
			respond(r.a.Requests[i], 200, "")
			all = append(all, r.a.Requests[i].String())
		}
		if !slices.Equal(all, c.want) || len(r.bad) > 0 {
			t.Errorf("%q:\n got %q\nwant %q\n bad %v", c.in, all, c.want, r.bad)
		}
	}
}
