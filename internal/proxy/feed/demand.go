package feed

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Bounds of lookups; see ARCHITECTURE.md, "On demand: the contract".
const (
	maxNames   = 4096 // asked for, those that wait to be among them
	maxFlight  = 64   // not answered yet
	perSecond  = 200
	atOnce     = 1000            // what a program asks for as it starts
	maxWaiting = 2 * perSecond   // for their turn
	patient    = 2 * time.Second // so long does who asks wait
	evictions  = maxNames / 64   // names that make room at once
)

// Demand makes a feed ask for destinations when they are first used, instead of
// for all of them.
type Demand struct {
	// Lookups are the questions of the loops, who never wait to write them.
	Lookups <-chan conf.Lookup
	// Learn is called, as Publish is and after it, when more is known; Answered
	// after it with the lookups that it answers.
	Learn    func(*conf.Learnt)
	Answered func([]conf.Lookup)
	Counts   *Counts
}

// Counts of lookups. Safe for concurrent use.
type Counts struct {
	Found, None atomic.Uint64 // answered: there is such a thing; there is none
	Late        atomic.Uint64 // not answered within two seconds
	Refused     atomic.Uint64 // not asked, because of a bound
	Evicted     atomic.Uint64 // names that had to make room
	Names       atomic.Int64  // that are known or asked for
	Flight      atomic.Int64  // that are asked for and not answered
}

// lookup is a name that is asked for.
type lookup struct {
	ref
	state  lookupState
	since  time.Time    // when it came to this state
	flying bool         // counts as not answered
	no     *conf.Answer // in state none
}

type lookupState uint8

const (
	queued lookupState = iota // waits for its turn
	asked
	none  // there is no such
	found // there is; what it leads to may have to wait for what that names
)

// demand is what a feed on demand keeps. A nil one asks for everything. Owned by
// the feed's goroutine.
type demand struct {
	f     *Feed
	c     *Demand
	asked map[ref]*lookup
	// to is the resource that a name leads to, its own name and those that nobody
	// asked for among them; names is the reverse, by resource.
	to    map[ref]string
	names map[ref][]string
	// marked are names whose answer may be another than the one in learnt.
	marked  map[ref]bool
	again   []ref                // known names that were asked for
	answers map[ref]*conf.Answer // by resource
	told    map[ref]*conf.Answer // by name: what learnt says
	learnt  *conf.Learnt
	// off: the control plane has no index for us, and everything is asked for.
	off    bool
	queue  []*lookup // in order; those that are forgotten since among them
	flight []*lookup // likewise
	flying int
	tokens float64
	filled time.Time // when tokens was counted
}

func newDemand(f *Feed, c *Demand) *demand {
	return &demand{f: f, c: c, asked: map[ref]*lookup{}, to: map[ref]string{}, names: map[ref][]string{},
		marked: map[ref]bool{}, answers: map[ref]*conf.Answer{}, told: map[ref]*conf.Answer{}, tokens: atOnce}
}

var lookupKinds = [...]kind{conf.LookupListener: lds, conf.LookupRoutes: rds, conf.LookupHost: hst}

// question is what r answers.
func (r ref) question() conf.Lookup {
	return conf.Lookup{Kind: conf.LookupKind(slices.Index(lookupKinds[:], r.kind)), Name: r.name}
}

// canAsk reports whether a name of a kind is one that lookups ask for.
func canAsk(k kind, name string) bool {
	switch k {
	case lds:
		_, ok := ext.ParseLookup(name)
		return ok
	case rds:
		p, ok := ext.ParseLookup(name)
		return ok && p.Host != ""
	}
	return k == hst
}

// lookups is where the questions come from.
func (f *Feed) lookups() <-chan conf.Lookup {
	if f.demand == nil {
		return nil
	}
	return f.demand.c.Lookups
}

// own reports whether a resource comes without being looked up.
func (d *demand) own(k kind, name string) bool { return d == nil || d.off || !canAsk(k, name) }

// namesOf are the names that lead to a resource and were asked for.
func (d *demand) namesOf(k kind, name string) []string {
	if d == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(d.names[ref{k, name}]), func(n string) bool { return d.asked[ref{k, n}] == nil })
}

