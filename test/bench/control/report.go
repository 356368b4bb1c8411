package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

func (s size) how() string {
	if s.Wildcard {
		return "all"
	}
	return "on demand"
}

// table prints results, under a heading if wanted.
func table(to io.Writer, all []result, head bool) error {
	w := tabwriter.NewWriter(to, 9, 0, 1, ' ', tabwriter.AlignRight)
	if head {
		fmt.Fprintln(w, "services\tproxies\tclients\tready s\tCPU s\tpeak MiB\theap MiB\tKiB/proxy\tep p50\tep p99 ms\tep CPU ms\troute p50\troute p99\troute CPU\tother CPU\tother B\t")
	}
	for _, r := range all {
		fmt.Fprintf(w, "%d\t%d\t%s\t%.2f\t%.2f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t\n", r.Services, r.Proxies, r.how(), r.ReadyS, r.ReadyCPU, r.PeakMB, r.LiveMB,
			float64(r.PerProxy)/1024, r.Endpoint.P50, r.Endpoint.P99, r.Endpoint.CPU, r.Route.P50, r.Route.P99, r.Route.CPU, r.Unheld.CPU, r.BytesOther)
		if g := r.Grow; g != nil {
			fmt.Fprintf(w, "\t\tto 10,000 endpoints of one service: all have them %.0f ms after the last, %.1f CPU-s, %.0f KiB a proxy\t\n", g.AfterMS, g.CPU, float64(g.PerProxy)/1024)
		}
	}
	return w.Flush()
}

const style = `<style>
.ground{fill:#ffffff;stroke:#d0d7de}.text{fill:#1f2328}.faint{fill:#59636e}.bar{fill:#0f766e}.all{fill:#afb8c1}.strong{font-weight:600}
@media (prefers-color-scheme: dark){.ground{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.faint{fill:#9198a1}.bar{fill:#2dd4bf}.all{fill:#57606a}}
</style>
`

// picture draws, for each size, what it costs to get all proxies ready and what a
// change costs: bars against the longest of each column.
func picture(all []result) []byte {
	const width, left, column, step, top = 900, 220, 220, 22, 74
	columns := []struct {
		title string
		of    func(result) float64
	}{
		{"all ready, CPU s", func(r result) float64 { return r.ReadyCPU }},
		{"change to all, CPU µs per proxy", func(r result) float64 { return 1000 * r.Endpoint.CPU / float64(r.Proxies) }},
		{"change nobody holds, CPU ms", func(r result) float64 { return r.Unheld.CPU }},
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.how(), b.how())*-1, cmp.Compare(a.Proxies, b.Proxies), cmp.Compare(a.Services, b.Services))
	})
	var b bytes.Buffer
	height := top + step*len(all) + 16
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" role="img">`+"\n", width, height, width, height)
	b.WriteString("<title>What the control plane costs by services and proxies</title>\n" + style)
	fmt.Fprintf(&b, `<rect class="ground" x="0.5" y="0.5" width="%d" height="%d" rx="8"/><text class="text strong" x="20" y="30" font-size="16">The control plane, by services x proxies</text>`+"\n", width-1, height-1)
	for i, c := range columns {
		fmt.Fprintf(&b, `<text class="text strong" x="%d" y="58">%s</text>`+"\n", left+i*column, c.title)
	}
	for row, r := range all {
		y := top + row*step
		fmt.Fprintf(&b, `<text class="text" x="20" y="%d">%d x %d, %s</text>`+"\n", y+11, r.Services, r.Proxies, r.how())
		for i, c := range columns {
			longest := 1e-9
			for _, x := range all {
				longest = max(longest, c.of(x))
			}
			class := "bar"
			if r.Wildcard {
				class = "all"
			}
			w := max(c.of(r)/longest*(column-80), 1)
			fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="14" rx="2"/><text class="faint" x="%.1f" y="%d">%.1f</text>`+"\n", class, left+i*column, y, w, float64(left+i*column)+w+6, y+11, c.of(r))
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
