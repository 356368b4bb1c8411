package proxy

import (
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

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
