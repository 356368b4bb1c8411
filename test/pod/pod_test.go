//go:build linux

package pod

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// probes of the web pod, as the injector writes them.
var webProbes = map[string]any{
	"/app-health/web/readyz":   map[string]any{"httpGet": map[string]any{"path": "/healthz", "port": 8080}, "timeoutSeconds": 60},
	"/app-health/web/livez":    map[string]any{"tcpSocket": map[string]any{"port": 8080}, "timeoutSeconds": 60},
	"/app-health/web/startupz": map[string]any{"tcpSocket": map[string]any{"port": 8081}, "timeoutSeconds": 60},
}

// web is a pod with a server under STRICT, ready. drain is its time to end.
func (m *mesh) web(drain string) (*pod, *container) {
	m.t.Helper()
	p := m.newPod("web", 2, map[string]string{"ISTIO_KUBE_APP_PROBERS": jsonText(m.t, webProbes),
		"ISTIO_PROMETHEUS_ANNOTATIONS": `{"scrape":"true","path":"","port":"8080"}`})
	p.env = append(p.env, `PROXY_CONFIG={"discoveryAddress":"istiod.istio-system.svc:15012","logLevel":"debug","terminationDrainDuration":"`+drain+`"}`)
	p.redirect()
	side := p.sidecar()
	p.ready()
	p.serve()
	return p, side
}

// serve starts the program and waits until it listens.
func (p *pod) serve() {
	p.t.Helper()
	a := p.start(appUser, "app", nil, "/tulle-proxy", "serve")
	wait(p.t, "the program listens", func() error {
		if !strings.Contains(a.said(), "listening") {
			return io.EOF
		}
		return nil
	})
}

// TestPod is the life of a pod under STRICT.
func TestPod(t *testing.T) {
	m := newMesh(t)
	m.open()
	web, side := m.web("1s")
	client := m.newPod("client", 3, nil)
	client.redirect()
	client.sidecar()
	client.ready()

	t.Run("mTLS", func(t *testing.T) {
		for _, at := range []string{"10.98.0.10:80", "[fd98::10]:80"} { // each by endpoints of both families
			for range 4 {
				out := client.run(appUser, "app", "/tulle-proxy", "talk", at, "web")
				if !strings.HasPrefix(out, "connected\n200 OK\nhello web peer=By=spiffe://cluster.local/ns/shop/sa/web;") {
					t.Errorf("%s: %q", at, out)
				}
			}
		}
		out := client.run(appUser, "app", "/tulle-proxy", "get", "http://web/")
		if !strings.HasPrefix(out, "200 hello web peer=By=spiffe://cluster.local/ns/shop/sa/web;") || !strings.Contains(out, "URI=spiffe://cluster.local/ns/shop/sa/client") {
			t.Errorf("the client got %q", out)
		}
	})
	t.Run("plain text", func(t *testing.T) {
		for _, a := range []string{web.ip4, web.ip6} {
			if code, text := web.kubelet("GET", a, 8080, "/"); code != 0 {
				t.Errorf("%s answers without TLS: %d %s", a, code, text)
			}
		}
	})
	t.Run("probes", func(t *testing.T) { probes(t, web, client) })
	t.Run("metrics", func(t *testing.T) { metrics(t, web) })
	t.Run("iptables", func(t *testing.T) { listing(t, web) })
	t.Run("orders", func(t *testing.T) { orders(t, web) })
	t.Run("admin", func(t *testing.T) {
		if code, _ := web.kubelet("GET", web.ip4, 15000, "/ready"); code != 0 {
			t.Error("the admin pages can be had from outside")
		}
		if out := web.run(proxyUser, "proxy", "/tulle-proxy", "request", "GET", "/ready"); out != "ready\n" {
			t.Errorf("from inside: %q", out)
		}
	})
	t.Run("on demand", func(t *testing.T) { onDemand(t, client) })
	t.Run("end", func(t *testing.T) { ends(t, web, side) })
}

// onDemand: the sidecar has what its program has used, and goes on with that when
// the control plane is gone; what is new fails then, and does not pass it by.
func onDemand(t *testing.T, client *pod) {
	out := client.run(proxyUser, "proxy", "/tulle-proxy", "request", "GET", "/lookups")
	if !strings.Contains(out, "\nroute 0.0.0.0_80/web: route 0.0.0.0_80/") {
		t.Errorf("looked up: %s", out)
	}
	client.mesh.stop()
	for host, want := range map[string]string{"web": "connected\n200 OK\nhello web peer=", "new.shop": "connected\n503 Service Unavailable\n"} {
		if out := client.run(appUser, "app", "/tulle-proxy", "talk", "10.98.0.10:80", host); !strings.HasPrefix(out, want) {
			t.Errorf("%s without a control plane: %q", host, out)
		}
	}
}

