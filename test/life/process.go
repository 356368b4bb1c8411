package life

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// Node is a workload whose proxy can be started, several times too.
type Node struct {
	*control.Registration
	Boot  proxy.Bootstrap // may be changed before Start
	place *Place
	dir   string
	spec  control.WorkloadSpec
	local map[string]netip.AddrPort // its sockets when the control plane went
}

// Process is a running tulle-proxy.
type Process struct {
	*os.Process
	t      testing.TB
	admin  string
	stderr output
	ended  chan struct{}
	err    error
}

// Start starts the node's proxy. edit may change the command; nil: not.
func (n *Node) Start(edit func(*exec.Cmd)) *Process {
	t := n.place.t
	t.Helper()
	b, err := json.Marshal(n.Boot)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(n.dir, "bootstrap.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, admin: strings.TrimPrefix(n.Boot.Admin, "unix://"), ended: make(chan struct{})}
	cmd := exec.Command("/proc/self/exe", word, "--bootstrap", file)
	cmd.Stderr = &p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if edit != nil {
		edit(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.Process = cmd.Process
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%s (pid %d) said:\n%s", n.ID, p.Pid, p.stderr.String())
		}
	})
	return p
}

// Serve is Start, and waits until the process is the one that serves.
func (n *Node) Serve(edit func(*exec.Cmd)) *Process {
	n.place.t.Helper()
	p := n.Start(edit)
	Wait(p.t, n.ID+" serves", func() bool { return p.Serves() })
	return p
}

// Serves reports whether the process is the one that serves, and is ready.
func (p *Process) Serves() bool {
	select {
	case <-p.ended:
		p.t.Fatalf("it has ended: %v\n%s", p.err, p.stderr.String())
	default:
	}
	var info struct {
		State string
		PID   int
	}
	code, text := p.Page("GET", "/server_info")
	return code == 200 && json.Unmarshal([]byte(text), &info) == nil && info.PID == p.Pid && info.State == "LIVE"
}

// Page asks the admin server; code 0: it did not answer.
func (p *Process) Page(method, path string) (code int, text string) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.admin)
		}}}
	r, err := http.NewRequest(method, "http://proxy"+path, nil)
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

// Metric sums a metric over the series whose labels match; labels may be empty.
func (p *Process) Metric(name, labels string) float64 {
	_, text := p.Page("GET", "/stats/prometheus")
	re := regexp.MustCompile(`(?m)^` + name + `(?:\{[^}]*` + labels + `[^}]*\})? (\S+)$`)
	sum := 0.0
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		v, _ := strconv.ParseFloat(m[1], 64)
		sum += v
	}
	return sum
}

// Term asks the process to end.
func (p *Process) Term() {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// End waits for the end, and returns how it ended.
func (p *Process) End() error {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("process %d does not end", p.Pid)
	}
	return p.err
}

// Said is what the process has written to standard error.
func (p *Process) Said() string { return p.stderr.String() }

// Descriptors that the process has open.
func (p *Process) Descriptors() int {
	d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid))
	if err != nil {
		p.t.Error(err)
	}
	return len(d)
}

// Resident memory of the process, in KiB.
func (p *Process) Resident() int { return p.status(`VmRSS:\s+(\d+) kB`) }

// Threads of the process.
func (p *Process) Threads() int { return p.status(`Threads:\s+(\d+)`) }

func (p *Process) status(pattern string) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		p.t.Error(err)
		return 0
	}
	m := regexp.MustCompile(pattern).FindSubmatch(b)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// CPU time that the process has used.
func (p *Process) CPU() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
	if err != nil {
		p.t.Error(err)
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// output is written by a process and read by the test.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
