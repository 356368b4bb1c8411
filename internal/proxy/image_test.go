package proxy

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// Only mappings of the program that are not writable and never were.
func TestImage(t *testing.T) {
	const smaps = `00400000-00833000 r-xp 00000000 fe:00 1 /bin/tulle-proxy
Rss: 4000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00833000-00c0f000 r--p 00433000 fe:00 1 /bin/tulle-proxy
Anonymous:             4 kB
00c0f000-00c60000 rw-p 0080f000 fe:00 1 /bin/tulle-proxy
Anonymous:             0 kB
00c60000-00c70000 r--p 00000000 fe:00 2 /lib/other.so
Anonymous:             0 kB
00c70000-00c80000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffd0000-7ffe0000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
`
	if got := image(strings.NewReader(smaps), "/bin/tulle-proxy"); !slices.Equal(got, [][2]uintptr{{0x400000, 0x833000}}) {
		t.Errorf("got %x", got)
	}
}

// The program runs on when what it consists of is taken away under it.
func TestDropImage(t *testing.T) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if len(image(f, self)) == 0 {
		t.Error("nothing of our own program is found")
	}
	for range 100 {
		dropImage()
		runtime.GC()
	}
}
