package control

import (
	"os"
	"strconv"
	"strings"
)

// startOf is when a process started, in the kernel's own words; empty: there is
// none, or it is not known.
func startOf(pid int) string {
	if pid <= 0 {
		return ""
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// pid (name) state ppid ...: starttime is field 22; the name may hold anything.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// sameProcess reports whether a process runs still. One that is not known is
// taken for running.
func sameProcess(pid int, started string) bool {
	return pid <= 0 || started == "" || startOf(pid) == started
}
