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
	Loops int // event loops; their numbers are PickContext.Loop
	// Region, Zone and Subzone of this proxy; empty: not known. With outlier
	// detection, endpoints nearby come first.
	Region, Zone, Subzone string
	Resolver              Resolver // nil: the system's
}

// Registry has the handle of every cluster. One per process.
type Registry struct {
	opts    Options
	handles atomic.Pointer[map[string]*Handle]
	dirty   atomic.Bool // some handle is dirty

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
	r.handles.Store(&map[string]*Handle{})
	return r
}

// Get finds a cluster; nil: there is none (NC). Lock-free.
func (r *Registry) Get(name string) *Handle { return (*r.handles.Load())[name] }

// GetBytes is Get without making a string.
func (r *Registry) GetBytes(name []byte) *Handle { return (*r.handles.Load())[string(name)] }

// Each calls f for every handle, in no order.
func (r *Registry) Each(f func(*Handle)) {
	for _, h := range *r.handles.Load() {
		f(h)
	}
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
	old := *r.handles.Load()
	next := make(map[string]*Handle, len(s.Clusters))
	for name, c := range s.Clusters {
		h := old[name]
		if h == nil {
			if h = r.retired[name]; h != nil {
				delete(r.retired, name)
			} else {
				h = r.handle(name)
			}
		}
		next[name] = h
		eps := c.Endpoints
		if c.Type == conf.ClusterEDS {
			n := c.EDSName
			if n == "" {
				n = name
			}
			eps = s.Endpoints[n]
		}
		h.mu.Lock()
		h.update(r, c, eps, now)
		h.mu.Unlock()
	}
	for name, h := range old {
		if next[name] == nil {
			h.mu.Lock()
			h.retire()
			h.mu.Unlock()
			r.retired[name] = h
		}
	}
	r.handles.Store(&next)
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
	dirty := r.dirty.Swap(false)
	for _, h := range *r.handles.Load() {
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
	for _, h := range *r.handles.Load() {
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
