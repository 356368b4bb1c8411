package demo

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inputs are what a new user gets wrong, each as a file of its own, with the
// words of one line that must tell, line number included.
var inputs = []struct {
	name, text string
	want       []string
}{
	{"not YAML", `apiVersion: v1
kind: Service
metadata: {name: x, namespace: shop
spec: }
`, []string{"error: ", "bad.yaml:2: not YAML"}},
	{"not an object", "just some words\n", []string{"error: ", "bad.yaml:1: "}},
	{"wrong type", `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec:
  hosts: [echo]
  http: 3
`, []string{"error: ", "bad.yaml:6: VirtualService shop/bad spec.http: must be a list, not the number 3"}},
	{"unknown field", `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec:
  hosts: [bad.example.com]
  htpp: []
`, []string{"bad.yaml:6: VirtualService shop/bad spec.htpp: "}},
	{"unknown host", `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec:
  hosts: [bad.example.com]
  http:
  - route: [{destination: {host: nowhere}}]
`, []string{"bad.yaml:7: VirtualService shop/bad spec.http[0].route[0]: destination host nowhere.shop.svc.cluster.local is not in the mesh"}},
	{"port out of range", `apiVersion: v1
kind: Service
metadata: {name: bad, namespace: shop}
spec:
  selector: {app: bad}
  ports:
  - {name: http, port: 99999}
`, []string{"error: ", "bad.yaml:7: Service shop/bad spec.ports[0].port: port 99999 is not within 1 and 65535"}},
	{"weights that do not add up", `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec:
  hosts: [bad.example.com]
  http:
  - route:
    - {destination: {host: echo}, weight: 90}
    - {destination: {host: echo}, weight: 20}
`, []string{"warning: ", "bad.yaml:7: VirtualService shop/bad spec.http[0].route: the weights add up to 110, not 100"}},
	{"negative weight", `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec:
  hosts: [bad.example.com]
  http:
  - route:
    - {destination: {host: echo}, weight: -1}
`, []string{"error: ", "bad.yaml:8: VirtualService shop/bad spec.http[0].route[0].weight: -1 is negative"}},
	{"two Gateways on one port", `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: zbad, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: tcp, protocol: TCP}, hosts: ["*"]}
`, []string{"error: ", "bad.yaml:7: Gateway shop/zbad spec.servers[0]: port 80 is ignored: Gateway shop/way (", "gateway.yaml:7) has it for plain HTTP"}},
	{"a certificate that is none", `apiVersion: v1
kind: Secret
metadata: {name: bad, namespace: shop}
type: kubernetes.io/tls
stringData:
  tls.crt: this is no certificate
  tls.key: nor is this a key
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bad, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: bad}
    hosts: ["bad.example.com"]
`, []string{"error: ", "bad.yaml:16: Gateway shop/bad spec.servers[0].tls: Secret shop/bad: ", "its hosts bad.example.com are not served"}},
	{"bullets for dashes", "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  ports:\n  • name: http\n    port: 80\n",
		[]string{"error: ", "bad.yaml:6: a bullet (•) stands where YAML has a dash: pasted from a page"}},
	{"a file name as first line", "mesh.yaml\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: bad\n",
		[]string{"error: ", "bad.yaml:1: a bare file name (mesh.yaml) stands between the YAML", "delete the line"}},
	{"everything on one line", "apiVersion: v1 kind: Namespace metadata: name: bad\n",
		[]string{"error: ", "bad.yaml:1: everything stands on one line"}},
	{"fields at top level", `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: bad, namespace: shop}
spec:
mtls:
  mode: STRICT
`, []string{"error: ", "bad.yaml:"}},
}

// TestBadInput puts each into the directory of a mesh under load: one message
// tells it, and no request fails, neither then nor when the file is gone.
func TestBadInput(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop, "gateway.yaml": gateway})
	w.args = []string{"--port", "443=" + freePort(t), "--quiet"}
	up := w.start()
	w.replica("echo", []string{"TEST_NAME=one"}, "-n", "shop", "--deployment", "echo")
	c := &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: 30 * time.Second}
	u := "http://127.0.0.1:" + w.port + "/"
	until(t, "the way", func() error { _, err := get(c, u); return err })
	l := startLoad(t, 2, asks(c, u))
	for _, in := range inputs {
		before := up.count(in.want...)
		w.write("bad.yaml", in.text)
		up.waitNth(before+1, in.want...)
		l.more(t, 20)
		if n := up.count(in.want...); n != before+1 {
			t.Errorf("%s: told %d times:\n%s", in.name, n-before, up.all())
		}
		if err := os.Remove(filepath.Join(w.dir, "bad.yaml")); err != nil {
			t.Fatal(err)
		}
	}

	// A good file that breaks stays in effect as it was, and takes over again
	// when it is whole.
	w.write("gateway.yaml", strings.Replace(gateway, "spec:", "spec: [", 1))
	up.wait("error: ", "gateway.yaml:", "not YAML")
	up.wait("gateway.yaml: the file as it was before stays in effect (2 objects) until it is whole again")
	l.more(t, 50)
	w.write("gateway.yaml", strings.Replace(gateway, "- route: [{destination: {host: echo, port: {number: 80}}}]", "- directResponse: {status: 200, body: {string: whole again}}", 1))
	until(t, "the file that is whole again", func() error {
		if l.answers("whole again") == 0 {
			return errNotYet
		}
		return nil
	})
	l.verify(t)
}

