package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
)

// run is everything that was measured.
type run struct {
	Sizes        []result      `json:"sizes"`
	FirstUse     *firstUse     `json:"firstUse,omitempty"`
	Certificates *certificates `json:"certificates,omitempty"`
}

// target is what a figure is to be at most.
type target struct {
	what          string
	most, stretch float64
	unit          string
	got           float64
}

// targets are those that the run has figures for.
func (r *run) targets() (out []target) {
	add := func(what string, most, stretch float64, unit string, got float64) {
		out = append(out, target{what, most, cmp.Or(stretch, most), unit, got})
	}
	for _, s := range r.Sizes {
		of := fmt.Sprintf("%d x %d, %s: ", s.Services, s.Proxies, s.how())
		switch at := [2]int{s.Services, s.Proxies}; {
		case at == [2]int{1000, 1000} && !s.Wildcard:
			add(of+"all ready", 3, 1, "CPU-s", s.ReadyCPU)
			add(of+"peak memory", 300, 150, "MiB", s.PeakMB)
			add(of+"endpoint change p99", 150, 50, "ms", s.Endpoint.P99)
			add(of+"route change p99", 150, 50, "ms", s.Route.P99)
		case at == [2]int{1000, 500} && s.Wildcard:
			add(of+"all ready", 5, 2, "CPU-s", s.ReadyCPU)
		case at == [2]int{5000, 100} && !s.Wildcard:
			add(of+"bytes per proxy", 100, 60, "KiB", float64(s.PerProxy)/1024)
			add(of+"a change that nobody holds", 10, 2, "CPU-ms", s.Unheld.CPU)
			add(of+"bytes of it", 0, 0, "B", float64(s.BytesOther))
		}
		if s.Grow != nil {
			add(of+"10,000 endpoints, all have them after the last", 1000, 0, "ms", s.Grow.AfterMS)
		}
	}
	if f := r.FirstUse; f != nil {
		add("the first request to a destination, added p99", 5, 2, "ms", f.P99)
	}
	if c := r.Certificates; c != nil {
		add("10,000 certificates", 60, 0, "CPU-s", c.CPU)
		add("of them lost", 0, 0, "", float64(c.Lost))
	}
	return out
}

// tell prints what is no size's, and which targets were met.
func (r *run) tell(to io.Writer) error {
	if f := r.FirstUse; f != nil {
		fmt.Fprintf(to, "\nfirst request to each of %d destinations: %.2f ms (p50), %.2f ms (p99) more than the second, which takes %.2f ms\n", f.Uses, f.P50, f.P99, f.Next)
	}
	if c := r.Certificates; c != nil {
		fmt.Fprintf(to, "%d certificate requests: %.1f CPU-s, %.1f s, %d lost\n", c.Requests, c.CPU, c.Seconds, c.Lost)
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\ntarget\tat most\tmeasured\t")
	for _, t := range r.targets() {
		verdict := "MISSED"
		if t.got <= t.most {
			verdict = "met"
		}
		if t.stretch < t.most && t.got <= t.stretch {
			verdict = "met, and the stretch too"
		}
		fmt.Fprintf(w, "%s\t%.4g %s\t%.3g\t%s\n", t.what, t.most, t.unit, t.got, verdict)
	}
	return w.Flush()
}
