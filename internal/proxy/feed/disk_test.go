package feed

import (
	"bytes"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// restart runs a feed without a control plane on what rests in dir, and
// returns what it serves; nil: nothing.
func restart(t *testing.T, dir string) (snap *conf.Snapshot) {
	p := newPlane(t)
	p.down = true
	w := run(t, p, func(c *Config) { c.StateDir = dir })
	snap, _ = w.last()
	w.stop()
	return snap
}

// killed copies what a process leaves that is killed now, into a directory.
func killed(t *testing.T, dir string) string {
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A proxy that is killed, at any moment, serves its last good configuration
// when it comes back without a control plane; what is cut off is not used.
func TestKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := run(t, newPlane(t), func(c *Config) { c.StateDir = dir })
		defer w.stop()
		settle(t, w.stream(t))
		time.Sleep(saveAfter)
		synctest.Wait()
		left := killed(t, dir)
		half := filepath.Join(left, ".new-123")
		if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if s := restart(t, left); s == nil || s.Listeners["l"] == nil || s.Clusters["a"] == nil || s.Routes["80"] == nil || s.Endpoints["a"] == nil {
			t.Errorf("served: %+v", s)
		}
		if _, err := os.Stat(half); err == nil {
			t.Error("what was not finished lies there still")
		}
		whole, err := os.ReadFile(filepath.Join(dir, "config.state"))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(whole); n += 1 + len(whole)/40 {
			left := t.TempDir()
			if err := os.WriteFile(filepath.Join(left, "config.state"), whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if s := restart(t, left); s != nil {
				t.Fatalf("of %d bytes %d are there, and %+v is served", len(whole), n, s)
			}
		}
	})
}

// While the disk takes nothing the file stays as it was last good; then it
// catches up.
func TestFullDisk(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "config.state")
		w := run(t, newPlane(t), func(c *Config) { c.StateDir = dir })
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		time.Sleep(saveAfter)
		synctest.Wait()
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var old syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		small := syscall.Rlimit{Cur: uint64(len(before)) / 2, Max: old.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
			t.Fatal(err)
		}
		s.push("2", eds, nil, load("a", "10.0.0.2"))
		time.Sleep(saveEvery + saveAfter)
		synctest.Wait()
		now, err := os.ReadFile(file)
		files, _ := os.ReadDir(dir)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(now, before) || len(files) != 1 {
			t.Errorf("with a full disk: %d bytes, %v, files %v; before: %d bytes", len(now), err, files, len(before))
		}
		time.Sleep(saveAgain)
		synctest.Wait()
		if s := restart(t, killed(t, dir)); s == nil || s.Endpoints["a"].Localities[0].Endpoints[0].Addr.Addr().String() != "10.0.0.2" {
			t.Errorf("with room again: %+v", s)
		}
	})
}

// FuzzStateFile reads anything that has a right checksum: an error or
// resources, never more.
func FuzzStateFile(f *testing.F) {
	s := newStateFile("", "me", func(fn func()) { fn() })
	f.Add(s.encode(map[ref]saved{{cds, "a"}: {"1", []byte("body")}, {rds, "b"}: {"", nil}}, time.Unix(0, 0)))
	f.Add([]byte(`{"format":1,"identity":"me"}` + "\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f----"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 4 {
			return
		}
		s := newStateFile(filepath.Join(t.TempDir(), "f"), "me", func(fn func()) { fn() })
		b = appendSum(b[:len(b)-4])
		if err := os.WriteFile(s.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := s.read()
		if (all == nil) == (err == nil) {
			t.Errorf("%v, %v", all, err)
		}
	})
}
