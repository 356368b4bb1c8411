//go:build linux

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// places are the namespaces that a guard process holds for this one.
type places struct {
	dir   string // everything of this cluster; the guard removes it
	guard *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader

	mu  sync.Mutex
	pid map[string]int // first process of each place
}

// newPlaces starts a guard with a directory of its own. What other clusters
// left whose processes and guard were all killed is removed first.
func newPlaces(ctx context.Context, program string) (*places, error) {
	parent := filepath.Join(os.TempDir(), "tulle-clusters")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(parent, "lock")) // a directory without a guard is a dead one
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := filepath.Glob(filepath.Join(parent, "tulle-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old {
		_ = exec.CommandContext(ctx, program, dir).Run() // fails when its own guard lives
	}
	p := &places{pid: map[string]int{}}
	if p.dir, err = os.MkdirTemp(parent, "tulle-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(p.dir, 0o755); err != nil {
		return nil, err
	}
	p.guard = exec.Command(program, p.dir) // not with ctx: it ends when its input does
	p.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.guard.Stderr = os.Stderr
	if p.in, err = p.guard.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.guard.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.guard.Start(); err != nil {
		return nil, err
	}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		return nil, errors.Join(errors.New("the guard did not start"), err, p.close())
	}
	return p, nil
}

// close ends all places and waits until nothing is left of them.
func (p *places) close() error {
	_ = p.in.Close()
	if err := p.guard.Wait(); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// make starts a place.
func (p *places) make(name string) error {
	pid, err := p.ask("start", name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.pid[name] = pid
	p.mu.Unlock()
	return nil
}

// end kills everything in a place; what it looked like is forgotten.
func (p *places) end(name string) error {
	p.mu.Lock()
	delete(p.pid, name)
	p.mu.Unlock()
	_, err := p.ask("stop", name)
	return err
}

func (p *places) ask(verb, name string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintln(p.in, verb, name); err != nil {
		return 0, fmt.Errorf("guard: %w", err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("guard: %w", err)
	}
	answer := strings.TrimSpace(strings.TrimPrefix(line, name))
	pid, err := strconv.Atoi(answer)
	if err != nil {
		return 0, fmt.Errorf("%s the place %s: %s", verb, name, answer)
	}
	return pid, nil
}

// command that will run in a place. With netOnly it sees the machine's files
// and processes, and the place's network.
func (p *places) command(ctx context.Context, place string, netOnly bool, args []string) (*exec.Cmd, error) {
	p.mu.Lock()
	pid := p.pid[place]
	p.mu.Unlock()
	if pid == 0 {
		return nil, fmt.Errorf("there is no place %s", place)
	}
	enter := []string{"-t", strconv.Itoa(pid), "-n"}
	if !netOnly {
		enter = append(enter, "-m", "-u", "-i", "-p")
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, "--"), args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are for us
	return cmd, nil
}

// run a command in a place to its end and return what it printed.
func (p *places) run(ctx context.Context, place string, netOnly bool, args ...string) ([]byte, error) {
	cmd, err := p.command(ctx, place, netOnly, args)
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %s: %w\n%s", place, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// daemon is a program that runs in a place until one of them ends.
type daemon struct {
	cmd   *exec.Cmd
	meant atomic.Bool // its end
	done  chan struct{}
}

// daemon starts a program in a place; what it prints goes to a log file. ended
// is called when it ends by itself.
func (p *places) daemon(place, log string, ended func(error), args ...string) (*daemon, error) {
	cmd, err := p.command(context.Background(), place, false, args)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{cmd: cmd, done: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		if !d.meant.Load() {
			ended(fmt.Errorf("%s in %s ended: %v; see %s", filepath.Base(args[0]), place, err, log))
		}
		close(d.done)
	}()
	return d, nil
}

// kill ends the program at once and returns when it is gone.
func (d *daemon) kill() error {
	d.meant.Store(true)
	pid := d.cmd.Process.Pid // nsenter's, which waits for the program
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return err
	}
	for f := range strings.FieldsSeq(string(b)) {
		child, err := strconv.Atoi(f)
		if err != nil {
			return err
		}
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
			return err
		}
	}
	<-d.done
	return nil
}
