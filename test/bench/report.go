package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// print writes all tables: loads, scenarios, targets.
func (a *samples) print(to io.Writer) error {
	if err := a.table(to); err != nil {
		return err
	}
	if err := a.scenes(to); err != nil {
		return err
	}
	return a.targets(to)
}

// table prints medians with the spread of the main figure, and its ratio to
// the peer's.
func (a *samples) table(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "shape\tcolumn\tcontender\tCPU us/req\tspread\tx peer\treq/s\t+p50 us\t+p99\t+p99.9\tidle KB\tload KB\tallocs/req\t")
	last := ""
	for i, r := range a.rows() {
		x := a.Series[i]
		if r.RPS == nil {
			continue // a scenario
		}
		if last != "" && last != r.Shape {
			fmt.Fprintln(w, "\t\t\t\t\t\t\t\t\t\t\t\t\t")
		}
		last = r.Shape
		spread, rel := "-", "-"
		if v := x.values(cpuOf); len(v) > 0 {
			spread = fmt.Sprintf("%.1f..%.1f", slices.Min(v), slices.Max(v))
			if y := a.against(x); y != nil {
				rel = show(median(per(x, y, cpuOf, ratio)), 2)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t\n", r.Shape, r.Column, r.Contender, show(r.CPU, 2), spread, rel,
			show(r.RPS, 0), show(r.AddedP50, 0), show(r.AddedP99, 0), show(r.AddedP999, 0), r.RSSIdle, r.RSSLoad, show(r.Allocs, 2))
	}
	return w.Flush()
}

// scenes prints the latencies in scenarios beside those of quiet times.
func (a *samples) scenes(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	some := false
	for i, r := range a.rows() {
		if r.P99Ratio == nil && r.PerCPU == nil {
			continue
		}
		if !some {
			fmt.Fprintln(w, "\nscenario\tcolumn\tcontender\tquiet p50 us\tp99\tin it p50\tp99\tx quiet\tspread\thandshakes\tper CPU s\tidle KB\twith KB\tKB per 1,000\tlongest round us\tover 1 ms of 1,000\t")
		}
		some = true
		spread := "-"
		if v := a.Series[i].values(toQuiet); len(v) > 0 {
			spread = fmt.Sprintf("%.1f..%.1f", slices.Min(v), slices.Max(v))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t\n", r.Shape, r.Column, r.Contender, show(r.QuietP50, 0), show(r.QuietP99, 0),
			show(r.P50, 0), show(r.P99, 0), show(r.P99Ratio, 2), spread, show(r.Handshakes, 0), show(r.PerCPU, 0), r.RSSIdle, r.RSSLoad, show(r.PerThousand, 0), show(r.Longest, 0), show(r.OverMS, 2))
	}
	return w.Flush()
}

// show is a figure, or a dash.
func show(v *float64, digits int) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.*f", digits, *v)
}

// report prints the table and writes the files that were asked for.
func (b *bench) report(base *samples) error {
	var text bytes.Buffer
	if err := b.samples.print(&text); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(text.Bytes()); err != nil {
		return err
	}
	if b.out != "" {
		if err := os.MkdirAll(b.out, 0o755); err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(b.out, "bench.json"), b.samples.rows()); err != nil {
			return err
		}
		if err := b.samples.save(filepath.Join(b.out, "samples.json")); err != nil {
			return err
		}
		for name, body := range map[string][]byte{"bench.svg": b.samples.picture(), "bench.txt": text.Bytes()} {
			if err := os.WriteFile(filepath.Join(b.out, name), body, 0o644); err != nil {
				return err
			}
		}
	}
	if b.save != "" {
		if err := b.samples.save(b.save); err != nil {
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

// save keeps samples, a line for each series.
func (a *samples) save(file string) error {
	var b bytes.Buffer
	b.WriteString("{\"series\": [")
	for i, x := range a.Series {
		raw, err := json.Marshal(x)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n" + string(raw))
	}
	b.WriteString("\n]}\n")
	return os.WriteFile(file, b.Bytes(), 0o644)
}
