package feed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// Times of writing: after the first change, between two writes, and after one
// that failed.
const (
	saveAfter = time.Second
	saveEvery = 5 * time.Second
	saveAgain = 30 * time.Second
)

// maxUnsaved bounds what waits for a disk to take it, in bytes of resources.
const maxUnsaved = 64 << 20

// format is the version of the file format. Files of another are not loaded.
const format = 1

// maxState bounds a state file, in bytes.
const maxState = 512 << 20

// disk keeps the last good resources. Owned by the feed's goroutine. Bodies
// are only held until they are written.
type disk struct {
	plain, secret *stateFile // nil: not kept
}

// saved is a resource in a state file. body nil: it is gone.
type saved struct {
	version string
	body    []byte
}

// stateFile is one file: a line of JSON, then records, then a checksum.
type stateFile struct {
	path     string
	identity string
	epoch    uint64 // counts the writes
	changes  map[ref]saved
	unsaved  int       // bytes of changes
	due      time.Time // of the next write; zero: nothing to write
	last     time.Time // of the last write
	off      bool      // given up
	// lookups makes the record of that name; nil: there is none.
	lookups func() []byte
	work    func(func()) // runs what costs CPU
}

// header is the first line.
type header struct {
	Format   int       `json:"format"`
	Identity string    `json:"identity"`
	Epoch    uint64    `json:"epoch"`
	Saved    time.Time `json:"saved"`
}

func newStateFile(path, identity string, work func(func())) *stateFile {
	return &stateFile{path: path, identity: identity, changes: map[ref]saved{}, work: work}
}

func (d *disk) file(k kind) *stateFile {
	if k == sds {
		return d.secret
	}
	return d.plain
}

// note takes a change; body nil: the resource is gone.
func (d *disk) note(k kind, name, version string, body []byte) {
	s := d.file(k)
	if s == nil || s.off {
		return
	}
	s.unsaved += len(body) - len(s.changes[ref{k, name}].body)
	s.changes[ref{k, name}] = saved{version, body}
	s.schedule()
}

// schedule plans the next write.
func (s *stateFile) schedule() {
	if s.due.IsZero() {
		s.due = time.Now().Add(saveAfter)
		if t := s.last.Add(saveEvery); t.After(s.due) {
			s.due = t
		}
	}
}

// due is when flush should be called; zero: no need.
func (d *disk) due() time.Time {
	var t time.Time
	for _, s := range []*stateFile{d.plain, d.secret} {
		if s != nil && !s.due.IsZero() && (t.IsZero() || s.due.Before(t)) {
			t = s.due
		}
	}
	return t
}

// flush writes what is due.
func (d *disk) flush(now time.Time) error {
	var errs []error
	for _, s := range []*stateFile{d.plain, d.secret} {
		if s != nil && !s.due.IsZero() && !s.due.After(now) {
			errs = append(errs, s.write(now))
		}
	}
	return errors.Join(errs...)
}

// close writes everything.
func (d *disk) close() error { return d.flush(time.Now().Add(time.Hour)) }

// errLost says that the file does not hold what was written to it.
var errLost = errors.New("it was changed by somebody else")

// write merges the changes into the file. While the disk takes nothing, the
// file stays as it was last good, and the changes wait, bounded.
func (s *stateFile) write(now time.Time) error {
	err := s.merge(now)
	switch {
	case err == nil:
		s.changes, s.unsaved, s.due, s.last = map[ref]saved{}, 0, time.Time{}, now
		return nil
	case errors.Is(err, errLost):
		// Only what changed since is at hand: half of a configuration, which
		// is worse than none.
		_ = os.Remove(s.path)
		fallthrough
	case s.unsaved > maxUnsaved:
		s.off, s.changes, s.unsaved, s.due = true, nil, 0, time.Time{}
		return fmt.Errorf("%s, given up: %w", s.path, err)
	}
	s.due = now.Add(saveAgain)
	return fmt.Errorf("%s, tried again in %v: %w", s.path, saveAgain, err)
}

func (s *stateFile) merge(now time.Time) (err error) {
	var b []byte
	if s.work(func() { b, err = s.merged(now) }); err != nil {
		return err
	}
	if err := writeFile(s.path, b); err != nil {
		return err
	}
	s.epoch++
	return nil
}

