//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/redirect"
)

// execWord as first argument makes this program drop what it may and become
// the program that follows.
const execWord = "exec-without-privileges"

// watchRefused is how often it is looked what was refused.
const watchRefused = 2 * time.Second

// program starts the program, passes signals on, buries orphans, and returns
// the program's exit status as shells tell it. What the program leaves behind
// ends with us: we are the first process of the namespace.
func (s *settings) program(c *control, orders <-chan Order) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	pid, err := begin(s.command, []uintptr{0, 1, 2})
	if err != nil {
		return 1, fmt.Errorf("start %s: %w", s.command[0], err)
	}
	c.send(Event{Started: pid})
	told := map[redirect.Refusal]bool{}
	errands := map[int]int{} // process id -> number
	tick := time.NewTicker(watchRefused)
	defer tick.Stop()
	for {
		select {
		case sig := <-signals:
			if sig != unix.SIGCHLD {
				s.pass(pid, sig)
				continue
			}
			for dead, status := range bury() {
				if id := errands[dead]; id != 0 {
					delete(errands, dead)
					c.send(Event{Ran: id, Status: status})
				}
				if dead == pid {
					s.report(c, told)
					return status, nil
				}
			}
		case o, ok := <-orders:
			if !ok {
				return 1, nil // whoever started us is gone
			}
			s.errand(c, o, errands)
		case <-tick.C:
			s.report(c, told)
		}
	}
}

// begin starts a command that gives up privileges first.
func begin(command []string, files []uintptr) (int, error) {
	return syscall.ForkExec("/proc/self/exe", append([]string{"tulle-proxy", "agent", execWord}, command...),
		&syscall.ProcAttr{Env: os.Environ(), Files: files})
}

// errand starts or kills a command beside the program.
func (s *settings) errand(c *control, o Order, running map[int]int) {
	for pid, id := range running {
		if id == o.Kill {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if o.Run == nil {
		return
	}
	pid, err := 0, errors.New("too many at once")
	if len(running) < maxErrands && len(o.Run.Args) > 0 {
		var null *os.File
		if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			pid, err = begin(o.Run.Args, []uintptr{null.Fd(), null.Fd(), null.Fd()})
			_ = null.Close()
		}
	}
	if err != nil {
		c.send(Event{Ran: o.Run.ID, Status: 126})
		return
	}
	running[pid] = o.Run.ID
}

// pass hands a signal to the program. What a terminal sends reaches a program
// in the foreground without us.
func (s *settings) pass(pid int, sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return
	}
	switch n {
	case unix.SIGURG, unix.SIGPIPE: // the runtime's, and ours
		return
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH, unix.SIGCONT:
		if s.foreground {
			return
		}
	}
	_ = syscall.Kill(pid, n)
}

// bury waits for processes that have ended; their status by process id, as
// shells tell it.
func bury() map[int]int {
	out := map[int]int{}
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return out
		}
		out[pid] = ws.ExitStatus()
		if ws.Signaled() {
			out[pid] = 128 + int(ws.Signal())
		}
	}
}

// report tells what was refused since the last time.
func (s *settings) report(c *control, told map[redirect.Refusal]bool) {
	list, err := redirect.Refused(s.plan())
	if err != nil {
		return
	}
	var e Event
	for _, r := range list {
		if !told[r] {
			told[r] = true
			e.Refused = append(e.Refused, r.String())
		}
	}
	if len(e.Refused) > 0 {
		c.send(e)
	}
}

// rootKeeps are the capabilities that a program of the superuser keeps: none
// that could undo the namespaces' network or see into the agent.
var rootKeeps = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT}

// execProgram gives up privileges for good and becomes the program.
func execProgram(command []string, stderr io.Writer) int {
	fail := func(status int, err error) int {
		fmt.Fprintln(stderr, "tulle:", err)
		return status
	}
	if len(command) == 0 {
		return fail(2, errors.New("no command given"))
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fail(127, err)
	}
	runtime.LockOSThread() // capabilities are a thread's; exec keeps this one's
	if err := drop(); err != nil {
		return fail(126, fmt.Errorf("give up privileges: %w", err))
	}
	err = syscall.Exec(path, command, os.Environ())
	return fail(126, fmt.Errorf("%s: %w", path, err))
}

// drop gives up the capabilities of this thread and everything it will become
// (capabilities(7)).
func drop() error {
	var keep uint64
	if os.Geteuid() == 0 {
		for _, c := range rootKeeps {
			keep |= 1 << c
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	for c := uintptr(0); c < 64; c++ {
		if keep>>c&1 != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&h, &have[0]); err != nil {
		return err
	}
	for i := range have {
		k := uint32(keep >> (32 * i))
		have[i] = unix.CapUserData{Effective: have[i].Permitted & k, Permitted: have[i].Permitted & k}
	}
	return unix.Capset(&h, &have[0])
}
