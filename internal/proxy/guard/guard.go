//go:build linux

// Package guard is the parent of a program on this machine: whatever the
// program starts, in sessions of its own too, ends with the program, or when
// whoever started the guard dies, however that happens.
//
// In: a command line; descriptor 3, a pipe whose other end the starter holds.
// Out: the program's exit status.
//
// What does not belong here: programs with namespaces of their own, where the
// kernel does this (agent).
package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lifeline is the descriptor that ends when the starter does.
const lifeline = 3

// Main runs "[--foreground] -- CMD ARGS..." and returns its exit status, as
// shells tell it.
func Main(args []string, stderr io.Writer) int {
	foreground := len(args) > 0 && args[0] == "--foreground"
	if foreground {
		args = args[1:]
	}
	if len(args) < 2 || args[0] != "--" {
		fmt.Fprintln(stderr, "tulle-proxy guard: want [--foreground] -- CMD; tulle run starts it")
		return 2
	}
	status, err := run(args[1:], foreground)
	if err != nil {
		fmt.Fprintln(stderr, "tulle:", err)
	}
	return status
}

func run(command []string, foreground bool) (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 126, fmt.Errorf("guard: %w", err)
	}
	unix.CloseOnExec(lifeline)
	alone := make(chan struct{})
	go func() {
		_, _ = os.NewFile(lifeline, "lifeline").Read(make([]byte, 1))
		close(alone)
	}()
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // before the start: what is caught here is not inherited as ignored
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 127, err
	}
	runtime.LockOSThread() // the program is killed when the thread that started it ends
	pid, err := syscall.ForkExec(path, command, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return 126, fmt.Errorf("start %s: %w", filepath.Base(command[0]), err)
	}
	defer endAll()
	for {
		select {
		case <-alone:
			return 128 + int(syscall.SIGKILL), nil
		case s := <-signals:
			if s != syscall.SIGCHLD {
				pass(pid, s, foreground)
				continue
			}
			if status, ended := bury(pid); ended {
				return status, nil
			}
		}
	}
}

// pass hands a signal to the program. What a terminal sends reaches a program
// in the foreground without us.
func pass(pid int, sig os.Signal, foreground bool) {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return
	}
	switch n {
	case unix.SIGURG, unix.SIGPIPE: // the runtime's, and ours
		return
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGCONT:
		if foreground {
			return
		}
	}
	_ = syscall.Kill(pid, n)
}

// bury waits for what has ended. It reports whether the program is among it,
// and its status.
func bury(program int) (status int, ended bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return status, ended
		}
		if pid == program {
			ended, status = true, ws.ExitStatus()
			if ws.Signaled() {
				status = 128 + int(ws.Signal())
			}
		}
	}
}

// endAll kills everything that descends from us, until nothing does: orphans
// become our children. A pass ends only when all that was killed is buried, so
// that rounds are few.
func endAll() {
	for range 1000 {
		left := descendants()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for {
			_, err := syscall.Wait4(-1, nil, 0, nil)
			if errors.Is(err, syscall.ECHILD) {
				break
			}
			if !errors.Is(err, syscall.EINTR) {
				left = nil // a death may have brought orphans
				for _, pid := range descendants() {
					left = append(left, pid)
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if len(left) == 0 {
			return
		}
	}
}

// descendants are the processes below this one.
func descendants() (out []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	parent := map[int]int{}
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		// pid (name) state ppid ...; the name may hold anything.
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(d)))
		if err != nil || len(f) < 2 || f[0] == "Z" {
			continue
		}
		if parent[pid], err = strconv.Atoi(f[1]); err != nil {
			delete(parent, pid)
		}
	}
	below := []int{os.Getpid()}
	for len(below) > 0 {
		var next []int
		for pid, p := range parent {
			if slices.Contains(below, p) {
				next = append(next, pid)
			}
		}
		out, below = append(out, next...), next
	}
	return out
}
