package exchange

import (
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// shadow is a copy of a request that is sent when the request is complete and
// whose answer nobody reads. It lives by itself once the exchange is over.
type shadow struct {
	env    *Env
	head   stream.Head
	body   []byte
	spoilt bool // the body was too large to copy
	sent   bool
	handle *cluster.Handle
	ep     *cluster.Endpoint
	counts bool
	ticket pool.Ticket
	s      stream.Stream
	end    *stream.Head
	life   loop.Timer
}

// mirror makes the copies that the route asks for.
func (x *Exchange) mirror(f *conf.Forward) {
	for i := range f.Mirrors {
		m := &f.Mirrors[i]
		if x.env.Loop.Rand()%1e6 >= uint64(m.Fraction) {
			continue
		}
		h := x.env.Clusters.Get(m.Cluster)
		if h == nil {
			continue
		}
		s := &shadow{env: x.env, handle: h}
		s.head.CopyFrom(&x.req)
		rq := x.rq
		rq.Head = &s.head
		route.Rewrite(&x.path, &rq)
		if !m.NoSuffix {
			s.head.Authority = shadowed(&s.head)
		}
		for _, p := range x.kept.pieces {
			s.body = append(s.body, p...)
		}
		x.shadows = append(x.shadows, s)
		if x.reqEnd {
			s.finish(x.trailers)
		}
	}
}

// data copies a piece of the body.
func (s *shadow) data(p []byte) {
	if len(s.body)+len(p) > 1<<20 {
		s.spoilt, s.body = true, nil
	}
	if !s.spoilt {
		s.body = append(s.body, p...)
	}
}

// finish sends the copy.
func (s *shadow) finish(trailers *stream.Head) {
	if s.sent || s.spoilt {
		return
	}
	s.sent, s.end = true, trailers
	l := s.env.Loop
	ep, err := s.handle.Pick(&cluster.PickContext{Random: l.Rand(), Loop: l.ID()}, nil)
	if err != nil || !s.handle.TryAcquire(cluster.Requests) {
		return
	}
	s.handle.Begin(ep)
	s.ep, s.counts = ep, true
	l.Arm(&s.life, shadowLife, s.timedOut)
	s.ticket = pool.Ticket{Cluster: s.handle, Endpoint: ep, Version: s.head.Version,
		Authority: s.head.Authority, Peer: s, Owner: s}
	s.env.Pool.Get(&s.ticket)
}

// shadowLife bounds how long an unread answer may take.
const shadowLife = 15e9

func (s *shadow) timedOut() {
	if s.s != nil {
		s.s.Reset(stream.Cancelled)
	}
	s.over()
}

func (s *shadow) over() {
	s.life.Stop()
	s.s = nil
	if s.counts {
		s.counts = false
		s.handle.Done(s.ep, nothing, s.env.Loop.Now())
		s.handle.Release(cluster.Requests)
		s.ticket.Done()
	}
}

// Ready sends the copy.
func (s *shadow) Ready(st stream.Stream, via *pool.Upstream) {
	s.env.Loop.Blame(nil)
	s.s = st
	if via.Ours {
		toBridge(&s.head, via.Bridged, s.env.Node.Tell)
	}
	st.SendHead(&s.head, len(s.body) == 0 && s.end == nil)
	if len(s.body) > 0 {
		st.SendData(s.body, s.end == nil)
	}
	if s.end != nil {
		st.SendTrailers(s.end)
	}
}

// Failed forgets the copy.
func (s *shadow) Failed(stream.Reset, string) {
	s.env.Loop.Blame(nil)
	s.over()
}

// OnHead ignores the answer.
func (s *shadow) OnHead(_ *stream.Head, end bool) {
	if end {
		s.over()
	}
}

// OnData ignores the answer.
func (s *shadow) OnData(_ []byte, end bool) {
	if end {
		s.over()
	}
}

// OnTrailers ignores the answer.
func (s *shadow) OnTrailers(*stream.Head) { s.over() }

// OnReset forgets the copy.
func (s *shadow) OnReset(stream.Reset, string) { s.over() }

// OnWritable has nothing more to send.
func (s *shadow) OnWritable() {}

// shadowed is the authority with "-shadow" behind the host, as Envoy marks copies.
func shadowed(h *stream.Head) []byte {
	host := route.WithoutPort(h.Authority)
	port := h.Authority[len(host):]
	return h.Keep([]byte(string(host) + "-shadow" + string(port)))
}
