package pool

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// key of a group: one endpoint under one policy. Configuration nodes are
// immutable, so a changed policy is another key.
type key struct {
	conf *conf.Cluster
	addr netip.AddrPort
	pipe string
	tls  *conf.ClientTLS
	h2   bool
	sni  string
}

// group holds the connections to one endpoint and the tickets that wait for one.
type group struct {
	key
	p       *Pool
	cluster *cluster.Handle
	ep      *cluster.Endpoint
	idle    []*upconn // HTTP/1, most recently used last
	multi   []*upconn // HTTP/2
	open    int       // every connection that is not closed, dialing ones too
	dialing int
	shared  bool // the last handshake ended in HTTP/2
	named   bool // the server name comes from the request
	alone   bool // the last attempt at another connection failed: those that are there must do
	stale   bool // its configuration is gone: nothing goes back to idle
	first   *Ticket
	last    *Ticket
	waiting int
}

// get serves a ticket from what is there, or queues it and dials.
func (g *group) get(t *Ticket) {
	t.g = g
	if g.waiting == 0 && g.now(t, true) {
		return
	}
	if !g.cluster.TryAcquire(cluster.Pending) {
		if g.waiting == 0 && g.now(t, false) {
			return
		}
		t.Owner.Failed(stream.Overflow, "overflow")
		return
	}
	g.queue(t)
	g.grow()
}

// now serves t from a connection that is ready, if there is one; see free for
// wait.
func (g *group) now(t *Ticket, wait bool) bool {
	for n := len(g.idle); n > 0; n = len(g.idle) {
		u := g.idle[n-1]
		g.idle[n-1] = nil
		g.idle = g.idle[:n-1]
		if u.h1.Idle() && !u.retired {
			u.take(t)
			return true
		}
	}
	u := g.free(t, wait)
	if u == nil {
		return false
	}
	if u.via.Bridged {
		if !g.cluster.TryAcquire(cluster.Connections) {
			if g.streams() > 0 {
				return false
			}
			g.cluster.Acquire(cluster.Connections)
		}
		t.virtual = true
	}
	u.take(t)
	return true
}

// free is a shared connection that takes t's stream, if there is one: the one
// with the fewest large bodies, the first among equals, so that the rest age
// out; for a large body the one with the most. One whose window is used up is
// left to those that used it. When small requests would share a connection
// with large bodies, another is made for those to come. When the best has its
// window used up t is to wait for that other one, if wait: the answer might
// only come when somebody else reads, who may never do so.
func (g *group) free(t *Ticket, wait bool) *upconn {
	var best *upconn
	var least int
	for _, u := range g.multi {
		if u.retired || !g.room(u) {
			continue
		}
		n := u.h2.Bulk()
		if t.Large {
			n = -n
		}
		if u.h2.Congested() {
			n += 1 << 20
		}
		if best == nil || n < least {
			best, least = u, n
		}
	}
	if best != nil && least > 0 && g.dialing == 0 && len(g.multi) < maxShared &&
		(best.via.Bridged || g.cluster.TryAcquire(cluster.Connections)) {
		g.dial(!best.via.Bridged)
	}
	if best != nil && wait && !g.alone && g.dialing > 0 && best.h2.Congested() {
		return nil
	}
	return best
}

// maxShared is how many shared connections a group opens because of large
// bodies, or of windows that are used up.
const maxShared = 8

// room reports whether a connection takes one more stream.
func (g *group) room(u *upconn) bool {
	if n := g.conf.MaxStreams; n > 0 && !u.via.Bridged && u.h2.Active() >= int(n) {
		return false
	}
	return u.h2.Capacity() > 0
}

// streams counts the open streams of shared connections.
func (g *group) streams() int {
	n := 0
	for _, u := range g.multi {
		n += u.streams
	}
	return n
}

// serve gives what has become ready to those who wait, and dials for the rest.
func (g *group) serve() {
	for t := g.first; t != nil; t = g.first {
		if !g.now(t, true) {
			break
		}
	}
	g.grow()
}

// grow dials while tickets wait that no present or coming connection will take.
func (g *group) grow() {
	for g.waiting > g.coming() {
		if !g.cluster.TryAcquire(cluster.Connections) {
			// At the limit; but a group without any connection gets one, or its
			// queue would never move.
			if g.open > 0 {
				return
			}
			g.cluster.Acquire(cluster.Connections)
		}
		g.dial(true)
	}
}

// coming is how many waiting tickets the connections under way will take.
func (g *group) coming() int {
	if g.dialing == 0 {
		if g.blocked() {
			return g.waiting
		}
		return 0
	}
	if g.shared || g.mayShare() {
		return g.waiting
	}
	return g.dialing
}

// blocked reports whether the queue waits for a virtual connection or stream
// of a shared connection, which another dial would not help.
func (g *group) blocked() bool {
	for _, u := range g.multi {
		if !u.retired && g.room(u) {
			return true
		}
	}
	return false
}

// mayShare reports whether the next connection may turn out to be HTTP/2: then
// it is waited for, instead of dialing one per request.
func (g *group) mayShare() bool {
	return g.h2 || g.tls != nil && g.open == g.dialing && slices.Contains(g.offers(), Bridge)
}

// fail ends every waiting ticket, as a failed connection attempt does.
func (g *group) fail(r stream.Reset, detail string) {
	for t := g.first; t != nil; t = g.first {
		g.unqueue(t)
		g.cluster.Release(cluster.Pending)
		t.Owner.Failed(r, detail)
	}
}

func (g *group) queue(t *Ticket) {
	t.waiting, t.prev, t.next = true, g.last, nil
	if g.last == nil {
		g.first = t
	} else {
		g.last.next = t
	}
	g.last = t
	g.waiting++
}

func (g *group) unqueue(t *Ticket) {
	if t.prev == nil {
		g.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		g.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.waiting, t.prev, t.next = false, nil, nil
	g.waiting--
}
