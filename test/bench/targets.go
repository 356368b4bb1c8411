package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// target is a figure of tulle that this project promises: a ratio to a peer's
// in the same round, or a value of its own.
type target struct {
	name          string
	shape, column string
	of            func(a *samples, x *series) []float64 // by round
	unit          string
	most, stretch float64 // NaN: there is none
}

var none = math.NaN()

// inPeer is a figure in that of a peer, which always runs in one column.
func inPeer(peer, column string, f figure) func(*samples, *series) []float64 {
	return func(a *samples, x *series) []float64 { return per(x, a.find(x.Shape, column, peer), f, ratio) }
}

// addedIn is an added latency in that of a peer.
func addedIn(peer, column string, f figure) func(*samples, *series) []float64 {
	return func(a *samples, x *series) (out []float64) {
		y, d := a.find(x.Shape, column, peer), a.find(x.Shape, equal, direct.name)
		ours, theirs := per(x, d, f, minus), per(y, d, f, minus)
		for i := range min(len(ours), len(theirs)) {
			if theirs[i] > 0 {
				out = append(out, max(ours[i], 0)/theirs[i])
			}
		}
		return out
	}
}

// oursAlone is a figure of tulle alone.
func oursAlone(f figure, scale float64) func(*samples, *series) []float64 {
	return func(_ *samples, x *series) (out []float64) {
		for _, v := range x.values(f) {
			out = append(out, v*scale)
		}
		return out
	}
}

func idleMB(_ *samples, x *series) []float64              { return []float64{float64(x.Idle) / 1024} }
func allocsOf(_ *samples, x *series) []float64            { return x.allocs() }
func rssOf(m slot) float64                                { return float64(m.RSS) }
func perConnection(m slot) float64                        { return m.PerThousand }
func cpuIn(p, c string) func(*samples, *series) []float64 { return inPeer(p, c, cpuOf) }

const istio = "envoy-istio"

var targetList = []target{
	{"HTTP/1.1 plaintext, CPU to nginx", "h1-64", equal, cpuIn("nginx", equal), "x", .80, .70},
	{"HTTP/1.1 plaintext, CPU to HAProxy", "h1-64", equal, cpuIn("haproxy", equal), "x", .75, none},
	{"the same with filters on, CPU to envoy-istio", "h1-64", filters, cpuIn(istio, filters), "x", .5, .35},
	{"mTLS pair, CPU to nginx", "mtls-pair-64", equal, cpuIn("nginx", equal), "x", .45, .35},
	{"mTLS pair, filters on, CPU to envoy-istio", "mtls-pair-64", filters, cpuIn(istio, filters), "x", .3, none},
	{"HTTP/2 c8 m16, CPU to HAProxy", "h2-8x16", equal, cpuIn("haproxy", equal), "x", .4, .25},
	{"HTTP/2 c8 m16, filters on, CPU to envoy-istio", "h2-8x16", filters, cpuIn(istio, filters), "x", .3, none},
	{"gateway TLS, CPU to nginx", "tls-gateway-64", equal, cpuIn("nginx", equal), "x", .8, .6},
	{"raw TCP small, CPU to HAProxy", "tcp-64", equal, cpuIn("haproxy", equal), "x", 1.1, 1},
	{"raw TCP bulk, CPU to HAProxy", "tcp-bulk", equal, cpuIn("haproxy", equal), "x", 1.1, none},
	{"mTLS pair at 2k rps, added p50 to nginx", "mtls-pair-64", equal, addedIn("nginx", equal, p50Of), "x", .5, none},
	{"mTLS pair at 2k rps, added p99 to nginx", "mtls-pair-64", equal, addedIn("nginx", equal, p99Of), "x", .5, none},
	{"mTLS pair at 2k rps, added p50 to envoy-istio", "mtls-pair-64", filters, addedIn(istio, filters, p50Of), "x", .5, none},
	{"mTLS pair at 2k rps, added p99 to envoy-istio", "mtls-pair-64", filters, addedIn(istio, filters, p99Of), "x", .5, none},
	{"p99 while 200 peers handshake, to the quiet", "handshakes-200", equal, oursAlone(toQuiet, 1), "x", 2, none},
	{"p99 while 2,000 clusters arrive, to the quiet", "clusters-2000", equal, oursAlone(toQuiet, 1), "x", 2, none},
	{"longest round of a loop, by the clock, while 200 peers handshake", "handshakes-200", equal, oursAlone(longestOf, 1./1000), "ms", 1, none},
	{"longest round of a loop, by the clock, while 2,000 clusters arrive", "clusters-2000", equal, oursAlone(longestOf, 1./1000), "ms", 1, none},
	{"resident, idle", "clusters-2000", equal, idleMB, "MB", 12, 10},
	{"resident, 2,000 clusters", "clusters-2000", equal, oursAlone(rssOf, 1./1024), "MB", 18, 14},
	{"per idle connection, plaintext", "idle-10000", equal, oursAlone(perConnection, 1./1000), "KB", .5, .2},
	{"per idle connection, TLS, to nginx", "idle-tls-2000", equal, inPeer("nginx", equal, perConnection), "x", 1, none},
	{"allocations per request, HTTP/1.1", "h1-64", filters, allocsOf, "", .05, none},
	{"allocations per request, HTTP/2", "h2-8x16", filters, allocsOf, "", .05, none},
	{"allocations per request, mTLS pair", "mtls-pair-64", filters, allocsOf, "", .05, none},
}

// verdict compares the median with the target. The 0 of allocations is
// met by less than one in twenty requests: timers and metrics allocate too.
func (t *target) verdict(v float64) string {
	switch {
	case v > t.most:
		return fmt.Sprintf("MISSED by %.0f %%", (v/t.most-1)*100)
	case v <= t.stretch:
		return "met, stretch too"
	}
	return "met"
}

// targets prints what was promised beside what was measured.
func (a *samples) targets(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	some := false
	for _, t := range targetList {
		x := a.find(t.shape, t.column, tulle.name)
		if x == nil {
			continue
		}
		if !some {
			fmt.Fprintln(w, "\ntarget\tat most\tstretch\tmeasured\t")
		}
		some = true
		stretch, measured, verdict := "-", "-", "not measured"
		if !math.IsNaN(t.stretch) {
			stretch = fmt.Sprintf("%.2f", t.stretch)
		}
		if v := median(t.of(a, x)); v != nil {
			measured, verdict = fmt.Sprintf("%.2f %s", *v, t.unit), t.verdict(*v)
		}
		fmt.Fprintf(w, "%s\t%.2f\t%s\t%s\t%s\n", t.name, t.most, stretch, measured, verdict)
	}
	return w.Flush()
}
