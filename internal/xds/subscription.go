package xds

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// maxChunk bounds the bodies of one response, in bytes, where the protocol
// lets a response be a part. One resource may be larger.
const maxChunk = 2 << 20

// gone stands in subscription.sent for a name that the client was told does
// not exist.
var gone = &Resource{}

// unknown stands in subscription.sent for a name of which the client may hold
// what it was sent last, or not: it was in a response that was refused for
// something else. It is sent again, or removed.
var unknown = &Resource{}

// subscription is what one client wants of one type, what it has been told,
// and what it refused. Owned by the stream's goroutine.
type subscription struct {
	typeURL string
	delta   bool
	// full: state-of-the-world listeners and clusters, where a response is the
	// whole state and what it leaves out is removed.
	full bool

	wildcard bool
	implicit bool // wildcard because the client has never named anything
	names    map[string]bool

	// sent is the version that the client holds as far as we know, by name:
	// what was sent last, unless it was refused.
	sent map[string]*Resource
	// bad is the version that the client refused, by name.
	bad map[string]string
	// again holds names that must be sent even if the client has them.
	again map[string]bool
	// owed: a response is due even if it is empty.
	owed bool
	// suspects are groups of names, one of which was refused by a client that
	// did not say which; they are sent one group at a time until the culprit
	// is found.
	suspects [][]string

	// Of a client that asks for what it uses: which resource it was told that a
	// name leads to, where that has another name, and the reverse.
	demand bool
	told   map[string]string
	leads  map[string][]string

	last   string  // nonce of the newest response; empty: none yet
	flight *flight // the response that was not yet answered
	// missed are responses that were not answered in time, by nonce.
	missed map[string]map[string]*Resource // what was news in them, by name

	// all: everything has to be compared. Else todo holds the names that have to.
	all    bool
	todo   map[string]bool
	absent int // of sent: names that the client was told do not exist
}

// flight is an unanswered response.
type flight struct {
	changed []string             // names of the resources that were news
	before  map[string]*Resource // what the client held of them
	removed map[string]*Resource // what the client held of what it was told is gone; nil: nothing
}

// response is one message to the client, of either protocol.
type response struct {
	typeURL   string
	nonce     string
	resources []*Resource
	removed   []string            // delta only
	aliases   map[string][]string // of resources, by name; delta only
	causes    [causes]uint64      // of what is news in it
}

// why r is sent to a client that has what it has of that name.
func (s *subscription) why(r, have *Resource) Cause {
	switch {
	case have == nil || have == gone:
		if s.names[r.Name] || len(s.leads[r.Name]) > 0 {
			return Named
		}
		return Added
	case have != unknown && have.Version != r.Version:
		return Changed
	}
	return Repeated
}

func newSubscription(typeURL string, delta bool) *subscription {
	return &subscription{
		typeURL: typeURL,
		delta:   delta,
		full:    !delta && (typeURL == ListenerType || typeURL == ClusterType),
		names:   map[string]bool{},
		sent:    map[string]*Resource{},
		bad:     map[string]string{},
		again:   map[string]bool{},
		todo:    map[string]bool{},
		told:    map[string]string{},
		leads:   map[string][]string{},
		all:     true,
	}
}

// hold notes what the client holds of a name; nil: nothing, that we know of.
func (s *subscription) hold(name string, r *Resource) {
	if s.sent[name] == gone {
		s.absent--
	}
	if r == nil {
		delete(s.sent, name)
		return
	}
	if r == gone {
		s.absent++
	}
	s.sent[name] = r
}

// look has names compared.
func (s *subscription) look(names ...string) {
	for _, n := range names {
		if _, held := s.sent[n]; held || s.wants(n) {
			s.todo[n] = true
		}
	}
}

// idle reports whether nothing has to be compared.
func (s *subscription) idle() bool { return !s.all && len(s.todo) == 0 }

// wants reports whether the client subscribed to name.
func (s *subscription) wants(name string) bool { return s.wildcard || s.names[name] }

