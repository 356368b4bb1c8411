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
	found := map[*conf.Chain]*conf.Chain{} // sessions are many, chains few
	for s := range e.live {
		l := snap.Listeners[s.listener]
		if l == s.inform || l == nil && e.Desk.Forgot(s.listener) {
			continue
		}
		s.inform = l
		now, known := found[s.chain]
		if !known && l != nil {
			now = sameChain(l, s.chain)
			found[s.chain] = now
		}
		switch {
		case now != nil:
			s.chain, s.conf = now, now.TCP // the old one need not be kept
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

// sameChain finds the chain whose connections get what those of an earlier one
// got; nil: there is none.
func sameChain(l *conf.Listener, old *conf.Chain) *conf.Chain {
	same := func(c *conf.Chain) bool {
		if c == nil || c == old {
			return c != nil
		}
		x, y := *c, *old
		x.Origin, y.Origin = "", ""
		return reflect.DeepEqual(&x, &y)
	}
	if same(l.Default) {
		return l.Default
	}
	if i := slices.IndexFunc(l.Chains, same); i >= 0 {
		return l.Chains[i]
	}
	return nil
}
