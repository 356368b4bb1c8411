package proxy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropImage unmaps what is only read of our own program: most of it was needed
// to start, and never again. The rest comes back from the page cache with its
// next use, 64 KiB at a time. Whatever fails, nothing is lost.
func dropImage() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	for _, m := range image(f, self) {
		// The error says that it stays mapped.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m[0], m[1]-m[0], unix.MADV_DONTNEED)
	}
}

// image reads from smaps (proc(5)) where the program's file is mapped without
// being writable, and without a page that was written once: the file has all
// that is there.
func image(smaps io.Reader, self string) [][2]uintptr {
	var out [][2]uintptr
	var at [2]uintptr
	ours := false
	for s := bufio.NewScanner(smaps); s.Scan(); {
		part := strings.Fields(s.Text())
		switch {
		case len(part) > 4 && !strings.HasSuffix(part[0], ":"):
			n, _ := fmt.Sscanf(part[0], "%x-%x", &at[0], &at[1])
			ours = n == 2 && len(part) == 6 && part[5] == self && strings.HasPrefix(part[1], "r-")
		case ours && part[0] == "Anonymous:" && part[1] == "0":
			out = append(out, at)
		}
	}
	return out
}
