package life

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/test/port"
)

// behind is a sidecar that is called by the gateway under mTLS: host mesh.test. Host
// held.test has a short limit.
const behind = `---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh, namespace: shop}
spec:
  hosts: [mesh.test]
  gateways: [edge]
  http: [{route: [{destination: {host: orders}}], timeout: 0s, retries: {attempts: 0}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: held, namespace: shop}
spec:
  hosts: [held.test]
  gateways: [edge]
  http: [{route: [{destination: {host: backend.shop, port: {number: 80}}}], timeout: 0.1s, retries: {attempts: 0}}]
`

// TestClock: the time of day of running proxies is set, by an hour and by ten
// years, to and fro, under load. What is not about certificates does not notice:
// no request fails, no limit ends early or late. A certificate that is not valid
// by the proxy's own time ends its connections and is refused, and nothing else
// is; once the time is right again the mesh is whole, without a restart.
func TestClock(t *testing.T) {
	w := newClockWorld(t)
	l := startLoad(t, w.http, 3, 1, 10*time.Millisecond)
	defer l.end(t)
	kept := &raw{addr: w.http}
	if err := kept.post("before"); err != nil {
		t.Fatal(err)
	}
	held := dial(t, w.http) // a request that lasts all the time
	fmt.Fprint(held, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
	const hour, years = time.Hour, 10 * 365 * 24 * time.Hour
	for _, x := range []struct {
		who  []*clocked
		by   time.Duration
		good bool // certificates of a day, some seconds old, are valid
	}{
		{[]*clocked{w.edge}, hour, true}, {[]*clocked{w.edge}, -hour, false}, {[]*clocked{w.edge}, years, false}, {[]*clocked{w.edge}, -years, false},
		{[]*clocked{w.orders}, -hour, false}, {[]*clocked{w.orders}, years, false}, {[]*clocked{w.edge, w.orders}, years, false},
	} {
		for _, c := range x.who {
			c.set(t, x.by)
		}
		if !x.good {
			Wait(t, "the mesh is refused", func() bool { return w.mesh() == 503 })
		}
		for range 5 {
			if code := w.mesh(); (code == 200) != x.good {
				t.Errorf("%s off by %s: the mesh answers %d", x.who[0].name, x.by, code)
			}
		}
		w.steady(t, kept)
		for _, c := range x.who {
			c.set(t, 0)
		}
		Wait(t, "the mesh is whole again", func() bool { return w.mesh() == 200 })
		w.steady(t, kept)
	}
	fmt.Fprint(held, "cd")
	if r, err := http.ReadResponse(bufio.NewReader(held), nil); err != nil || r.StatusCode != 200 {
		t.Errorf("the long request: %v %v", r, err)
	}
	if kept.uses != 1 {
		t.Errorf("the idle connection was closed: %d", kept.uses)
	}
}

// TestWrongClock: a proxy that starts with a time of day that is ten years off
// serves what needs no certificate, and joins the mesh when the time is right.
func TestWrongClock(t *testing.T) {
	w := newClockWorld(t)
	for _, by := range []time.Duration{10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		w.edge.Term()
		if err := w.edge.End(); err != nil {
			t.Error(err)
		}
		w.edge = w.start(t, w.Node, by)
		if err := (&raw{addr: w.http}).post("x"); err != nil {
			t.Errorf("off by %s: %v", by, err)
		}
		if code := w.mesh(); code != 503 {
			t.Errorf("off by %s: the mesh answers %d", by, code)
		}
		w.edge.set(t, 0)
		Wait(t, "the mesh is there", func() bool { return w.mesh() == 200 })
	}
}

// clockWorld is a gateway before a backend of its own and a sidecar, each with a
// time of day of its own.
type clockWorld struct {
	*gateway
	edge, orders *clocked
	bin          string
	client       *http.Client
}

// clocked is a process whose time of day can be set.
type clocked struct {
	*Process
	name string
	file string   // with how many seconds it is off
	log  *os.File // its access log: the year of each request, first of all
}

func newClockWorld(t *testing.T) *clockWorld {
	backend := web(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "held.test" {
			<-r.Context().Done()
		}
		echo(w, r)
	})
	p := New(t, edgeYAML(backend, "HTTP")+behind, "%START_TIME(%Y)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n")
	w := &clockWorld{bin: steppable(t), client: client(t, false)}
	orders := p.Join(control.WorkloadSpec{Namespace: "shop", Name: "orders", Account: "orders", Labels: map[string]string{"app": "orders"},
		Ports: []control.PortSpec{{Port: 8080, App: netip.MustParseAddrPort(backend)}}})
	n := p.Join(control.WorkloadSpec{Namespace: "shop", Name: "edge", Account: "edge", Labels: map[string]string{"istio": "edge"}, Gateway: true,
		Ports: []control.PortSpec{{Port: 80, Listen: port.Free(t)}, {Port: 9000, Listen: port.Free(t)}}})
	w.gateway = &gateway{Node: n, place: p, http: n.Ports[0].Listen.String()}
	w.orders, w.edge = w.start(t, orders, 0), w.start(t, n, 0)
	Wait(t, "the mesh is there", func() bool { return w.mesh() == 200 })
	return w
}

