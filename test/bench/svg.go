package main

import (
	"bytes"
	"fmt"
	"html"
)

// colours by contender; others are grey.
var colours = map[string]string{"tulle": "#0f766e", "nginx": "#6b9a3f", "haproxy": "#3f74a8", "envoy": "#b58bc4", "envoy-istio": "#8b4fa3"}

// picture draws CPU per request, the less the better: a group of bars for each
// shape, drawn against the longest of the group.
func (a *samples) picture() []byte {
	const (
		width, left, right = 760, 190, 110
		bar, gap, title    = 15, 3, 30
	)
	type line struct {
		name, colour string
		value        float64
	}
	type group struct {
		shape string
		lines []line
		top   float64
	}
	var groups []*group
	for _, r := range a.rows() {
		if r.CPU == nil {
			continue
		}
		if n := len(groups); n == 0 || groups[n-1].shape != r.Shape {
			groups = append(groups, &group{shape: r.Shape})
		}
		g := groups[len(groups)-1]
		name, colour := r.Contender, colours[r.Contender]
		if r.Column == filters && r.Contender == tulle.name {
			name = "tulle, filters on"
		}
		if colour == "" {
			colour = "#888888"
		}
		g.lines = append(g.lines, line{name, colour, *r.CPU})
		g.top = max(g.top, *r.CPU)
	}
	height := 50
	for _, g := range groups {
		height += title + len(g.lines)*(bar+gap)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<title>CPU per request of tulle-proxy and its peers</title>`+"\n"+`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	fmt.Fprintf(&b, `<text x="16" y="26" font-size="15" font-weight="600" fill="#1f2328">CPU per request, microseconds (less is better)</text>`+"\n")
	y := 40
	for _, g := range groups {
		fmt.Fprintf(&b, `<text x="16" y="%d" font-weight="600" fill="#1f2328">%s</text>`+"\n", y+20, html.EscapeString(g.shape))
		y += title
		for _, l := range g.lines {
			w := l.value / g.top * (width - left - right)
			weight := "400"
			if l.colour == colours[tulle.name] {
				weight = "600"
			}
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" font-weight="%s" fill="#1f2328">%s</text>`+
				`<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/><text x="%.1f" y="%d" fill="#57606a">%.1f</text>`+"\n",
				left-8, y+bar-3, weight, html.EscapeString(l.name), left, y, w, bar, l.colour, float64(left)+w+6, y+bar-3, l.value)
			y += bar + gap
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
