//go:build linux

package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// stage says what a copy of the test program is.
const stage = "TULLE_POD_STAGE"

// patience of everything that a test waits for.
const patience = 30 * time.Second

// Addresses of the world, in which the control plane and the kubelet are.
const (
	world4 = "10.99.0.1"
	world6 = "fd99::1"
)

func TestMain(m *testing.M) {
	switch os.Getenv(stage) {
	case "world":
		os.Exit(world(m))
	case "pause":
		os.Exit(pause(os.Args[1]))
	case "proxy":
		os.Exit(proxy.Main(os.Args[0], os.Args[1:], os.Stdout, os.Stderr))
	case "app":
		os.Exit(app(os.Args[1:]))
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "SKIPPED: pods need root")
		if os.Getenv("CI") != "" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), stage+"=world")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(0)
}

// world is the first process of everything: with it all ends.
func world(m *testing.M) int {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("proc", "/proc", "proc", 0, "")
	}
	for _, line := range []string{
		"ip link set lo up", "ip link add br0 type bridge", "ip link set br0 up",
		"ip addr add " + world4 + "/24 dev br0", "ip addr add " + world6 + "/64 dev br0 nodad",
	} {
		if err == nil {
			err = command(line)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func command(line string) error {
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// mesh is a control plane on YAML.
type mesh struct {
	t     *testing.T
	dir   string
	plane *control.Plane
	stop  func() // ends plane; after open
}

const shop = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.98.0.10
  clusterIPs: [10.98.0.10, "fd98::10"]
  ipFamilies: [IPv4, IPv6]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.99.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1, namespace: shop}}]
