package cluster

import (
	"maps"
	"net/netip"
	"sort"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// state is everything Pick reads: immutable, replaced as a whole.
type state struct {
	conf   *conf.Cluster
	all    []*Endpoint
	levels []level // by priority, 0 first
	warm   int64   // until then some endpoint is new (conf.Warmup); 0: none is
}

// level is one priority. load is its share of requests in percent; panic means
// that health is ignored there.
type level struct {
	load  uint32
	panic bool
	all   set
	good  set
	// zones are chosen by weight before an endpoint is; nil: not weighted.
	zones     []set
	zoneCum   []uint64 // cumulative weights
	zoneTotal uint64
}

// set is a list of endpoints prepared for its algorithm. At most one of the
// last three is there; none: all weights are equal.
type set struct {
	eps    []*Endpoint
	order  []uint32 // round robin: indexes into eps, each as often as its weight
	cum    []uint64 // least request: cumulative weights
	ring   []point
	maglev []uint32
}

// build makes a new state from h.last, the DNS and live health. h.mu is held.
func (h *Handle) build(r *Registry) {
	c := h.last.conf
	if c == nil {
		return
	}
	s := &state{conf: c}
	prev := h.state.Load()
	var locs []conf.Locality
	over := uint32(0)
	if e := h.last.endpoints; e != nil {
		locs, over = e.Localities, e.Overprovision
	}
	if h.dns != nil {
		locs = h.dns.localities(locs)
	}
	seen := make(map[key]*live, len(h.live))
	groups := map[uint32][][]*Endpoint{} // by priority, by locality
	weights := map[uint32][]uint32{}
	for i := range locs {
		l := &locs[i]
		p := l.Priority
		var g []*Endpoint
		for j := range l.Endpoints {
			ep := h.endpoint(c, l, &l.Endpoints[j], p, seen)
			if ep == nil {
				continue
			}
			g = append(g, ep)
			s.all = append(s.all, ep)
		}
		groups[p] = append(groups[p], g)
		weights[p] = append(weights[p], l.Weight)
	}
	reuse(s.all, prev, groups)
	for k, l := range h.live {
		if seen[k] == nil {
			l.removed.Store(true)
			if l.ejected.Load() != 0 {
				h.ejected.Add(-1)
			}
		}
	}
	h.live = seen
	if w := c.Warmup; w != nil {
		for _, e := range s.all {
			s.warm = max(s.warm, e.live.since+int64(w.Window))
		}
	}
	s.levels = levels(c, over, groups, weights)
	h.state.Store(s)
}

// endpoint makes the Endpoint of one address, with the live state it had.
// The same address twice counts once; one without an address counts not.
func (h *Handle) endpoint(c *conf.Cluster, l *conf.Locality, e *conf.Endpoint, prio uint32, seen map[key]*live) *Endpoint {
	k := key{addr: e.Addr, name: e.Pipe}
	if c.Type == conf.ClusterLogicalDNS {
		k = key{name: e.Host}
	}
	if !e.Addr.IsValid() && e.Pipe == "" || seen[k] != nil {
		return nil
	}
	lv := h.live[k]
	if lv == nil {
		lv = &live{since: h.owner.now.Load()}
	}
	seen[k] = lv
	ep := &Endpoint{
		Addr: e.Addr, Pipe: e.Pipe, Hostname: e.Hostname, Weight: max(e.Weight, 1), Health: e.Health, Priority: prio,
		Region: l.Region, Zone: l.Zone, Subzone: l.Subzone, Workload: e.Workload, Match: e.Match, live: lv,
	}
	if ep.Hostname == "" {
		ep.Hostname = e.Host
	}
	ep.TLS = clientTLS(c, e.Match)
	return ep
}

// clientTLS is the transport socket of an endpoint: the first match whose
// labels it all has, else the cluster's own.
func clientTLS(c *conf.Cluster, labels map[string]string) *conf.ClientTLS {
next:
	for i := range c.TLSMatches {
		for k, v := range c.TLSMatches[i].Labels {
			if got, ok := labels[k]; !ok || got != v {
				continue next
			}
		}
		return c.TLSMatches[i].TLS
	}
	return c.TLS
}

// reuse keeps the old *Endpoint of an address whose facts did not change, so
// that pools keyed by it live on.
func reuse(all []*Endpoint, prev *state, groups map[uint32][][]*Endpoint) {
	if prev == nil {
		return
	}
	was := make(map[*live]*Endpoint, len(prev.all))
	for _, e := range prev.all {
		was[e.live] = e
	}
	swap := func(list []*Endpoint) {
		for i, e := range list {
			if o := was[e.live]; o != nil && o.equal(e) {
				list[i] = o
			}
		}
	}
	swap(all)
	for _, ls := range groups {
		for _, l := range ls {
			swap(l)
		}
	}
}

func (e *Endpoint) equal(o *Endpoint) bool {
	return e.Addr == o.Addr && e.Pipe == o.Pipe && e.Hostname == o.Hostname && e.Weight == o.Weight && e.Health == o.Health &&
		e.Priority == o.Priority && e.Region == o.Region && e.Zone == o.Zone && e.Subzone == o.Subzone &&
		e.Workload == o.Workload && e.TLS == o.TLS && maps.Equal(e.Match, o.Match)
}

// levels orders priorities and computes their loads as Envoy does: a level
// takes as much as its health (times the overprovisioning factor) allows, the
// next ones the rest.
func levels(c *conf.Cluster, over uint32, groups map[uint32][][]*Endpoint, weights map[uint32][]uint32) []level {
	if over == 0 {
		over = 140
	}
	var ps []uint32
	for p := range groups {
		ps = append(ps, p)
	}
	sort.Slice(ps, func(i, j int) bool { return ps[i] < ps[j] })
	out := make([]level, len(ps))
	health := make([]uint32, len(ps))
	total := uint32(0)
	hosts := 0
	for i, p := range ps {
		var all, good []*Endpoint
		for _, g := range groups[p] {
			all = append(all, g...)
			good = append(good, usable(g)...)
		}
		out[i].all, out[i].good = newSet(c, all, nil), newSet(c, good, nil)
		if len(all) > 0 {
			health[i] = uint32(min(100, uint64(over)*uint64(len(good))/uint64(len(all))))
		}
		total += health[i]
		hosts += len(all)
		switch {
		case !c.LocalityWeighted:
		case c.Balance == conf.BalanceRingHash || c.Balance == conf.BalanceMaglev:
			out[i].good = weighed(c, groups[p], weights[p])
		default:
			out[i].weigh(c, over, groups[p], weights[p])
		}
	}
	loads(c, out, health, min(total, 100), hosts)
	return out
}

func usable(g []*Endpoint) []*Endpoint {
	out := make([]*Endpoint, 0, len(g))
	for _, e := range g {
		if e.usable() {
			out = append(out, e)
		}
	}
	return out
}

// loads fills in load and panic of every level. total is the health of all
// levels together, at most 100.
func loads(c *conf.Cluster, ls []level, health []uint32, total uint32, hosts int) {
	for i := range ls {
		all, good := len(ls[i].all.eps), len(ls[i].good.eps)
		ls[i].panic = total < 100 && all > 0 && 100*float64(good)/float64(all) < c.Panic
	}
	left := uint32(100)
	if total == 0 {
		// nothing is healthy: in panic the load follows the number of hosts
		for i := range ls {
			if hosts > 0 && ls[i].panic {
				ls[i].load = uint32(100 * len(ls[i].all.eps) / hosts)
				left -= ls[i].load
			}
		}
	} else {
		for i := range ls {
			ls[i].load = min(left, 100*health[i]/total)
			left -= ls[i].load
		}
	}
	for i := range ls {
		if ls[i].load > 0 {
			ls[i].load += left // what rounding lost goes to the first
			return
		}
	}
}

// weigh prepares the localities of a level: each is chosen by its weight times
// its health. Localities without weight get nothing.
func (l *level) weigh(c *conf.Cluster, over uint32, groups [][]*Endpoint, weights []uint32) {
	for i, g := range groups {
		good := usable(g)
		if weights[i] == 0 || len(good) == 0 {
			continue
		}
		share := min(100, uint64(over)*uint64(len(good))/uint64(len(g)))
		l.zoneTotal += share * uint64(weights[i])
		l.zones = append(l.zones, newSet(c, good, nil))
		l.zoneCum = append(l.zoneCum, l.zoneTotal)
	}
}

// weighed is the set of hashing with weighted localities: an endpoint has its
// share of its locality's weight. Localities without weight get nothing.
func weighed(c *conf.Cluster, groups [][]*Endpoint, weights []uint32) set {
	var eps []*Endpoint
	var shares []float64
	for i, g := range groups {
		good := usable(g)
		total := 0.0
		for _, e := range good {
			total += float64(e.Weight)
		}
		if weights[i] == 0 {
			continue
		}
		for _, e := range good {
			eps = append(eps, e)
			shares = append(shares, float64(weights[i])*float64(e.Weight)/total)
		}
	}
	return newSet(c, eps, shares)
}

// maxOrder bounds the memory of a weighted round robin.
const maxOrder = 4096

// newSet prepares endpoints. Hashing takes their weights from shares, where
// there are some.
func newSet(c *conf.Cluster, eps []*Endpoint, shares []float64) set {
	s := set{eps: eps}
	if len(eps) == 0 {
		return s
	}
	switch c.Balance {
	case conf.BalanceRingHash:
		s.ring = newRing(eps, shares, c.TableSize)
	case conf.BalanceMaglev:
		s.maglev = newMaglev(eps, shares, c.TableSize)
	case conf.BalanceRoundRobin:
		if !equalWeights(eps) {
			s.order = newOrder(eps)
		}
	case conf.BalanceLeastRequest:
		if !equalWeights(eps) {
			total := uint64(0)
			s.cum = make([]uint64, len(eps))
			for i, e := range eps {
				total += uint64(e.Weight)
				s.cum[i] = total
			}
		}
	}
	return s
}

func equalWeights(eps []*Endpoint) bool {
	for _, e := range eps {
		if e.Weight != eps[0].Weight {
			return false
		}
	}
	return true
}

// newOrder is a smooth weighted round robin: in every stretch an endpoint comes
// about as often as its weight says, never bunched. Large weights are scaled
// down to maxOrder places in all, each endpoint keeping at least one.
func newOrder(eps []*Endpoint) []uint32 {
	div, total := uint64(0), uint64(0)
	for _, e := range eps {
		div = gcd(div, uint64(e.Weight))
		total += uint64(e.Weight)
	}
	w := make([]int64, len(eps))
	sum := int64(0)
	limit := uint64(max(maxOrder, len(eps)))
	for i, e := range eps {
		n := uint64(e.Weight) / div
		if total/div > limit {
			n = max(1, uint64(e.Weight)*limit/total)
		}
		w[i] = int64(n)
		sum += int64(n)
	}
	cur := make([]int64, len(eps))
	out := make([]uint32, 0, sum)
	for range sum {
		best := 0
		for i := range cur {
			if cur[i] += w[i]; cur[i] > cur[best] {
				best = i
			}
		}
		cur[best] -= sum
		out = append(out, uint32(best))
	}
	return out
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// hashKey of an endpoint on rings and tables: its address as text, or the name
// where the address comes and goes.
func hashKey(dst []byte, e *Endpoint) []byte {
	if e.Addr == (netip.AddrPort{}) {
		return append(dst, e.Pipe...)
	}
	return e.Addr.AppendTo(dst)
}
