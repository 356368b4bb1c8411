package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// How fast changes are seen. Quiet joins the files of one save; Longest bounds
// the waiting while changes keep coming; Poll finds what the kernel does not
// tell (network file systems, targets of symbolic links).
const (
	quiet   = 50 * time.Millisecond
	longest = 300 * time.Millisecond
	poll    = 2 * time.Second
)

// Watcher is a source.Source over files and directories. A file that breaks
// keeps what it said when it was last whole, with a notice; one that is deleted
// takes its objects along. When a whole directory goes away its objects stay,
// with a notice, until it is back.
type Watcher struct {
	Paths []string // files and directories, in order; see Load
}

var _ source.Source = (*Watcher)(nil)

// Watch implements source.Source. It fails at once when a path does not exist.
// It emits only when objects or notices have changed; objects of files that
// did not change keep their pointers.
func (w *Watcher) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	if _, _, err := list(w.Paths); err != nil {
		return err
	}
	n := newNotifier()
	defer n.close()
	s := &state{paths: w.Paths, files: make(map[string]*watched), stale: make(map[string][]string)}
	n.watch(s.directories())
	s.scan(all, false)
	emit(s.snapshot())

	ticker := time.NewTicker(n.pollEvery())
	defer ticker.Stop()
	touched := make(map[string]bool)
	var settle *time.Timer
	var fire <-chan time.Time
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case names, ok := <-n.events():
			if !ok { // the kernel stopped telling; polling goes on
				n.stop()
				ticker.Reset(n.pollEvery())
				continue
			}
			for _, name := range names {
				touched[name] = true
			}
			now := time.Now()
			if fire == nil {
				first = now
				settle = time.NewTimer(quiet)
				fire = settle.C
			} else {
				settle.Reset(max(min(quiet, longest-now.Sub(first)), 0))
			}
			continue
		case <-fire:
			fire = nil
			if s.scan(touched, false) {
				emit(s.snapshot())
			}
			clear(touched)
		case <-ticker.C:
			if fire == nil && s.scan(nil, true) {
				emit(s.snapshot())
			}
		}
		n.watch(s.directories())
	}
}

// watched is one file over time.
type watched struct {
	sig    signature         // of the bytes that were read last
	seen   signature         // at the last poll, to tell a finished change from one under way
	sum    [sha256.Size]byte // of those bytes
	served *content          // what it said when it was last whole
	now    *content          // what it says now
}

// signature tells versions of a file apart without reading it.
type signature struct {
	id    string // device and inode, where the system has them
	size  int64
	mtime int64
	ok    bool // the file can be looked at
}

// state is what a Watcher knows. Owned by the goroutine of Watch.
type state struct {
	paths   []string
	order   []string
	files   map[string]*watched
	stale   map[string][]string // files of a directory that cannot be listed now
	notices []model.Notice      // about directories
}

var all = map[string]bool{"": true}

// scan brings the state up to date and reports whether anything changed. Files
// whose name is in touched are read; others only when their signature changed.
// A file found by polling must have stood still since the poll before.
func (s *state) scan(touched map[string]bool, polled bool) bool {
	order, notices := s.list()
	changed := !slices.Equal(order, s.order) || !slices.EqualFunc(notices, s.notices, sameNotice)
	s.notices = notices
	there := make(map[string]bool, len(order))
	for _, name := range order {
		there[name] = true
	}
	total := 0
	for name, f := range s.files {
		if !there[name] {
			delete(s.files, name)
		} else if f.now != nil {
			total += f.now.size
		}
	}
	s.order = order
	for _, name := range order {
		f := s.files[name]
		if f == nil {
			f = &watched{}
			s.files[name] = f
		}
		sig := look(name)
		if f.now != nil && sig == f.sig && !touched[filepath.Clean(name)] {
			f.seen = sig
			continue
		}
		if polled && f.seen != sig {
			f.seen = sig
			if f.now != nil {
				continue
			}
		}
		if f.now != nil {
			total -= f.now.size
		}
		if f.read(name, MaxTotal-total) {
			changed = true
		}
		total += f.now.size
		f.sig, f.seen = sig, sig
	}
	return changed
}