// probes are asked from inside, so that STRICT does not refuse them.
func probes(t *testing.T, web, client *pod) {
	for _, a := range []string{web.ip4, web.ip6} {
		for path, want := range map[string]int{"readyz": 200, "livez": 200, "startupz": 500, "nonez": 404} {
			if code, text := web.kubelet("GET", a, 15020, "/app-health/web/"+path); code != want {
				t.Errorf("%s at %s: %d %s, want %d", path, a, code, text, want)
			}
		}
		for _, port := range []int{15020, 15021} {
			if code, text := web.kubelet("GET", a, port, "/healthz/ready"); code != 200 {
				t.Errorf("%s:%d: %d %s", a, port, code, text)
			}
		}
	}
	client.run(appUser, "app", "/tulle-proxy", "get", "http://web/ill")
	if code, _ := web.kubelet("GET", web.ip4, 15020, "/app-health/web/readyz"); code != 503 {
		t.Errorf("of an ill program: %d, want 503", code)
	}
}

func metrics(t *testing.T, web *pod) {
	_, merged := web.kubelet("GET", web.ip4, 15020, "/stats/prometheus")
	for _, want := range []string{"app_orders_total 42\n", "istio_requests_total{reporter=\"destination\",source_workload=\"client\"",
		"istio_agent_scrape_failures_total{type=\"application\"} 0\n"} {
		if !strings.Contains(merged, want) {
			t.Errorf("the merged metrics do not have %s", want)
		}
	}
	if strings.Contains(merged, "# EOF") {
		t.Error("an end within the metrics")
	}
	_, own := web.kubelet("GET", web.ip4, 15090, "/stats/prometheus")
	if strings.Contains(own, "app_orders_total") || !strings.Contains(own, "istio_requests_total") {
		t.Errorf("the proxy's own metrics:\n%s", own)
	}
	if code, _ := web.kubelet("GET", web.ip4, 15090, "/quitquitquit"); code != 404 {
		t.Errorf("another page at 15090: %d", code)
	}
}

// listing shows the rules to the sidecar, which may not ask for them, and to who may.
func listing(t *testing.T, web *pod) {
	for name, rights := range map[string][]string{"kernel": initContainer, "record": proxyUser} {
		out := web.run(rights, "proxy", "/iptables", "-t", "nat", "-S")
		for _, want := range []string{
			"-A PREROUTING -p tcp -j ISTIO_INBOUND\n", "-A OUTPUT -j ISTIO_OUTPUT\n", "-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN\n",
			"-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n", "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n",
			"-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: without %s in\n%s", name, want, out)
			}
		}
		if out := web.run(rights, "proxy", "/iptables", "-t", "nat", "-L"); !strings.Contains(out, "Chain ISTIO_OUTPUT (1 references)\n") {
			t.Errorf("%s:\n%s", name, out)
		}
	}
}

// orders are taken from programs of the pod alone.
func orders(t *testing.T, web *pod) {
	for _, path := range []string{"/quitquitquit", "/drain"} {
		if code, _ := web.kubelet("POST", web.ip4, 15020, path); code != 403 {
			t.Errorf("POST %s from outside: %d, want 403", path, code)
		}
	}
	if out := web.start(appUser, "app", nil, "/tulle-proxy", "get", "http://127.0.0.1:15020/quitquitquit"); out.end() != 0 || !strings.HasPrefix(out.said(), "405") {
		t.Errorf("GET from inside: %s", out.said())
	}
}