// resubscribe replaces the subscription by the list of a state-of-the-world
// request. It reports whether the client now asks for anything that it did not
// ask for before, and whether it asks for just the same.
func (s *subscription) resubscribe(list []string, first bool) (more, same bool) {
	named := len(list) > 0
	wildcard := slices.Contains(list, "*")
	if !named && (first || s.implicit) {
		wildcard = true
	}
	s.implicit = wildcard && !named
	now := make(map[string]bool, len(list))
	for _, n := range list {
		if n != "*" {
			now[n] = true
			more = more || !s.names[n]
		}
	}
	more = more || wildcard && !s.wildcard
	same = !more && wildcard == s.wildcard && len(now) == len(s.names)
	s.names, s.wildcard = now, wildcard
	if !same {
		s.all = true
		s.forget()
	}
	return more, same
}

// subscribe adds to the subscription of a delta stream. What is asked for is
// sent even if it was sent before: the client may have dropped it. known are
// the versions that a client brings from an earlier stream.
func (s *subscription) subscribe(list []string, known map[string]string, first bool) {
	s.all = s.all || len(known) > 0
	for n, v := range known {
		s.hold(n, &Resource{Type: s.typeURL, Name: n, Version: v})
	}
	if first && s.typeURL == ext.IndexType {
		s.owed = true // also when it has not changed: a client takes silence for "there is none"
	}
	if first && len(list) == 0 {
		s.wildcard, s.implicit, s.owed, s.all = true, true, true, true
		return
	}
	if len(s.names) == 0 {
		s.names = make(map[string]bool, len(list))
	}
	for _, n := range list {
		if n == "*" {
			s.wildcard, s.owed, s.all = true, true, true
			continue
		}
		s.names[n] = true
		if !s.all {
			s.todo[n] = true
		}
		have := s.sent[n]
		if _, has := known[n]; has || have == nil {
			continue // what was never sent is news anyway
		}
		if have == gone {
			s.hold(n, nil)
		}
		s.again[n] = true
	}
	if s.implicit && len(list) > 0 {
		// Once a name is given, the wildcard lasts only if it was asked for.
		s.implicit = false
	}
}

// unsubscribe takes from the subscription of a delta stream.
func (s *subscription) unsubscribe(list []string) {
	for _, n := range list {
		if n == "*" {
			s.wildcard, s.implicit, s.all = false, false, true
			continue
		}
		delete(s.names, n)
		s.todo[n] = true
		s.tell(n, "")
	}
	s.forget()
}

// forget drops what is held about names that are no longer wanted: the client
// drops them too.
func (s *subscription) forget() {
	if s.wildcard {
		return
	}
	unwanted := func(n string) bool { return !s.names[n] && len(s.leads[n]) == 0 }
	for n := range s.sent {
		if unwanted(n) {
			s.hold(n, nil)
		}
	}
	maps.DeleteFunc(s.bad, func(n, _ string) bool { return unwanted(n) })
	maps.DeleteFunc(s.again, func(n string, _ bool) bool { return unwanted(n) })
}

// repeat makes the next response hold everything that the client asked for.
func (s *subscription) repeat() {
	s.owed = true
	for n := range s.names {
		s.again[n], s.todo[n] = true, true
	}
}

// resend makes the next response hold name, if the client has it.
func (s *subscription) resend(name string) {
	if r := s.sent[name]; r != nil && r != gone {
		s.again[name], s.todo[name] = true, true
	}
}

// news reports whether r is to be sent.
func (s *subscription) news(r *Resource) bool {
	if v, refused := s.bad[r.Name]; refused && v == r.Version {
		return false
	}
	have := s.sent[r.Name]
	return have == nil || have == unknown || have.Version != r.Version || s.again[r.Name]
}

