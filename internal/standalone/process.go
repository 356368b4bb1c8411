//go:build linux

package standalone

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command describes a program to start.
type Command struct {
	Args   []string
	Env    []string // complete
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Attr   *syscall.SysProcAttr // nil: a process group of its own
	Files  []*os.File           // from descriptor 3 on
	// Foreground leaves the program in our process group, so that it may read
	// the terminal.
	Foreground bool
	// Guard is the path of tulle-proxy, which then starts the program and ends
	// everything that it leaves behind, also when we are killed. Empty: the
	// program itself is killed then, what it started is not.
	Guard string
}

// Process is a running program with everything it has started. Safe for
// concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// starter is the one thread that starts programs: a program gets a signal when
// the thread that started it ends, so that thread must live as long as we do.
var starter = sync.OnceValue(func() chan func() {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // orphans come to us
	ch := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range ch {
			f()
		}
	}()
	return ch
})

// Start starts a program. It is killed when this process dies, however.
func Start(c Command) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("no command given")
	}
	lifeline, err := c.guard()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = c.Env, c.Dir, c.Stdin, c.Stdout, c.Stderr, c.Files
	cmd.SysProcAttr = c.Attr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !c.Foreground}
	}
	if lifeline == nil {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	cmd.WaitDelay = 2 * time.Second
	started := make(chan struct{})
	starter() <- func() { err = cmd.Start(); close(started) }
	<-started
	if lifeline != nil {
		_ = c.Files[0].Close()
	}
	if err != nil {
		if lifeline != nil {
			_ = lifeline.Close()
		}
		return nil, fmt.Errorf("start %s: %w", filepath.Base(c.Args[0]), err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		if lifeline != nil {
			_ = lifeline.Close()
		}
		close(p.done)
	}()
	return p, nil
}

// guard puts a guard before the program. Its descriptor 3 ends when we close
// the lifeline, or die.
func (c *Command) guard() (lifeline *os.File, err error) {
	if c.Guard == "" {
		return nil, nil
	}
	if len(c.Files) > 0 {
		return nil, errors.New("a guarded program takes no descriptors")
	}
	if _, err := exec.LookPath(c.Args[0]); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(c.Args[0]), errors.Unwrap(err))
	}
	r, w, err := os.Pipe() // neither end is inherited by other programs
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(c.Args[0]), err)
	}
	args := []string{c.Guard, "guard"}
	if c.Foreground {
		args = append(args, "--foreground")
	}
	c.Args = append(append(args, "--"), c.Args...)
	c.Files = []*os.File{r}
	return w, nil
}

// PID of the program itself, or of its guard.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program itself has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is the program's end after Done; nil for exit code 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Stop asks the program to end, and after grace kills it with all that it has
// started. It returns when nothing of it is left.
func (p *Process) Stop(grace time.Duration) {
	pid := p.PID()
	family := descendants(pid)
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(pid, syscall.SIGTERM)
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-p.done:
		case <-t.C:
		}
	}
	family = append(family, descendants(pid)...)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	<-p.done
	killAll(family)
}

// EndFamily kills every process that descends from this one. It is the last
// act of a program that used Start.
func EndFamily() {
	for range 50 {
		left := descendants(os.Getpid())
		if len(left) == 0 {
			return
		}
		killAll(left)
	}
}

// killAll kills processes and reaps those that became our children.
func killAll(pids []int) {
	slices.Sort(pids)
	for _, pid := range slices.Compact(pids) {
		if pid <= 1 || pid == os.Getpid() || !descends(pid, os.Getpid()) {
			continue
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		for range 100 { // it becomes our child when its parent is gone
			var ws syscall.WaitStatus
			if got, err := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil); got == pid || err == syscall.ECHILD && !alive(pid) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// parents reads who is whose parent.
func parents() map[int]int {
	out := map[int]int{}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return out
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state ppid ...; the name may hold anything.
		_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
		f := strings.Fields(rest)
		if !ok || len(f) < 2 {
			continue
		}
		if ppid, err := strconv.Atoi(f[1]); err == nil {
			out[pid] = ppid
		}
	}
	return out
}

// descendants of a process, without itself.
func descendants(root int) []int {
	ps := parents()
	var out []int
	for pid := range ps {
		for p, n := ps[pid], 0; p > 1 && n < 64; p, n = ps[p], n+1 {
			if p == root {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}

func descends(pid, root int) bool {
	return slices.Contains(descendants(root), pid)
}
