package cluster

import (
	"bytes"
	"math"
	"net/netip"
	"net/url"
	"sort"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Cookie that the response must set, so that the client comes back to the
// same endpoint. The zero value is none.
type Cookie struct {
	Name, Path, Value string
	MaxAge            int    // seconds; 0: a session cookie
	Attributes        string // written as they are: "; SameSite=Lax"
}

// Append writes the cookie as a set-cookie value.
func (c *Cookie) Append(dst []byte) []byte {
	dst = append(append(append(dst, c.Name...), `="`...), c.Value...)
	dst = append(dst, '"')
	if c.MaxAge > 0 {
		dst = strconv.AppendInt(append(dst, "; Max-Age="...), int64(c.MaxAge), 10)
	}
	if c.Path != "" {
		dst = append(append(dst, "; Path="...), c.Path...)
	}
	return append(append(dst, c.Attributes...), "; HttpOnly"...)
}

// Hash combines the hash policies of a route for a request, as Envoy does. ok
// is false when no policy had a value. A cookie policy with a lifetime makes a
// cookie for clients that have none.
func Hash(ps []conf.HashPolicy, h *stream.Head, remote netip.Addr, random uint64) (hash uint64, ok bool, made Cookie) {
	for i := range ps {
		p := &ps[i]
		v, has := policyHash(p, h, remote)
		if !has && p.Cookie != "" && p.MakeCookie {
			made = newCookie(p, remote, random)
			v, has = xxhash.Sum64String(made.Value), true
		}
		if has {
			if ok {
				hash = hash<<1 | hash>>63
			}
			hash, ok = hash^v, true
		}
		if p.Terminal && ok {
			break
		}
	}
	return hash, ok, made
}

func policyHash(p *conf.HashPolicy, h *stream.Head, remote netip.Addr) (uint64, bool) {
	switch {
	case p.Header != "":
		v := route.Value(h, p.Header)
		return xxhash.Sum64(v), v != nil
	case p.Query != "":
		v := route.QueryValue(h.Path, p.Query)
		if v == nil {
			return 0, false
		}
		if bytes.IndexByte(v, '%') >= 0 || bytes.IndexByte(v, '+') >= 0 {
			if s, err := url.PathUnescape(string(v)); err == nil {
				return xxhash.Sum64String(s), true
			}
		}
		return xxhash.Sum64(v), true
	case p.Cookie != "":
		v := cookie(h, p.Cookie)
		return xxhash.Sum64(v), len(v) > 0
	case p.SourceIP:
		if !remote.IsValid() {
			return 0, false
		}
		var buf [64]byte
		return xxhash.Sum64(remote.AppendTo(buf[:0])), true
	}
	return 0, false
}

func newCookie(p *conf.HashPolicy, remote netip.Addr, random uint64) Cookie {
	v := xxhash.Sum64(strconv.AppendUint(remote.AppendTo(nil), random, 16))
	return Cookie{
		Name: p.Cookie, Path: p.CookiePath, Value: strconv.FormatUint(v, 16), MaxAge: int(p.CookieTTL.Seconds()),
		Attributes: p.CookieAttributes,
	}
}

// cookie finds a cookie's value, without quotes; nil: none.
func cookie(h *stream.Head, name string) []byte {
	for i := range h.Fields {
		if string(h.Fields[i].Name) != "cookie" {
			continue
		}
		s := h.Fields[i].Value
		for len(s) > 0 {
			one := s
			if i := bytes.IndexByte(s, ';'); i >= 0 {
				one, s = s[:i], s[i+1:]
			} else {
				s = nil
			}
			k, v, _ := bytes.Cut(one, []byte{'='})
			if string(bytes.TrimSpace(k)) == name {
				if v = bytes.TrimSpace(v); len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
					v = v[1 : len(v)-1]
				}
				return v
			}
		}
	}
	return nil
}

// point of a ring: the hash up to which an endpoint is responsible.
type point struct {
	hash uint64
	ep   uint32
}

// Bounds of ring sizes: Envoy's default minimum and maximum.
const (
	minRing = 1024
	maxRing = 8 << 20
)

func ownWeights(eps []*Endpoint) []float64 {
	out := make([]float64, len(eps))
	for i, e := range eps {
		out[i] = float64(e.Weight)
	}
	return out
}

// newRing places every endpoint by its weight, at least size places in all.
func newRing(eps []*Endpoint, shares []float64, size uint64) []point {
	if shares == nil {
		shares = ownWeights(eps)
	}
	if size == 0 {
		size = minRing
	}
	total, least := 0.0, math.MaxFloat64
	for _, w := range shares {
		total += w
		least = min(least, w)
	}
	least /= total
	scale := min(math.Ceil(least*float64(size))/least, maxRing)
	ring := make([]point, 0, int(math.Ceil(scale)))
	have, want := 0.0, 0.0
	var buf [128]byte
	for i, e := range eps {
		k := append(hashKey(buf[:0], e), '_')
		want += scale * shares[i] / total
		for n := uint64(0); have < want; n++ {
			ring = append(ring, point{xxhash.Sum64(strconv.AppendUint(k, n, 10)), uint32(i)})
			have++
		}
	}
	sort.Slice(ring, func(i, j int) bool { return ring[i].hash < ring[j].hash })
	return ring
}

// onRing is the first place at or after the hash.
func onRing(ring []point, hash uint64) uint32 {
	lo, hi := 0, len(ring)
	for lo < hi {
		if m := (lo + hi) / 2; ring[m].hash < hash {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == len(ring) {
		lo = 0
	}
	return ring[lo].ep
}

// Maglev's table size must be a prime; Envoy's default and bound.
const (
	maglevSize = 65537
	maxMaglev  = 5000011
)

// newMaglev fills a table so that each endpoint owns about its weight's share.
func newMaglev(eps []*Endpoint, shares []float64, size uint64) []uint32 {
	if shares == nil {
		shares = ownWeights(eps)
	}
	if size == 0 || size > maxMaglev {
		size = maglevSize
	}
	if size < 2 {
		return []uint32{0}
	}
	type entry struct {
		offset, skip, next uint64
		weight, target     float64
	}
	es := make([]entry, len(eps))
	most := 0.0
	seeded := xxhash.NewWithSeed(1)
	var buf [128]byte
	for i, e := range eps {
		k := hashKey(buf[:0], e)
		seeded.ResetWithSeed(1)
		_, _ = seeded.Write(k)
		es[i] = entry{offset: xxhash.Sum64(k) % size, skip: seeded.Sum64()%(size-1) + 1, weight: shares[i]}
		most = max(most, es[i].weight)
	}
	const empty = math.MaxUint32
	table := make([]uint32, size)
	for i := range table {
		table[i] = empty
	}
	filled := uint64(0)
	for round := 1.0; ; round++ {
		for i := range es {
			e := &es[i]
			if round*e.weight < e.target {
				continue
			}
			e.target += most
			at := (e.offset + e.skip*e.next) % size
			for table[at] != empty {
				e.next++
				at = (e.offset + e.skip*e.next) % size
			}
			table[at] = uint32(i)
			e.next++
			if filled++; filled == size {
				return table
			}
		}
	}
}
