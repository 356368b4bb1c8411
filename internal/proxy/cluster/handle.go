package cluster

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Failure says why no endpoint or no slot was given. It is an error.
type Failure uint8

// Failures, with Envoy's response flag.
const (
	NoCluster Failure = iota + 1 // NC: the cluster is not configured
	NoHealthy                    // UH: no endpoint that may be used
	Overflow                     // UO: a limit is reached
)

// Error is a plain reason.
func (f Failure) Error() string {
	switch f {
	case NoCluster:
		return "cluster not found"
	case NoHealthy:
		return "no healthy upstream"
	}
	return "upstream overflow"
}

// Resource that is limited per cluster.
type Resource uint8

// Resources of the circuit breakers.
const (
	Connections Resource = iota
	Pending
	Requests
	Retries
	resources
)

// counter fills a cache line, so that loops do not disturb each other.
type counter struct {
	n atomic.Int64
	_ [56]byte
}

// Handle is one cluster as long as the process lives. All methods may be
// called from any goroutine; those of the hot path allocate nothing.
type Handle struct {
	Name string

	owner   *Registry
	used    [resources]counter
	state   atomic.Pointer[state] // nil: the cluster is gone
	cursors []cursor              // one per loop, owned by it
	dirty   atomic.Bool           // an ejection waits to be built in
	ejected atomic.Int64          // endpoints ejected now
	origin  originals             // endpoints of ORIGINAL_DST

	mu   sync.Mutex    // building; never taken on a loop
	live map[key]*live // by address; survives updates
	last input         // what state was built from
	dns  *dns
	tick int64 // next outlier interval
}

type cursor struct {
	n uint32
	_ [60]byte
}

// Conf is the cluster's configuration now; nil when it is gone.
func (h *Handle) Conf() *conf.Cluster {
	if s := h.state.Load(); s != nil {
		return s.conf
	}
	return nil
}

// Endpoints lists all endpoints known now, in no order of importance. The
// slice must not be changed. ORIGINAL_DST clusters list none.
func (h *Handle) Endpoints() []*Endpoint {
	if s := h.state.Load(); s != nil {
		return s.all
	}
	return nil
}

// Available reports how many endpoints may be picked without panic.
func (h *Handle) Available() int {
	n := 0
	for _, e := range h.Endpoints() {
		if e.usable() {
			n++
		}
	}
	return n
}

// TryAcquire takes a slot of a resource unless its limit is reached. Every
// true must be paid back by Release on the same handle.
func (h *Handle) TryAcquire(r Resource) bool {
	s := h.state.Load()
	if s == nil {
		return false
	}
	max := s.limit(h, r)
	c := &h.used[r].n
	if c.Add(1) > max {
		c.Add(-1)
		return false
	}
	return true
}

// Acquire takes a slot whatever the limit; see Release.
func (h *Handle) Acquire(r Resource) { h.used[r].n.Add(1) }

// Release gives a slot back.
func (h *Handle) Release(r Resource) { h.used[r].n.Add(-1) }

// Used is how many slots are taken.
func (h *Handle) Used(r Resource) int64 { return h.used[r].n.Load() }

// limit of a resource now. A retry budget, where set, replaces the fixed limit
// of retries: a share of the active and pending requests, but at least a few.
func (s *state) limit(h *Handle, r Resource) int64 {
	l := &s.conf.Limits
	if *l == (conf.Limits{}) {
		return math.MaxInt64 // made by hand, without limits
	}
	switch r {
	case Connections:
		return int64(l.Connections)
	case Pending:
		return int64(l.Pending)
	case Requests:
		return int64(l.Requests)
	}
	if l.BudgetPercent > 0 {
		active := h.Used(Requests) + h.Used(Pending)
		return max(int64(l.BudgetPercent*float64(active)/100), int64(l.BudgetMin))
	}
	return int64(l.Retries)
}

// Endpoint is one address of a cluster under one configuration. It is
// immutable; what changes by itself is behind its methods and is shared by all
// Endpoints of that address in the cluster.
type Endpoint struct {
	Addr     netip.AddrPort // invalid when Pipe is set
	Pipe     string
	Hostname string // for auto host rewrite and logs
	Weight   uint32
	Health   conf.Health
	Priority uint32
	Region   string
	Zone     string
	Subzone  string
	Workload string            // as conf.Endpoint.Workload
	Match    map[string]string // as conf.Endpoint.Match
	TLS      *conf.ClientTLS   // settled by transport_socket_matches; nil: plain
	live     *live
}

// key of an endpoint's live state.
type key struct {
	addr netip.AddrPort
	name string // pipe, or the host of logical DNS
}

// live is what survives configuration. Ejection times are in nanoseconds of
// the clock that Done and Tick are given; 0 is not ejected.
type live struct {
	active     atomic.Int64
	fails5xx   atomic.Uint32
	failsGate  atomic.Uint32
	failsLocal atomic.Uint32
	ejected    atomic.Int64
	removed    atomic.Bool
	ejections  atomic.Uint32 // multiplier of the next ejection's length
	since      int64         // when it came; set when it is made
	_          [16]byte
}

// Active requests or connections at this address now.
func (e *Endpoint) Active() int64 { return e.live.active.Load() }

// Ejected reports whether outlier detection holds the address out.
func (e *Endpoint) Ejected() bool { return e.live.ejected.Load() != 0 }

// Removed reports whether the address has left the cluster: pools close idle
// connections to it.
func (e *Endpoint) Removed() bool { return e.live.removed.Load() }

// Same reports whether both are the same address of the same cluster.
func (e *Endpoint) Same(o *Endpoint) bool { return o != nil && e.live == o.live }

// String is the address.
func (e *Endpoint) String() string {
	if e.Pipe != "" {
		return e.Pipe
	}
	return e.Addr.String()
}

// usable: neither unhealthy nor draining nor ejected.
func (e *Endpoint) usable() bool {
	return e.Health != conf.Unhealthy && e.Health != conf.Draining && e.live.ejected.Load() == 0
}
