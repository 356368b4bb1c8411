//go:build linux

package listen

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
	"github.com/tulle-mesh/tulle/internal/proxy/listen/match"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// acceptBatch is how many connections one event accepts: each costs some ten
// system calls, and the event comes again.
const acceptBatch = 4

// outOfFiles is how long a socket rests when there are no descriptors.
const outOfFiles = 100 * time.Millisecond

// Accepted is a connection with what was found out about it. On its loop.
type Accepted struct {
	Conn     *loop.Conn     // the receiver's, to Start with a codec; not started unless it had to be read
	Listener *conf.Listener // the one that is in charge, after a hand-over
	Chain    *conf.Chain    // nil in Refused
	Original netip.AddrPort // where it was going before it was redirected; invalid: was not
	Info     match.Info     // what chose the chain
	Pending  []byte         // read already: Redeliver after Start, or mtls.Server's first; valid during the call

	asked bool // what it was going to has been looked up
}

// Options of a Set.
type Options struct {
	// Accepted gets each connection for which a chain was found.
	Accepted func(*Accepted)
	// Refused gets those for which none was; the connection is closed after the
	// call. May be nil.
	Refused func(*Accepted)
	// Unknown gets those whose destination is the mesh's and could not be looked
	// up in time; the connection is reset after the call. May be nil.
	Unknown func(*Accepted)
	// Demand is where a sidecar on demand looks up; nil: it is none.
	Demand *demand.Board
	// Open makes the listening socket for an address; nil: Open of this room.
	Open func(netip.AddrPort) (int, error)
	// Original finds the original destination; nil: the kernel's.
	Original func(fd int, local netip.AddrPort) netip.AddrPort
	// Limit of connections that are open at once, in all; 0: none. Beyond it
	// they are closed at once.
	Limit int
	// Refuse reports that a new connection is to be closed at once; may be nil.
	// Called on the accepting loop.
	Refuse func() bool
	// Limits of clients' connections that are open at once, exact over all loops. A
	// connection counts at the listener that accepted it, until its descriptor is
	// closed. Beyond them they are closed at once, and Full is told, if it is set.
	Limits ext.Connections
	Full   func(*Full)
}

// Set is the listening sockets of a proxy. Its methods are safe for concurrent
// use.
type Set struct {
	group *loop.Group
	o     Options
	index atomic.Pointer[match.Index]

	accepted, overLimit, starved atomic.Uint64
	inspecting                   atomic.Int32
	clients                      loop.Tally // against Limits.All

	mu        sync.Mutex
	sockets   map[string]*socket // by address or path
	counts    map[string]*count  // by listener
	inherited map[string]int
	next      int
	shut      func(*conf.Listener) bool // which listeners are not to be open any more; nil: none
}

// socket is a listening socket. Except conf and count it belongs to its loop.
type socket struct {
	set   *Set
	fd    int
	name  string
	loop  *loop.Loop
	conf  atomic.Pointer[conf.Listener]
	count atomic.Pointer[count]
	watch *loop.Watch
	rest  loop.Timer
	wake  func()
	gone  bool
	// handed: a successor has it too. Set before close.
	handed bool
}

// New makes an empty set.
func New(g *loop.Group, o Options) *Set {
	if o.Open == nil {
		o.Open = Open
	}
	if o.Original == nil {
		o.Original = originalDst
	}
	s := &Set{group: g, o: o, sockets: map[string]*socket{}, counts: map[string]*count{}, inherited: map[string]int{}}
	s.clients.Limit(o.Limits.All)
	s.index.Store(match.NewIndex(nil))
	return s
}

// Inherit gives the set a listening, non-blocking socket of a predecessor, under
// the key that Hand gave it, to be used instead of a new one; the set owns it.
func (s *Set) Inherit(key string, fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.inherited[key]; ok {
		_ = unix.Close(old)
	}
	s.inherited[key] = fd
}

// Update makes all the listeners of the set. Sockets whose address remains are
// kept, whatever else has changed, with the connections that wait in them; new
// ones are opened before others are closed. Connections that were accepted
// before are not touched. A listener that cannot be opened is told in errs, by
// name; it stays found by hand-over.
func (s *Set) Update(all map[string]*conf.Listener) (errs map[string]error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs = map[string]error{}
	s.index.Store(match.NewIndex(all))
	want := map[string]*conf.Listener{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		l := all[name]
		if !l.Bind || s.shut != nil && s.shut(l) {
			continue
		}
		for _, key := range keys(l) {
			if other := want[key]; other != nil {
				errs[name] = fmt.Errorf("listen on %s: %w by listener %s", key, ErrInUse, other.Name)
				continue
			}
			want[key] = l
			if old := s.sockets[key]; old != nil {
				old.conf.Store(l)
				old.count.Store(s.countOf(l))
				continue
			}
			if err := s.open(key, l); err != nil {
				errs[name] = errors.Join(errs[name], err)
			}
		}
	}
	for key, sock := range s.sockets {
		if want[key] == nil {
			delete(s.sockets, key)
			sock.close(nil)
		}
	}
	s.forget()
	return errs
}

// keys are the addresses of a listener, by which its sockets are known.
func keys(l *conf.Listener) []string {
	if l.Pipe != "" {
		return []string{l.Pipe}
	}
	out := make([]string, len(l.Addresses))
	for i, a := range l.Addresses {
		out[i] = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	}
	return out
}

