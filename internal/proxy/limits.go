package proxy

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// Envoy's runtime keys that limit the connections of clients, of all listeners
// and of one.
const (
	limitAll       = "overload.global_downstream_max_connections"
	limitOneBefore = "envoy.resource_limits.listener."
	limitOneAfter  = ".connection_limit"
)

// limits reads what runtime says of connections. unknown are keys that mean
// nothing here.
func limits(runtime map[string]string) (l listen.Limits, unknown []string, err error) {
	for _, key := range slices.Sorted(maps.Keys(runtime)) {
		name, one := strings.CutPrefix(key, limitOneBefore)
		name, two := strings.CutSuffix(name, limitOneAfter)
		one = one && two && name != ""
		if key != limitAll && !one {
			unknown = append(unknown, key)
			continue
		}
		n, err := strconv.ParseUint(runtime[key], 10, 64)
		if err != nil || n == 0 {
			return l, nil, fmt.Errorf("runtime: %s: %q is no number of connections", key, runtime[key])
		}
		n = min(n, math.MaxInt32)
		if !one {
			l.All = int(n)
			continue
		}
		if l.Listener == nil {
			l.Listener = map[string]int{}
		}
		l.Listener[name] = int(n)
	}
	return l, unknown, nil
}

// full notes a connection that was one too many; it is being closed.
func (p *Proxy) full(f *listen.Full) {
	if len(f.Listener.AccessLog) == 0 {
		return
	}
	o := telemetry.ListenerFull
	if f.All {
		o = telemetry.ClientsFull
	}
	w := p.workers[f.Loop.ID()]
	now := f.Loop.Now()
	r := telemetry.Record{Start: f.Loop.Wall(), Begin: now, End: now, TCP: true, Inbound: f.Listener.Inbound,
		Downstream: f.Remote, Direct: f.Remote, DownstreamLocal: f.Local, Flags: o.Flag, Details: o.Details, Local: &w.http.Node.Local}
	p.telemetry.Refused(f.Loop.ID(), &r, f.Listener.AccessLog)
}

// listenerMetrics are those of Envoy's listeners.
func (p *Proxy) listenerMetrics() {
	for _, m := range []struct {
		name, help, kind string
		value            func(*listen.Stat) float64
	}{
		{"envoy_listener_downstream_cx_total", "Connections of clients.", "counter", func(s *listen.Stat) float64 { return float64(s.Accepted) }},
		{"envoy_listener_downstream_cx_active", "Connections of clients that are open.", "gauge", func(s *listen.Stat) float64 { return float64(s.Open) }},
		{"envoy_listener_downstream_cx_overflow", "Connections closed at once because the listener had its limit.", "counter", func(s *listen.Stat) float64 { return float64(s.Over) }},
		{"envoy_listener_downstream_global_cx_overflow", "Connections closed at once because the proxy had its limit.", "counter", func(s *listen.Stat) float64 { return float64(s.OverAll) }},
	} {
		p.telemetry.Lines(m.name, m.help, m.kind, func(yield func(string, float64)) {
			for _, s := range p.sockets.Stats() {
				yield(`envoy_listener_address="`+telemetry.Escape(s.Address)+`"`, m.value(&s))
			}
		})
	}
}