// wants reports whether x answers a lookup.
func (d *demand) wants(k kind, x *resource) bool {
	if d == nil || !canAsk(k, x.name) {
		return false
	}
	if d.asked[ref{k, x.name}] != nil {
		return true
	}
	return slices.ContainsFunc(x.aliases, func(n string) bool { return d.asked[ref{k, n}] != nil })
}

// holds reports whether a resource is kept because a lookup leads to it.
func (d *demand) holds(k kind, name string) bool {
	return len(d.namesOf(k, name)) > 0
}

// wildcard is how all that comes without a lookup is subscribed to on a new
// stream, with the names that are looked up already.
func (d *demand) wildcard(k kind) []string {
	if d == nil || d.off || k == nds {
		return nil
	}
	var names []string
	for r, l := range d.asked {
		if r.kind == k && l.state != queued {
			names = append(names, r.name)
		}
	}
	slices.Sort(names)
	return append([]string{"*"}, names...)
}

// look takes a question. What is known is answered, and told in the next settle.
func (d *demand) look(q conf.Lookup) {
	r := ref{lookupKinds[q.Kind], q.Name}
	if d.asked[r] != nil || d.to[r] != "" {
		d.again = append(d.again, r) // perhaps the answer came while the question was on its way
		return
	}
	if !canAsk(r.kind, r.name) || len(r.name) > maxName || len(d.queue) >= maxWaiting || len(d.asked) >= maxNames && !d.evict() {
		d.c.Counts.Refused.Add(1)
		return
	}
	l := &lookup{ref: r, since: time.Now()}
	d.asked[r] = l
	d.queue = append(d.queue, l)
	d.c.Counts.Names.Store(int64(len(d.asked)))
}

// evict makes room by some of what was not used for the longest time. While
// nobody can be asked, nothing is given away.
func (d *demand) evict() bool {
	if d.f.link == nil {
		return false
	}
	type aged struct {
		*lookup
		used int64
	}
	var all []aged
	for r, l := range d.asked {
		used := conf.Seconds(l.since)
		if l.state == none {
			used = l.no.Used()
		} else if a := d.answers[ref{r.kind, d.to[r]}]; l.state == found && a != nil {
			used = a.Used()
		}
		if l.state != queued {
			all = append(all, aged{l, used})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Or(cmp.Compare(a.used, b.used), a.since.Compare(b.since)) })
	all = all[:min(len(all), evictions)]
	for _, a := range all {
		d.c.Counts.Evicted.Add(1)
		d.forget(a.lookup)
	}
	return len(all) > 0
}

// forget ends a lookup.
func (d *demand) forget(l *lookup) {
	d.land(l)
	delete(d.asked, l.ref)
	d.marked[l.ref] = true
	d.c.Counts.Names.Store(int64(len(d.asked)))
	if l.state == queued {
		return
	}
	delete(d.f.stores[l.kind].asked, l.name)
	d.f.ask(l.kind, nil, []string{l.name})
	d.f.disk.plain.soon()
	if to := d.to[l.ref]; to != "" {
		d.sweep(ref{l.kind, to})
	}
}

// land notes that a lookup does not wait for its answer any more.
func (d *demand) land(l *lookup) {
	if l.flying {
		l.flying = false
		d.flying--
		d.c.Counts.Flight.Store(int64(d.flying))
	}
}

// sweep forgets a resource that no name leads to any more.
func (d *demand) sweep(r ref) {
	if d.holds(r.kind, r.name) {
		return
	}
	for _, n := range d.names[r] {
		if d.to[ref{r.kind, n}] == r.name {
			delete(d.to, ref{r.kind, n})
			d.marked[ref{r.kind, n}] = true
		}
	}
	delete(d.names, r)
	delete(d.answers, r)
	s := d.f.stores[r.kind]
	delete(d.f.refused, r)
	if s.entries[r.name] != nil {
		delete(s.entries, r.name)
		d.f.disk.note(r.kind, r.name, "", nil)
		d.f.touch(r.kind, r.name)
	}
}