// candidates are the names to compare, sorted: of all that the client wants and
// all that it holds.
func (s *subscription) candidates(set *Set) []string {
	if !s.all {
		return slices.DeleteFunc(slices.Sorted(maps.Keys(s.todo)), func(n string) bool { return !s.wants(n) && (!s.wildcard || s.sent[n] == nil) })
	}
	if !s.wildcard {
		return slices.Sorted(maps.Keys(s.names))
	}
	out := slices.Clone(set.Names(s.typeURL))
	for n := range s.names {
		if set.Find(s.typeURL, n) == nil {
			out = append(out, n)
		}
	}
	for n := range s.sent {
		if set.Find(s.typeURL, n) == nil && !s.names[n] {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// next makes the response that brings the client nearer to set, and notes it
// as sent; nil when there is nothing to say. Without removals, what is gone
// from set stays with the client for now.
func (s *subscription) next(set *Set, removals bool) *response {
	if s.idle() && !s.owed {
		return nil
	}
	s.miss()
	group := s.suspectGroup(set)
	f := &flight{before: map[string]*Resource{}, removed: map[string]*Resource{}}
	res := &response{typeURL: s.typeURL}
	size, rest := 0, map[string]bool{}
	var drop []string
	list := s.follow(set, s.candidates(set))
	if len(s.sent) == 0 {
		s.sent = make(map[string]*Resource, len(list))
		f.changed, res.resources = make([]string, 0, len(list)), make([]*Resource, 0, len(list))
	}
	for _, n := range list {
		r, have := set.Find(s.typeURL, n), s.sent[n]
		switch {
		case r == nil && have == gone && !s.again[n]:
		case r == nil && (have == nil || have == gone):
			if s.delta && s.names[n] {
				f.removed[n] = nil
				s.hold(n, gone)
				res.removed = append(res.removed, n)
				res.causes[NotThere]++
			}
			delete(s.again, n)
		case r == nil && removals:
			drop = append(drop, n)
		case r == nil:
			rest[n] = true
		case !s.news(r):
		case group != nil && !slices.Contains(group, n),
			!s.full && len(res.resources) > 0 && size+len(r.Body) > maxChunk:
			rest[n] = true
		default:
			size += len(r.Body)
			res.causes[s.why(r, have)]++
			f.changed = append(f.changed, n)
			if have != nil {
				f.before[n] = have
			}
			s.hold(n, r)
			delete(s.again, n)
			delete(s.bad, n)
			res.resources = append(res.resources, r)
			if also := s.leads[n]; len(also) > 0 {
				if res.aliases == nil {
					res.aliases = map[string][]string{}
				}
				res.aliases[n] = slices.Clone(also)
			}
		}
	}
	if s.delta {
		res.removed = append(res.removed, drop...)
	}
	res.causes[Gone] += uint64(len(drop))
	for _, n := range drop {
		f.removed[n] = s.sent[n]
		s.drop(n)
	}
	s.all, s.todo = false, rest
	say := len(res.resources) > 0 || len(res.removed) > 0 || s.owed || s.full && len(drop) > 0
	s.owed = false
	if !say {
		return nil
	}
	if s.full {
		res.resources = s.everything()
	}
	s.flight = f
	return res
}

// tell notes which resource the client is told that a name leads to; empty: none
// of another name.
func (s *subscription) tell(n, to string) {
	if old := s.told[n]; old != "" {
		if rest := slices.DeleteFunc(s.leads[old], func(x string) bool { return x == n }); len(rest) > 0 {
			s.leads[old] = rest
		} else {
			delete(s.leads, old)
		}
		delete(s.told, n)
	}
	if to != "" {
		s.told[n] = to
		s.leads[to] = append(s.leads[to], n)
	}
}

// follow replaces names that lead to a resource of another name by that name,
// where the client has to be told; a client may bring both from an earlier stream.
func (s *subscription) follow(set *Set, names []string) []string {
	if !s.demand {
		return names
	}
	var more []string
	out := slices.DeleteFunc(names, func(n string) bool {
		r, to := set.Find(s.typeURL, n), ""
		if r != nil && r.Name != n {
			to = r.Name
		}
		if to != s.told[n] {
			s.tell(n, to)
			mine, its := s.sent[n], s.sent[to]
			if to != "" && (mine == nil || its == nil || mine.Version != r.Version || its.Version != r.Version) {
				s.again[to] = true
				more = append(more, to)
			}
		}
		if to != "" {
			if its := s.sent[to]; its == nil || its.Version != r.Version {
				more = append(more, to) // perhaps nobody asked for it by its own name
			}
			s.hold(n, nil)
			delete(s.again, n)
		}
		return to != ""
	})
	for _, n := range more {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// drop notes that the client was told that n is gone.
func (s *subscription) drop(n string) {
	delete(s.bad, n)
	delete(s.again, n)
	if s.delta && s.names[n] {
		s.hold(n, gone)
		return
	}
	s.hold(n, nil)
}

// everything the client is to hold, for a response that is the whole state.
func (s *subscription) everything() []*Resource {
	var out []*Resource
	for _, n := range slices.Sorted(maps.Keys(s.sent)) {
		if s.wants(n) {
			out = append(out, s.sent[n])
		}
	}
	return out
}

// suspectGroup is the group to be tried now; nil when nothing is suspected.
func (s *subscription) suspectGroup(set *Set) []string {
	for len(s.suspects) > 0 {
		for _, n := range s.suspects[0] {
			if r := set.Find(s.typeURL, n); r != nil && s.wants(n) && s.news(r) {
				return s.suspects[0]
			}
		}
		s.suspects = s.suspects[1:]
	}
	s.suspects = nil
	return nil
}

// mostMissed bounds the unanswered responses that are remembered.
const mostMissed = 8

// miss remembers what was news in a response that another one follows unanswered.
func (s *subscription) miss() {
	if s.flight == nil || len(s.flight.changed) == 0 || s.missed[s.last] != nil {
		return
	}
	if s.missed == nil || len(s.missed) >= mostMissed {
		s.missed = map[string]map[string]*Resource{}
	}
	list := map[string]*Resource{}
	for _, n := range s.flight.changed {
		if r := s.sent[n]; r != nil && r != gone && r != unknown {
			list[n] = r
		}
	}
	s.missed[s.last] = list
}

// late notes that a missed response was not taken; what the client was sent since
// stands.
func (s *subscription) late(nonce, text string) []Rejection {
	list, ok := s.missed[nonce]
	if !ok {
		return nil
	}
	delete(s.missed, nonce)
	text = text[:min(len(text), maxReason)]
	names := slices.Sorted(maps.Keys(list))
	guilty := blame(text, names)
	if len(guilty) == 0 && len(names) == 1 {
		guilty = map[string]string{names[0]: text}
	}
	var out []Rejection
	for _, n := range names {
		why, is := guilty[n]
		if !is {
			continue
		}
		out = append(out, Rejection{s.typeURL, n, list[n].Version, why})
		if s.sent[n] == list[n] {
			s.bad[n] = list[n].Version
			s.hold(n, unknown)
		}
	}
	if out == nil {
		out = []Rejection{{Type: s.typeURL, Reason: text}}
	}
	return out
}

// accept notes that the flight was taken.
func (s *subscription) accept() { s.flight = nil }

// refuse notes that the flight was not taken. What the text blames is not sent
// again until it changes; whatever else was new in the response is, because a
// client may refuse a response as a whole. When nothing can be blamed, halves
// are tried.
func (s *subscription) refuse(text string) []Rejection {
	f := s.flight
	s.flight = nil
	defer func() {
		s.look(f.changed...)
		s.look(slices.Collect(maps.Keys(f.removed))...)
	}()
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	if len(f.changed) == 0 {
		return []Rejection{{Type: s.typeURL, Reason: text}}
	}
	// Without what the client has unsubscribed from in the meantime.
	changed := slices.DeleteFunc(slices.Clone(f.changed), func(n string) bool { return s.sent[n] == nil })
	guilty := blame(text, changed)
	if len(guilty) == 0 && len(f.changed) == 1 && len(changed) == 1 {
		guilty = map[string]string{changed[0]: text}
	}
	var out []Rejection
	for _, n := range changed {
		why, is := guilty[n]
		if is {
			out = append(out, Rejection{s.typeURL, n, s.sent[n].Version, why})
			s.bad[n] = s.sent[n].Version
		} else if s.full {
			s.again[n], s.owed = true, true
		} else {
			s.hold(n, unknown)
			continue
		}
		s.hold(n, f.before[n])
	}
	// A client that refuses a response as a whole did not remove either.
	for n, r := range f.removed {
		switch {
		case !s.wants(n) || s.sent[n] != nil && s.sent[n] != gone:
		default:
			s.hold(n, r)
		}
	}
	if len(guilty) == 0 && len(changed) > 0 {
		half := len(changed) / 2
		if len(s.suspects) > 0 {
			s.suspects = s.suspects[1:]
		}
		s.suspects = append([][]string{changed[:half], changed[half:]}, s.suspects...)
	}
	return out
}
