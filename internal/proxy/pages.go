package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// pages of the admin server. Their names are Envoy's and those of Istio's agent.
func (p *Proxy) pages() map[string]page {
	return map[string]page{
		"GET /ready":             p.readyPage,
		"GET /healthz/ready":     p.readyPage,
		"GET /stats/prometheus":  p.statsPage,
		"GET /clusters":          p.clustersPage,
		"GET /listeners":         p.listenersPage,
		"GET /lookups":           p.lookupsPage,
		"GET /server_info":       p.infoPage,
		"POST /drain_listeners":  p.drainPage,
		"POST /drain":            p.gracePage,
		"POST /healthcheck/fail": p.failPage(true),
		"POST /healthcheck/ok":   p.failPage(false),
		"POST /quitquitquit":     p.quitPage,
	}
}

func (p *Proxy) readyPage(w *bytes.Buffer, _ url.Values) (int, string) {
	unopened := p.unopened.Load()
	switch {
	case p.leaving.Load():
		w.WriteString("draining\n")
		return 503, "text/plain"
	case p.failing.Load():
		w.WriteString("POST /healthcheck/fail was said\n")
		return 503, "text/plain"
	case p.ready.Load() && *unopened == "":
		w.WriteString("ready\n")
	case p.ready.Load():
		w.WriteString("ready, but listeners cannot be opened: " + *unopened + "\n")
	case unopened != nil && *unopened != "":
		w.WriteString("listeners cannot be opened: " + *unopened + "\n")
		return 503, "text/plain"
	default:
		w.WriteString(p.waiting.Load().(string) + "\n")
		return 503, "text/plain"
	}
	return 200, "text/plain"
}

func (p *Proxy) statsPage(w *bytes.Buffer, _ url.Values) (int, string) {
	if err := p.telemetry.Expose(w, loop.Nanotime()); err != nil {
		w.Reset()
		w.WriteString(err.Error() + "\n")
		return 500, "text/plain"
	}
	return 200, "text/plain; version=0.0.4; charset=utf-8"
}

func (p *Proxy) clustersPage(w *bytes.Buffer, _ url.Values) (int, string) {
	p.clusters.Each(func(h *cluster.Handle) {
		fmt.Fprintf(w, "%s::active_requests::%d\n", h.Name, h.Used(cluster.Requests))
		fmt.Fprintf(w, "%s::connections::%d\n", h.Name, h.Used(cluster.Connections))
		for _, e := range h.Endpoints() {
			fmt.Fprintf(w, "%s::%s::weight::%d ejected=%t tls=%t %s\n", h.Name, e, e.Weight, e.Ejected(), e.TLS != nil, e.Workload)
		}
	})
	return 200, "text/plain"
}

func (p *Proxy) listenersPage(w *bytes.Buffer, _ url.Values) (int, string) {
	open := p.sockets.Addresses()
	for name, l := range p.snapshot.Load().Listeners {
		for _, a := range l.Addresses {
			fmt.Fprintf(w, "%s::%s bound=%t open=%t\n", name, a, l.Bind, slices.Contains(open, a.String()))
		}
	}
	return 200, "text/plain"
}

// infoPage says which process this is, in Envoy's words where it has some.
func (p *Proxy) infoPage(w *bytes.Buffer, _ url.Values) (int, string) {
	state := "INITIALIZING"
	switch {
	case p.leaving.Load() || p.shutting.Load():
		state = "DRAINING"
	case p.ready.Load():
		state = "LIVE"
	}
	err := json.NewEncoder(w).Encode(map[string]any{"state": state, "pid": os.Getpid(), "id": p.boot.ID,
		"uptime_current_epoch": time.Since(p.started).Round(time.Second).String()})
	if err != nil {
		return 500, "text/plain"
	}
	return 200, "application/json"
}

// gracePage is what /drain of Istio's agent does.
func (p *Proxy) gracePage(w *bytes.Buffer, _ url.Values) (int, string) {
	return p.drainPage(w, url.Values{"graceful": nil, "skip_exit": nil})
}

// drainPage closes listeners; see drainListeners. skip_exit is Envoy's name for
// leaving them open in the end.
func (p *Proxy) drainPage(w *bytes.Buffer, q url.Values) (int, string) {
	if q.Has("skip_exit") && !q.Has("graceful") {
		w.WriteString("skip_exit requires graceful\n")
		return 400, "text/plain"
	}
	go p.drainListeners(context.Background(), q.Has("inboundonly"), q.Has("graceful"), q.Has("skip_exit"))
	w.WriteString("OK\n")
	return 200, "text/plain"
}

// failPage makes the readiness fail, or not any more; as long as it does,
// clients are told with each response to go.
func (p *Proxy) failPage(fail bool) page {
	which := exchange.Stay
	if fail {
		which = exchange.LeaveAll
	}
	return func(w *bytes.Buffer, _ url.Values) (int, string) {
		p.failing.Store(fail)
		p.leave(which)
		w.WriteString("OK\n")
		return 200, "text/plain"
	}
}

func (p *Proxy) quitPage(w *bytes.Buffer, _ url.Values) (int, string) {
	w.WriteString("draining\n")
	p.stop()
	return 200, "text/plain"
}
