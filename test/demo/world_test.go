package demo

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/standalone"
	"github.com/tulle-mesh/tulle/test/port"
)

// patience of everything that a test waits for.
const patience = time.Minute

// TestMain is also the programs that these tests run in the mesh.
func TestMain(m *testing.M) {
	if kind := os.Getenv("TEST_PROGRAM"); kind != "" {
		if err := program(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		return
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they wait more than they work
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// program runs one of the programs until SIGTERM.
func program(kind string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch kind {
	case "echo": // answers with its name
		at := os.Getenv("TEST_LISTEN")
		if at == "" {
			at = net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT"))
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		s := &http.Server{Handler: http.HandlerFunc(echo)}
		go func() { _ = s.Serve(l) }()
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		return s.Shutdown(end)
	case "client": // tells where its sidecar takes requests
		fmt.Println("proxy " + os.Getenv("HTTP_PROXY"))
		<-ctx.Done()
	case "inside": // looks at the mesh from namespaces of its own
		lookAround()
		<-ctx.Done()
	case "daemon": // leaves a process behind in a session of its own
		c := exec.Command("setsid", "--fork", "sleep", "1000")
		if err := c.Run(); err != nil {
			return err
		}
		fmt.Println("daemon started")
		<-ctx.Done()
	default:
		return fmt.Errorf("no program %q", kind)
	}
	return nil
}

func echo(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/slow":
		time.Sleep(100 * time.Millisecond)
	case "/healthy":
		if _, err := os.Stat(os.Getenv("TEST_SICK")); err == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintf(w, "%s %s", os.Getenv("TEST_NAME"), os.Getenv("POD_NAME"))
}

// built are the programs under test, made once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// build makes both programs of a tree in dir.
func build(tree, dir string) error {
	c := exec.Command("go", "build", "-o", dir+"/", "./cmd/tulle", "./cmd/tulle-proxy")
	c.Dir = tree
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// programs builds both programs, once, and returns the path of tulle.
func programs(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "tulle-test-"); built.err != nil {
			return
		}
		built.err = build("../..", built.dir)
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "tulle")
}

// world is a mesh that real processes make, of one directory of YAML.
type world struct {
	t     *testing.T
	tulle string
	dir   string // YAML
	state string
	port  string // where a Gateway's port 80 is opened
	args  []string
	mode  string // of replica; client is always in mode ports
	up    *job
}

// newWorld writes the files; nothing runs yet. All that is started is ended
// with the test, and must have left nothing.
func newWorld(t *testing.T, files map[string]string) *world {
	t.Helper()
	t.Parallel()
	state, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, tulle: programs(t), dir: t.TempDir(), state: state, port: freePort(t), mode: "ports"}
	t.Cleanup(func() {
		if left := w.left(); len(left) > 0 {
			t.Errorf("left running: %q", left)
		}
		_ = os.RemoveAll(state)
	})
	for name, text := range files {
		w.write(name, text)
	}
	return w
}

// write replaces a file as editors do.
func (w *world) write(name, text string) {
	w.t.Helper()
	tmp := filepath.Join(w.dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// left are the command lines of processes that this world started.
func (w *world) left() (out []string) {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, e := range envs {
		b, _ := os.ReadFile(e)
		if !strings.Contains(string(b), "TEST_WORLD="+w.state+"\x00") {
			continue
		}
		cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
		if len(cmd) > 0 { // a zombie has none
			out = append(out, strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return out
}

// start runs `tulle up` until its mesh is served.
func (w *world) start() *job {
	w.t.Helper()
	w.up = w.run(nil, append([]string{"up", "-f", w.dir, "--state", w.state, "--loops", "1", "--port", "80=" + w.port}, w.args...)...)
	w.up.wait("the mesh is served")
	return w.up
}

// replica runs `tulle run`: args, then a program of this test.
func (w *world) replica(kind string, env []string, args ...string) *job {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	all := append([]string{"run", "--mode", w.mode, "--state", w.state, "--loops", "1"}, args...)
	return w.run(append(env, "TEST_PROGRAM="+kind), append(all, "--", self)...)
}

// inBothModes runs a test with programs in either mode.
func inBothModes(t *testing.T, f func(t *testing.T, mode string)) {
	for _, mode := range []string{"ports", "namespaces"} {
		t.Run(mode, func(t *testing.T) {
			if err := standalone.Namespaces(filepath.Join(filepath.Dir(programs(t)), "tulle-proxy")); err != nil && mode == "namespaces" {
				t.Skipf("NOT TESTED: mode namespaces: %v", err)
			}
			f(t, mode)
		})
	}
}

// client runs a replica that sends nothing by itself, and returns a client
// whose requests go through its sidecar.
func (w *world) client(args ...string) (*http.Client, *job) {
	w.t.Helper()
	j := w.replica("client", nil, append([]string{"--mode", "ports"}, args...)...)
	u, err := url.Parse(strings.TrimPrefix(j.wait("proxy http"), "proxy "))
	if err != nil {
		w.t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(u), MaxIdleConnsPerHost: 16}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}, j
}

// memory is where sidecars keep their keys.
func (w *world) memory() string {
	d := filepath.Join(w.state, "memory")
	if err := os.MkdirAll(d, 0o700); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// job is a running program of ours and what it has printed.
type job struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu   sync.Mutex
	text []string
	more chan struct{} // closed with every line
}

func (w *world) run(env []string, args ...string) *job {
	w.t.Helper()
	j := &job{t: w.t, cmd: exec.Command(w.tulle, args...), done: make(chan struct{}), more: make(chan struct{})}
	j.cmd.Env = append(append(os.Environ(), "TEST_WORLD="+w.state, "XDG_RUNTIME_DIR="+w.memory()), env...)
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, pipe := io.Pipe()
	j.cmd.Stdout, j.cmd.Stderr, j.cmd.WaitDelay = pipe, pipe, 5*time.Second
	if err := j.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		in := bufio.NewScanner(r)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			j.mu.Lock()
			j.text = append(j.text, in.Text())
			close(j.more)
			j.more = make(chan struct{})
			j.mu.Unlock()
		}
	}()
	go func() {
		j.err = j.cmd.Wait()
		_ = pipe.Close()
		<-read
		close(j.done)
	}()
	w.t.Cleanup(func() { j.stop(syscall.SIGTERM) })
	return j
}

// stop sends a signal and waits for the end.
func (j *job) stop(sig syscall.Signal) {
	select {
	case <-j.done:
		return
	default:
	}
	_ = j.cmd.Process.Signal(sig)
	select {
	case <-j.done:
	case <-time.After(patience):
		_ = j.cmd.Process.Kill()
		j.t.Errorf("%v did not end after %v:\n%s", j.cmd.Args[1:], sig, j.all())
		<-j.done
	}
}

// end waits for the program's own end and returns its exit code.
func (j *job) end() int {
	j.t.Helper()
	select {
	case <-j.done:
	case <-time.After(patience):
		j.t.Fatalf("%v does not end:\n%s", j.cmd.Args[1:], j.all())
	}
	return j.cmd.ProcessState.ExitCode()
}

func (j *job) all() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.text, "\n")
}

// count is how many lines hold all of the words.
func (j *job) count(words ...string) (n int) {
	for _, l := range strings.Split(j.all(), "\n") {
		if holds(l, words) {
			n++
		}
	}
	return n
}

func holds(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}

// wait waits for a line that holds all of the words.
func (j *job) wait(words ...string) string { j.t.Helper(); return j.waitNth(1, words...) }

// waitNth waits for the nth such line.
func (j *job) waitNth(nth int, words ...string) string {
	j.t.Helper()
	limit := time.After(patience)
	for {
		j.mu.Lock()
		n := 0
		for _, l := range j.text {
			if holds(l, words) {
				if n++; n == nth {
					j.mu.Unlock()
					return l
				}
			}
		}
		more := j.more
		j.mu.Unlock()
		select {
		case <-more:
		case <-j.done:
			if j.count(words...) < nth {
				j.t.Fatalf("%v ended (%v) without a line with %q:\n%s", j.cmd.Args[1:], j.err, words, j.all())
			}
		case <-limit:
			j.t.Fatalf("%v printed no line with %q:\n%s", j.cmd.Args[1:], words, j.all())
		}
	}
}

// get is the body of an answer with status 200.
func get(c *http.Client, u string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, u, nil)
	if err != nil {
		return "", err
	}
	return fetch(c, req)
}

// fetch is get for any request.
func fetch(c *http.Client, req *http.Request) (string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// asks is a load's request.
func asks(c *http.Client, u string) func() (string, error) {
	return func() (string, error) { return get(c, u) }
}

// until waits for a condition, which says what is missing.
func until(t *testing.T, what string, cond func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = cond(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// load sends requests until stopped and counts.
type load struct {
	sent, failed atomic.Int64
	first        atomic.Pointer[string]
	mu           sync.Mutex
	by           map[string]int // answers by body
	stop         func()
}

func startLoad(t *testing.T, workers int, get func() (string, error)) *load {
	l := &load{by: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(l.stop)
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				body, err := get()
				l.sent.Add(1)
				if err != nil {
					l.failed.Add(1)
					text := err.Error()
					l.first.CompareAndSwap(nil, &text)
					continue
				}
				l.mu.Lock()
				l.by[body]++
				l.mu.Unlock()
			}
		})
	}
	return l
}

// why the first failure.
func (l *load) why() string {
	if p := l.first.Load(); p != nil {
		return *p
	}
	return "none"
}

// answers by body so far.
func (l *load) answers(body string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[body]
}

// more waits until n more requests were sent.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.sent.Load() + n
	until(t, "load", func() error {
		if got := l.sent.Load(); got < want {
			return fmt.Errorf("%d of %d requests", got, want)
		}
		return nil
	})
}

// verify stops the load and wants no failure.
func (l *load) verify(t *testing.T) {
	t.Helper()
	l.stop()
	if n := l.failed.Load(); n > 0 || l.sent.Load() == 0 {
		t.Errorf("%d of %d requests failed; first: %s", n, l.sent.Load(), l.why())
	}
}

// freePort is a port of loopback that nobody uses.
func freePort(t *testing.T) string { return strconv.Itoa(int(port.Free(t).Port())) }

var errNotYet = errors.New("not yet")

// shop is a service with a Deployment, and one for its callers.
const shop = `apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: shop}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      serviceAccountName: echo
      containers: [{name: echo, image: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: shop}
spec:
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec:
      serviceAccountName: caller
      containers: [{name: caller, image: caller}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
`

// pin routes echo to a status, to see that a change arrives.
const pin = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pin, namespace: shop}
spec:
  hosts: [echo]
  http:
  - directResponse: {status: 200, body: {string: pinned}}
`
