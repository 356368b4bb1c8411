package dialect

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Joiner is a Reader that understands objects in groups: what it says of objects
// depends on nothing but those with the same Join.
type Joiner interface {
	Reader
	Join(o *source.Object) Join
}

// Join names a group of objects.
type Join struct {
	Namespace, Name string
	Alone           *source.Object // this one, which is a group by itself
}

// Memory reads snapshots one after the other, and of each only what is not as in
// the one before, told by the objects' pointers: what it understood of the rest
// stays the same, by pointer too. Of an object that is not valid any more the
// version that was stays in effect; see keep. Not for concurrent use.
type Memory struct {
	readers []Reader
	groups  []map[Join]*group
	kept    []map[key]*source.Object // by reader; see keep

	read     bool // what follows is of the last snapshot
	last     source.Snapshot
	fragment model.Fragment
	notices  []model.Notice
}

// group is objects that were read together, and what came of it.
type group struct {
	objects, now []*source.Object
	fragment     model.Fragment
	notices      []model.Notice
	kept         map[key]*source.Object // see keep
}

// NewMemory makes a Memory of readers.
func NewMemory(readers []Reader) *Memory {
	m := &Memory{readers: readers}
	for range readers {
		m.groups = append(m.groups, map[Join]*group{})
		m.kept = append(m.kept, nil)
	}
	return m
}

// Reset forgets what was understood, but not what was valid: for when a reader
// panicked.
func (m *Memory) Reset() {
	m.read = false
	for i := range m.groups {
		m.groups[i] = map[Join]*group{}
	}
}

// Read is ReadAll, but for what is not valid any more. What it returns shares with
// what it returned before.
func (m *Memory) Read(snap source.Snapshot) (model.Fragment, []model.Notice) {
	if !m.patch(snap) {
		m.read = false // should a reader panic
		m.fragment, m.notices = m.whole(snap)
		m.last, m.read = snap, true
	}
	return m.fragment, m.notices
}

func (m *Memory) whole(snap source.Snapshot) (model.Fragment, []model.Notice) {
	kept := make([]map[key]*source.Object, len(m.readers))
	f, notices := readAll(m.readers, snap, func(i int, objects []*source.Object, take func(model.Fragment, []model.Notice)) {
		r := m.readers[i]
		joiner, ok := r.(Joiner)
		order := make([]*group, 0, len(m.groups[i]))
		for _, o := range objects {
			var k Join
			if ok {
				k = joiner.Join(o)
			}
			g := m.groups[i][k]
			if g == nil {
				g = &group{}
				m.groups[i][k] = g
			}
			if len(g.now) == 0 {
				order = append(order, g)
			}
			g.now = append(g.now, o)
		}
		for _, g := range order {
			if !slices.Equal(g.objects, g.now) {
				m.keep(i, g)
				g.objects = g.now
				g.now = nil
			}
			g.now = g.now[:0]
			if kept[i] == nil && g.kept != nil {
				kept[i] = map[key]*source.Object{}
			}
			maps.Copy(kept[i], g.kept)
			take(g.fragment, g.notices)
		}
		if len(order) < len(m.groups[i]) {
			m.forget(i, order)
		}
	})
	m.kept = kept
	return f, notices
}

// forget drops the groups that are not among those of the newest snapshot.
func (m *Memory) forget(i int, order []*group) {
	still := make(map[*group]bool, len(order))
	for _, g := range order {
		still[g] = true
	}
	for k, g := range m.groups[i] {
		if !still[g] {
			delete(m.groups[i], k)
		}
	}
}
