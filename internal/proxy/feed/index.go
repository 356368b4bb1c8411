package feed

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// A control plane that knows of the index speaks of it before anything else, and
// again at the beginning of every stream. One that says that there is none, or
// that speaks of other things first (as older ones do, and those of others), is
// asked for everything, as by a feed that never heard of lookups. The next
// stream may find another control plane, so that the index is always asked for.

// heard takes note of a response before it is read.
func (d *demand) heard(k kind) {
	if d == nil || k == idx || d.f.stores[idx].answered {
		return
	}
	d.f.stores[idx].answered = true
	if d.f.remove(idx, ext.IndexName) {
		d.f.touch(idx, ext.IndexName)
	}
	d.indexed()
}

// settled reports whether it is known if there is an index. One that was refused
// is not known to be none.
func (d *demand) settled() bool {
	return d == nil || d.f.stores[idx].answered && (d.off || d.f.stores[idx].entries[ext.IndexName].has())
}

// has reports whether there is a good version.
func (e *entry) has() bool { return e != nil && e.node != nil }

// indexed is called when the control plane has spoken of the index.
func (d *demand) indexed() {
	off := d.f.stores[idx].entries[ext.IndexName].gone
	if d.off == off {
		return
	}
	if d.off = off; off {
		d.f.c.Log.Warn("the control plane does not know of lookups: everything is asked for")
		d.everything()
		return
	}
	d.f.c.Log.Info("the control plane knows of lookups: what is used is asked for")
	for _, k := range []kind{eds, rds, lds} {
		s := d.f.stores[k]
		less := slices.Sorted(maps.Keys(s.asked))
		s.asked = nil
		d.f.ask(k, d.wildcard(k), less)
	}
	for _, k := range []kind{lds, rds} { // what everything has brought until now
		for name := range d.f.stores[k].entries {
			if canAsk(k, name) && !d.holds(k, name) {
				d.f.strike(k, name)
			}
		}
	}
}

// everything asks as a feed does that looks nothing up: for the endpoints and the
// route tables that others name, and for the names of the mesh.
func (d *demand) everything() {
	for _, k := range []kind{eds, rds} {
		s := d.f.stores[k]
		less := []string{"*"}
		for r := range d.asked {
			if r.kind == k {
				less = append(less, r.name)
			}
		}
		s.asked = map[string]bool{}
		for name := range s.entries {
			if !canAsk(k, name) {
				s.asked[name] = true
			}
		}
		d.f.ask(k, slices.Sorted(maps.Keys(s.asked)), less)
	}
	if d.f.c.Names {
		d.f.ask(nds, nil, nil)
	}
	d.f.resub = true
}

// end stops looking up when the whole mesh is there; until then what was learnt
// is in force, and what is new waits.
func (d *demand) end() {
	if d.learnt == nil || !d.f.stores[cds].answered || !d.f.stores[lds].answered || d.f.warm.waiting() > 0 {
		return
	}
	d.learnt = nil
	d.c.Learn(nil)
	var all []conf.Lookup
	for r := range d.asked {
		all = append(all, r.question())
		if r.kind == hst {
			delete(d.f.stores[hst].asked, r.name)
		}
	}
	d.c.Answered(all) // they find their way without
	for _, m := range []map[ref]*conf.Answer{d.answers, d.told} {
		clear(m)
	}
	clear(d.asked)
	clear(d.to)
	clear(d.names)
	clear(d.marked)
	d.queue, d.flight, d.flying, d.again = nil, nil, 0, nil
	d.c.Counts.Names.Store(0)
	d.c.Counts.Flight.Store(0)
	for _, k := range []kind{lds, rds, hst} {
		for name := range d.f.stores[k].entries {
			if p, _ := ext.ParseLookup(name); k == hst || p.Host != "" && !d.f.stores[k].asked[name] {
				d.f.strike(k, name)
			}
		}
	}
	d.f.disk.plain.soon()
}

// strike forgets a resource that nobody wants any more.
func (f *Feed) strike(k kind, name string) {
	delete(f.stores[k].entries, name)
	f.disk.note(k, name, "", nil)
	f.touch(k, name)
}
