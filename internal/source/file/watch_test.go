package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watching is a running Watcher whose snapshots can be waited for.
type watching struct {
	t     *testing.T
	dir   string
	snaps chan source.Snapshot
}

func watch(t *testing.T, files map[string]string) *watching {
	t.Helper()
	w := &watching{t: t, dir: t.TempDir(), snaps: make(chan source.Snapshot, 64)}
	for name, text := range files {
		w.write(name, text)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- (&Watcher{Paths: []string{w.dir}}).Watch(ctx, func(s source.Snapshot) { w.snaps <- s })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return w
}

func (w *watching) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// next waits for the next snapshot.
func (w *watching) next() source.Snapshot {
	w.t.Helper()
	select {
	case s := <-w.snaps:
		return s
	case <-time.After(10 * time.Second):
		w.t.Fatal("no snapshot")
		return source.Snapshot{}
	}
}

// until waits for a snapshot with these objects, as kind/name.
func (w *watching) until(want ...string) source.Snapshot {
	w.t.Helper()
	for {
		if s := w.next(); slices.Equal(names(s), want) {
			return s
		}
	}
}

func names(s source.Snapshot) []string {
	var out []string
	for _, o := range s.Objects {
		out = append(out, o.Kind+"/"+o.Name)
	}
	return out
}

func object(kind, name, extra string) string {
	return "apiVersion: v1\nkind: " + kind + "\nmetadata:\n  name: " + name + "\n" + extra
}

func TestWatchFollowsFiles(t *testing.T) {
	w := watch(t, map[string]string{"a.yaml": object("Service", "a", "")})
	w.until("Service/a")
	w.write("b.yaml", object("Service", "b", ""))
	w.until("Service/a", "Service/b")

	// An editor writes beside the file and renames.
	w.write(".a.yaml.swp", object("Service", "c", ""))
	if err := os.Rename(filepath.Join(w.dir, ".a.yaml.swp"), filepath.Join(w.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until("Service/c", "Service/b")
	if err := os.Remove(filepath.Join(w.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until("Service/c")
}

func TestBrokenFileKeepsItsLastGoodState(t *testing.T) {
	w := watch(t, map[string]string{"a.yaml": object("Service", "a", ""), "b.yaml": object("Service", "b", "")})
	w.until("Service/a", "Service/b")
	w.write("a.yaml", object("Service", "a", "spec: [\n")+"---\n"+object("Service", "new", ""))
	s := w.until("Service/a", "Service/b")
	if len(s.Notices) != 2 || !strings.Contains(s.Notices[0].Text+s.Notices[1].Text, "stays in effect") {
		t.Errorf("notices %v", s.Notices)
	}
	w.write("a.yaml", object("Service", "a2", ""))
	if s := w.until("Service/a2", "Service/b"); len(s.Notices) != 0 {
		t.Errorf("notices after repair: %v", s.Notices)
	}
}

func TestSameTextGivesSameObjects(t *testing.T) {
	w := watch(t, map[string]string{"a.yaml": object("Service", "a", ""), "b.yaml": object("Service", "b", "")})
	one := w.until("Service/a", "Service/b")
	w.write("a.yaml", object("Service", "a", ""))                 // nothing changed: no snapshot
	w.write("b.yaml", object("Service", "b", "# a remark\n"))     // neither here
	w.write("c.yaml", "# only a remark\n"+object("Pod", "c", "")) // here it did
	two := w.until("Service/a", "Service/b", "Pod/c")
	if one.Objects[0] != two.Objects[0] || one.Objects[1] != two.Objects[1] {
		t.Error("objects of unchanged files are new ones")
	}
	w.write("a.yaml", "# on top\n"+object("Service", "a", ""))
	three := w.next()
	a, b := one.Objects[0], three.Objects[0]
	if string(a.JSON) != string(b.JSON) || b.Line != 2 || b.Origin("metadata.name").Line != 5 {
		t.Errorf("after a comment on top: %s line %d, name in line %d", b.JSON, b.Line, b.Origin("metadata.name").Line)
	}
	if three.Objects[1] != one.Objects[1] {
		t.Error("an unrelated object is a new one")
	}
}

func TestDirectoryThatGoesAwayKeepsItsObjects(t *testing.T) {
	w := watch(t, map[string]string{"a.yaml": object("Service", "a", "")})
	w.until("Service/a")
	gone := w.dir + ".away"
	if err := os.Rename(w.dir, gone); err != nil {
		t.Fatal(err)
	}
	s := w.until("Service/a")
	if len(s.Notices) == 0 || !strings.Contains(s.Notices[0].Text, "directory is gone") {
		t.Errorf("notices %v", s.Notices)
	}
	if err := os.WriteFile(filepath.Join(gone, "b.yaml"), []byte(object("Service", "b", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(gone, w.dir); err != nil {
		t.Fatal(err)
	}
	for {
		if s := w.until("Service/a", "Service/b"); len(s.Notices) == 0 {
			return
		}
	}
}

// A mounted ConfigMap replaces all of its files by one rename of a link.
func TestWatchFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	for v, name := range map[string]string{"v1": "old", "v2": "new"} {
		if err := os.Mkdir(filepath.Join(dir, ".."+v), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ".."+v, "a.yaml"), []byte(object("Service", name, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..v1", "..data")
	link("..data/a.yaml", "a.yaml")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	w := &watching{t: t, dir: dir, snaps: make(chan source.Snapshot, 64)}
	go func() {
		done <- (&Watcher{Paths: []string{dir}}).Watch(ctx, func(s source.Snapshot) { w.snaps <- s })
	}()
	w.until("Service/old")
	link("..v2", "..data")
	w.until("Service/new")
	cancel()
	<-done
}

func TestMissingPathIsAProgramError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere")
	want := "read " + path + ": no such file or directory"
	if _, err := Load([]string{path}); !errors.Is(err, os.ErrNotExist) || err.Error() != want {
		t.Errorf("Load: %v", err)
	}
	err := (&Watcher{Paths: []string{path}}).Watch(context.Background(), func(source.Snapshot) {})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Watch: %v", err)
	}
	if _, err := Load(nil); err == nil {
		t.Error("Load of nothing gives no error")
	}
}
