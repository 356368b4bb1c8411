package proxy

import (
	"testing"
	"time"
)

func TestClockSteps(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	c, mono, wall := clock{}, int64(5), start
	for i, x := range []struct{ mono, wall, want time.Duration }{
		{0, 0, 0},
		{time.Second, time.Second, 0},
		{time.Second, 2 * time.Second, 0},                 // slewed
		{time.Second, time.Hour, time.Hour - time.Second}, // set, or it slept
		{time.Second, time.Second, 0},
		{time.Second, -time.Hour, -time.Hour - time.Second},
		{10 * time.Second, 10 * time.Second, 0}, // a late look
	} {
		mono, wall = mono+int64(x.mono), wall.Add(x.wall)
		if got := c.step(wall, mono); got != x.want {
			t.Errorf("%d: %s, want %s", i, got, x.want)
		}
	}
}