// pump asks what may be asked now.
func (d *demand) pump(now time.Time) {
	if d == nil {
		return
	}
	for len(d.flight) > 0 && (!d.flight[0].flying || now.Sub(d.flight[0].since) >= patient) {
		if l := d.flight[0]; l.flying {
			d.c.Counts.Late.Add(1)
			d.land(l)
		}
		d.flight = d.flight[1:]
	}
	for len(d.queue) > 0 && now.Sub(d.queue[0].since) >= patient {
		if l := d.queue[0]; d.asked[l.ref] == l {
			d.c.Counts.Refused.Add(1)
			d.forget(l)
		}
		d.queue = d.queue[1:]
	}
	d.tokens = min(atOnce, d.tokens+now.Sub(d.filled).Seconds()*perSecond)
	d.filled = now
	if d.f.link == nil {
		return
	}
	var more [kinds][]string
	for len(d.queue) > 0 && d.tokens >= 1 && d.flying < maxFlight {
		l := d.queue[0]
		d.queue = d.queue[1:]
		if d.asked[l.ref] != l {
			continue
		}
		d.tokens--
		d.fly(l, now)
		if s := d.f.stores[l.kind]; s.asked != nil {
			s.asked[l.name] = true
		}
		more[l.kind] = append(more[l.kind], l.name)
	}
	for k, names := range more {
		if len(names) > 0 {
			d.f.ask(kind(k), names, nil)
		}
	}
}

// fly notes that a lookup was sent.
func (d *demand) fly(l *lookup, now time.Time) {
	if l.state == queued {
		l.state = asked
	}
	l.since = now
	if !l.flying {
		l.flying = true
		d.flying++
		d.flight = append(d.flight, l)
		d.c.Counts.Flight.Store(int64(d.flying))
	}
}

// due is when pump should be called; zero: no need.
func (d *demand) due() time.Time {
	var t time.Time
	if d == nil {
		return t
	}
	sooner := func(x time.Time) {
		if t.IsZero() || x.Before(t) {
			t = x
		}
	}
	if len(d.flight) > 0 {
		sooner(d.flight[0].since.Add(patient))
	}
	if len(d.queue) > 0 {
		sooner(d.queue[0].since.Add(patient))
		if d.f.link != nil && d.flying < maxFlight {
			sooner(d.filled.Add(time.Duration((1 - d.tokens) / perSecond * float64(time.Second))).Add(time.Millisecond))
		}
	}
	return t
}

// attached is called when a stream is new: all names are asked for in its first
// requests.
func (d *demand) attached() {
	if d == nil {
		return
	}
	for _, l := range d.asked {
		if l.state == asked {
			d.fly(l, time.Now())
		}
	}
}

// lead takes up which names a resource that is wanted has.
func (d *demand) lead(k kind, x *resource) {
	if d == nil || d.off || !canAsk(k, x.name) {
		return
	}
	r := ref{k, x.name}
	now := append([]string{x.name}, x.aliases...)
	before := d.names[r]
	d.names[r] = now
	for _, n := range before {
		if m := (ref{k, n}); d.to[m] == x.name && !slices.Contains(now, n) {
			delete(d.to, m)
			d.marked[m] = true
			if l := d.asked[m]; l != nil && l.state == found {
				l.state = asked // what it leads to now is still to come
			}
		}
	}
	for _, n := range now {
		m := ref{k, n}
		d.marked[m] = true
		old := d.to[m]
		d.to[m] = x.name
		if old != "" && old != x.name {
			d.drop(ref{k, old}, n)
		}
		if l := d.asked[m]; l != nil && l.state != found {
			d.answered(l, found)
		}
	}
	d.f.disk.plain.soon()
}

// drop takes a name from a resource.
func (d *demand) drop(r ref, name string) {
	d.names[r] = slices.DeleteFunc(slices.Clone(d.names[r]), func(n string) bool { return n == name })
	d.sweep(r)
}

func (d *demand) answered(l *lookup, s lookupState) {
	d.land(l)
	l.state, l.since, l.no = s, time.Now(), nil
	d.marked[l.ref] = true
	if s == found {
		d.c.Counts.Found.Add(1)
	} else {
		d.c.Counts.None.Add(1)
		l.no = fresh(&conf.Answer{}, nil)
	}
	d.f.disk.plain.soon()
}

