//go:build linux

package standalone

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/api"
)

// ErrRunning says that a state directory is in use.
var ErrRunning = errors.New("a mesh is running there already")

// state is a state directory that is ours until release.
type state struct {
	dir  string // absolute
	lock *os.File
	old  bool // an earlier run was here
}

// openState makes a state directory and takes it for this process. The lock
// ends with the process, however that ends.
func openState(dir string) (*state, error) {
	if dir == "" {
		return nil, errors.New("state directory: neither $XDG_STATE_HOME nor $HOME is set; name a directory with --state")
	}
	abs, err := filepath.Abs(dir) // programs of other directories are told where the sockets are
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	s := &state{dir: abs}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w; name another with --state", err)
	}
	f, err := os.OpenFile(filepath.Join(abs, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w; name another with --state", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s: %w%s; end that, or start another one with --state DIR", abs, ErrRunning, holder(abs))
		}
		return nil, fmt.Errorf("state directory %s: lock: %w", abs, err)
	}
	s.lock = f
	if _, err := os.Stat(filepath.Join(abs, "ca", "root.pem")); err == nil {
		s.old = true
	}
	// A full disk shows here, not in the middle of something.
	if err := replaceFile(filepath.Join(abs, "writable"), make([]byte, 4096)); err != nil {
		s.release()
		return nil, fmt.Errorf("state directory: %w; free some space, or name another with --state", err)
	}
	_ = os.Remove(filepath.Join(abs, "writable"))
	return s, nil
}

func (s *state) release() { _ = s.lock.Close() }

// holder names the process that serves a state directory, if it answers.
func holder(dir string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c := api.NewClient(filepath.Join(dir, api.Socket))
	defer c.Close()
	info, err := c.Info(ctx)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", info.PID)
}

// openScratch makes a replica's scratch directory, and takes it for as long as
// the file is open. What an earlier one of that name left there goes.
func openScratch(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("scratch: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("scratch: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("scratch %s: another program uses it", dir)
	}
	return f, nil
}

// sweep removes what replicas left that were killed: their scratch, and their
// keys in memory.
func sweep(root string) {
	dirs, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, d := range dirs {
		dir := filepath.Join(root, d.Name())
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
		if err != nil {
			continue // just being made, or no scratch
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(secretDir(dir))
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}

// sweepEvery is how often it is looked for what killed replicas left.
const sweepEvery = 10 * time.Second

// keepSwept sweeps until ctx ends, and then once more.
func keepSwept(ctx context.Context, root string) {
	for {
		sweep(root)
		if !pause(ctx, sweepEvery) {
			sweep(root)
			return
		}
	}
}
