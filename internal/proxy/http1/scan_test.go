package http1

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"
)

// TestTokens of every byte in every place.
func TestTokens(t *testing.T) {
	for size := range 20 {
		for _, fill := range []byte("ax-Z9") {
			b := bytes.Repeat([]byte{fill}, size)
			for at := range b {
				for c := range 256 {
					b[at] = byte(c)
					n := at // the others are tokens
					if tokens[c] != 0 {
						n = size
					}
					if isToken(b) != (n == size) {
						t.Fatalf("isToken of %q", b)
					}
					low := bytes.Clone(b)
					if got := lowerToken(low); got != n || !bytes.Equal(low[:n], bytes.ToLower(b[:n])) || !bytes.Equal(low[n:], b[n:]) {
						t.Fatalf("lowerToken of %q: %d, %q", b, got, low)
					}
				}
				b[at] = fill
			}
		}
	}
	if isToken(nil) {
		t.Error("nothing is a token")
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
