package api

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/internal/xds"
)

// Metrics of the control plane in Prometheus' text form: what was sent, by
// resource type. What each proxy was sent is in /v1/proxies.
func (s *Server) Metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	streams, types := s.plane.Sent()
	fmt.Fprint(w, exposition(streams, types))
}

func exposition(streams int, types []xds.TypeStatus) string {
	var b strings.Builder
	head := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	head("tulle_xds_streams", "gauge", "Streams of proxies that are open.")
	fmt.Fprintf(&b, "tulle_xds_streams %d\n", streams)
	for _, m := range []struct {
		name, kind, help string
		value            func(*xds.TypeStatus) uint64
	}{
		{"tulle_xds_responses_total", "counter", "Responses that were sent.", func(t *xds.TypeStatus) uint64 { return t.Responses }},
		{"tulle_xds_resources_total", "counter", "Resources in responses.", func(t *xds.TypeStatus) uint64 { return t.Resources }},
		{"tulle_xds_removed_total", "counter", "Resources that proxies were told are gone.", func(t *xds.TypeStatus) uint64 { return t.Removed }},
		{"tulle_xds_bytes_total", "counter", "Bytes of resources in responses.", func(t *xds.TypeStatus) uint64 { return t.Bytes }},
		{"tulle_xds_refusals_total", "counter", "Responses that proxies refused, in whole or in part.", func(t *xds.TypeStatus) uint64 { return t.Refusals }},
		{"tulle_xds_asked_total", "counter", "Names that sidecars on demand asked for.", func(t *xds.TypeStatus) uint64 { return t.Asked }},
		{"tulle_xds_absent", "gauge", "Names that connected sidecars asked for and that lead nowhere, each counted at each sidecar.", func(t *xds.TypeStatus) uint64 { return uint64(max(t.Absent, 0)) }},
		{"tulle_xds_held", "gauge", "Resources that connected proxies hold, each counted at each proxy.", func(t *xds.TypeStatus) uint64 { return uint64(max(t.Held, 0)) }},
	} {
		head(m.name, m.kind, m.help)
		for i := range types {
			t := &types[i]
			fmt.Fprintf(&b, "%s{type=%q} %d\n", m.name, short(t.Type), m.value(t))
		}
	}
	head("tulle_xds_news_total", "counter", "Resources and removals that proxies were told of, by what caused it.")
	for i := range types {
		for _, c := range xds.Causes() {
			fmt.Fprintf(&b, "tulle_xds_news_total{type=%q,cause=%q} %d\n", short(types[i].Type), c, types[i].Causes[c])
		}
	}
	return b.String()
}

// short is a type URL without what all have.
func short(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }
