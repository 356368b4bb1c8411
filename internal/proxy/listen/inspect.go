//go:build linux

package listen

import (
	"github.com/tulle-mesh/tulle/internal/proxy/listen/match"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// inspector is the codec of a connection whose chain depends on its first
// bytes.
type inspector struct {
	set       *Set
	a         *Accepted
	tls, http bool // still to be told
	buf       []byte
	timer     loop.Timer
	over      bool
}

var _ stream.Codec = (*inspector)(nil)

func (s *Set) inspect(a *Accepted, tls, http bool) {
	in := &inspector{set: s, a: a, tls: tls, http: http}
	if d := a.Listener.InspectTimeout; d > 0 {
		in.timer.Owner = a.Conn
		a.Conn.Loop().Arm(&in.timer, d, in.late)
	}
	s.inspecting.Add(1)
	came := a.Pending
	a.Conn.Start(in)
	a.Conn.Redeliver(came) // while its destination was looked up
}

// end says that nothing is waited for any more.
func (in *inspector) end() {
	if !in.over {
		in.over = true
		in.set.inspecting.Add(-1)
	}
	in.timer.Stop()
}

// OnBytes looks at what came.
func (in *inspector) OnBytes(p []byte) {
	if in.over {
		return
	}
	b := p
	if len(in.buf) > 0 {
		in.keep(p)
		b = in.buf
	}
	if in.look(b) == more && len(b) < maxHello+maxLine {
		if len(in.buf) == 0 {
			in.keep(p)
		}
		return
	}
	in.done(b)
}

// keep copies p behind what was kept before.
func (in *inspector) keep(p []byte) {
	l := in.a.Conn.Loop()
	if cap(in.buf)-len(in.buf) < len(p) {
		b := append(l.Buffer(len(in.buf)+len(p)), in.buf...)
		l.Recycle(in.buf)
		in.buf = b
	}
	in.buf = append(in.buf, p...)
}

// look says whether all is told that is to be told.
func (in *inspector) look(b []byte) verdict {
	if in.tls {
		h, v := parseHello(b)
		switch v {
		case more:
			return more
		case yes:
			in.a.Info.Transport, in.a.Info.SNI, in.a.Info.ALPN = match.TLS, h.sni, h.alpn
			in.http = false
		}
		in.tls = false
	}
	if in.http {
		p, v := parseHTTP(b)
		if v == more {
			return more
		}
		if v == yes {
			in.a.Info.ALPN = []string{p}
		}
		in.http = false
	}
	return yes
}

// done hands the connection on with what is known.
func (in *inspector) done(b []byte) {
	in.end()
	a := in.a
	if a.Info.Transport == "" {
		a.Info.Transport = match.Raw
	}
	a.Pending = b
	in.set.choose(a)
	a.Pending = nil
	if in.buf != nil {
		a.Conn.Loop().Recycle(in.buf)
		in.buf = nil
	}
}

// late ends the waiting.
func (in *inspector) late() {
	if in.over {
		return
	}
	if in.a.Listener.InspectClose {
		in.end()
		in.a.Conn.Close()
		return
	}
	in.done(in.buf)
}

// OnEOF goes on with what came; nothing at all is no connection worth having.
func (in *inspector) OnEOF() {
	if in.over {
		return
	}
	if len(in.buf) == 0 {
		in.end()
		in.a.Conn.Close()
		return
	}
	in.done(in.buf)
}

// OnWritable does nothing.
func (in *inspector) OnWritable() {}

// OnClose forgets the connection.
func (in *inspector) OnClose(error) {
	in.end()
	in.a.Conn.Loop().Recycle(in.buf)
	in.buf = nil
}
