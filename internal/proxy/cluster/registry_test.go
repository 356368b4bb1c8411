package cluster

import (
	"fmt"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// mesh is a snapshot of n clusters with one endpoint each.
func mesh(n int, connections uint32) *conf.Snapshot {
	s := conf.NewSnapshot()
	for i := range n {
		name := fmt.Sprint("c", i)
		s.Clusters[name] = &conf.Cluster{Name: name, Type: conf.ClusterEDS, Limits: conf.Limits{Connections: connections, Requests: 1}}
		s.Endpoints[name] = cla(conf.Locality{Endpoints: eps(1)})
	}
	return s
}

func (r *Registry) made() (n int) {
	for _, s := range *r.slots.Load() {
		if s.handle.Load() != nil {
			n++
		}
	}
	return n
}

// Clusters that are never used have no handle; whoever asks for one gets one
// and keeps it through all changes, and clusters with names or tables have
// theirs at once.
func TestUnusedClusters(t *testing.T) {
	r := New(Options{Loops: 2})
	defer r.Close()
	s := mesh(100, 1)
	s.Clusters["ring"] = &conf.Cluster{Name: "ring", Type: conf.ClusterEDS, Balance: conf.BalanceMaglev, TableSize: 65537}
	s.Clusters["many"] = &conf.Cluster{Name: "many", Type: conf.ClusterEDS}
	s.Endpoints["many"] = cla(conf.Locality{Endpoints: eps(make([]uint32, lazyEndpoints+1)...)})
	r.Apply(s, 0)
	if n := r.made(); n != 2 {
		t.Errorf("%d handles at once", n)
	}
	h := r.Get("c7")
	if h == nil || len(h.Endpoints()) != 1 || r.GetBytes([]byte("c7")) != h || r.made() != 3 {
		t.Errorf("first use: %v, %d handles", h, r.made())
	}
	seen := 0
	r.Each(func(h *Handle) {
		if h.Conf() != nil {
			seen++
		}
	})
	if seen != 102 || r.made() != 3 {
		t.Errorf("all: %d, %d handles after", seen, r.made())
	}
	before := *r.slots.Load()
	r.Apply(mesh(8, 2), 0)
	if r.Get("c7") != h || h.Conf().Limits.Connections != 2 || r.Get("c8") != nil {
		t.Errorf("changed: %+v", h.Conf())
	}
	if got := before["c9"].get(r); got != nil {
		t.Errorf("a cluster that is gone got a handle: %v", got)
	}
	r.Apply(mesh(7, 2), 0)
	if r.Get("c7") != nil || h.Conf() != nil {
		t.Error("c7 is gone, and still served")
	}
	h.Acquire(Requests)
	r.Tick(0)
	r.Apply(mesh(8, 3), 0)
	if r.Get("c7") != h || h.Used(Requests) != 1 {
		t.Error("c7 is back without what it had")
	}
}

// First uses meet changes of the configuration: everybody has the same handle
// of the newest configuration.
func TestFirstUseWhileChanging(t *testing.T) {
	r := New(Options{Loops: 2})
	defer r.Close()
	const n, rounds = 50, 20
	r.Apply(mesh(n, 1), 0)
	var all sync.WaitGroup
	got := make([][n]*Handle, 4)
	for k := range got {
		all.Go(func() {
			for i := range n {
				h := r.Get(fmt.Sprint("c", i))
				if h == nil || h.Conf() == nil || len(h.Endpoints()) != 1 {
					t.Errorf("c%d: %v", i, h)
				}
				got[k][i] = h
			}
		})
	}
	for v := range uint32(rounds) {
		r.Apply(mesh(n, v+2), 0)
	}
	all.Wait()
	for i := range n {
		h := r.Get(fmt.Sprint("c", i))
		for k := range got {
			if got[k][i] != h {
				t.Errorf("c%d has two handles", i)
			}
		}
		if c := h.Conf().Limits.Connections; c != rounds+1 {
			t.Errorf("c%d has the configuration of round %d", i, c)
		}
	}
}
