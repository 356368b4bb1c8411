//go:build linux

package listen

import (
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Full is a connection that was closed at once because of Options.Limits.
type Full struct {
	Loop     *loop.Loop // that accepted it; on it
	Listener *conf.Listener
	Remote   netip.AddrPort
	Local    netip.AddrPort
	All      bool // Limits.All was reached, else the listener's own
}

// count is what is known of the connections of a listener, also while its
// sockets change.
type count struct {
	tally         *loop.Tally
	ignores       bool // Limits.All
	accepted      atomic.Uint64
	over, overAll atomic.Uint64
	address       string // by Envoy's rules for names
}

// countOf returns the count of a listener; the set is locked.
func (s *Set) countOf(l *conf.Listener) *count {
	c := s.counts[l.Name]
	if c != nil && c.ignores == l.IgnoreLimit {
		return c
	}
	c = &count{ignores: l.IgnoreLimit, address: strings.ReplaceAll(keys(l)[0], ":", "_")}
	all := &s.clients
	if c.ignores {
		all = nil
	}
	c.tally = loop.NewTally(s.o.Limits.Listener[l.Name], all)
	s.counts[l.Name] = c
	return c
}

// forget drops the counts of listeners that are gone and have no connections.
func (s *Set) forget() {
	used := map[*count]bool{}
	for _, k := range s.sockets {
		used[k.count.Load()] = true
	}
	for name, c := range s.counts {
		if !used[c] && c.tally.Open() == 0 {
			delete(s.counts, name)
		}
	}
}

// admit counts a connection, or says that it is one too many.
func (k *socket) admit(fd int, remote netip.AddrPort, l *conf.Listener) (*loop.Tally, bool) {
	c := k.count.Load()
	full := c.tally.Take()
	if full == nil {
		c.accepted.Add(1)
		return c.tally, true
	}
	f := Full{Loop: k.loop, Listener: l, Remote: remote, All: full != c.tally}
	if f.All {
		c.overAll.Add(1)
	} else {
		c.over.Add(1)
	}
	if k.set.o.Full != nil {
		f.Local = loop.LocalAddr(fd)
		k.set.o.Full(&f)
	}
	return nil, false
}

// Stat is what happened at a listener.
type Stat struct {
	Address       string // "0.0.0.0_8080", as Envoy writes it in names
	Accepted      uint64
	Open          int64
	Over, OverAll uint64 // closed because of the listener's limit, or that of all
}

// Stats of the listeners that have sockets, or connections still.
func (s *Set) Stats() []Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	out := make([]Stat, 0, len(s.counts))
	for _, c := range s.counts {
		out = append(out, Stat{c.address, c.accepted.Load(), c.tally.Open(), c.over.Load(), c.overAll.Load()})
	}
	return out
}
