package dialect

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// key names an object over time, whatever its version and file.
type key struct{ group, kind, namespace, name string }

func keyOf(o *source.Object) key { return key{Group(o.APIVersion), o.Kind, o.Namespace, o.Name} }

// keep reads the objects that a group has now. One that a reader tells an error
// of is read as it was when it was last valid, if it ever was since this Memory
// began; it is until then a reader's choice what a bad object means. What the
// user is told is of the object as it is now, and what is in effect instead.
//
// Readers that are no Joiners see relations between objects, which are as they
// are: there only objects that mean nothing at all are kept.
func (m *Memory) keep(reader int, g *group) {
	r := m.readers[reader]
	g.fragment, g.notices = r.Read(g.now)
	g.kept = nil
	_, alone := r.(Joiner)
	var objects []*source.Object // with the old versions; nil: there are none
	for i, o := range g.now {
		if !bad(g.notices, o, !alone) {
			continue
		}
		if g.kept == nil {
			g.kept = map[key]*source.Object{}
		}
		old := m.valid(reader, o)
		g.kept[keyOf(o)] = old
		n := model.Notice{Severity: model.Warning, Reason: model.Invalid, Origin: o.Origin("")}
		for _, x := range g.notices { // it stands behind what is wrong
			if about(x, o) {
				n.Origin.Line = max(n.Origin.Line, x.Origin.Line)
			}
		}
		switch {
		case old != nil:
			if objects == nil {
				objects = slices.Clone(g.now)
			}
			objects[i] = old
			n.Text = "the version before, which was valid, stays in effect until this one is mended or removed"
		case bad(g.notices, o, true) || len(g.now) == 1 && g.fragment.Empty():
			n.Text = "it is not in effect, nor is there a version before that was valid"
		default:
			continue // the reader has said what a part that is wrong means
		}
		g.notices = append(slices.Clip(g.notices), n)
	}
	if objects != nil {
		g.fragment, _ = r.Read(objects)
	}
}

// bad reports whether there is an error about an object; void: one that puts the
// whole of it out of effect.
func bad(notices []model.Notice, o *source.Object, void bool) bool {
	return slices.ContainsFunc(notices, func(n model.Notice) bool {
		return about(n, o) && (n.Void || !void)
	})
}

func about(n model.Notice, o *source.Object) bool {
	return n.Severity == model.Error && n.Origin.Kind == o.Kind && n.Origin.Namespace == o.Namespace && n.Origin.Name == o.Name
}

// valid is the newest version of an object that was valid; nil: there is none.
func (m *Memory) valid(reader int, o *source.Object) *source.Object {
	k := keyOf(o)
	if old, was := m.kept[reader][k]; was {
		return old
	}
	for _, old := range m.last.Objects {
		if keyOf(old) == k {
			return old
		}
	}
	return nil
}
