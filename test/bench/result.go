package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// row is a row of bench.json: medians; a figure that was not measured is left
// out.
type row struct {
	Shape     string   `json:"shape"`
	Column    string   `json:"column"`
	Contender string   `json:"contender"`
	CPU       *float64 `json:"cpu_us_per_request,omitempty"`
	RPS       *float64 `json:"rps,omitempty"`
	AddedP50  *float64 `json:"added_p50_us,omitempty"`
	AddedP99  *float64 `json:"added_p99_us,omitempty"`
	AddedP999 *float64 `json:"added_p999_us,omitempty"`
	RSSIdle   int      `json:"rss_idle_kb,omitempty"`
	RSSLoad   int      `json:"rss_load_kb,omitempty"`

	Allocs *float64 `json:"allocs_per_request,omitempty"`
	// Of a scenario: the latencies in it and in quiet times, as ratios round by
	// round; handshakes per CPU-second, and how many were made; memory per 1,000
	// idle connections.
	P50         *float64 `json:"p50_us,omitempty"`
	P99         *float64 `json:"p99_us,omitempty"`
	QuietP50    *float64 `json:"quiet_p50_us,omitempty"`
	QuietP99    *float64 `json:"quiet_p99_us,omitempty"`
	P99Ratio    *float64 `json:"p99_to_quiet,omitempty"`
	Handshakes  *float64 `json:"handshakes,omitempty"`
	PerCPU      *float64 `json:"handshakes_per_cpu_second,omitempty"`
	PerThousand *float64 `json:"kb_per_1000_connections,omitempty"`
	// Of tulle's loops in a scenario: the longest round (at most that), and of
	// 1,000 rounds those over 1 ms.
	Longest *float64 `json:"longest_round_us,omitempty"`
	OverMS  *float64 `json:"rounds_over_1ms_of_1000,omitempty"`
}

// series is everything that was measured of one contender at one shape, a slot
// per round.
type series struct {
	Shape     string `json:"shape"`
	Column    string `json:"column"`
	Contender string `json:"contender"`
	Idle      int    `json:"idle,omitempty"` // KiB
	Slots     []slot `json:"slots,omitempty"`
}

// samples of a run, in the order in which they were taken. It is also the form
// of the baseline.
type samples struct {
	Series []*series `json:"series"`
}

func newSamples() samples { return samples{Series: []*series{}} }

func readSamples(file string) (*samples, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("baseline: %w (make bench ARGS='-save %s' takes one)", err, file)
	}
	s := &samples{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("baseline %s: %w", file, err)
	}
	return s, nil
}

func (a *samples) find(shape, column, contender string) *series {
	for _, s := range a.Series {
		if s.Shape == shape && s.Column == column && s.Contender == contender {
			return s
		}
	}
	return nil
}

func (a *samples) of(shape string, s *subject) *series {
	x := a.find(shape, s.column, s.c.name)
	if x == nil {
		x = &series{Shape: shape, Column: s.column, Contender: s.c.name, Idle: s.rssIdle}
		a.Series = append(a.Series, x)
	}
	return x
}

func (a *samples) add(shape string, s *subject, m slot) {
	x := a.of(shape, s)
	x.Slots = append(x.Slots, m)
}

// figure is one number of every slot.
type figure func(slot) float64

func cpuOf(m slot) float64 { return m.CPU }
func p50Of(m slot) float64 { return m.P50 }
func p99Of(m slot) float64 { return m.P99 }

func longestOf(m slot) float64 { return m.Longest }

// toQuiet is the p99 in a scenario in that of the quiet time before it.
func toQuiet(m slot) float64 {
	if m.Quiet99 == 0 {
		return 0
	}
	return m.P99 / m.Quiet99
}

// allocs are known zeros too, so they are no figure.
func (x *series) allocs() (out []float64) {
	for _, m := range x.Slots {
		if m.Allocs != nil {
			out = append(out, *m.Allocs)
		}
	}
	return out
}

// values of a figure by round; nil if it was not measured.
func (x *series) values(f figure) (out []float64) {
	if x == nil {
		return nil
	}
	for _, m := range x.Slots {
		if v := f(m); v > 0 {
			out = append(out, v)
		}
	}
	return out
}

// longRounds are known zeros too.
func (x *series) longRounds() (out []float64) {
	for _, m := range x.Slots {
		if m.Longest > 0 {
			out = append(out, m.OverMS)
		}
	}
	return out
}

// per are the values of x combined with those of y round by round: the two
// slots of a round are neighbours in time, and noise that lasts cancels.
func per(x, y *series, f figure, combine func(x, y float64) float64) (out []float64) {
	if x == nil || y == nil {
		return nil
	}
	for i := range min(len(x.Slots), len(y.Slots)) {
		if a, b := f(x.Slots[i]), f(y.Slots[i]); a > 0 && b > 0 {
			out = append(out, combine(a, b))
		}
	}
	return out
}

func ratio(x, y float64) float64 { return x / y }
func minus(x, y float64) float64 { return x - y }

// against is whom the contender is compared with: the peer of its column that
// comes first and was measured; nil: nobody.
func (a *samples) against(x *series) *series {
	peers := []string{"nginx", "haproxy", "envoy"}
	switch {
	case x.Column == filters:
		peers = []string{"envoy-istio"}
	case strings.HasPrefix(x.Shape, "h2-"), strings.HasPrefix(x.Shape, "tcp-"):
		peers = []string{"haproxy", "nginx", "envoy"}
	}
	for _, p := range peers {
		if y := a.find(x.Shape, x.Column, p); y != nil && len(y.values(cpuOf)) > 0 {
			return y
		}
	}
	return nil
}

func median(v []float64) *float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return nil
	}
	m := (s[(len(s)-1)/2] + s[len(s)/2]) / 2
	return &m
}

func (a *samples) rows() (out []row) {
	for _, x := range a.Series {
		r := row{Shape: x.Shape, Column: x.Column, Contender: x.Contender, RSSIdle: x.Idle, Allocs: median(x.allocs()),
			CPU: median(x.values(cpuOf)), RPS: median(x.values(func(m slot) float64 { return m.RPS }))}
		if d := a.find(x.Shape, equal, direct.name); d != x {
			r.AddedP50 = median(per(x, d, p50Of, minus))
			r.AddedP99 = median(per(x, d, p99Of, minus))
			r.AddedP999 = median(per(x, d, func(m slot) float64 { return m.P999 }, minus))
		}
		for _, m := range x.Slots {
			r.RSSLoad = max(r.RSSLoad, m.RSS)
		}
		if r.QuietP99 = median(x.values(func(m slot) float64 { return m.Quiet99 })); r.QuietP99 != nil {
			r.QuietP50 = median(x.values(func(m slot) float64 { return m.Quiet50 }))
			r.P50, r.P99, r.P99Ratio = median(x.values(p50Of)), median(x.values(p99Of)), median(x.values(toQuiet))
		}
		if r.Handshakes = median(x.values(func(m slot) float64 { return m.Handshakes })); r.Handshakes != nil && r.CPU != nil {
			v := 1e6 / *r.CPU
			r.PerCPU = &v
		}
		if r.Longest = median(x.values(longestOf)); r.Longest != nil {
			r.OverMS = median(x.longRounds())
		}
		r.PerThousand = median(x.values(func(m slot) float64 { return m.PerThousand }))
		out = append(out, r)
	}
	return out
}