// merged is what the file should hold.
func (s *stateFile) merged(now time.Time) ([]byte, error) {
	all := map[ref]saved{}
	if s.epoch > 0 {
		var err error
		all, err = s.read()
		var io *fs.PathError
		switch {
		case err == nil:
		case errors.As(err, &io) && !errors.Is(err, fs.ErrNotExist):
			return nil, err // it may be readable later
		default:
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
	}
	for r, c := range s.changes {
		if c.body == nil {
			delete(all, r)
		} else {
			all[r] = c
		}
	}
	if s.lookups != nil {
		all[keptLookups] = saved{body: s.lookups()}
	}
	return s.encode(all, now), nil
}

// encode writes header, records and checksum.
func (s *stateFile) encode(all map[ref]saved, now time.Time) []byte {
	head, err := json.Marshal(header{format, s.identity, s.epoch + 1, now.UTC()})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	b := append(head, '\n')
	refs := slices.SortedFunc(maps.Keys(all), func(a, b ref) int {
		if a.kind != b.kind {
			return int(a.kind) - int(b.kind)
		}
		return bytes.Compare([]byte(a.name), []byte(b.name))
	})
	put := func(p []byte) { b = append(binary.AppendUvarint(b, uint64(len(p))), p...) }
	for _, r := range refs {
		put([]byte(types[r.kind].url))
		put([]byte(r.name))
		put([]byte(all[r].version))
		put(all[r].body)
	}
	return appendSum(b)
}

func appendSum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// read returns what the file holds; it must be whole, of this format and of
// this identity.
func (s *stateFile) read() (map[ref]saved, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("larger than %d bytes", maxState)
	}
	b, err := os.ReadFile(s.path)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || binary.BigEndian.Uint32(b[len(b)-4:]) != crc32.Checksum(b[:len(b)-4], castagnoli) {
		return nil, errors.New("checksum does not fit")
	}
	b = b[:len(b)-4]
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	var h header
	if err := json.Unmarshal(line, &h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if h.Format != format || h.Identity != s.identity {
		return nil, fmt.Errorf("it is of format %d and identity %q", h.Format, h.Identity)
	}
	s.epoch = h.Epoch
	all := map[ref]saved{}
	r := bytes.NewReader(rest)
	for r.Len() > 0 {
		var part [4][]byte
		for i := range part {
			n, err := binary.ReadUvarint(r)
			if err != nil || n > uint64(r.Len()) {
				return nil, errors.New("a record is cut off")
			}
			part[i] = make([]byte, n)
			_, _ = r.Read(part[i])
		}
		if k, ok := kindOf(string(part[0])); ok {
			all[ref{k, string(part[1])}] = saved{string(part[2]), part[3]}
		}
	}
	return all, nil
}

// unfinished is how files are called until they are whole.
const unfinished = ".new-*"

// sweep removes what a run that was killed left unfinished.
func (s *stateFile) sweep() {
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.path), unfinished))
	for _, name := range left {
		_ = os.Remove(name)
	}
}

// writeFile replaces path by b, 0600, by rename.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), unfinished) // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriter(f)
	_, err = w.Write(b)
	err = errors.Join(err, w.Flush(), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// load takes the configuration of an earlier run into the stores.
func (f *Feed) load(ctx context.Context) {
	for _, s := range []*stateFile{f.disk.plain, f.disk.secret} {
		if s == nil {
			continue
		}
		s.sweep()
		var all map[ref]saved
		var err error
		if s.work(func() { all, err = s.read() }); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				f.c.Log.Warn("configuration of an earlier run is not used", "file", s.path, "error", err)
			}
			s.epoch = 0
			continue
		}
		f.loadAll(ctx, all)
	}
	f.resub = true
	f.advance() // asks for names, in the stores only
	for _, k := range []kind{eds, rds, sds, lds, hst} {
		s := f.stores[k]
		for name := range s.entries {
			known := s.asked == nil && f.demand.own(k, name) || s.asked[name] || f.demand.holds(k, name)
			if !known && f.remove(k, name) {
				f.touch(k, name) // nothing names it any more
			}
		}
	}
	f.status.FromDisk = len(f.stores[lds].entries) > 0
	f.advance()
	if f.status.FromDisk {
		f.c.Log.Info("serving the configuration of an earlier run", "listeners", len(f.stores[lds].entries))
	}
}

func (f *Feed) loadAll(ctx context.Context, all map[ref]saved) {
	record := all[keptLookups].body
	delete(all, keptLookups)
	byKind := [kinds][]*item{}
	for r, s := range all {
		byKind[r.kind] = append(byKind[r.kind], &item{resource: resource{
			name: r.name, version: s.version, typeURL: types[r.kind].url, body: s.body}})
	}
	for k := range kinds {
		if f.decode(ctx, k, byKind[k]) != nil {
			return
		}
		for _, x := range byKind[k] {
			if x.err != nil {
				continue // of another version of this program: it will be sent again
			}
			f.stores[k].entries[x.name] = &entry{node: x.node, needs: x.needs, version: x.version,
				sum: bodySum(x.body), since: time.Now()}
			f.touch(k, x.name)
		}
	}
	switch d, known := f.demand, f.stores[idx].entries[ext.IndexName].has(); {
	case d == nil:
	case known:
		d.load(record)
	case len(f.stores[lds].entries) > 0: // an earlier run asked for everything
		d.off = true
		d.everything()
	}
}