ports: [{name: http, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
endpoints: [{addresses: ["fd99::2"], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1, namespace: shop}}]
ports: [{name: http, port: 8080}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}, creationTimestamp: "2026-01-02T03:04:05Z", annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: web, containers: [{name: app}]}
status: {podIP: 10.99.0.2, podIPs: [{ip: 10.99.0.2}, {ip: "fd99::2"}], phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: shop, labels: {app: client}, creationTimestamp: "2026-01-02T03:04:05Z", annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: client, containers: [{name: app}]}
status: {podIP: 10.99.0.3, podIPs: [{ip: 10.99.0.3}, {ip: "fd99::3"}], phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: edge-1, namespace: shop, labels: {app: edge}, creationTimestamp: "2026-01-02T03:04:05Z"}
spec: {serviceAccountName: edge, containers: [{name: istio-proxy}]}
status: {podIP: 10.99.0.4, podIPs: [{ip: 10.99.0.4}, {ip: "fd99::4"}], phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {app: edge}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["shop.example"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec:
  hosts: [shop.example]
  gateways: [edge]
  http: [{route: [{destination: {host: web}}]}]
`

// account is whose token it is; a cluster's API server would be asked.
func account(_ context.Context, token string) (*identity.Caller, error) {
	name, ok := strings.CutPrefix(token, "token of ")
	if !ok {
		return nil, identity.ErrRefused
	}
	return &identity.Caller{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", Account: name}, Proof: identity.AccountToken,
		Workload: "shop/" + name + "-1"}, nil
}

// newMesh makes a control plane, which serves after open.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{t: t, dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(m.dir, "mesh.yaml"), []byte(shop), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	settings := link.Defaults()
	settings.AccessLog = model.AccessLog{Enabled: true}
	m.plane, err = control.New(control.Options{Settings: &settings, Dir: filepath.Join(m.dir, "state"), Socket: filepath.Join(m.dir, "xds"), Address: world4 + ":15012",
		Source: &file.Watcher{Paths: []string{filepath.Join(m.dir, "mesh.yaml")}}, Token: account})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mesh) open() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.plane.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.t.Error(err)
		}
	})
	m.t.Cleanup(m.stop)
	wait(m.t, "the first configuration", func() error {
		if m.plane.Compiled() == nil {
			return io.EOF
		}
		return nil
	})
	for _, n := range m.plane.Notices() {
		if n.Severity == model.Error {
			m.t.Errorf("the test's own configuration: %s", n)
		}
	}
}

// pod is network and mount namespaces with containers in them.
type pod struct {
	t        *testing.T
	mesh     *mesh
	name     string
	root     string
	ip4, ip6 string
	pid      int
	env      []string // of the proxy's container
}

// newPod makes a pod with an address of each family and what the injector
// would mount.
func (m *mesh) newPod(name string, number int, env map[string]string) *pod {
	t := m.t
	t.Helper()
	p := &pod{t: t, mesh: m, name: name, root: filepath.Join(m.dir, name), ip4: fmt.Sprintf("10.99.0.%d", number), ip6: fmt.Sprintf("fd99::%d", number)}
	p.files(map[string]string{
		"etc/hosts":       "127.0.0.1 localhost\n" + world4 + " istiod.istio-system.svc\n",
		"etc/resolv.conf": "nameserver " + world4 + "\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n",
		"etc/passwd":      "root:x:0:0::/:\n", "etc/nsswitch.conf": "hosts: files dns\n",
		"etc/istio/pod/labels":                fmt.Sprintf("app=%q\nservice.istio.io/canonical-name=%[1]q\n", name),
		"var/run/secrets/tokens/istio-token":  "token of " + name + "\n",
		"var/run/secrets/istio/root-cert.pem": string(m.plane.Roots()),
		"etc/istio/proxy/x":                   "",
		"var/lib/istio/data/x":                "",
		"tulle-proxy":                         "",
		"proc/x":                              "", "sys/x": "", "dev/x": "", "tmp/x": "", "usr/x": "",
	})
	for name, to := range map[string]string{"iptables": "/tulle-proxy", "lib": "usr/lib", "lib64": "usr/lib64", "bin": "usr/bin"} {
		if err := os.Symlink(to, filepath.Join(p.root, name)); err != nil {
			t.Fatal(err)
		}
	}
	p.pause(number)
	p.env = []string{"POD_NAME=" + name + "-1", "POD_NAMESPACE=shop", "INSTANCE_IP=" + p.ip4, "INSTANCE_IPS=" + p.ip4 + "," + p.ip6,
		"SERVICE_ACCOUNT=" + name, "ISTIO_META_WORKLOAD_NAME=" + name, "ISTIO_META_INTERCEPTION_MODE=REDIRECT", "ISTIO_META_DNS_CAPTURE=true",
		"ISTIO_CPU_LIMIT=1", `PROXY_CONFIG={"discoveryAddress":"istiod.istio-system.svc:15012","logLevel":"debug"}`}
	for k, v := range env {
		p.env = append(p.env, k+"="+v)
	}
	return p
}

func (p *pod) files(all map[string]string) {
	for path, text := range all {
		path = filepath.Join(p.root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}

// pause starts the first process of the pod, and gives it its network.
func (p *pod) pause(number int) {
	t := p.t
	t.Helper()
	cmd := exec.Command("/proc/self/exe", p.root)
	cmd.Env = append(os.Environ(), stage+"=pause")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if b, _ := io.ReadAll(io.LimitReader(out, 5)); string(b) != "ready" {
		t.Fatal("the pod's first process has ended")
	}
	inside := "nsenter -t " + strconv.Itoa(p.pid) + " -n "
	veth := fmt.Sprintf("pod%d", number)
	for _, line := range []string{
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", veth, p.pid),
		"ip link set " + veth + " master br0 up",
		inside + "ip link set lo up", inside + "ip link set eth0 up",
		inside + "ip addr add " + p.ip4 + "/24 dev eth0", inside + "ip addr add " + p.ip6 + "/64 dev eth0 nodad",
		inside + "ip route add default via " + world4, inside + "ip -6 route add default via " + world6,
	} {
		if err := command(line); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = command("ip link del " + veth) })
}

// pause makes the pod's root, which nothing can be written to but what is
// backed by memory, and stays until its input ends.
func pause(root string) int {
	self, err := os.Executable()
	mount := func(from, to, kind string, flags uintptr) {
		if err == nil {
			if err = unix.Mount(from, filepath.Join(root, to), kind, flags, ""); err != nil {
				err = fmt.Errorf("mount %s: %w", to, err)
			}
		}
	}
	mount(root, "", "", unix.MS_BIND)
	mount("proc", "proc", "proc", 0)
	mount("sysfs", "sys", "sysfs", unix.MS_RDONLY)
	mount("/dev", "dev", "", unix.MS_BIND|unix.MS_REC)
	mount("/usr", "usr", "", unix.MS_BIND|unix.MS_REC)
	mount(self, "tulle-proxy", "", unix.MS_BIND)
	mount("tmpfs", "etc/istio/proxy", "tmpfs", 0)
	mount("tmpfs", "var/lib/istio/data", "tmpfs", 0)
	mount("", "", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY)
	for _, d := range []string{"etc/istio/proxy", "var/lib/istio/data"} {
		if err == nil {
			err = os.Chmod(filepath.Join(root, d), 0o777)
		}
	}
	if err == nil {
		err = unix.Chroot(root)
	}
	if err == nil {
		err = os.Chdir("/")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Print("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// container is a process in a pod.
type container struct {
	*exec.Cmd
	t      *testing.T
	what   string
	mu     sync.Mutex
	out    bytes.Buffer
	ended  chan struct{}
	err    error
	stderr bytes.Buffer
}

// Write implements io.Writer, for what the process says.
func (c *container) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *container) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

// Rights of containers, for setpriv.
var (
	initContainer = []string{"--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs"}
	proxyUser     = []string{"--reuid=1337", "--regid=1337", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"}
	appUser       = []string{"--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"}
)

// start runs the test program in the pod, as what says.
func (p *pod) start(rights []string, what string, env []string, program string, args ...string) *container {
	p.t.Helper()
	full := append([]string{"-t", strconv.Itoa(p.pid), "-n", "-m", "-r", "-w", "/usr/bin/setpriv"}, rights...)
	c := &container{t: p.t, what: p.name + ": " + program + " " + strings.Join(args, " "), ended: make(chan struct{})}
	c.Cmd = exec.Command("nsenter", append(append(full, program), args...)...)
	c.Env = append([]string{stage + "=" + what, "PATH=/usr/bin:/usr/sbin"}, env...)
	c.Stdout, c.Stderr = c, &c.stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		c.err = c.Wait()
		close(c.ended)
	}()
	p.t.Cleanup(func() {
		_ = c.Process.Kill()
		<-c.ended
		if p.t.Failed() && c.err != nil { // a sidecar was killed
			p.t.Logf("%s (%v) said:\n%s%s", c.what, c.err, c.out.String(), c.stderr.String())
		}
	})
	return c
}

// end waits for the process's end and returns its exit code.
func (c *container) end() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatalf("%s does not end", c.what)
	}
	return c.ProcessState.ExitCode()
}

// run is start, and waits for a good end.
func (p *pod) run(rights []string, what, program string, args ...string) string {
	p.t.Helper()
	c := p.start(rights, what, p.env, program, args...)
	if code := c.end(); code != 0 {
		p.t.Fatalf("%s: exit code %d\n%s%s", c.what, code, c.said(), c.stderr.String())
	}
	return c.said()
}

// redirect is the init container.
func (p *pod) redirect() {
	p.t.Helper()
	p.run(initContainer, "proxy", "/tulle-proxy", "redirect", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "",
		"-b", "*", "-d", "15020,15021,15090", "--redirect-dns")
}

func (p *pod) sidecar() *container {
	p.t.Helper()
	return p.start(proxyUser, "proxy", p.env, "/tulle-proxy", "sidecar")
}

// ready is what the kubelet runs after the start of the sidecar.
func (p *pod) ready() {
	p.t.Helper()
	p.run(proxyUser, "proxy", "/tulle-proxy", "wait", "--timeoutSeconds", "30", "--periodMillis", "20")
}

// kubelet asks a port of the pod from outside; code 0: no answer.
func (p *pod) kubelet(method, address string, port int, path string) (int, string) {
	p.t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequest(method, "http://"+net.JoinHostPort(address, strconv.Itoa(port))+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// wait asks until there is no error.
func wait(t *testing.T, what string, ask func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func jsonText(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
