package cluster

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// PickContext is what a choice depends on. The zero value is a first attempt
// on loop 0.
type PickContext struct {
	Loop    int    // the calling loop; its cursor moves
	Random  uint64 // fresh per attempt
	Hash    uint64 // with HasHash: for ring and maglev, see Hash
	HasHash bool
	Attempt int // 0: the first; later ones turn the hash
	// Previous are endpoints of earlier attempts, avoided when Tries > 0: up
	// to Tries other choices are made before one of them is taken.
	Previous []*Endpoint
	Tries    int
	// OriginalDst is where the client wanted to go.
	OriginalDst netip.AddrPort
}

// Pick chooses an endpoint. The error is a Failure: NoCluster when the cluster
// is gone, NoHealthy when it has nobody to offer.
func (h *Handle) Pick(p *PickContext, w *why.Why) (*Endpoint, error) {
	s := h.state.Load()
	if s == nil {
		if w.On() {
			w.Add("cluster", "", "no_match", "cluster %s is not configured", h.Name)
		}
		return nil, NoCluster
	}
	if s.conf.Type == conf.ClusterOriginalDst {
		return h.original(s, p, w)
	}
	var ep *Endpoint
	for try := 0; ; try++ {
		if ep = h.pickOnce(s, p, uint64(try)); ep == nil || try >= p.Tries || !among(p.Previous, ep) {
			break
		}
	}
	if ep == nil {
		if w.On() {
			w.Add("cluster", origin(s.conf), "no_healthy", "cluster %s has %d endpoints, none of them usable", h.Name, len(s.all))
		}
		return nil, NoHealthy
	}
	if w.On() {
		w.Add("endpoint", origin(s.conf), "picked", "%s of the %d endpoints of %s", ep, len(s.all), h.Name)
	}
	return ep, nil
}

func origin(c *conf.Cluster) string {
	if len(c.Origin) == 0 {
		return ""
	}
	return c.Origin[len(c.Origin)-1]
}

func among(list []*Endpoint, e *Endpoint) bool {
	for _, o := range list {
		if e.Same(o) {
			return true
		}
	}
	return false
}

// mix is splitmix64: the try'th random number of x.
func mix(x, try uint64) uint64 {
	x += (try + 1) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (h *Handle) pickOnce(s *state, p *PickContext, try uint64) *Endpoint {
	rnd := mix(p.Random, try)
	hashed := s.conf.Balance == conf.BalanceRingHash || s.conf.Balance == conf.BalanceMaglev
	hash := rnd
	if hashed && p.HasHash {
		hash = p.Hash
		if n := uint64(p.Attempt) + try; n > 0 {
			hash ^= ^uint64(0) - n + 1
		}
	}
	l := s.level(hash % 100)
	if l == nil {
		return nil
	}
	set := &l.good
	switch {
	case l.panic:
		set = &l.all
	case len(l.zones) > 0 && !hashed:
		n := mix(rnd, 7) % l.zoneTotal
		for i, c := range l.zoneCum {
			if n < c {
				set = &l.zones[i]
				break
			}
		}
	}
	ep := h.choose(s.conf, set, p, rnd, hash)
	if s.warm != 0 && !hashed && !l.panic && len(set.eps) > 1 {
		ep = h.warmed(s, set, p, rnd, ep)
	}
	if ep == nil || l.panic || ep.live.ejected.Load() == 0 {
		return ep
	}
	// Ejected since the state was built: look around it.
	for i := range min(len(set.eps), 8) {
		if e := h.choose(s.conf, set, p, mix(rnd, uint64(i)+1), mix(hash, uint64(i))); e.live.ejected.Load() == 0 {
			return e
		}
	}
	start := int(rnd % uint64(len(set.eps)))
	for i := range set.eps {
		if e := set.eps[(start+i)%len(set.eps)]; e.live.ejected.Load() == 0 {
			return e
		}
	}
	if s.conf.Panic > 0 {
		return ep
	}
	return nil
}

// maxWarm is how often an endpoint is chosen anew because it is too new.
const maxWarm = 32

// warmed takes a chosen endpoint that is new only as often as its age allows,
// and else chooses again.
func (h *Handle) warmed(s *state, set *set, p *PickContext, rnd uint64, ep *Endpoint) *Endpoint {
	now := h.owner.now.Load()
	if now >= s.warm {
		return ep
	}
	for i := range uint64(maxWarm) {
		dice := mix(rnd, 100+2*i)
		if f := s.conf.Warmup.Share(now - ep.live.since); f >= 1 || float64(dice>>11)/(1<<53) < f {
			break
		}
		ep = h.choose(s.conf, set, p, mix(rnd, 101+2*i), 0)
	}
	return ep
}

// level by load; n is 0..99.
func (s *state) level(n uint64) *level {
	sum := uint64(0)
	for i := range s.levels {
		if sum += uint64(s.levels[i].load); n < sum {
			return &s.levels[i]
		}
	}
	return nil
}

func (h *Handle) choose(c *conf.Cluster, s *set, p *PickContext, rnd, hash uint64) *Endpoint {
	n := uint64(len(s.eps))
	switch n {
	case 0:
		return nil
	case 1:
		return s.eps[0]
	}
	switch c.Balance {
	case conf.BalanceRoundRobin:
		i := &h.cursors[p.Loop%len(h.cursors)].n
		*i++
		if s.order != nil {
			return s.eps[s.order[*i%uint32(len(s.order))]]
		}
		return s.eps[uint64(*i)%n]
	case conf.BalanceRandom:
		return s.eps[rnd%n]
	case conf.BalanceRingHash:
		return s.eps[onRing(s.ring, hash)]
	case conf.BalanceMaglev:
		return s.eps[s.maglev[hash%uint64(len(s.maglev))]]
	}
	return s.leastRequest(rnd, max(c.Choices, 2))
}

// leastRequest takes the least loaded of a few (two) drawn at random. With
// weights they are drawn by weight and the load is active requests per weight;
// a tie goes to the first, so that idle endpoints share by weight.
func (s *set) leastRequest(rnd uint64, choices uint32) *Endpoint {
	a := s.draw(rnd)
	for i := uint32(1); i < choices; i++ {
		b := s.draw(mix(rnd, 2+uint64(i)))
		if a == b {
			continue
		}
		la, lb := a.live.active.Load(), b.live.active.Load()
		if s.cum != nil {
			la, lb = la*int64(b.Weight), lb*int64(a.Weight)
		}
		if lb < la {
			a = b
		}
	}
	return a
}

func (s *set) draw(rnd uint64) *Endpoint {
	if s.cum == nil {
		return s.eps[rnd%uint64(len(s.eps))]
	}
	x := rnd % s.cum[len(s.cum)-1]
	lo, hi := 0, len(s.cum)
	for lo < hi {
		if m := (lo + hi) / 2; s.cum[m] <= x {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return s.eps[lo]
}
