package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tulle is started as a user would: a directory of YAML, `tulle up`, and for
// the pair two programs by `tulle run`. Only the proxies are measured; metrics
// with Istio's labels are always on.
var tulle = &contender{
	name: "tulle", columns: []string{equal, filters},
	fronts: []front{plain, muxed, paired, ending, stream, fed},
	start:  startTulle,
}

func startTulle(ctx context.Context, p *plan) (*running, error) {
	mesh := p.path("mesh")
	if err := os.MkdirAll(mesh, 0o755); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	yaml, err := p.tulleYAML(addr)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(mesh, "bench.yaml"), []byte(yaml), 0o644); err != nil {
		return nil, err
	}
	if p.front == fed {
		r := &running{addr: addr}
		return r, r.tulleFed(ctx, p, mesh)
	}
	state, err := os.MkdirTemp("", "tb") // short: the path of a unix socket is bounded
	if err != nil {
		return nil, err
	}
	up, err := spawn(p.dir, "up", p.cpus(), p.tulle, "up", "-f", mesh, "--state", state, "--loops", strconv.Itoa(p.loops()), "--access-log=false")
	if err != nil {
		return nil, err
	}
	r := &running{addr: addr, jobs: []*job{up}, after: func() { _ = os.RemoveAll(state) }}
	if p.front == paired {
		return r, r.tullePair(ctx, p, state)
	}
	if err := up.listening(ctx, addr); err != nil {
		return r, err
	}
	r.pids = tulleProxies(up.pid())
	if len(r.pids) != 1 {
		return r, fmt.Errorf("want one tulle-proxy, found %d", len(r.pids))
	}
	return r, r.tulleAdmin()
}

// tullePair starts the two programs with their sidecars. The second is our
// backend; the first only says where its sidecar takes requests.
func (r *running) tullePair(ctx context.Context, p *plan, state string) error {
	up := r.jobs[0]
	if err := up.await(ctx, "the mesh is served", func() bool { return strings.Contains(up.said(), "the mesh is served") }); err != nil {
		return err
	}
	run := func(name, deployment string, cmd ...string) (*job, error) {
		args := []string{p.tulle, "run", "--state", state, "--loops", strconv.Itoa(p.loops()), "--mode", "ports", "--proxy-log=false", "-n", "bench", "--deployment", deployment, "--"}
		j, err := spawn(p.dir, name, p.cpus(), append(args, cmd...)...)
		if err != nil {
			return nil, err
		}
		r.jobs = append(r.jobs, j)
		err = j.await(ctx, "its sidecar", func() bool { return strings.Contains(j.said(), "its sidecar is ready") })
		if err == nil {
			r.pids = append(r.pids, tulleProxies(j.pid())...)
		}
		return j, err
	}
	for i := range max(p.peers, 1) {
		if _, err := run(fmt.Sprintf("backend%d", i), "backend", "taskset", "-c", loadCPU, p.self, "backend"); err != nil {
			return err
		}
	}
	client, err := run("client", "client", p.self, "place")
	if err != nil {
		return err
	}
	err = client.await(ctx, "the place of its sidecar", func() bool {
		for l := range strings.Lines(client.said()) {
			if at, ok := strings.CutPrefix(strings.TrimSpace(l), "proxy http://"); ok {
				r.addr = at
			}
		}
		return r.addr != ""
	})
	if err != nil {
		return err
	}
	if want := max(p.peers, 1) + 1; len(r.pids) != want {
		return fmt.Errorf("want %d sidecars, found %d", want, len(r.pids))
	}
	if r.inner, err = tulleInbound(r.pids[0]); err != nil {
		return err
	}
	if r.client, err = tulleIdentity(p, r.pids[len(r.pids)-1]); err != nil {
		return err
	}
	return r.tulleAdmin()
}

// tulleProxies are the data planes that a process has started. Guards of
// programs are of the same name, without a bootstrap file.
func tulleProxies(pid int) []int {
	return slices.DeleteFunc(family(pid, "tulle-proxy"), func(p int) bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
		return err != nil || !bytes.Contains(b, []byte("\x00--bootstrap\x00"))
	})
}

// tulleInbound finds where the sidecar takes mutual TLS.
func tulleInbound(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		return "", err
	}
	var mine []string
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if t, err := os.Readlink(l); err == nil && strings.HasPrefix(t, "socket:[") {
			mine = append(mine, strings.Trim(t, "socket:[]"))
		}
	}
	for l := range bytes.Lines(b) {
		f := strings.Fields(string(l))
		if len(f) < 10 || f[3] != "0A" || !slices.Contains(mine, f[9]) {
			continue
		}
		var a [4]byte
		var port uint16
		if _, err := fmt.Sscanf(f[1], "%02X%02X%02X%02X:%04X", &a[3], &a[2], &a[1], &a[0], &port); err == nil && port == tulleInboundPort {
			return net.JoinHostPort(net.IP(a[:]).String(), fmt.Sprint(port)), nil
		}
	}
	return "", errors.New("the second sidecar does not listen")
}

