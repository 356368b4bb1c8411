package http1

import (
	"bytes"
	"io"
	"net/http/httputil"
	"testing"
)

// chunks reads a chunked body from pieces of at most step bytes. used is how
// much of b it took; whole says that it has ended, without trailers.
func chunks(b []byte, step int) (data []byte, used int, whole, trailers bool, err *bad) {
	d := body{kind: chunkedBody}
	for used < len(b) || d.state == chunkTrailer {
		p := b[used:min(used+step, len(b))]
		piece, n, end, tr, err := d.next(p)
		data, used = append(data, piece...), used+n
		if err != nil || end || tr {
			return data, used, end, tr, err
		}
		if n == 0 && len(p) > 0 {
			panic("no progress")
		}
	}
	return data, used, false, false, nil
}

// FuzzChunks: how the bytes were cut makes no difference, and what is taken
// for a whole body net/http reads alike.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n", "0005;x=y\r\nhello\r\n000\r\nx: y\r\n\r\n", "A\r\n0123456789\r\n0;z\r\n\r\n",
		"5\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\n", "5\r\nhelloXX0\r\n\r\n"} {
		f.Add([]byte(s), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		data, used, whole, trailers, err := chunks(b, max(len(b), 1))
		data2, used2, whole2, trailers2, err2 := chunks(b, max(int(step), 1))
		if !bytes.Equal(data, data2) || err != err2 || whole && !trailers2 && !whole2 {
			t.Fatalf("%q in pieces of %d: %q %v %v, whole %q %v %v", b, step, data2, whole2, err2, data, whole, err)
		}
		if err != nil || !whole && !trailers {
			return
		}
		if whole && used < used2 && !trailers2 {
			t.Fatalf("%q: %d bytes used, in pieces %d", b, used, used2)
		}
		if got, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(b))); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%q is %q, for net/http %q %v", b, data, got, err)
		}
	})
}
