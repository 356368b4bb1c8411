//go:build linux && e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/cluster"
)

// tulle runs the command line on the cluster and returns what it printed.
func tulle(ctx context.Context, t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kube.Kubeconfig)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	t.Logf("tulle %s\n%s%s", strings.Join(args, " "), out, said.String())
	if err != nil {
		err = fmt.Errorf("tulle %s: %w\n%s", strings.Join(args, " "), err, said.String())
	}
	return string(out), err
}

// TestMesh: a user installs the mesh, labels a namespace, and its pods talk
// mTLS by their identities; who is not in the mesh is refused. Then all goes.
func TestMesh(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	dir := t.TempDir()
	for _, name := range []string{"tulle", "tulle-proxy"} {
		if err := cluster.Program(ctx, "./cmd/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for image, name := range map[string]string{"tulle.test/tulle:1": "tulle", "tulle.test/proxy:1": "tulle-proxy"} {
		place := "/usr/local/bin/" + name
		if err := kube.Load(ctx, cluster.Image{Name: image, Files: map[string]string{place: filepath.Join(dir, name)}, Entrypoint: []string{place}}); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "tulle")
	t.Cleanup(func() {
		if t.Failed() {
			diagnose(t)
		}
	})
	must(t)(tulle(ctx, t, program, "install", "-y", "--verify", "--set", "hub=tulle.test", "--set", "tag=1", "--readiness-timeout", "2m"))
	if got := must(t)(kube.Kubectl(ctx, "-n", "istio-system", "get", "hpa", "istio-ingressgateway", "-o", "jsonpath={.spec.minReplicas}..{.spec.maxReplicas}")); got != "2..5" {
		t.Errorf("the gateway's autoscaler is %s", got)
	}

	// A namespace in the mesh, STRICT, where only one account may call.
	must(t)(kube.Kubectl(ctx, "create", "namespace", "mesh"))
	must(t)(kube.Kubectl(ctx, "label", "namespace", "mesh", "istio-injection=enabled"))
	must(t)(kube.Kubectl(ctx, "-n", "mesh", "apply", "-f", filepath.Join("testdata", "mesh.yaml")))
	if err := kube.Apply(ctx, []byte(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: mesh}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: echo, namespace: mesh}
spec:
  selector: {matchLabels: {app: echo}}
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]
`)); err != nil {
		t.Fatal(err)
	}
	must(t)(kube.Kubectl(ctx, "-n", "mesh", "rollout", "status", "deployment/echo", "--timeout=90s"))
	must(t)(kube.Kubectl(ctx, "-n", "mesh", "wait", "--for=condition=Ready", "--timeout=60s", "pod/client", "pod/stranger", "pod/outsider"))
	if got := must(t)(kube.Kubectl(ctx, "-n", "mesh", "get", "pod", "outsider", "-o", "jsonpath={.spec.containers[*].name} {.spec.initContainers[*].name}")); strings.TrimSpace(got) != "outsider" {
		t.Errorf("a pod that wants no sidecar has %s", got)
	}
	if out, err := tulle(ctx, t, program, "check-inject", "-n", "mesh", "client"); err != nil || !strings.Contains(out, "yes") {
		t.Errorf("check-inject: %v\n%s", err, out)
	}
	if out, err := tulle(ctx, t, program, "check-inject", "-n", "mesh", "outsider"); err == nil || !strings.Contains(out, "label sidecar.istio.io/inject=false of the pod") {
		t.Errorf("check-inject: %v\n%s", err, out)
	}
	get := func(from string) (string, error) {
		return kube.Kubectl(ctx, "-n", "mesh", "exec", from, "-c", from, "--", "/app", "get", "http://echo.mesh", "20")
	}
	// The policy and the endpoints arrive a moment after the pods are ready.
	eventually(ctx, t, func() error {
		if out, err := get("stranger"); err == nil || !strings.Contains(err.Error(), "403 Forbidden: RBAC: access denied") {
			return fmt.Errorf("another account's calls: %v %s", err, out)
		}
		return nil
	})
	eventually(ctx, t, func() error {
		out, err := get("client")
		if err == nil && strings.Count(out, "\n") != 20 {
			err = fmt.Errorf("%d answers", strings.Count(out, "\n"))
		}
		return err
	})
	if out, err := get("outsider"); err == nil {
		t.Errorf("in the clear, under STRICT: %s", out)
	}

	// The control plane says what it serves, and refuses what is wrong.
	pod := must(t)(kube.Kubectl(ctx, "-n", "istio-system", "get", "pods", "-l", "app=istiod", "-o", "jsonpath={.items[0].metadata.name}"))
	metrics := must(t)(kube.Kubectl(ctx, "get", "--raw", "/api/v1/namespaces/istio-system/pods/"+pod+":15014/proxy/metrics"))
	if !strings.Contains(metrics, "tulle_xds_streams ") {
		t.Errorf("metrics\n%s", metrics)
	}
	eventually(ctx, t, func() error {
		err := kube.Apply(ctx, []byte(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: mesh}
spec: {hosts: [echo], http: [{route: [{destination: {host: "not a host"}}]}]}
`))
		if err == nil {
			_, _ = kube.Kubectl(ctx, "-n", "mesh", "delete", "virtualservice", "wrong")
			return fmt.Errorf("an invalid object was taken")
		}
		if !strings.Contains(err.Error(), "VirtualService mesh/wrong spec.http[0].route[0].destination.host") {
			return err
		}
		return nil
	})

	must(t)(kube.Kubectl(ctx, "delete", "namespace", "mesh", "--wait=false"))
	must(t)(tulle(ctx, t, program, "uninstall", "--purge", "-y"))
	if got := must(t)(kube.Kubectl(ctx, "get", "clusterrole,clusterrolebinding,mutatingwebhookconfiguration,validatingwebhookconfiguration", "-l", "app.kubernetes.io/part-of=tulle", "-o", "name")); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// diagnose prints what a person would look at.
func diagnose(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-n", "mesh", "--sort-by=.lastTimestamp"},
		{"get", "events", "-n", "istio-system", "--sort-by=.lastTimestamp"},
		{"logs", "-n", "istio-system", "-l", "app=istiod", "--tail=40", "--prefix"},
		{"logs", "-n", "istio-system", "-l", "app=istio-ingressgateway", "--tail=20", "--prefix"},
		{"logs", "-n", "mesh", "-l", "app=echo", "-c", "istio-proxy", "--tail=40", "--prefix"},
		{"logs", "-n", "mesh", "client", "-c", "istio-proxy", "--tail=40"},
		{"logs", "-n", "mesh", "client", "-c", "istio-init", "--tail=40"},
	} {
		out, err := kube.Kubectl(ctx, args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