// Ports of the pair: that of the program behind the second sidecar, and the
// first at which a sidecar in mode ports takes mutual TLS.
const (
	backendPort      = 8080
	tulleInboundPort = 15100
)

// tulleYAML is the route table as Istio's objects.
func (p *plan) tulleYAML(addr string) (string, error) {
	var b strings.Builder
	host, port, err := net.SplitHostPort(p.upstream())
	if err != nil {
		return "", err
	}
	_, listen, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	gateway, backend, tls := "HTTP", "HTTP", ""
	switch p.front {
	case muxed:
		backend = "HTTP2"
	case stream:
		gateway, backend = "TCP", "TCP"
	case ending:
		gateway, tls = "HTTPS", "\n    tls: {mode: SIMPLE, credentialName: front, minProtocolVersion: TLSV1_3}"
		if err := p.secretYAML(&b); err != nil {
			return "", err
		}
	}
	if p.front == paired {
		fmt.Fprintf(&b, pairYAML, backendPort)
		for h := range hostCount {
			fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: svc%d, namespace: bench}\nspec: {selector: {app: backend}, ports: [{name: http, port: 80, targetPort: %d}]}\n", h, backendPort)
		}
	} else {
		fmt.Fprintf(&b, gatewayYAML, strings.ToLower(backend), backend, host, strings.ToLower(backend), port, listen, gateway, tls)
	}
	if p.front == stream {
		fmt.Fprintf(&b, "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: all, namespace: bench}\nspec:\n  hosts: [\"*\"]\n  gateways: [bench]\n"+
			"  tcp: [{match: [{port: %s}], route: [{destination: {host: backend.bench.local, port: {number: 80}}}]}]\n", listen)
		return b.String(), nil
	}
	for h := range hostCount {
		p.virtualService(&b, h)
	}
	if p.filters {
		p.policyYAML(&b)
	}
	return b.String(), nil
}

const pairYAML = `apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bench}
spec: {mtls: {mode: STRICT}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend, namespace: bench}
spec:
  selector: {matchLabels: {app: backend}}
  template: {metadata: {labels: {app: backend, version: v1}}, spec: {serviceAccountName: backend, containers: [{name: backend, image: x, ports: [{containerPort: %d}]}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: bench}
spec:
  selector: {matchLabels: {app: client}}
  template: {metadata: {labels: {app: client, version: v1}}, spec: {serviceAccountName: client, containers: [{name: client, image: x}]}}
`

const gatewayYAML = `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: bench}
spec:
  hosts: [backend.bench.local]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: %s, protocol: %s}]
  endpoints: [{address: %s, ports: {%s: %s}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bench, namespace: bench}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: %s, name: front, protocol: %s}
    hosts: ["*"]%s
`

// virtualService is one host of the table.
func (p *plan) virtualService(b *strings.Builder, h int) {
	gateways, to, port := "[bench]", "backend.bench.local", 80
	if p.front == paired {
		gateways, to = "[mesh]", hostName(h)
	}
	fmt.Fprintf(b, "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: svc%d, namespace: bench}\nspec:\n  hosts: [%s]\n  gateways: %s\n  http:\n",
		h, hostName(h), gateways)
	for _, prefix := range prefixesOf(hostName(h)) {
		fmt.Fprintf(b, "  - match: [{uri: {prefix: %s}}]\n    route: [{destination: {host: %s, port: {number: %d}}}]\n", prefix, to, port)
		if p.filters {
			fmt.Fprintf(b, "    headers: {request: {set: {%s: %s}, remove: [%s]}, response: {set: {%s: %s}, remove: [%s]}}\n",
				setOnRequest[0], setOnRequest[1], removeOnRequest, setOnResponse[0], setOnResponse[1], removeOnResponse)
		}
	}
}

// policyYAML is the policy of ten rules, at the gateway or the second sidecar.
func (p *plan) policyYAML(b *strings.Builder) {
	namespace, selector := "istio-system", "istio: ingressgateway"
	if p.front == paired {
		namespace, selector = "bench", "app: backend"
	}
	fmt.Fprintf(b, "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: bench, namespace: %s}\nspec:\n  selector: {matchLabels: {%s}}\n  action: ALLOW\n  rules:\n",
		namespace, selector)
	for _, r := range rules() {
		fmt.Fprintf(b, "  - to: [{operation: {methods: [%s], paths: [\"%s*\"]}}]\n", strings.Join(r.methods, ", "), r.prefix)
		if r.header != "" {
			fmt.Fprintf(b, "    when: [{key: \"request.headers[%s]\", values: [%s]}]\n", r.header, r.value)
		}
	}
}

// secretYAML is the gateway's certificate.
func (p *plan) secretYAML(b *strings.Builder) error {
	cert, err := os.ReadFile(p.pki.gateway.cert)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.pki.gateway.key)
	if err != nil {
		return err
	}
	indent := func(s []byte) string { return strings.ReplaceAll(strings.TrimSpace(string(s)), "\n", "\n    ") }
	fmt.Fprintf(b, "---\napiVersion: v1\nkind: Secret\nmetadata: {name: front, namespace: bench}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    %s\n  tls.key: |\n    %s\n",
		indent(cert), indent(key))
	return nil
}
