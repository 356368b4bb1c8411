package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// tulle is our gateway, started as a user would: a directory of YAML and
// `tulle up`.
type tulle struct {
	program string
	cmd     *exec.Cmd
}

func (t *tulle) Name() string { return "tulle" }

func (t *tulle) Start(ctx context.Context, dir, backend string) (string, []int, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, err
	}
	host, backPort, err := net.SplitHostPort(backend)
	if err != nil {
		return "", nil, err
	}
	mesh := filepath.Join(dir, "mesh")
	if err := os.MkdirAll(mesh, 0o755); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(mesh, "bench.yaml"), []byte(benchYAML(port, host, backPort)), 0o644); err != nil {
		return "", nil, err
	}
	t.cmd = exec.Command("taskset", "-c", "0", t.program, "up", "-f", mesh, "--state", filepath.Join(dir, "state"), "--loops", "1", "--access-log=false")
	log, err := os.Create(filepath.Join(dir, "tulle.log"))
	if err != nil {
		return "", nil, err
	}
	defer log.Close()
	t.cmd.Stdout, t.cmd.Stderr = log, log
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := t.cmd.Start(); err != nil {
		return "", nil, err
	}
	if err := waitListening(ctx, addr); err != nil {
		b, _ := os.ReadFile(log.Name())
		return "", nil, fmt.Errorf("%w; it said:\n%s", err, b)
	}
	var pids []int // the proxy alone: the control plane is not on the path
	for _, pid := range children(t.cmd.Process.Pid) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(b)) == "tulle-proxy" {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		return "", nil, fmt.Errorf("want one tulle-proxy, found %d", len(pids))
	}
	return addr, pids, nil
}

func (t *tulle) Stop() { stopGroup(t.cmd) }

// benchYAML is the route table as Istio objects.
func benchYAML(port, backHost, backPort string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: bench}
spec:
  hosts: [backend.bench]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: %s, ports: {http: %s}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bench, namespace: bench}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: %s, name: http, protocol: HTTP}
    hosts: ["*"]
`, backHost, backPort, port)
	for host := range hosts {
		fmt.Fprintf(&b, "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: svc%d, namespace: bench}\nspec:\n  hosts: [svc%d.example.local]\n  gateways: [bench]\n  http:\n", host, host)
		for _, p := range prefixes(host) {
			fmt.Fprintf(&b, "  - match: [{uri: {prefix: %s}}]\n    route: [{destination: {host: backend.bench, port: {number: 80}}}]\n", p)
		}
	}
	return b.String()
}
