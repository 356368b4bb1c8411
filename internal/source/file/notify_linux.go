package file

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// notifier tells by inotify which files of the watched directories changed.
// Owned by the goroutine of Watch, except for the reading goroutine, which
// close ends and waits for.
type notifier struct {
	file *os.File
	dirs map[string]int32 // watch descriptors
	out  chan []string
	done chan struct{}

	mu    sync.Mutex
	names map[int32]string // directories by watch descriptor
}

// A write is seen when the writer closes the file, so that half a file is not
// read.
const wantedEvents = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE |
	unix.IN_CREATE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

func newNotifier() *notifier {
	n := &notifier{dirs: make(map[string]int32)}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return n
	}
	n.file = os.NewFile(uintptr(fd), "inotify")
	n.out, n.done, n.names = make(chan []string), make(chan struct{}), make(map[int32]string)
	go n.read()
	return n
}

// events is nil when the kernel tells nothing.
func (n *notifier) events() <-chan []string {
	if n.file == nil {
		return nil
	}
	return n.out
}

func (n *notifier) pollEvery() time.Duration {
	if n.file == nil {
		return poll / 4
	}
	return poll
}

// watch makes dirs the watched directories.
func (n *notifier) watch(dirs []string) {
	if n.file == nil {
		return
	}
	raw, err := n.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for d, wd := range n.dirs {
			if !slices.Contains(dirs, d) {
				_, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) // may be gone already
				delete(n.dirs, d)
				n.name(wd, "")
			}
		}
		for _, d := range dirs {
			// Adding again gives the same descriptor, and a new one when another
			// directory stands there now.
			wd, err := unix.InotifyAddWatch(int(fd), d, wantedEvents)
			if err != nil {
				continue // polling finds what happens there
			}
			if old, ok := n.dirs[d]; !ok || old != int32(wd) {
				n.dirs[d] = int32(wd)
				n.name(int32(wd), d)
			}
		}
	})
}

// name remembers the directory of a watch descriptor; empty forgets it.
func (n *notifier) name(wd int32, dir string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if dir == "" {
		delete(n.names, wd)
		return
	}
	n.names[wd] = dir
}

// read turns events into file names until the file is closed.
func (n *notifier) read() {
	defer close(n.out)
	file := n.file
	buf := make([]byte, 64<<10)
	for {
		size, err := file.Read(buf)
		if err != nil || size == 0 {
			return
		}
		var out []string
		for b := buf[:size]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			if end > len(b) {
				break
			}
			name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:end], []byte{0})
			b = b[end:]
			n.mu.Lock()
			dir := n.names[wd]
			n.mu.Unlock()
			path := filepath.Join(dir, string(name))
			if mask&unix.IN_CREATE == 0 || !beingWritten(path) {
				out = append(out, path)
			}
		}
		if len(out) == 0 {
			continue
		}
		select {
		case n.out <- out:
		case <-n.done:
			return
		}
	}
}

// beingWritten reports whether a new name is a plain file, whose writer will
// close it; links come whole.
func beingWritten(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1
}

// stop goes over to polling.
func (n *notifier) stop() {
	if n.file != nil {
		n.file.Close()
		n.file = nil
	}
}

// close ends the reading goroutine.
func (n *notifier) close() {
	if n.done == nil {
		return
	}
	close(n.done)
	n.stop()
	for range n.out { // until read has closed it
	}
}
