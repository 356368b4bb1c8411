package feed

import (
	"maps"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Patience with what a node names and is not there yet.
const (
	// patience is for endpoints, route tables, secrets, and for clusters
	// before the first answer about clusters.
	patience = 5 * time.Second
	// clusterPatience is for clusters later. A control plane sends clusters
	// before the routes to them, so that what is missing then is missing for
	// good, as a rule; the route answers NC.
	clusterPatience = 500 * time.Millisecond
	// afterlife is how long something that is gone stays while a published
	// node names it.
	afterlife = 5 * time.Second
)

// ref is something that a node names.
type ref struct {
	kind kind
	name string
}

// warmer decides what is published. Owned by the feed's goroutine.
type warmer struct {
	snap *conf.Snapshot
	// dirty are names whose entries changed since the last compute.
	dirty [kinds]map[string]bool
	// pending are nodes that wait for what they name.
	pending [kinds]map[string]bool
	// leaving are published nodes that are gone, and since when.
	leaving [kinds]map[string]time.Time
	// vain are what was waited for long enough; nobody waits for it again
	// before it has come.
	vain map[ref]bool
	// ahead is until when what came first waits for what names it; zero: nothing.
	ahead time.Time
}

func newWarmer() *warmer {
	w := &warmer{snap: conf.NewSnapshot(), vain: map[ref]bool{}}
	for k := range kinds {
		w.dirty[k], w.pending[k], w.leaving[k] = map[string]bool{}, map[string]bool{}, map[string]time.Time{}
	}
	return w
}

// todo is how many names compute has to look at.
func (w *warmer) todo() (n int) {
	for k := range kinds {
		n += len(w.dirty[k]) + len(w.pending[k]) + len(w.leaving[k])
	}
	return n
}

// anticipation is how long clusters that came first wait for what names them.
const anticipation = 5 * time.Millisecond

// ahead reports whether all that is new are clusters and endpoints that nothing
// in force names, while a lookup flies: its answer comes right behind them, and
// one snapshot tells of all.
func (f *Feed) ahead(now time.Time) bool {
	w := f.warm
	if f.demand == nil || f.demand.off || f.demand.flying == 0 || !f.published || f.unpublished != nil || len(f.demand.marked) > 0 {
		return false
	}
	for k := range kinds {
		if len(w.pending[k])+len(w.leaving[k]) > 0 || len(w.dirty[k]) > 0 && k != cds && k != eds {
			return false
		}
	}
	if len(w.dirty[cds]) == 0 {
		return false
	}
	for name := range w.dirty[cds] {
		if w.snap.Clusters[name] != nil {
			return false
		}
	}
	for name := range w.dirty[eds] {
		if w.snap.Endpoints[name] != nil {
			return false
		}
	}
	if w.ahead.IsZero() {
		w.ahead = now.Add(anticipation)
	}
	return w.ahead.After(now)
}

// draft is the next snapshot while it is made; maps are copied when they are
// first written.
type draft struct {
	s      conf.Snapshot
	copied [kinds]bool
	change bool
}

func own[V any](d *draft, k kind, m *map[string]V) map[string]V {
	if !d.copied[k] {
		*m = maps.Clone(*m)
		d.copied[k] = true
	}
	d.change = true
	return *m
}

// get is the published node, nil when there is none.
func (d *draft) get(k kind, name string) any {
	switch k {
	case cds:
		if n := d.s.Clusters[name]; n != nil {
			return n
		}
	case eds:
		if n := d.s.Endpoints[name]; n != nil {
			return n
		}
	case lds:
		if n := d.s.Listeners[name]; n != nil {
			return n
		}
	case rds:
		if n := d.s.Routes[name]; n != nil {
			return n
		}
	case sds:
		if n := d.s.Secrets[name]; n != nil {
			return n
		}
	case nds:
		if n := d.s.Names; n != nil {
			return n
		}
	case idx:
		if n := d.s.Index; n != nil {
			return n
		}
	}
	return nil
}

func (d *draft) set(k kind, name string, node any) {
	switch n := node.(type) {
	case *conf.Cluster:
		own(d, k, &d.s.Clusters)[name] = n
	case *conf.Endpoints:
		own(d, k, &d.s.Endpoints)[name] = n
	case *conf.Listener:
		own(d, k, &d.s.Listeners)[name] = n
	case *conf.RouteTable:
		own(d, k, &d.s.Routes)[name] = n
	case *conf.Secret:
		own(d, k, &d.s.Secrets)[name] = n
	case *conf.NameTable:
		d.s.Names, d.change = n, true
	case *ext.Index:
		d.s.Index, d.change = n, true
	}
}

func (d *draft) drop(k kind, name string) {
	switch k {
	case cds:
		delete(own(d, k, &d.s.Clusters), name)
	case eds:
		delete(own(d, k, &d.s.Endpoints), name)
	case lds:
		delete(own(d, k, &d.s.Listeners), name)
	case rds:
		delete(own(d, k, &d.s.Routes), name)
	case sds:
		delete(own(d, k, &d.s.Secrets), name)
	case nds:
		d.s.Names, d.change = nil, true
	case idx:
		d.s.Index, d.change = nil, true
	}
}

// upwards is the order in which nodes are published: what is named first.
var upwards = [kinds]kind{idx, eds, sds, cds, rds, lds, nds, hst}

// compute brings the snapshot nearer to the stores. It returns the next one,
// nil when nothing changed, and when to come again; zero: no need.
func (f *Feed) compute(now time.Time) (*conf.Snapshot, time.Time) {
	w := f.warm
	w.ahead = time.Time{}
	d := &draft{s: *w.snap}
	var wake time.Time
	soon := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	for _, k := range upwards {
		names := w.dirty[k]
		w.dirty[k] = map[string]bool{}
		for n := range w.pending[k] {
			names[n] = true
		}
		clear(w.pending[k])
		for name := range names {
			f.consider(d, k, name, now, soon)
		}
	}
	f.bury(d, now, soon)
	if !d.change {
		return nil, wake
	}
	d.s.Version++
	w.snap = &d.s
	return w.snap, wake
}

// consider publishes the node of that name, lets it wait, or lets it leave.
func (f *Feed) consider(d *draft, k kind, name string, now time.Time, soon func(time.Time)) {
	w := f.warm
	node, e := f.current(k, name)
	have := d.get(k, name)
	if node == nil {
		if _, going := w.leaving[k][name]; have != nil && !going {
			w.leaving[k][name] = now
		}
		return
	}
	delete(w.leaving[k], name)
	if node == have {
		return
	}
	if e != nil {
		if until := f.waits(d, k, e, now); !until.IsZero() {
			w.pending[k][name] = true
			soon(until)
			return
		}
	}
	if have != nil && (k == lds || k == cds) {
		old := needs(have)
		f.resub = f.resub || f.renamed(&old, e.needs)
	}
	d.set(k, name, node)
	delete(w.vain, ref{k, name})
}

// current is what should be published: the last good node, or a secret of our
// own.
func (f *Feed) current(k kind, name string) (any, *entry) {
	e := f.stores[k].entries[name]
	if e != nil && e.node != nil {
		return e.node, e
	}
	if k == sds {
		if s := f.local[name]; s != nil {
			return s, nil
		}
	}
	return nil, nil
}

// waits returns until when e has to wait for what it names; zero: not at all.
func (f *Feed) waits(d *draft, k kind, e *entry, now time.Time) time.Time {
	var until time.Time
	check := func(k kind, names []string) {
		for _, name := range names {
			r := ref{k, name}
			if f.there(d, r) {
				delete(f.warm.vain, r)
				continue
			}
			if f.warm.vain[r] {
				continue
			}
			limit := patience
			if k == cds && f.stores[cds].answered && f.stores[cds].entries[name] == nil {
				limit = clusterPatience
			}
			if t := e.since.Add(limit); t.After(now) {
				if t.After(until) {
					until = t
				}
			} else {
				f.warm.vain[r] = true
			}
		}
	}
	check(rds, e.needs.Routes)
	check(cds, e.needs.Clusters)
	check(eds, e.needs.Endpoints)
	check(sds, e.needs.Secrets)
	return until
}

// there reports whether r is published, or said not to exist.
func (f *Feed) there(d *draft, r ref) bool {
	if d.get(r.kind, r.name) != nil || r.kind == sds && isFile(r.name) {
		return true
	}
	e := f.stores[r.kind].entries[r.name]
	return e != nil && e.gone
}

// isFile reports whether a secret rests in files of this machine.
func isFile(name string) bool { return strings.HasPrefix(name, "file-") }

// bury drops what left: at once when nothing published names it, else after a
// time.
func (f *Feed) bury(d *draft, now time.Time, soon func(time.Time)) {
	w := f.warm
	// Downwards, so that what a buried node named can follow in one go.
	for _, k := range []kind{lds, rds, cds, eds, sds, nds, idx} {
		if len(w.leaving[k]) == 0 {
			continue
		}
		named := d.named(k)
		for name, since := range w.leaving[k] {
			if end := since.Add(afterlife); named[name] && end.After(now) {
				soon(end)
				continue
			}
			delete(w.leaving[k], name)
			if d.get(k, name) != nil {
				d.drop(k, name)
				f.resub = f.resub || k == lds || k == cds
			}
		}
	}
}

// named are the names of a kind that published nodes use.
func (d *draft) named(k kind) map[string]bool {
	out := map[string]bool{}
	add := func(n conf.Needs) {
		for _, s := range [kinds][]string{cds: n.Clusters, eds: n.Endpoints, rds: n.Routes, sds: n.Secrets}[k] {
			out[s] = true
		}
	}
	if k == lds {
		return out
	}
	for _, l := range d.s.Listeners {
		add(l.Needs())
	}
	if k == cds {
		for _, t := range d.s.Routes {
			add(t.Needs())
		}
	}
	if k == eds || k == sds {
		for _, c := range d.s.Clusters {
			add(c.Needs())
		}
	}
	return out
}

// waiting lists what is not published yet, for status.
func (w *warmer) waiting() int {
	n := 0
	for k := range kinds {
		n += len(w.pending[k])
	}
	return n
}