// start starts a node's proxy with a time of day that is off.
func (w *clockWorld) start(t *testing.T, n *Node, off time.Duration) *clocked {
	dir := t.TempDir()
	c := &clocked{name: n.Name, file: filepath.Join(dir, "clock")}
	c.write(t, off)
	var err error
	if c.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.log.Close() })
	c.Process = n.Serve(func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args = w.bin, append([]string{w.bin}, cmd.Args[2:]...)
		cmd.Env, cmd.Stdout = append(os.Environ(), "TULLE_CLOCK="+c.file), c.log
	})
	return c
}

func (c *clocked) write(t *testing.T, off time.Duration) {
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(off/time.Second)), 0); err != nil {
		t.Fatal(err)
	}
}

// set sets the time of day, and waits until the process has noticed.
func (c *clocked) set(t *testing.T, off time.Duration) {
	const jumped = "the time of day has jumped"
	n := strings.Count(c.Said(), jumped)
	c.write(t, off)
	Wait(t, c.name+" has noticed", func() bool { return strings.Count(c.Said(), jumped) > n })
	var info struct{ Time time.Time }
	if code, text := c.Page("GET", "/server_info"); code != 200 || json.Unmarshal([]byte(text), &info) != nil {
		t.Errorf("%s does not answer: %d %s", c.name, code, text)
	}
}

// mesh asks through both proxies.
func (w *clockWorld) mesh() int {
	r, err := http.NewRequest("GET", "http://"+w.http, nil)
	if err != nil {
		return 0
	}
	r.Host = "mesh.test"
	resp, err := w.client.Do(r)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// steady: a connection that was idle is still there, and a limit is neither
// early nor late.
func (w *clockWorld) steady(t *testing.T, kept *raw) {
	if err := kept.post("still here"); err != nil {
		t.Error(err)
	}
	c := dial(t, w.http)
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nhost: held.test\r\n\r\n")
	if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 504 {
		t.Errorf("a limit: %v %v", r, err)
	}
}

// steppable builds tulle-proxy with a time of day that can be set for it alone:
// package time adds what a file says.
func steppable(t *testing.T) string {
	dir := t.TempDir()
	write := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	timeFile := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(timeFile)
	if err != nil {
		t.Fatal(err)
	}
	const now = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	stepped := strings.Replace(string(text), now, "\tsec, nsec, mono := runtimeNow()\n\tsec += *Off\n\tif mono == 0 {", 1)
	if stepped == string(text) {
		t.Fatalf("%s of %s reads the time in another way", timeFile, runtime.Version())
	}
	here, err := filepath.Abs("../../cmd/tulle-proxy/stepped.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		timeFile: write("time.go", stepped+"\n// Off is how many seconds the time of day is off.\nvar Off = new(int64)\n"),
		here:     write("stepped.go", setter)}})
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "tulle-proxy")
	build := exec.Command("go", "build", "-pgo=off", "-overlay", write("overlay.json", string(overlay)), "-o", bin, "../../cmd/tulle-proxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// setter is one more file of cmd/tulle-proxy.
const setter = `package main

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	f, err := os.Open(os.Getenv("TULLE_CLOCK"))
	if err != nil {
		panic(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	time.Off = (*int64)(unsafe.Pointer(&b[0]))
}
`
