package stream

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestScan: what looks at eight bytes at a time says the same of a byte in every
// place as what looks at one.
func TestScan(t *testing.T) {
	text := func(c byte) bool { return c == '\t' || c >= 0x20 && c != 0x7f }
	name := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
	}
	target := func(c byte) bool { return c > ' ' && c < 0x7f && c != '#' }
	host := func(c byte) bool {
		return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("-._~!$&'()*+,;=:[]%", c) >= 0
	}
	first := func(b []byte, ok func(byte) bool) int {
		n := 0
		for n < len(b) && ok(b[n]) {
			n++
		}
		return n
	}
	check := func(b []byte) {
		t.Helper()
		if got := TextEnd(b); got != first(b, text) {
			t.Fatalf("TextEnd of %q: %d", b, got)
		}
		for _, f := range []struct {
			name string
			got  bool
			want bool
		}{
			{"TextOK", TextOK(b), first(b, text) == len(b)},
			{"NameOK", NameOK(b), len(b) > 0 && first(b, name) == len(b)},
			{"TargetOK", TargetOK(b), first(b, target) == len(b)},
			{"HostOK", HostOK(b), first(b, host) == len(b)},
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
