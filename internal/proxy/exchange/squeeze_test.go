package exchange

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// squeezing compresses what clients accept, and bounds bodies.
func squeezing(r *rig) {
	r.http.Compressors = []*conf.Compressor{{Encoding: conf.Gzip, Level: 1, Types: []string{"text/plain"}}}
	r.http.Filters = []conf.Filter{{Name: "body", MaxBody: 10}, {Name: "gzip", Compress: true}}
}

func (r *rig) accepting() *client {
	return r.request("GET", true, func(h *stream.Head) { h.AddString("accept-encoding", "gzip") })
}

// unpacked is the body that a client was sent; the last line may be the end.
func unpacked(c *client) (body string, whole bool) {
	var b strings.Builder
	for _, s := range c.said[1:] {
		if strings.HasPrefix(s, "pause") || strings.HasPrefix(s, "trailers") {
			continue
		}
		b.WriteString(strings.TrimSuffix(s, " end"))
	}
	z, err := gzip.NewReader(strings.NewReader(b.String()))
	if err != nil {
		return err.Error(), false
	}
	var out bytes.Buffer
	_, err = io.Copy(&out, z)
	return out.String(), err == nil
}

// TestSqueeze: a small answer is compressed as it comes; the rest of a large one
// behind the gate, in order, while the endpoint waits.
func TestSqueeze(t *testing.T) {
	r := newRig(t, squeezing)
	r.do(func() {
		c := r.accepting()
		u := r.ups[0]
		u.answer(200, false)
		u.OnData([]byte("small"), false)
		u.OnTrailers(trailers("told"))
		if got, whole := unpacked(c); got != "small" || !whole || c.said[len(c.said)-1] != "trailers told end" {
			t.Errorf("the client was sent %q, %q", c.said[0], got)
		}
		r.finished("200 - via_upstream")
	})
	gate := r.env.Gate
	if err := gate.Acquire(context.Background()); err != nil { // nothing comes through
		t.Fatal(err)
	}
	large := strings.Repeat("0123456789abcdef", inlineMost/16)
	var c *client
	r.do(func() {
		r.done = nil
		c = r.accepting()
		u := r.ups[1]
		u.answer(200, false)
		u.OnData([]byte(large), false)
		u.OnData([]byte("one"), false)
		if u.said[len(u.said)-1] != "pause true" {
			t.Error("the endpoint is not made to wait for the gate")
		}
		c.OnWritable()
		u.OnData([]byte("two"), false)
		u.OnData([]byte("three"), true)
		if u.said[len(u.said)-1] != "pause true" || len(r.done) != 0 {
			t.Errorf("%q, finished %q before the gate was", u.said, r.done)
		}
	})
	gate.Release()
	r.until("the end", func() bool { return len(r.done) > 0 })
	r.do(func() {
		if got, whole := unpacked(c); got != large+"onetwothree" || !whole {
			t.Errorf("%d bytes of %d, whole %t", len(got), len(large)+11, whole)
		}
		r.finished("200 - via_upstream")
		if r.env.squeezes.Lent() != 0 {
			t.Errorf("%d encoders are not given back", r.env.squeezes.Lent())
		}
	})
}

// TestSqueezeEndsEarly: whoever leaves while the gate has a piece, the answer is
// cut, and the encoder comes back.
func TestSqueezeEndsEarly(t *testing.T) {
	for _, who := range []string{"client", "endpoint"} {
		r := newRig(t, squeezing)
		gate := r.env.Gate
		if err := gate.Acquire(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			c := r.accepting()
			u := r.ups[0]
			u.answer(200, false)
			u.OnData(make([]byte, inlineMost+1), false)
			if who == "client" {
				c.OnReset(stream.Cancelled, "")
			} else {
				u.OnReset(stream.ConnectionLost, "")
				if c.said[len(c.said)-1] != "reset" {
					t.Errorf("the client is told %q, not that the answer is cut", c.said)
				}
			}
			if len(r.done) != 1 {
				t.Errorf("%s: reported %q", who, r.done)
			}
		})
		gate.Release()
		r.until("the encoder", func() bool { return r.env.squeezes.Lent() == 0 })
	}
}

// TestBodyBound: more than the bound is refused, by what the head says or as
// it comes.
func TestBodyBound(t *testing.T) {
	r := newRig(t, squeezing)
	r.do(func() {
		c := r.request("POST", false, func(h *stream.Head) { h.Length = 11 })
		r.said("the client", &c.spoken, "413", "content length too large end")
		c = r.request("POST", false, nil)
		c.OnData([]byte("0123456789"), false)
		c.OnData([]byte("x"), false)
		r.said("the client", &c.spoken, "413", "request too long end")
		r.said("the endpoint", &r.ups[0].spoken, "POST /a #1", "0123456789", "reset")
		c = r.request("POST", false, func(h *stream.Head) { h.Length = 10 })
		c.OnData([]byte("0123456789"), true)
		r.ups[1].answer(204, true)
		r.said("the client", &c.spoken, "204 end")
		r.finished("413 - request_payload_too_large", "413 - request_payload_too_large", "204 - via_upstream")
	})
}
