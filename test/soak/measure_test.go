package soak

import (
	"slices"
)

// measured are the proxies that are never restarted.
var measured = []string{"edge", "web", "orders-1"}

// reading of a process.
type reading struct{ resident, live, goroutines, descriptors, threads int }

func (w *world) measure() {
	for _, name := range measured {
		p := w.procs[name]
		w.readings[name] = append(w.readings[name], reading{p.Resident(), int(p.Metric("tulle_proxy_memory_live_bytes", "")) >> 10,
			int(p.Metric("tulle_proxy_goroutines", "")), p.Descriptors(), p.Threads()})
	}
}

// flat compares the last third with the first: medians, since traffic comes and
// goes.
func (w *world) flat() {
	for _, name := range measured {
		all := w.readings[name]
		third := len(all) / 3
		if third == 0 {
			w.t.Errorf("%s: only %d readings", name, len(all))
			return
		}
		check := func(what string, of func(reading) int, slack int, percent int) {
			before, after := median(all[:third], of), median(all[len(all)-third:], of)
			w.t.Logf("%-9s %-12s first third %7d, last third %7d", name, what, before, after)
			if after > before+before*percent/100+slack {
				w.t.Errorf("%s: %s grew from %d to %d", name, what, before, after)
			}
		}
		check("RSS KiB", func(r reading) int { return r.resident }, 4<<10, 15)
		check("live KiB", func(r reading) int { return r.live }, 3<<10, 15)
		check("goroutines", func(r reading) int { return r.goroutines }, 5, 0)
		check("descriptors", func(r reading) int { return r.descriptors }, 24, 0) // pools come and go
		check("threads", func(r reading) int { return r.threads }, 4, 0)
	}
}

func median(all []reading, of func(reading) int) int {
	var v []int
	for _, r := range all {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
