package proxy

import "time"

// clock notices when the time of day does not go the way of the monotonic clock:
// it was set, or the machine was asleep.
type clock struct{ wall, mono int64 } // nanoseconds, as last seen; zero: never

// maxStep is what slewing and a busy machine may make between two looks.
const maxStep = 2 * time.Second

// step returns how far the time of day has jumped since the last look, 0 when it
// has not. mono is any monotonic clock in nanoseconds.
func (c *clock) step(now time.Time, mono int64) time.Duration {
	last := *c
	c.wall, c.mono = now.UnixNano(), mono
	d := time.Duration(c.wall - last.wall - (c.mono - last.mono))
	if last.wall == 0 || d.Abs() <= maxStep {
		return 0
	}
	return d
}
