package life

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// TestClientLimits: beyond Envoy's limits of clients' connections, of the proxy
// and of a listener, connections are closed at once, counted under Envoy's names
// and logged with the reason; those within go on, and the process works no more
// than the closing takes.
func TestClientLimits(t *testing.T) {
	g := newGateway(t, web(t, echo), "HTTP")
	g.Boot.Concurrency = 2
	out := &output{}
	p := g.Serve(stdout(out))
	var cfg string
	Wait(t, "its listeners are there", func() bool { _, cfg = p.Page("GET", "/listeners"); return strings.Count(cfg, "\n") >= 2 })
	name := listenerAt(t, cfg, g.http)
	p.Term()
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	g.Boot.Runtime = map[string]string{"overload.global_downstream_max_connections": "8", "other": "x",
		"envoy.resource_limits.listener." + name + ".connection_limit": "5"}
	p = g.Serve(stdout(out))
	if !strings.Contains(p.Said(), "runtime keys that mean nothing here") {
		t.Error("nobody is told that a key is unknown")
	}
	open := func(addr string, n int) (in []*raw, closed int) {
		for range n {
			r := &raw{addr: addr}
			if err := r.post("x"); err != nil {
				closed++
				continue
			}
			in = append(in, r)
		}
		return in, closed
	}
	in, closed := open(g.http, 12)
	if len(in) != 5 || closed != 7 {
		t.Errorf("%d of 12 are served, %d closed, with a limit of 5", len(in), closed)
	}
	tcp := 0
	for range 9 {
		c := dial(t, g.tcp)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"); err == nil {
			if _, err = io.ReadFull(c, make([]byte, 12)); err == nil {
				tcp++
			}
		}
	}
	if tcp != 3 {
		t.Errorf("%d of 9 at the other listener are served, with 3 left in all", tcp)
	}
	at := "envoy_listener_address=\"" + strings.ReplaceAll(g.http, ":", "_") + "\""
	other := "envoy_listener_address=\"" + strings.ReplaceAll(g.tcp, ":", "_") + "\""
	for _, m := range []struct {
		name, labels string
		want         float64
	}{
		{"envoy_listener_downstream_cx_total", at, 5}, {"envoy_listener_downstream_cx_active", at, 5}, {"envoy_listener_downstream_cx_overflow", at, 7},
		{"envoy_listener_downstream_cx_total", other, 3}, {"envoy_listener_downstream_cx_overflow", other, 0},
		{"envoy_listener_downstream_global_cx_overflow", at, 0}, {"envoy_listener_downstream_global_cx_overflow", other, 6},
	} {
		if v := p.Metric(m.name, m.labels); v != m.want {
			t.Errorf("%s{%s} is %v, want %v", m.name, m.labels, v, m.want)
		}
	}
	for _, r := range in { // who is in stays
		if err := r.post("y"); err != nil || r.uses != 1 {
			t.Errorf("a connection within the limit: %v, %d uses", err, r.uses)
		}
	}
	_ = in[0].conn.Close()
	Wait(t, "one may come where one has left", func() bool { return (&raw{addr: g.http}).post("x") == nil })
	Wait(t, "each that was closed is logged", func() bool {
		all := lines(out)
		count := func(reason string) (n int) {
			for _, l := range all {
				if strings.HasPrefix(l, "- 0 OM") && strings.HasSuffix(l, reason) {
					n++
				}
			}
			return n
		}
		return count(" downstream_cx_overflow") >= 7 && count(" downstream_global_cx_overflow") == 6
	})
}

// listenerAt finds the name of the listener of an address in the admin page.
func listenerAt(t testing.TB, page, addr string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	all := strings.Split(strings.TrimSpace(page), "\n")
	i := slices.IndexFunc(all, func(l string) bool { return strings.Contains(l, ":"+port+" ") })
	if i < 0 {
		t.Fatalf("no listener of %s in\n%s", addr, page)
	}
	name, _, _ := strings.Cut(all[i], "::")
	return name
}
