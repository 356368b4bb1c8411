package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

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
		changes += move(w, x, "idle memory, KB", repeat(float64(old.Idle), .05), []float64{float64(x.Idle)})
		perThousand := func(m slot) float64 { return m.PerThousand }
		if v := old.values(perThousand); len(v) > 0 {
			changes += move(w, x, "KB per 1,000 idle connections", repeat(v[0], .2), x.values(perThousand))
		}
		if was, is := old.values(toQuiet), x.values(toQuiet); min(len(was), len(is)) >= 3 {
			changes += move(w, x, "p99 in that of a quiet time", was, is)
		}
		changes += move(w, x, "allocations per request", floor(old.allocs()), floor(x.allocs()))
	}
	if changes == 0 {
		fmt.Fprintln(w, "nothing moved beyond noise")
	}
	return changes
}

// repeat is a single value with the noise that it is known to have.
func repeat(v float64, noise float64) []float64 {
	if v <= 0 {
		return nil
	}
	return []float64{v * (1 - noise), v * (1 + noise)}
}

// floor makes nothing of less than an allocation in twenty requests: other work
// of the process allocates too.
func floor(v []float64) (out []float64) {
	for _, x := range v {
		out = append(out, max(x, .05))
	}
	return out
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
