package main

import (
	"bytes"
	"fmt"
	"html"
	"slices"
)

// titles of the shapes in the picture; others are not drawn.
var titles = map[string]string{
	"h1-64":          "HTTP/1.1, 64 connections",
	"h2-8x16":        "HTTP/2, 8 connections of 16 streams, gRPC",
	"mtls-pair-64":   "Two sidecars with mutual TLS between, HTTP/1.1 in and out",
	"tls-gateway-64": "Gateway ending TLS, HTTP/1.1",
	"tcp-64":         "TCP, echoes of 1 KiB",
}

// bar is a line of the picture.
type bar struct {
	name, class string
	value       float64 // microseconds
}

// barOf is the name of a contender in a column, and its style.
func barOf(r row) bar {
	b := bar{name: r.Contender, class: "peer", value: *r.CPU}
	if r.Column == filters {
		b.name += ", filters on"
	}
	if r.Contender == istio {
		b.name = "envoy as Istio sets it up"
	}
	if r.Contender == tulle.name {
		b.class = "tulle"
	}
	return b
}

// style has the colours of light and dark pages; the ground is the picture's
// own, so that it can be read wherever it is shown.
const style = `<style>
.ground{fill:#ffffff;stroke:#d0d7de}.text{fill:#1f2328}.faint{fill:#59636e}.peer{fill:#afb8c1}.tulle{fill:#0f766e}.strong{font-weight:600}
@media (prefers-color-scheme: dark){.ground{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.faint{fill:#9198a1}.peer{fill:#57606a}.tulle{fill:#2dd4bf}}
</style>
`

// picture draws CPU per request, the less the better: a group of bars for each
// shape, drawn against the longest of the group. Widths are for the font that
// is the widest in use.
func (a *samples) picture() []byte {
	const (
		width, left, right  = 760, 206, 84
		thick, step, header = 14, 19, 34
		top, bottom         = 62, 16
	)
	groups := map[string][]bar{}
	var order []string
	for _, r := range a.rows() {
		if r.CPU == nil || titles[r.Shape] == "" {
			continue
		}
		if !slices.Contains(order, r.Shape) {
			order = append(order, r.Shape)
		}
		groups[r.Shape] = append(groups[r.Shape], barOf(r))
	}
	height := top + bottom
	for _, g := range groups {
		height += header + len(g)*step
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12" role="img">`+"\n",
		width, height, width, height)
	b.WriteString("<title>CPU time per request of tulle-proxy and its peers</title>\n" + style)
	fmt.Fprintf(&b, `<rect class="ground" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", width-1, height-1)
	fmt.Fprintf(&b, `<text class="text strong" x="20" y="30" font-size="16">CPU time per request, in microseconds</text>`+"\n")
	fmt.Fprintf(&b, `<text class="faint" x="20" y="49">Less is better. One core each, by turns in one run; medians. Pairs: both proxies together.</text>`+"\n")
	y := top
	for _, shape := range order {
		g := groups[shape]
		longest := slices.MaxFunc(g, func(x, y bar) int { return int(1e3*x.value) - int(1e3*y.value) }).value
		fmt.Fprintf(&b, `<text class="text strong" x="20" y="%d" font-size="13">%s</text>`+"\n", y+header-12, html.EscapeString(titles[shape]))
		y += header
		for _, l := range g {
			w := max(l.value/longest*(width-left-right), 2)
			strong := ""
			if l.class == "tulle" {
				strong = " strong"
			}
			fmt.Fprintf(&b, `<text class="text%s" x="%d" y="%d" text-anchor="end">%s</text><rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+
				`<text class="faint%s" x="%.1f" y="%d">%.1f</text>`+"\n", strong, left-10, y+11, html.EscapeString(l.name), l.class, left, y, w, thick, strong, left+w+7, y+11, l.value)
			y += step
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
