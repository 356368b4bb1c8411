package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Cores: the proxies share one (those with two loops: two), load and backend
// another. Where there are only two, proxies with two loops meet the load.
const proxyCPU = "0"

var (
	loadCPU = strconv.Itoa(max(runtime.NumCPU()-1, 1))
	bothCPU = "0,1"
)

// urgent is the priority of proxies, load and backend where we may give it: what
// else the machine does waits for them. It is the same for all of them, and no
// real-time class, so that their threads share a core as they do in earnest.
const urgent = -15

// renice gives all threads of the processes a priority. Who may not goes
// without.
func renice(pids []int, to int) {
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, t := range tasks {
			if id, err := strconv.Atoi(filepath.Base(t)); err == nil {
				_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, to)
			}
		}
	}
}

// descriptors are how many files a process may have open, as far as we may
// allow it.
func descriptors() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	for _, max := range []uint64{max(l.Max, 65536), l.Max} { // the first needs a privilege
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: max, Max: max}) == nil {
			return int(max)
		}
	}
	return int(l.Cur)
}

// idleOf is how many idle connections of those wanted can be held: HAProxy
// counts two descriptors for each.
func idleOf(want int) int { return min(want, (descriptors()-400)/2) }

// first makes a command of such a priority.
func (b *bench) first(args []string) []string {
	if !b.hurry {
		return args
	}
	return append([]string{"nice", "-n", strconv.Itoa(urgent)}, args...)
}

// hurryGroup gives our session's group of processes that priority too, where
// the kernel shares cores by sessions first (sched(7), autogroup).
func hurryGroup() (restore func()) {
	const file = "/proc/self/autogroup"
	before, err := os.ReadFile(file)
	_, nice, ok := strings.Cut(strings.TrimSpace(string(before)), "nice ")
	if err != nil || !ok || os.WriteFile(file, []byte(strconv.Itoa(urgent)), 0) != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(file, []byte(nice), 0) }
}

// mayHurry reports whether priorities can be raised.
func mayHurry() bool {
	before, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0) // 20 - nice
	if err != nil || syscall.Setpriority(syscall.PRIO_PROCESS, 0, urgent) != nil {
		return false
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, os.Getpid(), 20-before)
	return true
}
