package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contender is one proxy under test: one file each, and one line in contenders.
type contender struct {
	name    string
	columns []string // in which it competes; the first is the default of shapes without filters
	needs   []need
	fronts  []front // that it can be; nil: all
	// start brings it up for a front. It must listen when start returns.
	start func(ctx context.Context, p *plan) (*running, error)
}

// contenders, in the order in which they take turns.
var contenders = []*contender{direct, tulle, nginx, haproxy, envoyPlain, envoyIstio}

// Columns: "equal" is what every proxy does, "filters" what a mesh adds.
const (
	equal   = "equal"
	filters = "filters"
)

// need is a program that must be there.
type need struct{ program, install string }

// missing names the programs of the contender that are not there.
func (c *contender) missing() error {
	var errs []error
	for _, n := range c.needs {
		if _, err := exec.LookPath(n.program); err != nil {
			errs = append(errs, fmt.Errorf("%s needs %s: %s", c.name, n.program, n.install))
		}
	}
	return errors.Join(errs...)
}

// can reports whether the contender competes as that front in that column.
// There are no filters on bytes.
func (c *contender) can(f front, column string) bool {
	if c.fronts != nil && !slices.Contains(c.fronts, f) {
		return false
	}
	return slices.Contains(c.columns, column) && (f != stream || column == equal)
}

// plan is what a contender is given.
type plan struct {
	front   front
	filters bool // policy, labelled metrics and header operations
	dir     string
	backend backends
	pki     *pki
	tulle   string // the program
	self    string // this program
}

// path of a file of the contender.
func (p *plan) path(name string) string { return filepath.Join(p.dir, name) }

// write makes a file for the contender and returns its path.
func (p *plan) write(name, text string) (string, error) {
	return p.path(name), os.WriteFile(p.path(name), []byte(text), 0o600)
}

// upstream is where the front sends to.
func (p *plan) upstream() string {
	switch p.front {
	case muxed:
		return p.backend.h2
	case stream:
		return p.backend.tcp
	}
	return p.backend.h1
}

// running is a contender that was started.
type running struct {
	addr  string // where the load goes
	inner string // pair: where the second one takes mutual TLS
	pids  []int  // processes whose CPU and memory count
	jobs  []*job // to end, the last first
	after func() // once they have ended; may be nil
}

func (r *running) stop() {
	for _, j := range slices.Backward(r.jobs) {
		j.stop()
	}
	if r.after != nil {
		r.after()
	}
}

// Cores: the proxies share one, load and backend the other.
const (
	proxyCPU = "0"
	loadCPU  = "1"
)

// job is a process group that we started.
type job struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// spawn starts a command on a core; what it says goes to a file.
func spawn(dir, name, cpu string, args ...string) (*job, error) {
	j := &job{log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.Create(j.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	j.cmd = exec.Command("taskset", append([]string{"-c", cpu}, args...)...)
	j.cmd.Stdout, j.cmd.Stderr = out, out
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := j.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = j.cmd.Wait(); close(j.done) }()
	return j, nil
}

func (j *job) pid() int { return j.cmd.Process.Pid }

// said is the end of what the process has written.
func (j *job) said() string {
	b, _ := os.ReadFile(j.log)
	return string(b[max(0, len(b)-4096):])
}

func (j *job) stop() {
	_ = syscall.Kill(-j.pid(), syscall.SIGTERM)
	select {
	case <-j.done:
	case <-time.After(15 * time.Second):
	}
	_ = syscall.Kill(-j.pid(), syscall.SIGKILL)
	<-j.done
}

// await polls until ok, the end of the process, or 20 s.
func (j *job) await(ctx context.Context, what string, ok func() bool) error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-j.done:
			return fmt.Errorf("it ended before %s; it said:\n%s", what, j.said())
		default:
		}
	}
	return fmt.Errorf("no %s after 20 s; it said:\n%s", what, j.said())
}

// listening waits until a connection is accepted at each address.
func (j *job) listening(ctx context.Context, addrs ...string) error {
	for _, a := range addrs {
		if err := j.await(ctx, "listening on "+a, func() bool { return dials(a) }); err != nil {
			return err
		}
	}
	return nil
}

func dials(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// freeAddr is an address on loopback that nothing listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// family is a process and all that it has started, of that program ("": any).
func family(pid int, program string) (out []int) {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && (program == "" || strings.TrimSpace(string(b)) == program) {
		out = append(out, pid)
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 2 || f[1] != strconv.Itoa(pid) {
			continue
		}
		if c, err := strconv.Atoi(filepath.Base(filepath.Dir(s))); err == nil {
			out = append(out, family(c, program)...)
		}
	}
	return out
}
