//go:build linux && e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/cluster"
)

// kube is the cluster of all tests of this package; each has a namespace of
// its own.
var kube *cluster.Cluster

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "tulle-e2e-*")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	app := filepath.Join(dir, "app")
	if err := cluster.Program(ctx, "./test/e2e/app", app); err != nil {
		return 1, err
	}
	kube, err = cluster.Up(ctx, cluster.Options{Log: os.Stderr, Images: []cluster.Image{
		{Name: "tulle.test/app:1", Files: map[string]string{"/app": app}, Entrypoint: []string{"/app"}, User: "nobody"},
	}})
	if err != nil {
		return 1, err
	}
	code := m.Run()
	return code, kube.Down()
}

// namespace makes one for a test, and applies a file of testdata in it.
func namespace(t *testing.T, name, file string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	must(t)(kube.Kubectl(ctx, "create", "namespace", name))
	must(t)(kube.Kubectl(ctx, "-n", name, "apply", "-f", filepath.Join("testdata", file)))
	return ctx
}

// must returns kubectl's output, or ends the test.
func must(t *testing.T) func(string, error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// TestService: two replicas on two nodes answer behind one Service, over both
// address families and by name, and see their caller's own address.
func TestService(t *testing.T) {
	ctx := namespace(t, "service", "echo.yaml")
	kubectl := func(args ...string) string {
		t.Helper()
		return must(t)(kube.Kubectl(ctx, append([]string{"-n", "service"}, args...)...))
	}
	kubectl("rollout", "status", "deployment/echo")
	kubectl("wait", "--for=condition=Ready", "pod/client")
	ips := strings.Fields(kubectl("get", "service", "echo", "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}"))
	if len(ips) != 2 || !strings.Contains(ips[1], ":") {
		t.Fatalf("cluster addresses %q, want one of each family", ips)
	}
	client := kubectl("get", "pod", "client", "-o", "jsonpath={.status.podIPs[*].ip}")
	nodes := kubectl("get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[*].spec.nodeName}")
	if nodes != "node1 node2" && nodes != "node2 node1" {
		t.Fatalf("the replicas are on %q", nodes)
	}
	for _, host := range []string{ips[0], "[" + ips[1] + "]", "echo", "echo.service.svc.cluster.local"} {
		t.Run(host, func(t *testing.T) {
			// kube-proxy learns of endpoints a moment after they are ready.
			var out string
			eventually(ctx, t, func() (err error) {
				out, err = kube.Kubectl(ctx, "-n", "service", "exec", "client", "--", "/app", "get", "http://"+host, "40")
				return err
			})
			answered := map[string]int{}
			for line := range strings.Lines(out) {
				f := strings.Fields(line) // pod, node, caller
				if len(f) != 3 {
					t.Fatalf("answer %q", line)
				}
				answered[f[1]]++
				caller := strings.Trim(f[2][:strings.LastIndex(f[2], ":")], "[]")
				if !strings.Contains(" "+client+" ", " "+caller+" ") {
					t.Errorf("%s saw the caller %s, whose addresses are %s", f[0], caller, client)
				}
			}
			if answered["node1"] == 0 || answered["node2"] == 0 || answered["node1"]+answered["node2"] != 40 {
				t.Errorf("of 40 answers came %v", answered)
			}
		})
	}
	pod := kubectl("get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}")
	if out := must(t)(kube.Logs(ctx, "service", pod, "echo")); !strings.HasPrefix(out, "serving :8080\n") || !strings.Contains(out, "GET echo /\n") {
		t.Errorf("logs of %s:\n%s", pod, out)
	}
}

// TestDial: what stands outside reaches Services and pods through the
// cluster's network, and nothing of that network is the machine's.
func TestDial(t *testing.T) {
	ctx := namespace(t, "dial", "echo.yaml")
	must(t)(kube.Kubectl(ctx, "-n", "dial", "rollout", "status", "deployment/echo"))
	service := must(t)(kube.Kubectl(ctx, "-n", "dial", "get", "service", "echo", "-o", "jsonpath={.spec.clusterIPs[1]}"))
	eventually(ctx, t, func() error {
		conn, err := kube.Dial(ctx, "tcp", "["+service+"]:80")
		if err != nil {
			return err
		}
		return conn.Close()
	})
	routes, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(routes), "fd960000") {
		t.Errorf("the machine itself has a route to the Services:\n%s", routes)
	}
}

// TestNodeLost: a node that loses its power is seen to be gone, and can come
// back.
func TestNodeLost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := kube.KillNode(2); err != nil {
		t.Fatal(err)
	}
	must(t)(kube.Kubectl(ctx, "wait", "--for=condition=Ready=Unknown", "node/node2", "--timeout=60s"))
	if err := kube.StartNode(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := kube.NodeReady(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := kube.Err(); err != nil {
		t.Errorf("a component ended: %v", err)
	}
}

// eventually asks until there is no error, ctx ends, or two minutes are over.
func eventually(ctx context.Context, t *testing.T, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