// open opens one address of a listener.
func (s *Set) open(key string, l *conf.Listener) error {
	fd, ok := s.inherited[key]
	if ok {
		delete(s.inherited, key)
	} else {
		var err error
		if l.Pipe != "" {
			fd, err = OpenUnix(key)
		} else {
			fd, err = s.o.Open(netip.MustParseAddrPort(key))
		}
		if err != nil {
			return err
		}
	}
	loops := s.group.Loops()
	sock := &socket{set: s, fd: fd, name: key, loop: loops[s.next%len(loops)]}
	s.next++
	sock.conf.Store(l)
	sock.count.Store(s.countOf(l))
	sock.wake = sock.start
	s.sockets[key] = sock
	if !sock.loop.Post(sock.start) {
		_ = unix.Close(fd)
		delete(s.sockets, key)
		return fmt.Errorf("listen on %s: %w", key, loop.ErrEnded)
	}
	return nil
}

// Addresses returns where the set listens, as the kernel says, sorted: port 0
// in the configuration shows as the port that was given.
func (s *Set) Addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for key, sock := range s.sockets {
		if a := loop.LocalAddr(sock.fd); a.IsValid() {
			key = a.String()
		}
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// Counts of connections: accepted, closed because of Options.Limit, and times
// that no descriptor was left.
func (s *Set) Counts() (accepted, overLimit, starved uint64) {
	return s.accepted.Load(), s.overLimit.Load(), s.starved.Load()
}

// start watches the socket; on its loop.
func (k *socket) start() {
	if k.gone || k.watch != nil {
		return
	}
	w, err := k.loop.Watch(k.fd, unix.EPOLLIN, k.accept)
	if err != nil { // out of memory, or the limit of watches: again
		k.loop.Arm(&k.rest, outOfFiles, k.wake)
		return
	}
	k.watch = w
}

// accept takes what waits and gives each to the loop with the least work.
func (k *socket) accept(uint32) { k.take() }

// take accepts a batch; false: no more can be had now.
func (k *socket) take() bool {
	s := k.set
	for range acceptBatch {
		fd, remote, err := loop.Accept(k.fd)
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || k.watch == nil {
				return false
			}
			// No descriptors or memory: the event would come again at once.
			s.starved.Add(1)
			k.watch.Close()
			k.watch = nil
			k.loop.Arm(&k.rest, outOfFiles, k.wake)
			return false
		}
		s.accepted.Add(1)
		l := k.conf.Load()
		to := s.group.Least()
		if s.o.Refuse != nil && s.o.Refuse() {
			_ = unix.Close(fd)
			continue
		}
		if s.o.Limit > 0 && s.count() >= s.o.Limit {
			s.overLimit.Add(1)
			_ = unix.Close(fd)
			continue
		}
		tally, ok := k.admit(fd, remote, l)
		if !ok {
			_ = unix.Close(fd)
			continue
		}
		if to == k.loop {
			s.take(to, fd, remote, l, tally)
			continue
		}
		to.Expect(1)
		if !to.Post(func() {
			to.Expect(-1)
			s.take(to, fd, remote, l, tally)
		}) {
			to.Expect(-1)
			tally.Give()
			_ = unix.Close(fd)
		}
	}
	return true
}

// count of the connections of all loops, upstream ones too.
func (s *Set) count() (n int) {
	for _, l := range s.group.Loops() {
		n += l.Conns()
	}
	return n
}

// take begins with a connection on its loop.
func (s *Set) take(on *loop.Loop, fd int, remote netip.AddrPort, l *conf.Listener, tally *loop.Tally) {
	local := loop.LocalAddr(fd)
	a := &Accepted{Listener: l, Info: match.Info{Destination: local, Source: remote}}
	if local.IsValid() && (l.OriginalDst || l.RestoreDst) {
		if a.Original = s.o.Original(fd, local); a.Original.IsValid() {
			a.Info.Destination = a.Original
		}
	}
	a.Conn = on.Adopt(fd, local, remote)
	a.Conn.Hold(tally)
	s.handOver(a)
}

// handOver finds the listener of a captured connection's destination.
func (s *Set) handOver(a *Accepted) {
	if a.Original.IsValid() {
		known := s.o.Demand.Learnt()
		to, ask := s.index.Load().Find(a.Listener, a.Original, known)
		if len(ask) > 0 {
			s.lookUp(a, ask, s.handOver)
			return
		}
		a.Listener = to
		s.used(a, known)
	}
	tls, http := match.Needs(a.Listener, a.Info)
	if p, ok := s.port(a); ok && p.BySNI {
		tls = a.Listener.InspectTLS
	}
	a.asked = false // for its names
	if tls || http {
		s.inspect(a, tls, http)
		return
	}
	s.choose(a)
}

// choose finds the chain and hands the connection on.
func (s *Set) choose(a *Accepted) {
	var more *conf.Listener
	if known := s.o.Demand.Learnt(); known != nil && a.Original.IsValid() {
		var ask []conf.Lookup
		if more, ask = match.Named(a.Listener.OwnPort(), a.Info, known); len(ask) > 0 {
			s.lookUp(a, ask, s.choose)
			return
		}
	}
	a.Chain = match.SelectWith(a.Listener, more, a.Info, nil)
	if more != nil && slices.Contains(more.Chains, a.Chain) {
		a.Listener = more
	}
	if a.Chain != nil {
		s.o.Accepted(a)
		return
	}
	if s.o.Refused != nil {
		s.o.Refused(a)
	}
	a.Conn.Close()
}
