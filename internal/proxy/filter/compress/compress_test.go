package compress

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/andybalholm/brotli"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Which coding a client gets, by what it accepts. Envoy says the same (test/judge).
func TestChoose(t *testing.T) {
	gz := &conf.Compressor{Encoding: conf.Gzip, Types: []string{"text/plain", "text/css"}}
	br := &conf.Compressor{Encoding: conf.Brotli, Types: []string{"text/plain"}}
	first := &conf.Compressor{Encoding: conf.Brotli, Types: []string{"text/plain"}, First: true}
	for _, c := range []struct {
		cs           []*conf.Compressor
		accept, kind string
		want         string
	}{
		{[]*conf.Compressor{gz, br}, "gzip, br", "text/plain", "gzip"},
		{[]*conf.Compressor{gz, br}, "br, gzip", "text/plain", "br"},
		{[]*conf.Compressor{gz, first}, "gzip, br", "text/plain", "br"},
		{[]*conf.Compressor{gz, first}, "gzip, br;q=0.9", "text/plain", "gzip"},
		{[]*conf.Compressor{gz, first}, "*", "text/plain", "br"},
		{[]*conf.Compressor{gz, br}, "*", "text/plain", "gzip"},
		{[]*conf.Compressor{gz, br}, "br, gzip;q=0.1", "text/css", "gzip"},
		{[]*conf.Compressor{gz, br}, "gzip ; q = 0.2 , br ; q=0.3", "text/plain", "br"},
		{[]*conf.Compressor{gz}, "gzip;q=-1", "text/plain", ""},
		{[]*conf.Compressor{gz}, "gzip;q=nan", "text/plain", ""},
		{[]*conf.Compressor{gz}, ",,;q=1", "text/plain", ""},
		{[]*conf.Compressor{gz}, "", "text/plain", ""},
		{[]*conf.Compressor{gz}, "*;q=0", "text/plain", ""},
	} {
		var h stream.Head
		h.Reset()
		h.AddString("content-type", c.kind)
		got := ""
		if p := Apply(c.cs, []byte(c.accept), &h, false); p != nil {
			got = p.Encoding
		}
		if got != c.want || string(h.Get("content-encoding")) != c.want {
			t.Errorf("%q of %q: %q, head %q, want %q", c.accept, c.kind, got, h.Get("content-encoding"), c.want)
		}
	}
}

// What an encoder gave is read back; one that served before serves again, and
// one that was left in the middle too.
func TestEncoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var p Pool
	for _, c := range []*conf.Compressor{{Encoding: conf.Gzip, Level: 5}, {Encoding: conf.Brotli, Level: 3}} {
		for range 30 {
			e := p.Get(c)
			var in, out []byte
			for n := r.IntN(5); n >= 0; n-- {
				piece := bytes.Repeat([]byte{byte('a' + r.IntN(26))}, r.IntN(50_000))
				in = append(in, piece...)
				out = append(out, e.Encode(piece, n == 0)...)
				if n > 0 && r.IntN(5) == 0 { // what has come so far can be read
					if got := read(t, c, out, false); !bytes.Equal(got, in) {
						t.Fatalf("%s: %d of %d bytes could be read in the middle", c.Encoding, len(got), len(in))
					}
					break
				}
				if n == 0 {
					if got := read(t, c, out, true); !bytes.Equal(got, in) {
						t.Fatalf("%s: %d bytes became %d", c.Encoding, len(in), len(got))
					}
				}
			}
			p.Put(e)
		}
	}
	if p.busy != 0 || len(p.rest) != 2 {
		t.Errorf("%d are lent, %d rest; want 0 and 2", p.busy, len(p.rest))
	}
}

// read unpacks; the end of what is not whole is an error that does not count.
func read(t *testing.T, c *conf.Compressor, b []byte, whole bool) []byte {
	t.Helper()
	var z io.Reader = brotli.NewReader(bytes.NewReader(b))
	if c.Encoding == conf.Gzip {
		var err error
		if z, err = gzip.NewReader(bytes.NewReader(b)); err != nil {
			if !whole && len(b) == 0 {
				return nil
			}
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(z)
	if whole && err != nil {
		t.Fatal(err)
	}
	return got
}

// Encoders are few, however many answers there are.
func TestPoolIsBounded(t *testing.T) {
	var p Pool
	c := &conf.Compressor{Encoding: conf.Gzip, Level: 1}
	var lent []*Encoder
	for p.Free() {
		lent = append(lent, p.Get(c))
	}
	if len(lent) != maxBusy {
		t.Errorf("%d are lent at once, want %d", len(lent), maxBusy)
	}
	for _, e := range lent {
		p.Put(e)
	}
	if len(p.rest) != maxRest {
		t.Errorf("%d rest, want %d", len(p.rest), maxRest)
	}
}
