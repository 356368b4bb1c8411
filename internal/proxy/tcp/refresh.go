package tcp

import (
	"reflect"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Refresh takes up a new configuration. Sessions whose chain is gone, or says
// something else, have been let in by rules that hold no longer: they end after
// limit, unless the chain comes back.
func (e *Env) Refresh(snap *conf.Snapshot, limit time.Duration) {
	for s := range e.live {
		l := snap.Listeners[s.listener]
		if l == s.inform {
			continue
		}
		s.inform = l
		switch stays := l != nil && hasChain(l, s.chain); {
		case stays:
			s.gone.Stop()
		case !s.gone.Armed():
			e.Loop.Arm(&s.gone, limit, s.outlived)
		}
	}
}

// outlived ends a session that its configuration has left behind.
func (s *session) outlived() {
	s.rec.Termination = "listener drained"
	s.end(nil)
}

// hasChain reports whether connections of an earlier chain would still get
// what they got.
func hasChain(l *conf.Listener, old *conf.Chain) bool {
	same := func(c *conf.Chain) bool {
		if c == nil || c == old {
			return c != nil
		}
		x, y := *c, *old
		x.Origin, y.Origin = "", ""
		return reflect.DeepEqual(&x, &y)
	}
	return same(l.Default) || slices.ContainsFunc(l.Chains, same)
}
