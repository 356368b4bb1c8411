//go:build linux && e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/cluster"
)

// mesh is Tulle on the cluster, as a user installed it.
type mesh struct {
	ctx     context.Context
	program string // the command line
}

// run the command line and return what it printed.
func (m mesh) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(m.ctx, m.program, args...)
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

// kubectl with what it printed, or the end of the test.
func (m mesh) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return must(t)(kube.Kubectl(m.ctx, args...))
}

// images gives the nodes Tulle's own, and returns the command line's file.
func images(ctx context.Context, t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const bin = "/usr/local/bin/"
	file := map[string]string{}
	for _, name := range []string{"tulle", "tulle-proxy"} {
		file[name] = filepath.Join(dir, name)
		if err := cluster.Program(ctx, "./cmd/"+name, file[name]); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{}
	for _, name := range []string{"iptables", "ip6tables", "iptables-save", "ip6tables-save"} {
		links["/usr/sbin/"+name] = bin + "tulle-proxy"
	}
	for _, im := range []cluster.Image{
		{Name: "tulle.test/tulle:1", Files: map[string]string{bin + "tulle": file["tulle"]}, Entrypoint: []string{bin + "tulle"}, User: "1337"},
		{Name: "tulle.test/proxy:1", Files: map[string]string{bin + "tulle-proxy": file["tulle-proxy"]}, Links: links, Entrypoint: []string{bin + "tulle-proxy"}, User: "1337"},
	} {
		if err := kube.Load(ctx, im); err != nil {
			t.Fatal(err)
		}
	}
	return file["tulle"]
}

// everything that the API server holds and somebody made on purpose.
func everything(ctx context.Context, t *testing.T) []string {
	t.Helper()
	resources := strings.Fields(must(t)(kube.Kubectl(ctx, "api-resources", "--verbs=list,delete", "-o", "name")))
	resources = slices.DeleteFunc(resources, func(r string) bool { // come and go by themselves
		return r == "pods" || strings.HasPrefix(r, "events") || strings.HasPrefix(r, "endpoint") || strings.HasPrefix(r, "certificatesigningrequests")
	})
	out := must(t)(kube.Kubectl(ctx, "get", strings.Join(resources, ","), "-A", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}`))
	all := strings.Split(out, "\n")
	slices.Sort(all)
	return slices.Compact(all)
}

// TestMesh: a user installs the mesh, labels namespaces, and pods talk by their
// identities; then all of it goes and nothing stays.
func TestMesh(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	t.Cleanup(cancel)
	if err := kube.InstallGatewayAPI(ctx); err != nil {
		t.Fatal(err)
	}
	before := everything(ctx, t)
	m := mesh{ctx, images(ctx, t)}
	t.Cleanup(func() {
		if t.Failed() {
			diagnose(t)
		}
	})
	if out := must(t)(m.run(t, "check")); !strings.Contains(out, "ok    the cluster has the Gateway API") {
		t.Errorf("the cluster is not as it should be:\n%s", out)
	}
	must(t)(m.run(t, "install", "-y", "--verify", "--set", "hub=tulle.test", "--set", "tag=1", "--readiness-timeout", "3m"))
	if got := m.kubectl(t, "-n", "istio-system", "get", "hpa", "istio-ingressgateway", "-o", "jsonpath={.spec.minReplicas}..{.spec.maxReplicas}"); got != "2..5" {
		t.Errorf("the gateway's autoscaler is %s", got)
	}
	t.Run("identity", m.identity)
	t.Run("pods", m.pods)
	t.Run("control plane", m.control)
	t.Run("gateways", m.gateways)

	if out := must(t)(m.run(t, "check")); !strings.Contains(out, "replicas are ready") || !strings.Contains(out, "refuses invalid objects") {
		t.Errorf("the mesh is not well:\n%s", out)
	}

	// The user takes all of it away, by the words of the help.
	m.kubectl(t, "delete", "namespace", "mesh", "e2e-pods")
	must(t)(m.run(t, "uninstall", "--purge", "-y"))
	m.kubectl(t, "delete", "crd", "-l", "app.kubernetes.io/part-of=tulle")
	m.kubectl(t, "delete", "namespace", "istio-system")
	eventually(ctx, t, func() error { // the garbage collector is on its way
		left := slices.DeleteFunc(everything(ctx, t), func(o string) bool { return slices.Contains(before, o) })
		if len(left) > 0 {
			return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}

// identity: under STRICT a service takes one account's calls, refuses
// another's, and does not hear those outside of the mesh.
func (m mesh) identity(t *testing.T) {
	m.kubectl(t, "create", "namespace", "mesh")
	m.kubectl(t, "label", "namespace", "mesh", "istio-injection=enabled")
	m.kubectl(t, "-n", "mesh", "apply", "-f", filepath.Join("testdata", "mesh.yaml"))
	m.kubectl(t, "-n", "mesh", "rollout", "status", "deployment/echo", "--timeout=2m")
	m.kubectl(t, "-n", "mesh", "wait", "--for=condition=Ready", "--timeout=2m", "pod/client", "pod/stranger", "pod/outsider")
	if got := m.kubectl(t, "-n", "mesh", "get", "pod", "outsider", "-o", "jsonpath={.spec.containers[*].name} {.spec.initContainers[*].name}"); strings.TrimSpace(got) != "outsider" {
		t.Errorf("a pod that wants no sidecar has %s", got)
	}
	if out, err := m.run(t, "check-inject", "-n", "mesh", "client"); err != nil || !strings.Contains(out, "yes") {
		t.Errorf("check-inject: %v\n%s", err, out)
	}
	if out, err := m.run(t, "check-inject", "-n", "mesh", "outsider"); err == nil || !strings.Contains(out, "label sidecar.istio.io/inject=false of the pod") {
		t.Errorf("check-inject: %v\n%s", err, out)
	}
	get := func(from string) (string, error) {
		return kube.Kubectl(m.ctx, "-n", "mesh", "exec", from, "-c", from, "--", "/app", "get", "http://echo.mesh", "20")
	}
	// What a proxy knows arrives a moment after its pod is ready.
	eventually(m.ctx, t, func() error {
		out, err := get("stranger")
		if err == nil || !strings.Contains(err.Error(), "403 Forbidden: RBAC: access denied") {
			return fmt.Errorf("another account's calls: %v %s", err, out)
		}
		return nil
	})
	eventually(m.ctx, t, func() error {
		out, err := get("client")
		if n := len(strings.Split(out, "\n")); err == nil && n != 20 {
			err = fmt.Errorf("%d answers to 20 requests:\n%s", n, out)
		}
		return err
	})
	if out, err := get("outsider"); err == nil || strings.Contains(err.Error(), "403") {
		t.Errorf("in the clear, under STRICT: %v %s", err, out)
	}
}

// control: the control plane tells what it serves, and refuses what is wrong.
func (m mesh) control(t *testing.T) {
	pod := m.kubectl(t, "-n", "istio-system", "get", "pods", "-l", "app=istiod", "-o", "jsonpath={.items[0].metadata.name}")
	metrics := m.kubectl(t, "get", "--raw", "/api/v1/namespaces/istio-system/pods/"+pod+":15014/proxy/metrics")
	if !strings.Contains(metrics, "tulle_xds_streams ") {
		t.Errorf("metrics\n%s", metrics)
	}
	eventually(m.ctx, t, func() error { // the webhook is closed once it is ready
		err := kube.Apply(m.ctx, []byte(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong, namespace: mesh}
spec: {hosts: [echo], http: [{route: [{destination: {host: "not a host"}}]}]}
`))
		if err == nil {
			_, err = kube.Kubectl(m.ctx, "-n", "mesh", "delete", "virtualservice", "wrong")
			return errors.Join(errors.New("an invalid object was taken"), err)
		}
		if !strings.Contains(err.Error(), "VirtualService mesh/wrong spec.http[0].route[0].destination.host") {
			return err
		}
		return nil
	})
}

// diagnose prints what a person would look at.
func diagnose(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", "istio-system", "-l", "app=istiod", "--tail=40", "--prefix"},
		{"logs", "-n", "istio-system", "-l", "app=istio-ingressgateway", "--tail=20", "--prefix"},
		{"logs", "-n", "mesh", "-l", "app=echo", "-c", "istio-proxy", "--tail=40", "--prefix"},
		{"logs", "-n", "mesh", "client", "-c", "istio-proxy", "--tail=40"},
		{"logs", "-n", "e2e-pods", "-l", "app=echo", "--all-containers", "--tail=40", "--prefix"},
		{"get", "gateways.gateway.networking.k8s.io,httproutes", "-A", "-o", "yaml"},
		{"logs", "-n", "e2e-pods", "-l", "gateway.networking.k8s.io/gateway-name=edge", "--tail=40", "--prefix"},
		{"logs", "-n", "e2e-pods", "-l", "app=caller", "--all-containers", "--tail=40", "--prefix"},
	} {
		out, err := kube.Kubectl(ctx, args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