// deny takes up that there is no such. It reports false for what is no lookup.
func (d *demand) deny(k kind, name string) bool {
	if d == nil {
		return false
	}
	if !canAsk(k, name) || d.off {
		return false
	}
	for _, n := range append(d.namesOf(k, name), name) {
		r := ref{k, n}
		if l := d.asked[r]; l != nil && l.state != none {
			d.answered(l, none)
		}
		if to := d.to[r]; to != "" {
			delete(d.to, r)
			d.drop(ref{k, to}, n)
		}
	}
	return true
}

// precede is called before a snapshot is published: no connection may be accepted
// that does not know that there is something to look up.
func (d *demand) precede(s *conf.Snapshot) {
	if d == nil || d.learnt != nil || s.Index == nil {
		return
	}
	d.learnt = conf.NewLearnt(s.Index)
	d.ports(s.Index)
	d.c.Learn(d.learnt)
}

// settle tells the loops what is known now. The snapshot of warm is published.
func (d *demand) settle() {
	if d == nil {
		return
	}
	if d.f.warm.snap.Index == nil {
		d.end()
		return
	}
	changes := map[conf.Lookup]*conf.Answer{}
	var answers []conf.Lookup
	var hosts []*ext.Host
	for r := range d.marked {
		a, final := d.answer(r)
		if final {
			delete(d.marked, r)
		}
		if a == d.told[r] {
			continue
		}
		changes[r.question()] = a
		if a == nil {
			delete(d.told, r)
			continue
		}
		d.told[r] = a
		answers = append(answers, r.question())
		if a.Host != nil {
			hosts = append(hosts, a.Host)
		}
	}
	for _, r := range d.again {
		if d.told[r] != nil {
			answers = append(answers, r.question())
		}
	}
	d.again = d.again[:0]
	if index := d.f.warm.snap.Index; index != d.learnt.Index || len(changes) > 0 {
		if index != d.learnt.Index {
			d.ports(index)
		}
		d.learnt = d.learnt.With(index, changes)
		d.c.Learn(d.learnt)
	}
	if len(answers) > 0 {
		d.c.Answered(answers)
	}
	for _, h := range hosts {
		d.prefetch(h)
	}
}

// maxPorts is how many ports' own listeners are asked for ahead.
const maxPorts = 64

// ports asks for the listeners of the index' ports, so that what passes need
// not wait.
func (d *demand) ports(x *ext.Index) {
	for _, p := range x.Ports[:min(len(x.Ports), maxPorts)] {
		d.look(conf.Lookup{Kind: conf.LookupListener, Name: ext.PortListener(p.Number)})
	}
}

// prefetch asks for what connections to a host will ask for, when there is room
// for it.
func (d *demand) prefetch(h *ext.Host) {
	ask := func(k conf.LookupKind, names []string) {
		for _, n := range names {
			if len(d.queue) < maxWaiting/2 {
				d.look(conf.Lookup{Kind: k, Name: n})
			}
		}
	}
	ask(conf.LookupListener, h.Listeners)
	ask(conf.LookupRoutes, h.Routes)
}

// answer is what is known about a name; final: until it is marked again.
func (d *demand) answer(r ref) (a *conf.Answer, final bool) {
	if l := d.asked[r]; l != nil && l.state == none {
		return l.no, true
	}
	to := ref{r.kind, d.to[r]}
	if to.name == "" {
		return nil, true
	}
	e := d.f.stores[to.kind].entries[to.name]
	if e == nil || e.node == nil {
		return nil, false
	}
	a = &conf.Answer{}
	switch to.kind {
	case hst:
		a.Host, final = e.node.(*ext.Host), true
	case lds:
		a.Listener = d.f.warm.snap.Listeners[to.name]
		final = a.Listener == e.node
	case rds:
		a.Routes = d.f.warm.snap.Routes[to.name]
		final = a.Routes == e.node
	}
	if a.None() { // waits for what it names
		return nil, false
	}
	if old := d.answers[to]; old != nil && old.Same(a) {
		return old, final
	}
	d.answers[to] = fresh(a, d.answers[to])
	return d.answers[to], final
}

// fresh makes a an answer that was used now, or when old was.
func fresh(a, old *conf.Answer) *conf.Answer {
	a.Use(conf.Seconds(time.Now()))
	if old != nil {
		a.Use(old.Used())
	}
	return a
}
