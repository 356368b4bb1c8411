//go:build linux

package loop

import (
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// promptSlice is the least time slice that Linux gives (sched_setattr(2)). A
// thread with a short slice that is woken takes the processor from one with a
// longer slice at once; how much of the processor each gets stays the same.
const promptSlice = uint64(100 * time.Microsecond)

// prompted says that Prompt had an effect.
var prompted atomic.Bool

// Prompt has the threads of this process run as soon as they are woken, but
// for those that work behind the gate: on few processors a handshake delayed
// what came for a loop by whole time slices of some milliseconds. It needs no
// privilege, and Linux 6.12; it reports whether it had an effect. New threads
// inherit it. Call it before the loops run.
func Prompt() bool {
	for range 3 { // a thread may start another meanwhile
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return false
		}
		for _, t := range tasks {
			if tid, err := strconv.Atoi(t.Name()); err == nil {
				setSlice(tid, promptSlice)
			}
		}
	}
	prompted.Store(sliceOf(0) == promptSlice)
	return prompted.Load()
}

// sliceOf is the time slice of a thread (0: this one) in nanoseconds; 0: the
// kernel does not say, or it is not scheduled by slices.
func sliceOf(tid int) uint64 {
	a, err := unix.SchedGetAttr(tid, 0)
	if err != nil || a.Policy != unix.SCHED_NORMAL {
		return 0
	}
	return a.Runtime
}

// setSlice gives a thread a time slice, 0 for the system's; its priority stays.
func setSlice(tid int, ns uint64) {
	a, err := unix.SchedGetAttr(tid, 0)
	if err != nil || a.Policy != unix.SCHED_NORMAL {
		return // somebody has decided otherwise
	}
	a.Runtime = ns
	_ = unix.SchedSetAttr(tid, a, 0) // an old kernel, or a filter of calls: goes without
}

// stepBack makes the caller's thread one that waits for those that are prompt;
// the goroutine stays on it until stepForth.
func stepBack() {
	if prompted.Load() {
		runtime.LockOSThread()
		setSlice(0, 0)
	}
}

func stepForth() {
	if prompted.Load() {
		setSlice(0, promptSlice)
		runtime.UnlockOSThread()
	}
}
