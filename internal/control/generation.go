package control

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
)

// generation is one state of the mesh, for those who ask about it. What proxies
// get is kept up to date in a memo; here everything is worked out anew when
// somebody asks. Immutable.
type generation struct {
	version  string
	when     time.Time
	fragment model.Fragment // with the registered workloads
	reading  *Reading
	worked   func() (*Compiled, []model.Notice)
}

// compile brings the memo to fragment and registry, and every session that this
// stirs. n is the number of the generation.
func (p *Plane) compile(n int, f model.Fragment, read []model.Notice) {
	p.registry.follow(&f)
	if p.pods != nil {
		p.pods.follow(&f)
	}
	f.Workloads = append(slices.Clip(f.Workloads), p.registry.workloads()...)
	g := &generation{version: strconv.Itoa(n), when: time.Now(), fragment: f}
	g.reading = &Reading{Gateways: f.Gateways, Statuses: f.Statuses, Notices: func() []model.Notice {
		_, notices := g.worked()
		return notices
	}}
	if p.seen != nil {
		g.reading.Objects = p.seen.Objects
	}
	g.worked = sync.OnceValues(func() (*Compiled, []model.Notice) {
		c, notices := linked(f, nil, p.settings)
		return c, append(slices.Clone(read), notices...)
	})
	if p.guarded("link", func() { p.follows(g) }) {
		p.generation.Set(g)
	}
}

// guarded runs a pure stage. A panic there is our bug and must not end the
// control plane: proxies keep what they have.
func (p *Plane) guarded(what string, f func()) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			p.log("BUG: %s: %v; the last good configuration stays", what, r)
			ok = false
		}
	}()
	f()
	return true
}

// follows brings the memo to a generation.
func (p *Plane) follows(g *generation) {
	p.memoMu.Lock()
	defer p.memoMu.Unlock()
	m := p.memo
	if m == nil || !m.mesh.Set(g.fragment) {
		// The first, or the mesh's settings changed, on which everything depends.
		mesh := link.New(p.settings, g.fragment.Settings)
		mesh.Set(g.fragment)
		m = newMemo(mesh)
		p.memo = m
		for s := range p.sessions {
			p.attach(m, s)
		}
	}
	m.mesh.Book().Do(func() {
		m.version = g.version
		m.setBundle(p.ca.Bundle())
		p.tell(m)
		p.refresh(m)
		p.tidy(m)
	})
}

// tidy bounds the memo: it holds at most twice what connected clients use and some
// more, whatever changes and whatever is asked. Within Do.
func (p *Plane) tidy(m *memo) {
	const more = 10_000
	if m.mesh.Book().Size() <= 2*m.swept+more {
		return
	}
	live := make([]*link.Scope, 0, len(p.sessions))
	for s := range p.sessions {
		live = append(live, m.mesh.Scope(m.client(s)))
	}
	m.forgetQuestions(p.sessions)
	for range 2 { // the first leaves what was made since the last
		m.mesh.Sweep(live...)
	}
	m.alike.Sweep()
	m.swept = m.mesh.Book().Size()
}

// attach has a session told of changes, and of its first set. Within Do, or of a
// memo that nobody else has.
func (p *Plane) attach(m *memo, s *session) {
	m.keys.Set(s, s.keyPair())
	m.asked.Set(s, s.asks)
	m.made.Watch(s, func() { m.stirred = append(m.stirred, s) })
	m.stirred = append(m.stirred, s)
}

// tell the memo what is known of clients: of registered workloads all, of pods
// those that are connected. Within Do.
func (p *Plane) tell(m *memo) {
	p.registry.tell(&m.registryAt, m.setClient)
	if p.pods == nil {
		return
	}
	for s := range p.sessions {
		p.tellPod(m, s)
	}
}

func (p *Plane) tellPod(m *memo, s *session) {
	if p.pods == nil {
		return
	}
	if c, known := p.pods.clientOf(s.at.key); known {
		m.setClient(s.at.key, &c)
	}
}

// knows reports whether there is still a workload of that key.
func (p *Plane) knows(key string) bool {
	_, known := p.registry.clientOf(key)
	if !known && p.pods != nil {
		_, known = p.pods.clientOf(key)
	}
	return known
}

// refresh brings every session up to date that something has stirred. Within Do.
func (p *Plane) refresh(m *memo) {
	m.mesh.Book().Woken()
	list := m.stirred
	m.stirred = nil
	for _, s := range list {
		if _, there := p.sessions[s]; !there {
			continue
		}
		if !p.knows(s.at.key) {
			continue
		}
		if !p.guarded("configuration of "+s.at.key, func() { s.publish(m.made.Get(s)) }) {
			m.stirred = append(m.stirred, s) // to be tried again with the next change
		}
	}
}

// join makes a new session's first set; false when there is none yet.
func (p *Plane) join(s *session) bool {
	p.memoMu.Lock()
	defer p.memoMu.Unlock()
	m := p.memo
	if m == nil {
		return false
	}
	p.sessions[s] = struct{}{}
	m.mesh.Book().Do(func() {
		p.registry.tell(&m.registryAt, m.setClient)
		p.tellPod(m, s)
		p.attach(m, s)
		p.refresh(m)
	})
	set, _ := s.sets.Get()
	return set != nil
}

func (p *Plane) leave(s *session) {
	p.memoMu.Lock()
	defer p.memoMu.Unlock()
	delete(p.sessions, s)
	last := p.pods != nil
	for o := range p.sessions {
		last = last && o.at.key != s.at.key
	}
	if m := p.memo; m != nil {
		m.mesh.Book().Do(func() {
			m.made.Unwatch(s)
			m.keys.Delete(s)
			if last {
				m.clients.Delete(s.at.key)
			}
			m.asked.Delete(s)
		})
	}
}

// rekey tells a session's client of its new key.
func (p *Plane) rekey(s *session) {
	p.memoMu.Lock()
	defer p.memoMu.Unlock()
	m := p.memo
	if _, there := p.sessions[s]; !there || m == nil {
		return
	}
	m.mesh.Book().Do(func() {
		m.keys.Set(s, s.keyPair())
		p.refresh(m)
	})
}