// ends is the end of a pod by the program's own word.
func ends(t *testing.T, web *pod, side *container) {
	if out := web.run(appUser, "app", "/tulle-proxy", "post", "http://127.0.0.1:15020/quitquitquit"); !strings.HasPrefix(out, "200") {
		t.Errorf("the program says quit: %s", out)
	}
	wait(t, "it is not ready any more", func() error {
		if code, text := web.kubelet("GET", web.ip4, 15021, "/healthz/ready"); code == 200 {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	if code := side.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestFirstPacket: programs that call out in their first millisecond, while
// the sidecar is new each time, and before there is a control plane at all.
func TestFirstPacket(t *testing.T) {
	m := newMesh(t)
	client := m.newPod("client", 3, nil)
	for range 2 { // an init container may run again
		client.redirect()
	}
	// Whatever goes to the Service's address uncaptured would come by here.
	if err := command("nft add table ip watch"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command("nft delete table ip watch") })
	for _, line := range []string{"nft add chain ip watch seen { type filter hook prerouting priority 0 ; }",
		"nft add rule ip watch seen ip daddr 10.98.0.10 counter"} {
		if err := command(line); err != nil {
			t.Fatal(err)
		}
	}
	side := client.sidecar()
	wait(t, "the sidecar's port is open", func() error { // no control plane yet
		c := client.start(appUser, "app", nil, "/tulle-proxy", "get", "http://127.0.0.1:15020/healthz/ready")
		if c.end(); !strings.HasPrefix(c.said(), "503") {
			return fmt.Errorf("%s", c.said())
		}
		return nil
	})
	early := client.start(appUser, "app", nil, "/tulle-proxy", "talk", "10.98.0.10:80", "web.shop")
	wait(t, "the program is connected", func() error {
		if !strings.HasPrefix(early.said(), "connected\n") {
			return fmt.Errorf("%q", early.said())
		}
		return nil
	})
	m.open()
	m.web("1s")
	if early.end() != 0 || !strings.Contains(early.said(), "\n200 OK\n") && !strings.Contains(early.said(), "\n503 ") {
		t.Errorf("a connection from before there was a control plane: %s", early.said())
	}
	for i := range 10 {
		client.ready()
		if out := client.run(appUser, "app", "/tulle-proxy", "get", "http://10.98.0.10/"); !strings.HasPrefix(out, "200 hello") {
			t.Errorf("start %d: %s", i, out)
		}
		_ = side.Process.Kill()
		<-side.ended
		side = client.sidecar()
	}
	out, err := output("nft list chain ip watch seen")
	if err != nil || !strings.Contains(out, "counter packets 0 bytes 0") {
		t.Errorf("packets to the Service's address were not captured: %v\n%s", err, out)
	}
}

func output(line string) (string, error) {
	f := strings.Fields(line)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	return string(out), err
}

// resolver knows two names, at 192.0.2.7.
func resolver(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		var p dnsmessage.Parser
		h, err := p.Start(b[:n])
		if err != nil {
			continue
		}
		q, err := p.Question()
		if err != nil {
			continue
		}
		code := dnsmessage.RCodeSuccess
		if n := q.Name.String(); n != "outside.example." && n != "pod-0.db.shop.svc.cluster.local." {
			code = dnsmessage.RCodeNameError
		}
		out := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true, RCode: code})
		_ = out.StartQuestions()
		_ = out.Question(q)
		_ = out.StartAnswers()
		if q.Type == dnsmessage.TypeA && code == dnsmessage.RCodeSuccess {
			_ = out.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}})
		}
		if msg, err := out.Finish(); err == nil {
			_, _ = c.WriteTo(msg, from)
		}
	}
}

// TestGateway: a gateway's pod takes what comes from outside to pods under
// STRICT, and what nothing redirects to it.
func TestGateway(t *testing.T) {
	m := newMesh(t)
	m.open()
	m.web("1s")
	p := m.newPod("edge", 4, map[string]string{"ISTIO_META_INTERCEPTION_MODE": "NONE", "ISTIO_META_DNS_CAPTURE": ""})
	p.start(proxyUser, "proxy", p.env, "/tulle-proxy", "gateway")
	p.ready()
	for _, a := range []string{p.ip4, p.ip6} {
		out, err := output("curl -s --max-time 30 -H host:shop.example http://" + net.JoinHostPort(a, "8080") + "/")
		if err != nil || !strings.HasPrefix(out, "hello shop.example peer=By=spiffe://cluster.local/ns/shop/sa/web;") || !strings.Contains(out, "URI=spiffe://cluster.local/ns/shop/sa/edge") {
			t.Errorf("%s: %v %q", a, err, out)
		}
	}
	if code, text := p.kubelet("GET", p.ip4, 15020, "/stats/prometheus"); code != 200 || !strings.Contains(text, "istio_requests_total") {
		t.Errorf("metrics: %d", code)
	}
}

// TestNames: names of the mesh are answered by the sidecar, all others by the
// resolver that the pod has.
func TestNames(t *testing.T) {
	u, err := net.ListenPacket("udp", world4+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	go resolver(u)
	m := newMesh(t)
	m.open()
	p := m.newPod("client", 3, nil)
	p.redirect()
	p.sidecar()
	p.ready()
	for name, want := range map[string]string{
		"web": "[10.98.0.10]\n", "web.shop.svc.cluster.local": "[10.98.0.10]\n",
		"outside.example": "[192.0.2.7]\n", "pod-0.db.shop.svc.cluster.local.": "[192.0.2.7]\n",
	} {
		if out := p.run(appUser, "app", "/tulle-proxy", "lookup", name); out != want {
			t.Errorf("%s: %q, want %q", name, out, want)
		}
	}
}

// TestTermination: after SIGTERM new connections are taken for a time, as peers
// learn of it one after the other; a second signal ends at once.
func TestTermination(t *testing.T) {
	m := newMesh(t)
	m.open()
	web, side := m.web("5m")
	client := m.newPod("client", 3, nil)
	client.redirect()
	client.sidecar()
	client.ready()
	client.run(appUser, "app", "/tulle-proxy", "get", "http://web/")
	if err := side.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait(t, "it is not ready any more", func() error {
		if code, text := web.kubelet("GET", web.ip4, 15021, "/healthz/ready"); code != 503 {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	if out := client.run(appUser, "app", "/tulle-proxy", "get", "http://web/"); !strings.HasPrefix(out, "200") {
		t.Errorf("a request while it drains: %s", out)
	}
	if err := side.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	side.end()
}
