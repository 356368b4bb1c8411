package control

import (
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Clients on demand are given what every sidecar has, the index, and what the
// names that they ask for lead to. Each answer is made once for all clients of a
// scope, from the same tables as everything else, and again only when something
// that it read has changed.

// ask is a name that a client asks for.
type ask struct{ url, name string }

// question is an ask of the clients of a scope.
type question struct {
	scope *link.Scope
	ask
}

// answer is what a question leads to. Immutable.
type answer struct {
	main  *xds.Resource // nil: no such
	rest  []*xds.Resource
	parts []*written // behind them
}

func sameAnswer(a, b *answer) bool {
	return a.main == b.main && slices.Equal(a.rest, b.rest) && slices.Equal(a.parts, b.parts)
}

// makeAnswer finds what a name leads to, and all that this names.
func (m *memo) makeAnswer(q *question, old *answer) *answer {
	var canonical string
	var v *model.View
	l, ok := ext.ParseLookup(q.name)
	switch {
	case q.url == always:
		return m.answerAlways(q.scope)
	case q.url == ext.HostType:
		return m.answerHost(q, old)
	case !ok:
		return &answer{}
	case q.url == lower.ListenerType:
		canonical, v = q.scope.ListenerFor(l)
	case q.url == lower.RouteType:
		canonical, v = q.scope.RouteFor(l)
	}
	if v == nil {
		return &answer{}
	}
	var was *written
	if old != nil && len(old.parts) > 0 {
		was = old.parts[0]
	}
	own := m.write(lower.Part(v), was)
	if was != nil && sameWritten(was, own) {
		own = was
	} else {
		own = m.alike.One(q.url+canonical, own, likeWritten)
	}
	a := &answer{parts: []*written{own}}
	for _, r := range own.resources {
		if r.Type == q.url && r.Name == canonical {
			a.main = r
		} else {
			a.rest = append(a.rest, r)
		}
	}
	m.close(q.scope, link.ClustersIn(v), a)
	return a
}

// close adds clusters, with their endpoints, to an answer.
func (m *memo) close(s *link.Scope, clusters []string, a *answer) {
	for _, name := range clusters {
		set, ok := s.Clusters(name[strings.LastIndexByte(name, '|')+1:])
		if !ok {
			continue
		}
		w := m.clusters.Get(setFor{set, s.Class()})
		for _, r := range w.resources {
			if r.Name == name {
				a.rest = append(a.rest, r)
			}
		}
		if !slices.Contains(a.parts, w) {
			a.parts = append(a.parts, w)
		}
	}
}

func (m *memo) answerHost(q *question, old *answer) *answer {
	name, h := q.scope.HostFor(q.name)
	if h == nil {
		return &answer{}
	}
	a := &answer{main: xds.NewResource(ext.HostType, name, h.Encode())}
	if old != nil && old.main != nil && old.main.Name == name && old.main.Version == a.main.Version {
		a.main = old.main
	}
	return a
}

// always is the url of a question for what clients have without asking.
const always = "always"

// answerAlways has what a Sidecar puts at addresses of its own, and where it sends
// what is unknown.
func (m *memo) answerAlways(s *link.Scope) *answer {
	a := &answer{}
	ports, cluster := s.Always()
	for _, p := range ports {
		w := m.ports.Get(portFor{s, p})
		a.rest, a.parts = append(a.rest, w.resources...), append(a.parts, w)
		m.close(s, link.ClustersIn(s.PortView(p)), a)
	}
	if cluster != "" {
		m.close(s, []string{cluster}, a)
	}
	return a
}

// held is what a client on demand has been answered. It is handed on from one
// state of the client to the next, which changes it.
type held struct {
	set     *xds.Catalog
	scope   *link.Scope // that questions are of
	asks    []ask
	list    []*question // for asks
	given   []*answer   // for list
	answers map[ask]*answer
	uses    map[xds.Key]int // answers that a resource belongs to
}

// hold brings what a client has to the newest answers of what it asks for, at the
// cost of those that changed.
func (m *memo) hold(s *session, h *held) *held {
	scope := m.mesh.Scope(m.client(s))
	if h == nil {
		h = &held{set: xds.Small(), answers: map[ask]*answer{}, uses: map[xds.Key]int{}}
	}
	var put []*xds.Resource
	var alias []xds.Alias
	var maybe []xds.Key // to be dropped when nobody uses them any more
	drop := func(q ask, a *answer) {
		for _, r := range a.all() {
			k := xds.Key{Type: r.Type, Name: r.Name}
			h.uses[k]--
			maybe = append(maybe, k)
		}
		maybe = append(maybe, xds.Key{Type: q.url, Name: q.name})
	}
	if asks := m.asked.Get(s); scope != h.scope || !slices.Equal(asks, h.asks) {
		m.pose(h, scope, asks)
	}
	for i, cell := range h.list {
		now, q := m.answers.Get(cell), cell.ask
		if now == h.given[i] {
			continue
		}
		h.given[i] = now
		was := h.answers[q]
		if now == was {
			continue
		}
		h.answers[q] = now
		for _, r := range now.all() {
			h.uses[xds.Key{Type: r.Type, Name: r.Name}]++
			put = append(put, r)
		}
		if now.main != nil && now.main.Name != q.name {
			alias = append(alias, xds.Alias{Name: q.name, To: now.main})
		}
		if was != nil {
			drop(q, was)
		}
	}
	if len(h.list) < len(h.answers) { // some are not asked for any more
		still := make(map[ask]bool, len(h.list))
		for _, q := range h.list {
			still[q.ask] = true
		}
		maps.DeleteFunc(h.answers, func(q ask, a *answer) bool {
			if !still[q] {
				drop(q, a)
			}
			return !still[q]
		})
	}
	maybe = slices.DeleteFunc(maybe, func(k xds.Key) bool {
		n := h.uses[k]
		if n <= 0 {
			delete(h.uses, k)
		}
		a := h.answers[ask{k.Type, k.Name}]
		return n > 0 || a != nil && a.main != nil
	})
	h.set = h.set.Change(put, maybe, alias...)
	return h
}

// pose makes the questions of what a client asks for.
func (m *memo) pose(h *held, scope *link.Scope, asks []ask) {
	h.scope, h.asks = scope, asks
	h.list = make([]*question, 0, 1+len(asks))
	for i := -1; i < len(asks); i++ {
		q := question{scope, ask{always, ""}}
		if i >= 0 {
			q.ask = asks[i]
		}
		cell := m.questions[q]
		if cell == nil {
			cell = &q
			m.questions[q] = cell
		}
		h.list = append(h.list, cell)
	}
	h.given = make([]*answer, len(h.list))
}

// forgetQuestions that no client asks any more.
func (m *memo) forgetQuestions(clients map[*session]struct{}) {
	clear(m.questions)
	for s := range clients {
		if made := s.made; made != nil && made.held != nil {
			for _, q := range made.held.list {
				m.questions[*q] = q
			}
		}
	}
}

// all resources of an answer.
func (a *answer) all() []*xds.Resource {
	if a.main == nil {
		return a.rest
	}
	return append(slices.Clip(a.rest), a.main)
}

// ask implements xds.Feed.Ask.
func (s *session) ask(url string, want, leave []string) {
	p := s.p
	p.memoMu.Lock()
	defer p.memoMu.Unlock()
	gone := make(map[string]bool, len(leave))
	for _, n := range leave {
		gone[n] = true
	}
	list := slices.Clone(s.asks)
	if len(gone) > 0 {
		list = slices.DeleteFunc(list, func(q ask) bool { return q.url == url && gone[q.name] })
	}
	have := make(map[ask]bool, len(list))
	for _, q := range list {
		have[q] = true
	}
	for _, n := range want {
		if q := (ask{url, n}); !have[q] {
			have[q] = true
			list = append(list, q)
		}
	}
	s.asks = list
	if m := p.memo; m != nil {
		m.mesh.Book().Do(func() {
			m.asked.Set(s, list)
			p.refresh(m)
			p.tidy(m)
		})
	}
}