// read reads the file again and reports whether it says something else.
func (f *watched) read(name string, budget int) bool {
	data, err := readBytes(name)
	if err == nil && len(data) > budget {
		err = errTooMuch
	}
	sum := sha256.Sum256(data)
	old := f.now
	if err == nil && old != nil && old.readable && sum == f.sum {
		return false
	}
	now := fromBytes(name, data, err)
	f.sum, f.now = sum, now
	before := f.served
	if !now.broken() || f.served == nil {
		if f.served != nil {
			now.objects = keep(f.served.objects, now.objects)
		}
		f.served = now
	}
	return old == nil || !slices.Equal(before.objects, f.served.objects) || !slices.EqualFunc(old.notices, now.notices, sameNotice)
}

// keep gives the old objects in place of new ones that say the same in the
// same lines.
func keep(old, now []*source.Object) []*source.Object {
	type key struct{ version, kind, namespace, name string }
	of := func(o *source.Object) key { return key{o.APIVersion, o.Kind, o.Namespace, o.Name} }
	known := make(map[key]*source.Object, len(old))
	for _, o := range old {
		known[of(o)] = o
	}
	out := make([]*source.Object, len(now))
	for i, o := range now {
		out[i] = o
		if k := known[of(o)]; k != nil && bytes.Equal(k.JSON, o.JSON) && k.Lines.(*place).equal(o.Lines.(*place)) {
			out[i] = k
		}
	}
	return out
}

func sameNotice(a, b model.Notice) bool { return a == b }

// snapshot joins what the files say; for a broken one what it last said.
func (s *state) snapshot() source.Snapshot {
	files := make([]*content, 0, len(s.order))
	for _, name := range s.order {
		f := s.files[name]
		c := &content{path: name, objects: f.served.objects, notices: f.now.notices}
		if f.served != f.now {
			c.notices = append(slices.Clone(c.notices), model.Notice{
				Severity: model.Warning, Reason: model.Unreadable, Origin: model.Origin{File: name},
				Text: fmt.Sprintf("the file as it was before stays in effect (%d objects) until it is whole again", len(f.served.objects)),
			})
		}
		files = append(files, c)
	}
	return assemble(s.notices, files)
}

// list is the present order of files. A directory that cannot be listed keeps
// its files.
func (s *state) list() ([]string, []model.Notice) {
	var out []string
	var notices []model.Notice
	seen := make(map[string]bool)
	add := func(names ...string) {
		for _, n := range names {
			if key := filepath.Clean(n); !seen[key] && len(out) < MaxFiles {
				seen[key] = true
				out = append(out, n)
			}
		}
	}
	for _, p := range s.paths {
		st, err := os.Stat(p)
		if before, isDir := s.stale[p]; isDir && (err != nil || !st.IsDir()) {
			notices = append(notices, model.Notice{
				Severity: model.Error, Reason: model.Unreadable, Origin: model.Origin{File: p},
				Text: "the directory is gone; what it held stays in effect until it is back",
			})
			for _, n := range before {
				if s.files[n] != nil {
					add(n)
				}
			}
			continue
		}
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist): // a deleted file
		case err == nil && st.IsDir():
			names, told, err := yamlFiles(p)
			notices = append(notices, told...)
			if err != nil {
				notices = append(notices, model.Notice{Severity: model.Error, Reason: model.Unreadable, Origin: model.Origin{File: p}, Text: err.Error()})
				names = s.stale[p]
			}
			s.stale[p] = names
			add(names...)
		default:
			add(p)
		}
	}
	return out, notices
}

// directories to watch: those given, those of files given, and the parents of
// the former, in which a deleted one comes back.
func (s *state) directories() []string {
	dirs := make(map[string]bool)
	for _, p := range s.paths {
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			dirs[filepath.Clean(p)] = true
		} else {
			dirs[filepath.Dir(filepath.Clean(p))] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}
