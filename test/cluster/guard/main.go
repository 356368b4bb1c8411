//go:build linux

// Command guard holds the places of a cluster under test: each place is a set
// of namespaces (mounts, processes, network, host name, IPC) with a process of
// the guard as its first one.
//
// In: a directory, which is locked while the guard lives, and lines on standard
// input, "start NAME" and "stop NAME"; the end of the input ends everything.
// Out: the line "ready", then one for each, "NAME PID" and "NAME 0". When the
// guard ends, however that happens, all processes of all places end with it,
// and with them their mounts and networks; what the kernel does not take back
// by itself (the directory, control groups called after it) the guard removes.
//
// What does not belong here: what runs in a place.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "first":
		err = first()
	case len(os.Args) == 2:
		err = guard(os.Args[1])
	default:
		err = errors.New("want DIRECTORY")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guard:", err)
		os.Exit(1)
	}
}

// first is process 1 of a place: it makes the place's mounts its own, says so,
// and buries the dead.
func first() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	fmt.Println("ready")
	for range died {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, syscall.EINTR) {
				break
			}
		}
	}
	return nil
}

// guard serves the lines.
func guard(dir string) error {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	runtime.LockOSThread() // a place ends when the thread that started it does
	places := map[string]*exec.Cmd{}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		verb, name, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "start":
			p, err := start()
			if err != nil {
				fmt.Printf("%s %v\n", name, err)
				continue
			}
			places[name] = p
			fmt.Println(name, p.Process.Pid)
		case "stop":
			if p := places[name]; p != nil {
				end(p)
				delete(places, name)
			}
			if err := removeGroups(filepath.Base(dir) + "-" + name); err != nil {
				fmt.Println(name, err)
				continue
			}
			fmt.Println(name, 0)
		}
	}
	for _, p := range places {
		end(p)
	}
	return errors.Join(removeGroups(filepath.Base(dir)+"-*"), os.RemoveAll(dir))
}

// start makes a place and waits until it can be entered.
func start() (*exec.Cmd, error) {
	p := exec.Command("/proc/self/exe", "first")
	p.Stderr = os.Stderr
	p.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := p.StdoutPipe()
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		return nil, err
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		end(p)
		return nil, errors.New("the place could not be made")
	}
	return p, nil
}

// end kills a place and returns when all its processes are gone: the first
// process is not dead before the others are.
func end(p *exec.Cmd) {
	_ = p.Process.Kill()
	_ = p.Wait() // killed: nothing else to tell
}

// removeGroups removes the control groups that match, in every hierarchy of
// the machine. The kernel empties a group a moment after its processes died.
func removeGroups(pattern string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var left error
	for range 250 {
		left = nil
		for line := range strings.Lines(string(mounts)) {
			f := strings.Fields(line)
			if len(f) < 3 || f[2] != "cgroup" && f[2] != "cgroup2" {
				continue
			}
			tops, _ := filepath.Glob(filepath.Join(f[1], pattern))
			for _, top := range tops {
				left = errors.Join(left, removeTree(top))
			}
		}
		if left == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

// removeTree removes a control group and those below it, the lowest first.
func removeTree(top string) error {
	var dirs []string
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // what is gone already is what we want
	})
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s: %w", d, err)
		}
	}
	return nil
}
