// Package compress chooses whether and how an answer is compressed, as Envoy's
// compressor filters do together (RFC 9110 sections 8.4 and 12.5.3), and holds
// the encoders.
//
// In: the compressors of a listener, what the client accepts, the answer's
// head, later pieces of its body. Out: the head as it leaves, bytes.
// What does not belong here: sending anything, and where the work is done
// (exchange).
package compress

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Apply decides about an answer and edits its head: nil when it leaves as it
// is. accept is the request's accept-encoding, nil without one. empty says that
// no body follows.
func Apply(cs []*conf.Compressor, accept []byte, h *stream.Head, empty bool) *conf.Compressor {
	possible := false
	for _, c := range cs {
		possible = possible || compressible(c, h)
	}
	if !possible {
		return nil
	}
	var c *conf.Compressor
	if accept != nil && !empty {
		c = choose(cs, accept, h)
	}
	if c != nil && !compressible(c, h) {
		c = nil
	}
	vary(h) // caches are told even if this client wants it plain
	if c == nil {
		return nil
	}
	etag(h, c.WeakenETag)
	h.Del("content-length")
	h.Length = -1
	h.AddString("content-encoding", c.Encoding)
	return c
}

// compressible reports whether c may compress the answer, whoever it is for.
func compressible(c *conf.Compressor, h *stream.Head) bool {
	switch {
	case h.Length >= 0 && h.Length < c.MinLength,
		!typed(c, h),
		h.Has("content-encoding"),
		slices.Contains(c.NotStatus, h.Status),
		token(h.Get("cache-control"), "no-transform"):
		return false
	}
	return true
}

// typed reports whether the answer's type is one of c's; one without a type is.
func typed(c *conf.Compressor, h *stream.Head) bool {
	t := h.Get("content-type")
	if t == nil {
		return true
	}
	t, _, _ = bytes.Cut(t, []byte(";"))
	t = bytes.TrimSpace(t)
	for _, x := range c.Types {
		if len(x) == len(t) && bytes.EqualFold(t, []byte(x)) {
			return true
		}
	}
	return len(t) == 0
}

// choose picks by the client's weights; of equal ones the first that the client
// names, or the one that is to be chosen first.
func choose(cs []*conf.Compressor, accept []byte, h *stream.Head) *conf.Compressor {
	var open []*conf.Compressor // that the client does not rule out
	for _, c := range cs {
		if typed(c, h) && !slices.ContainsFunc(open, func(o *conf.Compressor) bool { return o.Encoding == c.Encoding }) {
			open = append(open, c)
		}
	}
	each(accept, func(name []byte, q float64) {
		if q == 0 {
			open = slices.DeleteFunc(open, func(c *conf.Compressor) bool { return c.Encoding == string(name) })
		}
	})
	var best *conf.Compressor
	var most float64
	each(accept, func(name []byte, q float64) {
		c, known := named(open, name)
		if known && (q > most || q == most && q > 0 && c != nil && c.First) {
			best, most = c, q
		}
	})
	return best
}

// named is the compressor for a content coding; nil and true for identity.
func named(open []*conf.Compressor, name []byte) (*conf.Compressor, bool) {
	if string(name) == "identity" {
		return nil, true
	}
	if string(name) == "*" {
		if len(open) == 0 {
			return nil, false
		}
		for _, c := range open {
			if c.First {
				return c, true
			}
		}
		return open[0], true
	}
	for _, c := range open {
		if c.Encoding == string(name) {
			return c, true
		}
	}
	return nil, false
}

// each calls f with every member of accept-encoding and its weight. Members
// whose weight cannot be read do not count.
func each(accept []byte, f func(name []byte, q float64)) {
	for len(accept) > 0 {
		var one []byte
		one, accept, _ = bytes.Cut(accept, []byte(","))
		name, param, has := bytes.Cut(one, []byte(";"))
		name = bytes.TrimSpace(name)
		if len(name) == 0 {
			continue
		}
		q := 1.0
		if key, value, ok := bytes.Cut(param, []byte("=")); has && ok && bytes.EqualFold(bytes.TrimSpace(key), []byte("q")) {
			n, err := strconv.ParseFloat(string(bytes.TrimSpace(value)), 64)
			if err != nil || !(n >= 0) {
				continue
			}
			q = n
		}
		f(name, q)
	}
}

// vary says that the answer depends on accept-encoding.
func vary(h *stream.Head) {
	v := h.Get("vary")
	switch {
	case v == nil:
		h.AddString("vary", "Accept-Encoding")
	case !token(v, "accept-encoding"):
		h.Set("vary", append(slices.Clip(bytes.Clone(v)), ", Accept-Encoding"...))
	}
}

// etag makes a strong one weak, or takes it away: the bytes are others now.
func etag(h *stream.Head, weaken bool) {
	v := h.Get("etag")
	if len(v) <= 2 || (v[0] == 'W' || v[0] == 'w') && v[1] == '/' {
		return
	}
	if weaken {
		h.Set("etag", append([]byte("W/"), v...))
		return
	}
	h.Del("etag")
}

// token reports whether a comma-separated list has a word, in any case.
func token(list []byte, word string) bool {
	for len(list) > 0 {
		var one []byte
		one, list, _ = bytes.Cut(list, []byte(","))
		if bytes.EqualFold(bytes.TrimSpace(one), []byte(word)) {
			return true
		}
	}
	return false
}
