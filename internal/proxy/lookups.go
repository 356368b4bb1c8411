package proxy

import (
	"bytes"
	"fmt"
	"net/url"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/feed"
)

// demand is the feed's side of what is looked up; nil: nothing is.
func (p *Proxy) demand() *feed.Demand {
	if p.board == nil {
		return nil
	}
	return &feed.Demand{Lookups: p.board.Questions(), Learn: p.board.Learn, Answered: p.board.Answered, Counts: p.counts}
}

// demandGauges are the metrics of lookups.
func (p *Proxy) demandGauges() {
	if p.board == nil {
		return
	}
	counter := func(name, help string, value func() uint64) {
		p.telemetry.CounterFunc(name, help, func() float64 { return float64(value()) })
	}
	c := p.counts
	counter("tulle_proxy_lookups_found_total", "Answers of the control plane that there is such a destination.", c.Found.Load)
	counter("tulle_proxy_lookups_none_total", "Answers of the control plane that there is no such destination.", c.None.Load)
	counter("tulle_proxy_lookups_late_total", "Lookups that the control plane did not answer within two seconds.", c.Late.Load)
	counter("tulle_proxy_lookups_refused_total", "Lookups that were not sent, because of a bound or because nobody was there.", c.Refused.Load)
	counter("tulle_proxy_lookups_evicted_total", "Names that had to make room for others.", c.Evicted.Load)
	counter("tulle_proxy_lookups_waited_total", "Connections, requests and questions that had to wait for a lookup.", func() uint64 { n, _ := p.board.Counts(); return n })
	counter("tulle_proxy_lookups_failed_total", "Of these, those that got no answer in time.", func() uint64 { _, n := p.board.Counts(); return n })
	p.telemetry.Gauge("tulle_proxy_lookups_names", "Names that are known or asked for.", func() float64 { return float64(c.Names.Load()) })
	p.telemetry.Gauge("tulle_proxy_lookups_in_flight", "Lookups that are asked for and not answered.", func() float64 { return float64(c.Flight.Load()) })
	p.telemetry.Gauge("tulle_proxy_lookups_waiting", "Connections and requests that wait for a lookup now.", func() float64 { return float64(p.board.Waiting()) })
}

// lookupsPage shows what was learnt: the index, then each name with what came of
// it and when it was used last.
func (p *Proxy) lookupsPage(w *bytes.Buffer, _ url.Values) (int, string) {
	known := p.board.Learnt()
	if known == nil {
		w.WriteString("nothing is looked up: all of the mesh is asked for\n")
		return 200, "text/plain"
	}
	fmt.Fprintf(w, "index: %d address prefixes, %d ports, %d names, outbound traffic %s\n", len(known.Index.Prefixes), len(known.Index.Ports),
		len(known.Index.Names), map[bool]string{true: "passes", false: "is blocked"}[known.Index.AllowAny])
	for _, x := range known.Index.Ports {
		fmt.Fprintf(w, "port %d: by host %t, by server name %t, else %t\n", x.Number, x.ByHost, x.BySNI, x.Rest)
	}
	now := conf.Seconds(time.Now())
	for q, a := range known.All() {
		what := "there is no such"
		switch {
		case a.Listener != nil:
			what = "listener " + a.Listener.Name
		case a.Routes != nil:
			what = "route " + a.Routes.Name
		case a.Host != nil:
			what = fmt.Sprint("addresses ", a.Host.Addresses)
		}
		fmt.Fprintf(w, "%s %s: %s; used %d s ago\n", q.Kind, q.Name, what, now-a.Used())
	}
	return 200, "text/plain"
}
