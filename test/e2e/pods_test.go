//go:build linux && e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pods: injected pods under STRICT, whose probes work, whose metrics are
// merged, whose rules can be listed, and whom nobody reaches in plain text.
func (m mesh) pods(t *testing.T) {
	in := func(args ...string) string {
		t.Helper()
		return m.kubectl(t, append([]string{"-n", "e2e-pods"}, args...)...)
	}
	m.kubectl(t, "create", "namespace", "e2e-pods")
	m.kubectl(t, "label", "namespace", "e2e-pods", "istio-injection=enabled")
	in("apply", "-f", filepath.Join("testdata", "pods.yaml"))
	in("rollout", "status", "deployment/echo", "--timeout=2m")
	in("wait", "--for=condition=Ready", "pod/client", "--timeout=2m")

	for _, host := range []string{"echo", "echo.e2e-pods.svc.cluster.local", "kubernetes.default.svc.cluster.local:443"} {
		t.Run(host, func(t *testing.T) {
			if strings.HasPrefix(host, "kubernetes") { // outside of the mesh, found by the cluster's DNS
				if _, err := kube.Kubectl(m.ctx, "-n", "e2e-pods", "exec", "client", "-c", "client", "--", "/app", "get", "http://"+host); err == nil || !strings.Contains(err.Error(), "400 Bad Request") {
					t.Errorf("the API server, asked in plain text: %v", err)
				}
				return
			}
			eventually(m.ctx, t, func() error { // what a proxy knows arrives a moment after its pod is ready
				out, err := kube.Kubectl(m.ctx, "-n", "e2e-pods", "exec", "client", "-c", "client", "--", "/app", "get", "http://"+host, "20")
				if n := bySidecar(out); err == nil && n != 20 {
					err = fmt.Errorf("of 20 requests %d came by the sidecar:\n%s", n, out)
				}
				return err
			})
		})
	}
	pod := in("get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}")
	ips := strings.Fields(in("get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"))
	t.Run("plain text", func(t *testing.T) {
		for _, ip := range ips {
			if text, err := plain(m.ctx, net.JoinHostPort(ip, "8080"), "/"); err == nil {
				t.Errorf("%s answers without TLS: %s", ip, text)
			}
		}
	})
	t.Run("metrics", func(t *testing.T) {
		text, err := plain(m.ctx, net.JoinHostPort(ips[0], "15020"), "/stats/prometheus")
		if err != nil || !strings.Contains(text, `connection_security_policy="mutual_tls"`) || !strings.Contains(text, "app_requests_total") {
			t.Errorf("%v\n%s", err, text)
		}
	})
	t.Run("iptables", func(t *testing.T) {
		out := in("exec", pod, "-c", "istio-proxy", "--", "iptables", "-t", "nat", "-L")
		for _, want := range []string{"Chain ISTIO_INBOUND (1 references)", "Chain ISTIO_OUTPUT (1 references)", "redir ports 15001", "redir ports 15006"} {
			if !strings.Contains(out, want) {
				t.Errorf("without %s:\n%s", want, out)
			}
		}
	})
	t.Run("first packet", func(t *testing.T) { // each calls out in its first moment
		in("apply", "-f", filepath.Join("testdata", "callers.yaml"))
		in("wait", "--for=jsonpath={.status.succeeded}=10", "job/caller", "--timeout=120s")
		out := in("logs", "-l", "job-name=caller", "-c", "caller", "--tail=-1")
		if n := bySidecar(out); n != 10 {
			t.Errorf("of 10 first requests %d came by both sidecars:\n%s", n, out)
		}
	})
}

// bySidecar counts the answers to callers that the pod's own sidecar spoke for.
func bySidecar(answers string) int {
	return strings.Count(answers, " 127.0.0.6:") + strings.Count(answers, " [::6]:")
}

// plain asks from outside of the mesh.
func plain(ctx context.Context, address, path string) (string, error) {
	c, err := kube.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if len(b) == 0 && err == nil {
		err = errors.New("closed without an answer")
	}
	return string(b), err
}