// A port that another program has is told, does not stop the others, and is
// opened as soon as it is free.
func TestPortInUse(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, port, _ := net.SplitHostPort(other.Addr().String())
	w := newWorld(t, map[string]string{"mesh.yaml": shop, "gateway.yaml": gateway})
	w.args = []string{"--port", "8081=" + port, "--quiet"}
	up := w.start()
	up.wait("gateway istio-system/istio-ingressgateway: port 80 is open at 127.0.0.1:" + w.port)
	w.write("second.yaml", strings.NewReplacer("name: way", "name: second", "number: 80, name: http", "number: 8081, name: other").Replace(strings.Split(gateway, "---")[0]))
	up.wait("a Gateway's port 8081 cannot be opened at 127.0.0.1:"+port, "in use", "--port 8081=OTHER", "it is opened when it is free")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	up.wait("port 8081 is open at 127.0.0.1:" + port)
	if n := up.count("cannot be opened"); n != 1 {
		t.Errorf("told %d times:\n%s", n, up.all())
	}
	if err := os.Remove(filepath.Join(w.dir, "second.yaml")); err != nil {
		t.Fatal(err)
	}
	up.wait("port 8081 is closed: no Gateway names it any more")
}

// A port that is taken from the start is opened when it is free, too.
func TestPortInUseAtStart(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop, "gateway.yaml": gateway})
	other, err := net.Listen("tcp", "127.0.0.1:"+w.port)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	up := w.start()
	up.wait("a Gateway's port 80 cannot be opened at 127.0.0.1:" + w.port)
	_ = other.Close()
	up.wait("port 80 is open at 127.0.0.1:" + w.port)
}

// Starts that cannot succeed say why, what to do, and end with status 2.
func TestStartErrors(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop})
	up := w.start()
	file := filepath.Join(w.state, "lock")
	full := "/dev/full"
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"a missing directory", []string{"up", "-f", filepath.Join(w.dir, "none"), "--state", w.state + "x"}, []string{"configuration " + filepath.Join(w.dir, "none"), "no such file or directory; -f wants a directory"}},
		{"a second mesh", []string{"up", "-f", w.dir, "--state", w.state}, []string{w.state + ": a mesh is running there already (process ", "start another one with --state DIR"}},
		{"a state directory that is a file", []string{"up", "-f", w.dir, "--state", file}, []string{"state directory: ", file, "name another with --state"}},
		{"a state directory that cannot be made", []string{"up", "-f", w.dir, "--state", filepath.Join(full, "x")}, []string{"state directory: ", full, "name another with --state"}},
		{"a path too long for sockets", []string{"up", "-f", w.dir, "--state", filepath.Join(t.TempDir(), strings.Repeat("x", 100))}, []string{"a unix socket takes 107; choose a shorter state directory"}},
		{"no control plane", []string{"run", "--state", t.TempDir(), "--", "true"}, []string{`start one with "tulle up -f DIR"`}},
		{"an unknown Deployment", []string{"run", "--state", w.state, "-n", "shop", "--deployment", "ecco", "--", "true"}, []string{"there is no Deployment or WorkloadGroup shop/ecco"}},
		{"an unknown Service", []string{"run", "--state", w.state, "-n", "shop", "--service", "ecco", "--", "true"}, []string{"there is no Service shop/ecco"}},
		{"an unknown dependency", []string{"run", "--mode", "ports", "--state", w.state, "-n", "shop", "--deployment", "echo", "--", "echo", "{{tulle.addr nowhere 80}}"}, []string{"there is no service nowhere with port 80"}},
		{"a program that is not there", []string{"run", "--mode", "ports", "--state", w.state, "-n", "shop", "--deployment", "echo", "--", "/none/such"}, []string{"start such: ", "no such file"}},
		{"no command", []string{"run", "--state", w.state}, []string{"requires at least 1 arg"}},
		{"a wrong port", []string{"run", "--state", w.state, "--port", "70000", "--", "true"}, []string{"--port 70000: want 1 to 65535"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := w.run(nil, c.args...)
			if code := j.end(); code != 2 {
				t.Errorf("status %d, want 2", code)
			}
			if j.count(c.want...) != 1 {
				t.Errorf("no line with %q:\n%s", c.want, j.all())
			}
		})
	}
	t.Run("no home", func(t *testing.T) {
		j := w.run([]string{"HOME=", "XDG_STATE_HOME="}, "up", "-f", w.dir)
		if code := j.end(); code != 2 || j.count("neither $XDG_STATE_HOME nor $HOME is set", "--state") != 1 {
			t.Errorf("status %d:\n%s", code, j.all())
		}
	})
	t.Run("exit status", func(t *testing.T) {
		j := w.run(nil, "run", "--mode", "ports", "--state", w.state, "-n", "shop", "--deployment", "caller", "--", "sh", "-c", "exit 7")
		if code := j.end(); code != 7 {
			t.Errorf("status %d, want the program's 7:\n%s", code, j.all())
		}
	})
	up.stop(syscall.SIGTERM)
	if up.err != nil {
		t.Errorf("after SIGTERM: %v", up.err)
	}
}
