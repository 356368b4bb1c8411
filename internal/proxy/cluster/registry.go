package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Options of a Registry.
type Options struct {
	Loops    int      // event loops; their numbers are PickContext.Loop
	Resolver Resolver // nil: the system's
}

// Registry has the handle of every cluster. One per process.
type Registry struct {
	opts  Options
	slots atomic.Pointer[map[string]*slot]
	dirty atomic.Bool  // some handle is dirty
	now   atomic.Int64 // the loops' clock when it was last told

	mu      sync.Mutex // Apply, Tick, Close
	retired map[string]*Handle
	ctx     context.Context
	stop    context.CancelFunc
	asking  chan struct{} // slots of DNS questions in flight
	done    sync.WaitGroup
	closed  bool
}

// New makes an empty registry.
func New(o Options) *Registry {
	if o.Loops < 1 {
		o.Loops = 1
	}
	if o.Resolver == nil {
		o.Resolver = System{}
	}
	r := &Registry{opts: o, retired: map[string]*Handle{}, asking: make(chan struct{}, 16)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.slots.Store(&map[string]*slot{})
	return r
}

// Get finds a cluster; nil: there is none (NC). Lock-free, but for the first
// use of a cluster, which makes its handle.
func (r *Registry) Get(name string) *Handle { return (*r.slots.Load())[name].get(r) }

// GetBytes is Get without making a string.
func (r *Registry) GetBytes(name []byte) *Handle { return (*r.slots.Load())[string(name)].get(r) }

// Each calls f for every cluster, in no order. The handle of one that was not
// used yet is made for the call.
func (r *Registry) Each(f func(*Handle)) {
	for _, s := range *r.slots.Load() {
		h := s.handle.Load()
		if h == nil {
			s.mu.Lock()
			h = s.make(r, 0)
			s.mu.Unlock()
		}
		f(h)
	}
}

// slot is the place of one cluster. Most clusters of a mesh are never used by
// one proxy: they cost their slot and no more.
type slot struct {
	name   string
	handle atomic.Pointer[Handle] // nil: not used yet

	mu   sync.Mutex // of what follows; held for no longer than an Endpoints of lazyEndpoints takes
	conf *conf.Cluster
	eps  *conf.Endpoints
	gone bool
}

// lazyEndpoints is how many endpoints a handle may have that is made on a
// loop, when its cluster is first used; it takes some ten microseconds.
const lazyEndpoints = 100

// lazy reports whether the handle may be made when it is first used. The
// others have tables or names to be made first.
func lazy(c *conf.Cluster, eps *conf.Endpoints) bool {
	if c.Type == conf.ClusterDNS || c.Type == conf.ClusterLogicalDNS || c.Balance == conf.BalanceRingHash || c.Balance == conf.BalanceMaglev {
		return false
	}
	n := 0
	if eps != nil {
		for i := range eps.Localities {
			n += len(eps.Localities[i].Endpoints)
		}
	}
	return n <= lazyEndpoints
}

// get returns the handle; nil: the cluster is gone, or there was none.
func (s *slot) get(r *Registry) *Handle {
	if s == nil {
		return nil
	}
	if h := s.handle.Load(); h != nil {
		return h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handle.Load()
	if h == nil && !s.gone {
		h = s.make(r, 0)
		s.handle.Store(h)
	}
	return h
}

// make makes a handle of what the slot has; now is for the DNS. s.mu is held.
func (s *slot) make(r *Registry, now int64) *Handle {
	h := r.handle(s.name)
	h.mu.Lock()
	h.update(r, s.conf, s.eps, now)
	h.mu.Unlock()
	return h
}

// set takes over configuration, and returns the handle that is to be brought
// up to date; nil: none yet.
func (s *slot) set(r *Registry, c *conf.Cluster, eps *conf.Endpoints, now int64) *Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conf, s.eps = c, eps
	h := s.handle.Load()
	if h == nil && !lazy(c, eps) {
		h = s.make(r, now)
		s.handle.Store(h)
	}
	return h
}

// input is what a state is built from, beside live health.
type input struct {
	conf      *conf.Cluster
	endpoints *conf.Endpoints
	resolved  uint64 // generation of DNS answers
}

// Apply takes over a snapshot. Clusters whose nodes are the same pointers as
// before cost nothing. Call it off the loops; now is the loops' clock.
func (r *Registry) Apply(s *conf.Snapshot, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.now.Store(now)
	old := *r.slots.Load()
	next := make(map[string]*slot, len(s.Clusters))
	for name, c := range s.Clusters {
		at := old[name]
		if at == nil {
			at = &slot{name: name}
			if h := r.retired[name]; h != nil {
				delete(r.retired, name)
				at.handle.Store(h)
			}
		}
		next[name] = at
		eps := c.Endpoints
		if c.Type == conf.ClusterEDS {
			n := c.EDSName
			if n == "" {
				n = name
			}
			eps = s.Endpoints[n]
		}
		if h := at.set(r, c, eps, now); h != nil {
			h.mu.Lock()
			h.update(r, c, eps, now)
			h.mu.Unlock()
		}
	}
	for name, at := range old {
		if next[name] != nil {
			continue
		}
		at.mu.Lock()
		at.gone = true
		h := at.handle.Load()
		at.mu.Unlock()
		if h != nil {
			h.mu.Lock()
			h.retire()
			h.mu.Unlock()
			r.retired[name] = h
		}
	}
	r.slots.Store(&next)
}

func (r *Registry) handle(name string) *Handle {
	h := &Handle{Name: name, owner: r, live: map[key]*live{}, cursors: make([]cursor, r.opts.Loops)}
	for i := range h.cursors {
		// loops start at different places, so that few requests spread too
		h.cursors[i].n = uint32(i) * 0x9e3779b1
	}
	return h
}

// retire: the cluster is gone; streams that still run pay back what they hold.
func (h *Handle) retire() {
	h.state.Store(nil)
	h.last = input{}
	h.dns = nil
	for _, l := range h.live {
		l.removed.Store(true)
	}
	clear(h.live)
	h.ejected.Store(0)
	h.origin.drop(0)
}

// update makes a new state if anything changed. h.mu is held.
func (h *Handle) update(r *Registry, c *conf.Cluster, eps *conf.Endpoints, now int64) {
	in := input{conf: c, endpoints: eps}
	if c.Type == conf.ClusterDNS || c.Type == conf.ClusterLogicalDNS {
		h.watchDNS(r, c, eps, now)
		in.resolved = h.dns.generation
	} else {
		h.dns = nil
	}
	if in == h.last && h.state.Load() != nil {
		return
	}
	h.last = in
	h.build(r)
}

// Tick does what is due: ends ejections, builds in new ones, asks the DNS.
// Call it off the loops, about ten times a second; it is cheap when nothing is
// due. now is the loops' clock in nanoseconds.
func (r *Registry) Tick(now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.now.Store(now)
	dirty := r.dirty.Swap(false)
	for _, at := range *r.slots.Load() {
		h := at.handle.Load()
		if h == nil {
			continue
		}
		s := h.state.Load()
		if s == nil {
			continue
		}
		if s.conf.Outlier == nil && !dirty && s.conf.Type != conf.ClusterDNS && s.conf.Type != conf.ClusterLogicalDNS && s.conf.Type != conf.ClusterOriginalDst {
			continue
		}
		h.mu.Lock()
		changed := h.sweep(s.conf.Outlier, now)
		if h.dns != nil {
			h.ask(r, now)
		}
		if h.dirty.Swap(false) || changed {
			h.build(r)
		}
		h.mu.Unlock()
		if s.conf.Type == conf.ClusterOriginalDst {
			h.origin.drop(now)
		}
	}
	for name, h := range r.retired {
		idle := true
		for i := range resources {
			idle = idle && h.Used(i) == 0
		}
		if idle {
			delete(r.retired, name)
		}
	}
}

// Warm waits until every DNS cluster has been asked for once, or ctx ends. It
// needs Tick to go on being called.
func (r *Registry) Warm(ctx context.Context) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		if r.warm() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

func (r *Registry) warm() bool {
	for _, at := range *r.slots.Load() {
		h := at.handle.Load()
		if h == nil {
			continue // without names: those are made at once
		}
		h.mu.Lock()
		cold := h.dns != nil && !h.dns.answered()
		h.mu.Unlock()
		if cold {
			return false
		}
	}
	return true
}

// Close ends DNS questions and waits for their goroutines.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.done.Wait()
}
