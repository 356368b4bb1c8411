package conf

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// LookupKind says what is looked up.
type LookupKind uint8

// Kinds of lookup, and how package ext names them.
const (
	LookupListener LookupKind = iota // AddressListener, PortListener, NamedListener
	LookupRoutes                     // HostRoute
	LookupHost                       // a host that the DNS is asked for
)

// String is as in "listener".
func (k LookupKind) String() string { return [...]string{"listener", "route", "host"}[k] }

// Lookup is a question of a sidecar on demand to its control plane.
type Lookup struct {
	Kind LookupKind
	Name string
}

// Answer is what came of a Lookup; with nothing in it: there is no such. It is
// shared by all names that lead to it, and immutable but for the time of its
// last use.
type Answer struct {
	Listener *Listener
	Routes   *RouteTable
	Host     *ext.Host
	used     atomic.Int64
}

// None reports that the control plane said that there is no such.
func (a *Answer) None() bool { return a.Listener == nil && a.Routes == nil && a.Host == nil }

// Same reports whether b says what a says.
func (a *Answer) Same(b *Answer) bool {
	return a.Listener == b.Listener && a.Routes == b.Routes && a.Host == b.Host
}

// began is what Seconds counts from.
var began = time.Now()

// Seconds is the clock of Answer.Use: monotonic, as the age of an answer must
// not change when the time of day is set. t is a reading of time.Now.
func Seconds(t time.Time) int64 { return int64(t.Sub(began) / time.Second) }

// Use notes that the answer was of use; now is what Seconds said. Safe for
// concurrent use.
func (a *Answer) Use(now int64) {
	if a.used.Load() != now {
		a.used.Store(now)
	}
}

// Used is when the answer was used last.
func (a *Answer) Used() int64 { return a.used.Load() }

// Learnt is what a sidecar on demand knows: the index, and the answers to its
// lookups, those that say no too. Immutable.
type Learnt struct {
	Index *ext.Index

	listeners map[netip.AddrPort]*Answer // of the unspecified IPv4 address: the port's own
	named     map[portName]*Answer
	routes    map[portName]*Answer
	hosts     map[string]*Answer
}

// portName is a host or a server name on a port.
type portName struct {
	port uint16
	name string
}

// NewLearnt knows nothing but the index.
func NewLearnt(x *ext.Index) *Learnt { return &Learnt{Index: x} }

// At is the answer about the listener of an address, nil when it is not known.
func (l *Learnt) At(at netip.AddrPort) *Answer { return l.listeners[at] }

// OfPort is the answer about the listener of a port at all addresses, nil when
// it is not known.
func (l *Learnt) OfPort(port uint16) *Answer {
	return l.listeners[netip.AddrPortFrom(netip.IPv4Unspecified(), port)]
}

// Named is the answer about a server name on a port, nil when it is not known.
func (l *Learnt) Named(port uint16, sni string) *Answer { return l.named[portName{port, sni}] }

// Route is the answer about a host on a port, nil when it is not known. host is
// in the form of ext.Canonical.
func (l *Learnt) Route(port uint16, host []byte) *Answer {
	return l.routes[portName{port, string(host)}]
}

// Host is the answer about a host's addresses, nil when it is not known.
func (l *Learnt) Host(name string) *Answer { return l.hosts[name] }

// Find is the answer to a Lookup, nil when it is not known.
func (l *Learnt) Find(q Lookup) *Answer {
	if q.Kind == LookupHost {
		return l.hosts[q.Name]
	}
	p, ok := ext.ParseLookup(q.Name)
	switch {
	case !ok:
		return nil
	case q.Kind == LookupRoutes:
		return l.routes[portName{p.Port, p.Host}]
	case p.Host != "":
		return l.named[portName{p.Port, p.Host}]
	}
	return l.listeners[listenerAt(p)]
}

func listenerAt(p ext.Lookup) netip.AddrPort {
	if !p.Address.IsValid() {
		p.Address = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(p.Address, p.Port)
}

// All is every lookup that is answered, in order of kind and name.
func (l *Learnt) All() iter.Seq2[Lookup, *Answer] {
	all := map[Lookup]*Answer{}
	for at, a := range l.listeners {
		all[Lookup{LookupListener, ext.AddressListener(at)}] = a
	}
	for n, a := range l.named {
		all[Lookup{LookupListener, ext.NamedListener(n.port, n.name)}] = a
	}
	for n, a := range l.routes {
		all[Lookup{LookupRoutes, ext.HostRoute(n.port, n.name)}] = a
	}
	for n, a := range l.hosts {
		all[Lookup{LookupHost, n}] = a
	}
	return func(yield func(Lookup, *Answer) bool) {
		for _, q := range slices.SortedFunc(maps.Keys(all), func(a, b Lookup) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
		}) {
			if !yield(q, all[q]) {
				return
			}
		}
	}
}

// With is l with another index and other answers; nil: the name is not known
// any more. Names that nobody can look up are passed over.
func (l *Learnt) With(x *ext.Index, changes map[Lookup]*Answer) *Learnt {
	d := learning{Learnt: *l}
	d.Index = x
	for q, a := range changes {
		if q.Kind == LookupHost {
			enter(&d.hosts, &d.copied[3], q.Name, a)
			continue
		}
		p, ok := ext.ParseLookup(q.Name)
		switch {
		case !ok:
		case q.Kind == LookupRoutes:
			enter(&d.routes, &d.copied[2], portName{p.Port, p.Host}, a)
		case p.Host != "":
			enter(&d.named, &d.copied[1], portName{p.Port, p.Host}, a)
		default:
			enter(&d.listeners, &d.copied[0], listenerAt(p), a)
		}
	}
	return &d.Learnt
}

// learning is a Learnt while it is made: maps are copied before they change.
type learning struct {
	Learnt
	copied [4]bool
}

func enter[K comparable](m *map[K]*Answer, copied *bool, k K, a *Answer) {
	if !*copied {
		if *m, *copied = maps.Clone(*m), true; *m == nil {
			*m = map[K]*Answer{}
		}
	}
	if a == nil {
		delete(*m, k)
	} else {
		(*m)[k] = a
	}
}

// OwnPort is the port whose own listener l is: at all addresses, with hosts and
// server names that are looked up. 0: it is another kind of listener.
func (l *Listener) OwnPort() uint16 {
	if p, ok := ext.ParseLookup(l.Name); ok && !p.Address.IsValid() && p.Host == "" && !l.Inbound && !l.Bind {
		return p.Port
	}
	return 0
}
