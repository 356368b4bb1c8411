package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nobody is a user without any rights.
const nobody = 65534

// unprivileged makes a command run as an ordinary user, in a place of its own.
func unprivileged(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		return // we are one
	}
	home, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{filepath.Dir(programs(t)), programs(t), filepath.Join(filepath.Dir(programs(t)), "tulle-proxy")} {
		if err := os.Chmod(f, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.Dir = home
	c.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_RUNTIME_DIR=")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// TestUnprivileged tells every story as an ordinary user, whose programs must
// get namespaces of their own.
func TestUnprivileged(t *testing.T) {
	tulle := programs(t)
	c := exec.Command(tulle, "demo", "--check", "--mode", "namespaces", "--gateway-port", "18086")
	unprivileged(t, c)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), " 0 failed") || strings.Contains(string(out), "FAIL") {
		t.Fatalf("%v\n%s", err, out)
	}
}

const inside = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: shop}
spec:
  clusterIP: None
  selector: {app: echo}
  ports: [{name: tcp, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: other}
spec:
  selector: {app: none}
  ports: [{name: http, port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: shop}
spec:
  selector: {matchLabels: {app: echo}}
  template: {metadata: {labels: {app: echo}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: shop}
spec:
  selector: {matchLabels: {app: caller}}
  template: {metadata: {labels: {app: caller}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: probed, namespace: shop}
spec:
  selector: {matchLabels: {app: probed}}
  template:
    metadata: {labels: {app: probed}}
    spec:
      containers:
      - name: main
        readinessProbe: {periodSeconds: 1, exec: {command: [grep, -q, by tulle, /etc/resolv.conf]}}
`

// lookAround is the program of TestInside: it prints what it finds.
func lookAround() {
	client := &http.Client{Timeout: 30 * time.Second}
	for _, u := range []string{"http://echo/", "http://echo.shop/", "http://echo.shop.svc.cluster.local/", "http://elsewhere.other/"} {
		resp, err := client.Get(u)
		if err != nil {
			fmt.Println(u, err)
			continue
		}
		_ = resp.Body.Close()
		fmt.Println(u, resp.StatusCode)
	}
	peers, err := net.LookupHost("peers")
	fmt.Println("peers", len(peers), err)
	seen := map[string]bool{}
	for _, p := range peers {
		body, err := get(client, "http://"+net.JoinHostPort(p, "8080")+"/")
		fmt.Println("peer", p, body, err)
		seen[body] = err == nil
	}
	fmt.Println("different peers", len(seen))
	var unknown *net.DNSError
	if _, err := net.LookupHost("nothing.shop.svc.cluster.local."); errors.As(err, &unknown) && unknown.IsNotFound {
		fmt.Println("nxdomain nothing.shop.svc.cluster.local")
	}
	fmt.Println("host", first(net.Dial("tcp", "127.0.0.1:"+os.Getenv("TEST_HOST_PORT"))))
	c, err := net.Dial("udp", "192.0.2.1:123")
	if err == nil {
		if _, err = c.Write([]byte("x")); err == nil {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err = c.Read(make([]byte, 1))
		}
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		fmt.Println("udp refused at once:", err)
	}
	if os.Getpid() < 100 {
		fmt.Println("pid small", os.Getpid())
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Print(line)
		}
	}
	if err := syscall.Sethostname([]byte("x")); errors.Is(err, syscall.EPERM) && exec.Command("nft", "list", "ruleset").Run() != nil {
		fmt.Println("privileges none")
	}
	if l, err := net.Listen("tcp", "0.0.0.0:80"); err == nil {
		fmt.Println("low port open")
		_ = l.Close()
	}
	fmt.Printf("proxy %q\n", os.Getenv("HTTP_PROXY"))
	fmt.Println("that is all")
}

// first is the first line that a peer sends.
func first(c net.Conn, err error) string {
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	return fmt.Sprint(line, err)
}

// TestInside looks at the mesh from a program in namespaces of its own: names,
// any TCP, what is refused, what is left of its rights.
func TestInside(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": inside})
	w.start()
	in := []string{"--mode", "namespaces", "-n", "shop", "--deployment"}
	w.replica("echo", []string{"TEST_NAME=first"}, append(in, "echo")...)
	w.replica("echo", []string{"TEST_NAME=second"}, append(in, "echo")...)
	w.workloads("shop/echo-1 ready", "shop/echo-2 ready")

	l, err := net.Listen("tcp4", "127.0.0.1:0") // a service of this machine
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "from this machine\n")
			_ = c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	caller := w.replica("inside", []string{"TEST_HOST_PORT=" + port}, append(append([]string{"--host-port", port}, in...), "caller")...)
	caller.wait("that is all")
	for _, want := range []string{
		"http://echo/ 200", "http://echo.shop/ 200", "http://echo.shop.svc.cluster.local/ 200", "http://elsewhere.other/ 503",
		"peers 2", "different peers 2", // headless: each one's address, and each answers
		"nxdomain nothing.shop.svc.cluster.local",
		"host from this machine",
		"udp refused at once",
		"pid small", "privileges none", "low port open", "proxy \"\"",
	} {
		if caller.count(want) == 0 {
			t.Errorf("no line with %q", want)
		}
	}
	caller.wait("caller-1 sends UDP to 192.0.2.1:123, which the mesh does not carry")
	if t.Failed() {
		t.Log(caller.all())
	}
}

// TestProbeInside runs a probe's command where the program is: what it looks
// for is nowhere else.
func TestProbeInside(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": inside})
	w.start()
	w.replica("daemon", nil, "--mode", "namespaces", "-n", "shop", "--deployment", "probed")
	w.workloads("shop/probed-1 ready")
}

// TestStatus passes the program's status on, and its signals.
func TestStatus(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": inside})
	w.start()
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "sleep 300 & sleep 300 & exit 4": 4, "no-such-program": 127} {
		j := w.run(nil, "run", "--state", w.state, "--mode", "namespaces", "-n", "shop", "--deployment", "caller", "--", "sh", "-c", script)
		if got := j.end(); got != want {
			t.Errorf("%s: status %d, want %d\n%s", script, got, want, j.all())
		}
	}
	j := w.run(nil, "run", "--state", w.state, "--mode", "namespaces", "-n", "shop", "--deployment", "caller", "--", "sh", "-c",
		"trap 'echo ended kindly; exit 3' TERM; setsid sleep 300 & echo ready; while :; do sleep 0.1; done")
	j.wait("ready")
	_ = j.cmd.Process.Signal(syscall.SIGTERM)
	j.wait("ended kindly")
	j.end()
}

// TestKilled kills tulle run without a chance to clean up: nothing of the
// program stays, whatever it started. The world looks.
func TestKilled(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": inside})
	w.start()
	j := w.replica("daemon", nil, "--mode", "namespaces", "-n", "shop", "--deployment", "caller")
	j.wait("daemon started")
	_ = j.cmd.Process.Kill()
	j.end()
	until(t, "its processes end", func() error {
		for _, l := range w.left() {
			if !strings.Contains(l, " up ") && !strings.Contains(l, "--bootstrap") {
				return fmt.Errorf("left: %s", l)
			}
		}
		return nil
	})
}
