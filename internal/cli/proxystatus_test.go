package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/api"
)

// The table has istioctl's columns; each cell says since when.
func TestProxyStatusTable(t *testing.T) {
	now := time.Unix(100_000, 0)
	list := []api.Proxy{{
		Workload: "shop/orders-1", Agent: "tulle-proxy 1", Types: []api.ProxyType{
			{Type: "type.googleapis.com/envoy.config.cluster.v3.Cluster", State: "SYNCED", SentAt: now.Add(-time.Hour), AckedAt: now.Add(-90 * time.Second)},
			{Type: "type.googleapis.com/envoy.config.listener.v3.Listener", State: "STALE", SentAt: now.Add(-7 * time.Second), AckedAt: now.Add(-time.Hour)},
			{Type: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", State: "NOT SENT"},
		},
	}}
	var b strings.Builder
	if err := printStatus(&b, list, api.Info{PID: 7}, "text", false, now); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(b.String(), "\n")
	want := [][]string{
		{"NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"},
		{"orders-1.shop", "Kubernetes", "SYNCED (1m)", "STALE (7s)", "NOT SENT", "IGNORED", "IGNORED", "tulle-7", "tulle-proxy 1"},
	}
	for i, words := range want {
		if line := strings.Join(words, "|"); strings.Join(splitColumns(got[i]), "|") != line {
			t.Errorf("got %q, want %q", got[i], line)
		}
	}
	if l := named(list, "orders-1.shop"); len(l) != 1 {
		t.Error("not found by its dotted name")
	}
}

func splitColumns(line string) []string {
	var out []string
	for _, w := range strings.Split(line, "   ") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}
