package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
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
}

// series is everything that was measured of one contender at one shape, a slot
// per round.
type series struct {
	Shape     string `json:"shape"`
	Column    string `json:"column"`
	Contender string `json:"contender"`
	Idle      int    `json:"idle,omitempty"` // KiB
	With      int    `json:"with,omitempty"` // KiB with idle connections
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

func (a *samples) memory(shape string, s *subject, before, with int) {
	x := a.of(shape, s)
	x.Idle, x.With = before, with
}

// figure is one number of every slot.
type figure func(slot) float64

func cpuOf(m slot) float64 { return m.CPU }

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
		r := row{Shape: x.Shape, Column: x.Column, Contender: x.Contender, RSSIdle: x.Idle, RSSLoad: x.With,
			CPU: median(x.values(cpuOf)), RPS: median(x.values(func(m slot) float64 { return m.RPS }))}
		if d := a.find(x.Shape, equal, direct.name); d != x {
			r.AddedP50 = median(per(x, d, func(m slot) float64 { return m.P50 }, minus))
			r.AddedP99 = median(per(x, d, func(m slot) float64 { return m.P99 }, minus))
			r.AddedP999 = median(per(x, d, func(m slot) float64 { return m.P999 }, minus))
		}
		for _, m := range x.Slots {
			r.RSSLoad = max(r.RSSLoad, m.RSS)
		}
		out = append(out, r)
	}
	return out
}

// table prints medians with the spread of the main figure, and its ratio to
// the peer's.
func (a *samples) table(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "shape\tcolumn\tcontender\tCPU us/req\tspread\tx peer\treq/s\t+p50 us\t+p99\t+p99.9\tidle KB\tload KB\t")
	show := func(v *float64, digits int) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%.*f", digits, *v)
	}
	last := ""
	for i, r := range a.rows() {
		x := a.Series[i]
		if last != "" && last != r.Shape {
			fmt.Fprintln(w, "\t\t\t\t\t\t\t\t\t\t\t\t")
		}
		last = r.Shape
		spread, rel := "-", "-"
		if v := x.values(cpuOf); len(v) > 0 {
			spread = fmt.Sprintf("%.1f..%.1f", slices.Min(v), slices.Max(v))
			if y := a.against(x); y != nil {
				rel = show(median(per(x, y, cpuOf, ratio)), 2)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t\n", r.Shape, r.Column, r.Contender, show(r.CPU, 2), spread, rel,
			show(r.RPS, 0), show(r.AddedP50, 0), show(r.AddedP99, 0), show(r.AddedP999, 0), r.RSSIdle, r.RSSLoad)
	}
	return w.Flush()
}

// report prints the table and writes the files that were asked for.
func (b *bench) report(base *samples) error {
	if err := b.samples.table(os.Stdout); err != nil {
		return err
	}
	if b.out != "" {
		if err := os.MkdirAll(b.out, 0o755); err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(b.out, "bench.json"), b.samples.rows()); err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(b.out, "samples.json"), &b.samples); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.out, "bench.svg"), b.samples.picture(), 0o644); err != nil {
			return err
		}
	}
	if b.save != "" {
		if err := writeJSON(b.save, &b.samples); err != nil {
			return err
		}
	}
	if base != nil {
		fmt.Println()
		moved(os.Stdout, base, &b.samples)
	}
	return nil
}

func writeJSON(file string, v any) error {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

// moved tells which of our figures changed since the baseline by more than
// rounds differ from each other: the ranges of the two runs do not meet, and
// the medians are 3 % apart. CPU is compared as ratio to the peer in the same
// round, so that another machine, or a busier one, is not a change.
func moved(w io.Writer, base, now *samples) (changes int) {
	for _, x := range now.Series {
		old := base.find(x.Shape, x.Column, x.Contender)
		if old == nil {
			fmt.Fprintf(w, "%s %s %s: not in the baseline\n", x.Shape, x.Column, x.Contender)
			continue
		}
		what := "CPU per request"
		was, is := old.values(cpuOf), x.values(cpuOf)
		if y := now.against(x); y == x {
			continue // the measure of the others
		} else if y != nil {
			if z := base.find(y.Shape, y.Column, y.Contender); z != nil {
				what += " in that of " + y.Contender
				was, is = per(old, z, cpuOf, ratio), per(x, y, cpuOf, ratio)
			}
		}
		if len(is) > 0 && min(len(was), len(is)) < 3 {
			fmt.Fprintf(w, "%s %s %s: fewer than three rounds tell nothing of noise\n", x.Shape, x.Column, x.Contender)
		} else {
			changes += move(w, x, what, was, is)
		}
		idle, with := float64(x.Idle), float64(x.With-x.Idle)
		changes += move(w, x, "idle memory, KB", repeat(old.Idle, .05), []float64{idle})
		if x.With > 0 {
			changes += move(w, x, "memory of the idle connections, KB", repeat(old.With-old.Idle, .2), []float64{with})
		}
	}
	if changes == 0 {
		fmt.Fprintln(w, "nothing moved beyond noise")
	}
	return changes
}

// repeat is a single value with the noise that it is known to have.
func repeat(v int, noise float64) []float64 {
	if v <= 0 {
		return nil
	}
	return []float64{float64(v) * (1 - noise), float64(v) * (1 + noise)}
}

func move(w io.Writer, x *series, what string, was, is []float64) int {
	a, b := median(was), median(is)
	if a == nil || b == nil || *a == 0 {
		return 0
	}
	change := *b / *a - 1
	apart := cmp.Compare(slices.Min(is), slices.Max(was)) > 0 || cmp.Compare(slices.Max(is), slices.Min(was)) < 0
	if !apart || max(change, -change) < .03 {
		return 0
	}
	word := "better"
	if change > 0 {
		word = "WORSE"
	}
	fmt.Fprintf(w, "%s %s %s: %s %.4g -> %.4g (%+.0f %%, %s)\n", x.Shape, x.Column, x.Contender, what, *a, *b, change*100, word)
	return 1
}
