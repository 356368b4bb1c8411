package cluster

import (
	"net/netip"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// originals are the endpoints of an ORIGINAL_DST cluster, made when first
// asked for. Its shards have locks, held for a map access only.
type originals struct {
	shards [16]originalShard
}

type originalShard struct {
	mu  sync.Mutex
	eps map[netip.AddrPort]*Endpoint
	// old are those that were idle at the last sweep.
	old map[netip.AddrPort]bool
	at  int64
	_   [24]byte
}

// maxOriginals per shard bounds what a client that dials everything costs.
const maxOriginals = 4096

// originalIdle is how long an unused address is remembered.
const originalIdle = int64(5 * time.Second)

func (h *Handle) original(s *state, p *PickContext, w *why.Why) (*Endpoint, error) {
	a := netip.AddrPortFrom(p.OriginalDst.Addr().Unmap(), p.OriginalDst.Port())
	if !a.IsValid() || a.Port() == 0 {
		if w.On() {
			w.Add("endpoint", origin(s.conf), "no_healthy", "cluster %s goes to the original destination, but none is known", h.Name)
		}
		return nil, NoHealthy
	}
	b := a.Addr().As16()
	sh := &h.origin.shards[(b[15]^b[14]^byte(a.Port()))%16]
	sh.mu.Lock()
	ep := sh.eps[a]
	if ep == nil || ep.TLS != s.conf.TLS && len(s.conf.TLSMatches) == 0 {
		lv := &live{}
		if ep != nil {
			lv = ep.live
		}
		ep = &Endpoint{Addr: a, Weight: 1, TLS: clientTLS(s.conf, nil), live: lv}
		if sh.eps == nil {
			sh.eps = map[netip.AddrPort]*Endpoint{}
		}
		if len(sh.eps) < maxOriginals {
			sh.eps[a] = ep
		}
	}
	delete(sh.old, a)
	sh.mu.Unlock()
	if s.conf.Outlier != nil && ep.Ejected() {
		return nil, NoHealthy
	}
	if w.On() {
		w.Add("endpoint", origin(s.conf), "picked", "the original destination %s", a)
	}
	return ep, nil
}

// drop forgets addresses that were not used for two sweeps; now 0 forgets all.
func (o *originals) drop(now int64) {
	for i := range o.shards {
		sh := &o.shards[i]
		sh.mu.Lock()
		if now == 0 || now-sh.at >= originalIdle {
			sh.sweep(now == 0)
			sh.at = now
		}
		sh.mu.Unlock()
	}
}

func (sh *originalShard) sweep(all bool) {
	next := map[netip.AddrPort]bool{}
	for a, e := range sh.eps {
		if !all && (e.Active() > 0 || e.Ejected()) {
			continue
		}
		if all || sh.old[a] {
			e.live.removed.Store(true)
			delete(sh.eps, a)
		} else {
			next[a] = true
		}
	}
	sh.old = next
}

// each calls f for every known endpoint.
func (o *originals) each(f func(*live)) (n int) {
	for i := range o.shards {
		sh := &o.shards[i]
		sh.mu.Lock()
		n += len(sh.eps)
		for _, e := range sh.eps {
			f(e.live)
		}
		sh.mu.Unlock()
	}
	return n
}

// hosts is how many endpoints ejection percentages are taken of.
func (h *Handle) hosts(c *conf.Cluster) int {
	if c.Type == conf.ClusterOriginalDst {
		return h.origin.each(func(*live) {})
	}
	if s := h.state.Load(); s != nil {
		return len(s.all)
	}
	return 0
}
