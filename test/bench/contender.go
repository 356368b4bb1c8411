package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/xds"
)

// contender is one proxy under test, in a file of its own. A further one is one
// more file: a variable of this type whose start configures it from the plan
// (table() is the route table) and spawns it, and
//
//	func init() { contenders = append(contenders, other) }
type contender struct {
	name    string
	columns []string // in which it competes; the first is the default of shapes without filters
	needs   []need
	fronts  []front // that it can be; nil: all but fed
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

// need is a program that must be there, and Debian's package of it.
type need struct{ program, pkg string }

// missing names the programs of the contender that are not there.
func (c *contender) missing() error {
	var errs []error
	for _, n := range c.needs {
		if _, err := exec.LookPath(n.program); err != nil {
			errs = append(errs, fmt.Errorf("%s needs %s: apt-get install %s", c.name, n.program, n.pkg))
		}
	}
	return errors.Join(errs...)
}

// install gets what is missing from Debian, where we may; what is still missing
// then is told by missing.
func install(ctx context.Context, all []*contender) {
	var packages []string
	for _, c := range all {
		for _, n := range c.needs {
			if _, err := exec.LookPath(n.program); err != nil && !slices.Contains(packages, n.pkg) {
				packages = append(packages, n.pkg)
			}
		}
	}
	if len(packages) == 0 || os.Geteuid() != 0 {
		return
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return
	}
	fmt.Fprintln(os.Stderr, "installing", strings.Join(packages, ", "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "apt-get %s: %v: %.500s\n", args[0], err, out)
		}
	}
}

// can reports whether the contender competes as that front in that column.
// There are no filters on bytes, nor where clusters arrive.
func (c *contender) can(f front, column string) bool {
	if c.fronts == nil && f == fed || c.fronts != nil && !slices.Contains(c.fronts, f) {
		return false
	}
	return slices.Contains(c.columns, column) && (f != stream && f != fed || column == equal)
}

// plan is what a contender is given.
type plan struct {
	stage
	filters bool // policy, labelled metrics and header operations
	dir     string
	backend backends
	pki     *pki
	tulle   string // the program
	self    string // this program
}

// stage is what contenders are started as, anew for each.
type stage struct {
	front front
	peers int // paired: how many of the second kind there are, on two loops each; 0: one, on one loop
}

func (g stage) String() string {
	if g.peers > 0 {
		return fmt.Sprintf("%s%d", g.front, g.peers)
	}
	return string(g.front)
}

// loops, threads or workers of each proxy.
func (g stage) loops() int {
	if g.peers > 0 {
		return 2
	}
	return 1
}

// cpus are the cores of the proxies.
func (g stage) cpus() string {
	if g.peers > 0 {
		return bothCPU
	}
	return proxyCPU
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

// inners are addresses for the second ones of a pair.
func (p *plan) inners() (out []string, err error) {
	for range max(p.peers, 1) {
		a, err := freeAddr()
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// running is a contender that was started.
type running struct {
	addr   string      // where the load goes
	inner  string      // pair: where the second one takes mutual TLS
	client certificate // pair: what a peer shows there
	pids   []int       // processes whose CPU and memory count
	jobs   []*job      // to end, the last first
	after  func()      // once they have ended; may be nil
	// allocs counts the objects that the processes have allocated; nil: unknown.
	allocs func() (float64, error)
	// rounds counts the rounds of the processes' loops by how long they took at
	// most (seconds); nil: unknown.
	rounds func() (map[float64]float64, error)
	// arrive gives a fed contender more resources and returns when it has accepted
	// them; without any it takes those of before away. nil: it is not fed.
	arrive func(ctx context.Context, more []xds.Resource) error
}

func (r *running) stop() {
	for _, j := range slices.Backward(r.jobs) {
		j.stop()
	}
	if r.after != nil {
		r.after()
	}
}

// job is a process group that we started.
type job struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	// stdin is open as long as we live: what ends with it does not outlive us.
	stdin io.WriteCloser
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
	if j.stdin, err = j.cmd.StdinPipe(); err != nil {
		return nil, err
	}
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
	return j.awaitFor(ctx, 20*time.Second, what, ok)
}

func (j *job) awaitFor(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
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
	return fmt.Errorf("no %s after %v; it said:\n%s", what, limit, j.said())
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
