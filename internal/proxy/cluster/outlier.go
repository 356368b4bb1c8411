package cluster

import (
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Outcome of one attempt, or of one connection.
type Outcome struct {
	// Status of the response (for gRPC: its HTTP equivalent); 0: none came.
	Status int
	// Reset when none came: what ended the attempt. Cancelled and Overflow say
	// nothing about the endpoint.
	Reset stream.Reset
	// Timeout: we stopped waiting.
	Timeout bool
}

// Begin counts a request (or connection) at an endpoint; Done must follow.
func (h *Handle) Begin(e *Endpoint) { e.live.active.Add(1) }

// Done ends what Begin began and lets outlier detection judge. now is the
// loops' clock in nanoseconds. The zero Outcome is a success without a status,
// such as a TCP connection that was established.
func (h *Handle) Done(e *Endpoint, o Outcome, now int64) {
	e.live.active.Add(-1)
	h.Judge(e, o, now)
}

// Judge lets outlier detection see an outcome without ending a request: a
// failed connection attempt, for instance.
func (h *Handle) Judge(e *Endpoint, o Outcome, now int64) {
	s := h.state.Load()
	if s == nil || s.conf.Outlier == nil {
		return
	}
	c, l := s.conf.Outlier, e.live
	switch {
	case o.Reset == stream.Cancelled || o.Reset == stream.Overflow:
		return
	case o.Status > 0:
		if c.SplitLocal {
			l.failsLocal.Store(0)
		}
	case o.Reset == stream.NoReset && !o.Timeout:
		if c.SplitLocal {
			l.failsLocal.Store(0)
		}
		return
	case c.SplitLocal:
		h.count(s.conf, e, &l.failsLocal, c.ConsecutiveLocal, now)
		return
	case o.Timeout:
		o.Status = 504
	default:
		o.Status = 503
	}
	if o.Status < 500 {
		// read first: a write would bounce the line between loops
		if l.fails5xx.Load() != 0 {
			l.fails5xx.Store(0)
		}
		if l.failsGate.Load() != 0 {
			l.failsGate.Store(0)
		}
		return
	}
	if o.Status >= 502 && o.Status <= 504 {
		h.count(s.conf, e, &l.failsGate, c.ConsecutiveGateway, now)
	} else {
		l.failsGate.Store(0)
	}
	h.count(s.conf, e, &l.fails5xx, c.Consecutive5xx, now)
}

// count adds a failure and ejects at the threshold.
func (h *Handle) count(c *conf.Cluster, e *Endpoint, n *atomic.Uint32, threshold uint32, now int64) {
	if v := n.Add(1); threshold == 0 || v < threshold {
		return
	}
	n.Store(0)
	h.eject(c, e, now)
}

// eject holds the endpoint out, unless too many already are.
func (h *Handle) eject(c *conf.Cluster, e *Endpoint, now int64) {
	l := e.live
	if l.ejected.Load() != 0 {
		return
	}
	hosts := h.hosts(c)
	if hosts == 0 || l.removed.Load() {
		return
	}
	n := h.ejected.Add(1)
	share := 100 * float64(n) / float64(hosts)
	most := float64(min(c.Outlier.MaxEjectionPercent, 100))
	if share > most && !(c.Outlier.AlwaysEjectOne && n == 1) || !l.ejected.CompareAndSwap(0, max(now, 1)) {
		h.ejected.Add(-1)
		return
	}
	if base, longest := lengths(c.Outlier); base*time.Duration(l.ejections.Load()) < longest {
		l.ejections.Add(1)
	}
	h.dirty.Store(true)
	if r := h.owner; r != nil {
		r.dirty.Store(true)
	}
}

// Defaults of Envoy, for a configuration made by hand.
const (
	defaultInterval = 10 * time.Second
	defaultEjection = 30 * time.Second
	maxEjection     = 300 * time.Second
)

// sweep runs once per interval: it lets back in whom the time is over for, and
// forgets one ejection of those that behaved. It reports whether anyone came
// back. h.mu is held.
func (h *Handle) sweep(o *conf.Outlier, now int64) bool {
	if o == nil {
		return h.pardon()
	}
	if now < h.tick {
		return false
	}
	first := h.tick == 0
	h.tick = now + int64(orDefault(o.Interval, defaultInterval))
	if first {
		return false
	}
	base, most := lengths(o)
	back := false
	h.eachLive(func(l *live) {
		at := l.ejected.Load()
		n := l.ejections.Load()
		if at == 0 {
			if n > 0 {
				l.ejections.Store(n - 1)
			}
			return
		}
		if now-at >= int64(min(time.Duration(max(n, 1))*base, most)) {
			h.uneject(l)
			back = true
		}
	})
	return back
}

// lengths of the first and of the longest ejection. The n-th lasts n times the
// first; n stops growing where that passes the longest.
func lengths(o *conf.Outlier) (base, most time.Duration) {
	base, most = orDefault(o.BaseEjection, defaultEjection), orDefault(o.MaxEjectionTime, maxEjection)
	return base, max(most, base)
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// pardon ends all ejections: outlier detection was switched off.
func (h *Handle) pardon() bool {
	if h.ejected.Load() == 0 {
		return false
	}
	h.eachLive(func(l *live) {
		if l.ejected.Load() != 0 {
			h.uneject(l)
		}
	})
	return true
}

func (h *Handle) uneject(l *live) {
	// the counters first, so that one old failure does not eject again
	l.fails5xx.Store(0)
	l.failsGate.Store(0)
	l.failsLocal.Store(0)
	l.ejected.Store(0)
	h.ejected.Add(-1)
}

func (h *Handle) eachLive(f func(*live)) {
	for _, l := range h.live {
		f(l)
	}
	h.origin.each(f)
}
