//go:build linux

package listen

import (
	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// held is the codec of a connection that waits for a lookup. At most the first
// bytes are read meanwhile.
type held struct {
	set  *Set
	a    *Accepted
	buf  []byte // read before
	wait *demand.Wait
	next func(*Accepted)
	over bool
}

var _ stream.Codec = (*held)(nil)

// lookUp lets a connection wait until what it needs is known, and goes on with
// next; when that cannot be had the connection ends.
func (s *Set) lookUp(a *Accepted, ask []conf.Lookup, next func(*Accepted)) {
	if a.asked { // what came was lost again at once
		s.unknown(a)
		return
	}
	a.asked = true
	h := &held{set: s, a: a, buf: append([]byte(nil), a.Pending...), next: next}
	s.inspecting.Add(1)
	a.Conn.PauseRead(len(a.Pending) > 0 || !s.byHost(a))
	if a.Conn.Start(h); h.over {
		return
	}
	if h.wait = s.o.Demand.Desk(a.Conn.Loop().ID()).Wait(ask, h.told); h.wait == nil {
		h.told(false)
	}
}

// unknown ends a connection whose destination cannot be had.
func (s *Set) unknown(a *Accepted) {
	if s.o.Unknown != nil {
		s.o.Unknown(a)
	}
	a.Conn.Abort()
}

// told goes on.
func (h *held) told(ok bool) {
	if h.over {
		return
	}
	h.end()
	h.a.Conn.Loop().Blame(h.a.Conn)
	if !ok {
		h.set.unknown(h.a)
		return
	}
	a := h.a
	a.Conn.PauseRead(false) // delivers later
	a.Pending = h.buf
	h.next(a)
	a.Pending = nil
}

func (h *held) end() {
	h.over = true
	h.set.inspecting.Add(-1)
}

// OnBytes keeps what was on its way. The host of a request is asked for at once,
// so that its answer comes together with the one that is waited for.
func (h *held) OnBytes(p []byte) {
	h.buf = append(h.buf, p...)
	if !h.over && !h.a.Conn.Paused() {
		h.a.Conn.PauseRead(true)
		h.set.askAhead(h.a, h.buf)
	}
}

// OnEOF is told to the next codec too.
func (h *held) OnEOF() {}

// OnWritable does nothing.
func (h *held) OnWritable() {}

// OnClose gives up.
func (h *held) OnClose(error) {
	if !h.over {
		h.end()
		h.wait.Cancel()
	}
}

// byHost reports whether hosts are looked up at the port to which a captured
// connection goes.
func (s *Set) byHost(a *Accepted) bool {
	known := s.o.Demand.Learnt()
	if known == nil || !a.Original.IsValid() {
		return false
	}
	p, ok := known.Index.Port(a.Original.Port())
	return ok && p.ByHost
}

// askAhead asks for the host of the request at the beginning of b, when there is
// a whole one. A wrong guess costs a lookup: what counts is what the codec reads.
func (s *Set) askAhead(a *Accepted, b []byte) {
	known := s.o.Demand.Learnt()
	host := ext.Canonical(string(hostIn(b)))
	if known == nil || host == "" || len(host) > maxHost || !known.Index.MayName(host) || known.Route(a.Original.Port(), []byte(host)) != nil {
		return
	}
	s.o.Demand.Desk(a.Conn.Loop().ID()).Ahead(conf.Lookup{Kind: conf.LookupRoutes, Name: ext.HostRoute(a.Original.Port(), host)})
}

// port is the index' entry of the port whose own listener a connection has.
func (s *Set) port(a *Accepted) (ext.Port, bool) {
	known := s.o.Demand.Learnt()
	if known == nil {
		return ext.Port{}, false
	}
	return known.Index.Port(a.Listener.OwnPort())
}

// used notes that what was learnt about a destination was of use.
func (s *Set) used(a *Accepted, known *conf.Learnt) {
	if known == nil {
		return
	}
	now := s.o.Demand.Desk(a.Conn.Loop().ID()).Now()
	for _, x := range [...]*conf.Answer{known.At(a.Original), known.OfPort(a.Original.Port())} {
		if x != nil {
			x.Use(now)
		}
	}
}
