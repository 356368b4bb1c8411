// Package ratelimit decides whether a request comes too soon after others, as
// Envoy's local rate limit filter does.
//
// In: a conf.RateLimit, what is known of a request, and the clock. Out: yes or
// no, with what the bucket that decided has left. Buckets live in a Registry, so
// that a change of the configuration which leaves a limit as it was does not
// fill its buckets. All of it may be used from every loop at once: a bucket is
// one atomic, and finding one takes no lock.
//
// What does not belong here: the answer to a request that is refused (exchange),
// and limits that proxies share.
package ratelimit

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Registry holds the limiters of a proxy by the keys of their configurations.
// Safe for concurrent use; the zero value is ready.
type Registry struct {
	mu  sync.Mutex // of Use
	all atomic.Pointer[map[string]*Limiter]
}

// Use makes limiters for all of a configuration's limits, keeps those that were
// there and forgets the rest.
func (r *Registry) Use(limits []*conf.RateLimit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.all.Load()
	if old == nil && len(limits) == 0 {
		return
	}
	next := make(map[string]*Limiter, len(limits))
	for _, c := range limits {
		if next[c.Key] != nil {
			continue
		}
		var l *Limiter
		if old != nil {
			l = (*old)[c.Key]
		}
		if l == nil {
			l = New(c)
		}
		next[c.Key] = l
	}
	r.all.Store(&next)
}

// Get finds a limiter; nil: its configuration is not in force any more.
func (r *Registry) Get(key string) *Limiter {
	all := r.all.Load()
	if all == nil {
		return nil
	}
	return (*all)[key]
}

// Limiter is one limit with its buckets.
type Limiter struct {
	whole *bucket // nil: requests that no descriptor matches are not limited
	named []named // as conf.RateLimit.Descriptors
}

type named struct {
	one  *bucket // nil: one for each value
	many *table
}

// New makes a limiter whose buckets are full.
func New(c *conf.RateLimit) *Limiter {
	l := &Limiter{named: make([]named, len(c.Descriptors))}
	if c.Whole != nil {
		l.whole = newBucket(c.Whole)
	}
	for i := range c.Descriptors {
		d := &c.Descriptors[i]
		if d.Open() {
			l.named[i].many = newTable(&d.Bucket, c.MaxValues)
		} else {
			l.named[i].one = newBucket(&d.Bucket)
		}
	}
	return l
}

// Input is what descriptors are made of.
type Input struct {
	Head      *stream.Head
	Remote    netip.Addr // after x-forwarded-for
	Principal string     // the first URI of the client's verified certificate; may be empty
}

// Verdict on one request.
type Verdict struct {
	Allowed bool
	By      *conf.Bucket // what decided; nil: nothing limits this request
	Left    uint32       // whole requests that it still has
	Wait    int64        // seconds until it has one, rounded down as Envoy does; 0 when it has
}

// found is a bucket that a request needs a token of.
type found struct {
	b *bucket
	c *conf.Bucket
}

// Take decides and, of what allows, takes one token each. c has the key that the
// limiter was found by; now is a monotonic clock in nanoseconds. Of several buckets the slowest is asked first, and what
// it refuses costs the others nothing.
func (l *Limiter) Take(c *conf.RateLimit, in *Input, now int64) Verdict {
	var few [4]found
	hit := l.find(c, in, few[:0])
	for i := 1; i < len(hit); i++ { // few, and mostly one
		for j := i; j > 0 && hit[j].b.every > hit[j-1].b.every; j-- {
			hit[j], hit[j-1] = hit[j-1], hit[j]
		}
	}
	for _, f := range hit {
		if !f.b.take(now) {
			return f.verdict(false, now)
		}
	}
	if l.whole != nil && (len(hit) == 0 || c.AlwaysWhole) {
		f := found{l.whole, c.Whole}
		if !f.b.take(now) {
			return f.verdict(false, now)
		}
		if len(hit) == 0 {
			return f.verdict(true, now)
		}
	}
	if len(hit) == 0 {
		return Verdict{Allowed: true}
	}
	return hit[0].verdict(true, now)
}

func (f *found) verdict(allowed bool, now int64) Verdict {
	left, wait := f.b.state(now)
	return Verdict{Allowed: allowed, By: f.c, Left: left, Wait: wait}
}

// find lists the buckets of the descriptors that the rules make of a request.
func (l *Limiter) find(c *conf.RateLimit, in *Input, hit []found) []found {
	if len(c.Rules) == 0 {
		return hit // before anything is allocated
	}
	var space [8]entry
	var room [64]byte
	for i := range c.Rules {
		made, ok := entries(&c.Rules[i], in, space[:0], room[:0])
		if !ok {
			continue
		}
		if n, key := match(c, made); n >= 0 {
			b := l.named[n].one
			if b == nil {
				b = l.named[n].many.get(key)
			}
			hit = append(hit, found{b, &c.Descriptors[n].Bucket})
		}
	}
	return hit
}

// match finds the descriptor of some entries, one without free values first, and
// what of the entries tells its buckets apart.
func match(c *conf.RateLimit, made []entry) (n int, key []byte) {
	n = -1
	for i := range c.Descriptors {
		d := &c.Descriptors[i]
		if len(d.Entries) != len(made) || n >= 0 && d.Open() {
			continue
		}
		if fits(d, made) {
			if n = i; !d.Open() {
				return n, nil
			}
		}
	}
	if n >= 0 {
		for i, e := range c.Descriptors[n].Entries {
			if e.Value == "" {
				key = append(append(key, made[i].value...), 0)
			}
		}
	}
	return n, key
}

func fits(d *conf.RateDescriptor, made []entry) bool {
	for i, e := range d.Entries {
		if e.Key != made[i].key || e.Value != "" && e.Value != string(made[i].value) {
			return false
		}
	}
	return true
}

// entry of a descriptor that a request gave.
type entry struct {
	key   string
	value []byte
}

// entries makes a rule's descriptor; false: the request gives none. room holds
// values that are not in the request.
func entries(r *conf.RateRule, in *Input, out []entry, room []byte) ([]entry, bool) {
	for i := range r.Actions {
		a := &r.Actions[i]
		e := entry{key: a.Key}
		switch a.Kind {
		case conf.RateHeader:
			v := route.Value(in.Head, a.Header)
			if len(v) == 0 {
				if a.Optional {
					continue
				}
				return nil, false
			}
			e.value = v
		case conf.RateMatch:
			if all(a.Match, in.Head) == a.Invert {
				return nil, false
			}
			e.value = a.Value
		case conf.RateAddress:
			if !in.Remote.IsValid() {
				return nil, false
			}
			at := len(room)
			room = in.Remote.AppendTo(room)
			e.value = room[at:]
		case conf.RatePath:
			e.value = route.PathOnly(in.Head.Path)
		case conf.RatePrincipal:
			at := len(room)
			room = append(room, in.Principal...)
			e.value = room[at:]
		default:
			e.value = a.Value
		}
		out = append(out, e)
	}
	return out, true
}

func all(ms []conf.HeaderMatch, h *stream.Head) bool {
	for i := range ms {
		if !route.Header(&ms[i], h) {
			return false
		}
	}
	return true
}
