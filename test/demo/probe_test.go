package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Readiness as the Deployment says: by HTTP with a port's name, by a command,
// by connecting. A program that is not ready gets no requests, and is told so.
func TestProbes(t *testing.T) {
	container := "containers: [{name: echo, image: echo, ports: [{containerPort: 8080}]}]"
	for name, probe := range map[string]string{
		"http": "ports: [{name: web, containerPort: 8080}], readinessProbe: {httpGet: {path: /healthy, port: web}, periodSeconds: 1, failureThreshold: 1}",
		"exec": `ports: [{containerPort: 8080}], readinessProbe: {exec: {command: [sh, -c, "! test -e $TEST_SICK"]}, periodSeconds: 1, failureThreshold: 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(shop, container, "containers: [{name: echo, image: echo, "+probe+"}]", 1)
			w := newWorld(t, map[string]string{"mesh.yaml": text})
			w.start()
			sick := filepath.Join(t.TempDir(), "sick")
			mark := func(ill bool) {
				t.Helper()
				err := os.Remove(sick)
				if ill {
					err = os.WriteFile(sick, nil, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			mark(true)
			j := w.replica("echo", []string{"TEST_NAME=one", "TEST_SICK=" + sick}, "-n", "shop", "--deployment", "echo")
			j.wait("echo-1 runs as")
			w.workloads("shop/echo-1 waits")
			mark(false)
			w.workloads("shop/echo-1 ready")
			mark(true)
			j.wait("echo-1 gets no requests: its probe failed: ")
			w.workloads("shop/echo-1 waits")
			mark(false)
			j.wait("echo-1 is ready again")
			w.workloads("shop/echo-1 ready")
		})
	}
}

// Programs do not all listen where $HOST says. Those that listen everywhere
// work; for others --listen-on does, and who does not know it is told.
func TestListenOn(t *testing.T) { inBothModes(t, listenOn) }

func listenOn(t *testing.T, mode string) {
	for _, x := range []struct {
		name, listen string
		args         []string
		want         string // a message in place of an answer
	}{
		{"everywhere", "0.0.0.0:PORT", nil, ""},
		{"everywhere, both families", "[::]:PORT", nil, ""},
		{"localhost", "127.0.0.1:PORT", []string{"--listen-on", "127.0.0.1"}, ""},
		{"IPv6 localhost", "[::1]:PORT", []string{"--listen-on", "::1"}, ""},
		{"localhost, not told", "127.0.0.1:PORT", nil, "the program listens on 127.0.0.1:PORT and is expected at 127."},
		{"another port", "127.0.0.1:OTHER", nil, "if that is its port, add --port OTHER"},
	} {
		t.Run(x.name, func(t *testing.T) {
			ports := strings.NewReplacer("PORT", freePort(t), "OTHER", freePort(t))
			w := newWorld(t, map[string]string{"mesh.yaml": strings.ReplaceAll(shop, "8080", ports.Replace("PORT"))})
			w.mode = mode
			w.start()
			j := w.replica("echo", []string{"TEST_NAME=one", "TEST_LISTEN=" + ports.Replace(x.listen)}, append([]string{"-n", "shop", "--deployment", "echo"}, x.args...)...)
			if x.want != "" {
				j.wait("gets no requests yet: ", ports.Replace(x.want))
			} else {
				c, _ := w.client("-n", "shop", "--deployment", "caller")
				until(t, "an answer", func() error { _, err := get(c, "http://echo/"); return err })
			}
		})
	}
}
