package tcp

import "github.com/tulle-mesh/tulle/internal/proxy/loop"

// When a direction goes through the kernel alone, in bytes: after bulkAfter in
// a row, read bulkRead or more at a time; no longer once bulkEnd or less comes
// at a time, which a copy carries cheaper.
const (
	bulkAfter = 256 << 10
	bulkRead  = 16 << 10
	bulkEnd   = 4 << 10
)

// flow is one direction of a session.
type flow struct {
	s        *session
	from, to *loop.Conn
	run      int         // bytes that came in large reads without a small one between
	relay    *loop.Relay // nil until it was needed
}

// pass sends on what was read. When the other side takes no more, reading stops.
func (f *flow) pass(p []byte) {
	f.s.touch()
	f.to.Write(p)
	if f.to.Blocked() {
		f.from.PauseRead(true)
	}
	if len(p) < bulkRead {
		f.run = 0
		return
	}
	if f.run += len(p); f.run < bulkAfter {
		return
	}
	if f.relay == nil {
		f.relay = &loop.Relay{To: f.to, Moved: f.moved}
	}
	f.from.Relay(f.relay)
}

// moved is pass for bytes that were spliced.
func (f *flow) moved(n int) {
	f.s.touch()
	if f.to.Blocked() {
		f.from.PauseRead(true)
	}
	if n <= bulkEnd {
		f.run = 0
		f.from.Relay(nil)
	}
}
