package exchange

import (
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
)

// codecs holds what the codecs of one loop share.
type codecs struct {
	h1set http1.Set
	h2set http2.Set
	h1    map[h1key]*http1.ServerOptions // of the present configuration
	spare []*http1.Server                // of connections that rest
}

type h1key struct {
	http   *conf.HTTP
	scheme string
}

// h1Options carry the listener's limits; its connections share them.
func (e *Env) h1Options(c *Conn) *http1.ServerOptions {
	k := h1key{c.http, c.scheme()}
	if o := e.codecs.h1[k]; o != nil {
		return o
	}
	o := &http1.ServerOptions{
		Set: &e.codecs.h1set, Scheme: k.scheme, AcceptHTTP10: c.http.AcceptHTTP10,
		Limits:   http1.Limits{MaxHead: c.http.MaxHeadBytes, MaxFields: c.http.MaxHeaders},
		Upgrades: protocols(c.http.Upgrades),
		OnBadRequest: func(s *http1.Server, status int, detail string) {
			s.Acceptor().(*Conn).badRequest(status, detail)
		},
		Later: func(s *http1.Server) { e.Loop.Next(s.Acceptor().(*Conn).goOn) },
	}
	if e.codecs.h1 == nil {
		e.codecs.h1 = map[h1key]*http1.ServerOptions{}
	}
	e.codecs.h1[k] = o
	return o
}

// protocols that an Upgrade field may name: CONNECT is a method.
func protocols(all []string) []string {
	if !slices.Contains(all, "connect") {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == "connect" })
}

// date is the Date header of this second.
func (e *Env) date() []byte {
	now := e.Loop.Wall()
	if s := now.Unix(); s != e.dateAt {
		e.dateAt = s
		e.dateText = now.UTC().AppendFormat(e.dateText[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return e.dateText
}

// current is the configuration of now, with a number that grows when it changes:
// who compares it need not keep the old one.
func (e *Env) current() (*conf.Snapshot, uint64) {
	if s := e.Snapshot(); s != e.latest {
		e.latest = s
		e.epoch++
		clear(e.codecs.h1) // of nodes that may be gone
	}
	return e.latest, e.epoch
}

// closed forgets a connection.
func (e *Env) closed(c *Conn) { delete(e.conns, c) }

// Count is the number of live connections.
func (e *Env) Count() int { return len(e.conns) }

// Leaving says whose responses are the last ones of their connections.
type Leaving uint8

// Leavings.
const (
	Stay         Leaving = iota
	LeaveInbound         // connections of inbound listeners
	LeaveAll
)

// Leave makes the next response of each connection that is meant its last one,
// until it is told otherwise; new connections are meant too.
func (e *Env) Leave(which Leaving) { e.leaving = which }

// leaves reports whether the connection is to end with its next response.
func (c *Conn) leaves() bool {
	switch c.env.leaving {
	case LeaveInbound:
		return c.listener.Inbound
	case LeaveAll:
		return true
	}
	return false
}

// Drain ends every connection with its present requests, those that come later
// with their first one. An idle HTTP/1 connection, on which a request may be
// under way to us, stays for quiet, and ends with that request if it comes.
func (e *Env) Drain(quiet time.Duration) {
	e.leaving, e.quiet = LeaveAll, quiet
	for c := range e.conns {
		c.draining = true
		c.drainCodec()
		if c.active == 0 {
			c.startIdle()
		}
	}
}

// Spare ends idle connections, because memory is short, and gives their number.
func (e *Env) Spare() (n int) {
	for c := range e.conns {
		if c.active == 0 && !c.draining {
			c.Drain()
			n++
		}
	}
	return n
}

// Cut ends every connection at once. Whoever waits for the rest of a message
// sees that it was cut.
func (e *Env) Cut() {
	for c := range e.conns {
		if c.active > 0 {
			c.wire.Abort()
		} else {
			c.wire.Close()
		}
	}
}

// Refresh takes up a new configuration: connections whose chain is gone end with
// their present requests, also those that no request comes on any more, and are
// cut after limit.
func (e *Env) Refresh(limit time.Duration) {
	snap, epoch := e.current()
	for c := range e.conns {
		if c.seen == epoch || c.draining {
			continue
		}
		c.seen = epoch
		if c.refresh(snap); c.draining {
			c.Drain()
			e.Loop.Arm(&c.timers().gone, limit, c.wire.Abort)
		}
	}
}

// EachSecure calls f with every connection under TLS.
func (e *Env) EachSecure(f func(*loop.Conn, *mtls.Handshake)) {
	for c := range e.conns {
		if c.secure != nil {
			f(c.wire, c.secure)
		}
	}
}

// bounded keeps a configured limit within what products of it can hold.
func bounded(n uint32) int { return int(min(n, 1<<24)) }

func (e *Env) h2Options(c *Conn) *http2.ServerOptions {
	f := &c.http.Floods
	seen := func(*http2.Server) { c.leaveSoon() }
	if c.bridge {
		seen = nil // proxies of ours write in the order in which they decide
	}
	return &http2.ServerOptions{
		Set: &e.codecs.h2set, Scheme: c.scheme(),
		Limits: http2.Limits{MaxStreams: int(min(c.http.MaxStreams, 1<<20)), MaxHead: c.http.MaxHeadBytes, MaxFields: c.http.MaxHeaders,
			Floods: http2.Floods{OutFrames: bounded(f.OutFrames), OutControl: bounded(f.OutControl), Empty: bounded(f.Empty),
				Priority: bounded(f.Priority), WindowUpdates: bounded(f.WindowUpdates)},
			StreamWindow: int(min(c.http.StreamWindow, 1<<24)), ConnWindow: int(min(c.http.ConnWindow, 1<<24))},
		OnSeen:       seen,
		OnBadRequest: func(_ *http2.Server, status int, detail string) { c.badRequest(status, detail) },
	}
}
