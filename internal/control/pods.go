package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// knownWithin is how long a pod that shows a good credential may wait for its
// record: it starts as soon as the API server's news of it reach us.
const knownWithin = 5 * time.Second

// seat is a client's place in the mesh: who it is, until it is gone. Immutable.
type seat struct {
	key  string // namespace/name
	id   identity.ID
	gone <-chan struct{} // closed when its record is no more; nil: never
}

// pods are those that the source knows, for callers that are one. Safe for
// concurrent use.
type pods struct {
	domain string // trust domain

	mu    sync.Mutex
	last  []*model.Workload // that follow has seen
	byKey map[string]*pod
	newer chan struct{} // closed when byKey has changed
}

// pod is one, until another takes its name. workload is replaced as a whole.
type pod struct {
	workload *model.Workload
	gone     chan struct{}
}

func newPods(domain string) *pods { return &pods{domain: domain, newer: make(chan struct{})} }

// follow takes the pods of f. One that was made anew, or runs as another
// account, is another one.
func (s *pods) follow(f *model.Fragment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.last, f.Workloads) {
		return
	}
	s.last = f.Workloads
	now := make(map[string]*pod, len(s.byKey))
	for _, w := range f.Workloads {
		if w.Template || w.Origin.Kind != "Pod" {
			continue
		}
		key := w.Namespace + "/" + w.Name
		p := &pod{workload: w}
		if old := s.byKey[key]; old != nil && old.workload.Account == w.Account && old.workload.Origin.Created.Equal(w.Origin.Created) {
			p.gone = old.gone
		} else {
			p.gone = make(chan struct{})
		}
		now[key] = p
	}
	for key, old := range s.byKey {
		if p := now[key]; p == nil || p.gone != old.gone {
			close(old.gone)
		}
	}
	s.byKey = now
	close(s.newer)
	s.newer = make(chan struct{})
}

// find is a pod by namespace/name; nil: there is none. newer is closed when the
// answer may be another.
func (s *pods) find(key string) (p *pod, newer <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byKey[key], s.newer
}

// clientOf is what is known of a pod, as a client.
func (s *pods) clientOf(key string) (model.Client, bool) {
	p, _ := s.find(key)
	if p == nil {
		return model.Client{}, false
	}
	return clientOf(p.workload), true
}

func (s *pods) id(w *model.Workload) identity.ID {
	return identity.ID{TrustDomain: s.domain, Namespace: w.Namespace, Account: w.Account}
}

// await is the pod of an authenticated caller, which is waited for when it is
// not known yet, or has no address: what it gets depends on that.
func (s *pods) await(ctx context.Context, key string) (*pod, error) {
	late := time.NewTimer(knownWithin)
	defer late.Stop()
	for {
		p, newer := s.find(key)
		if p != nil && p.workload.Address != "" {
			return p, nil
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late.C:
			if p == nil {
				return nil, fmt.Errorf("%w: %s", xds.ErrUnknown, key)
			}
			return nil, fmt.Errorf("%w: %s has no address yet", xds.ErrUnknown, key)
		}
	}
}
