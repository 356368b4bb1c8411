package file

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Bounds on what is read. They are far above what people write by hand and
// keep a hostile or mistaken file from taking the memory of the mesh.
const (
	MaxFile      = 16 << 20  // bytes of one file
	MaxTotal     = 256 << 20 // bytes of all files
	MaxFiles     = 20_000
	MaxDocument  = 4 << 20 // bytes of one YAML document
	MaxDocuments = 20_000  // documents of one file
	MaxNodes     = 500_000 // values of one document, aliases expanded
	MaxDepth     = 100     // nesting of one document
)

// Load reads files and directories once. The order of the objects is the order
// of the paths, then of the names in a directory, then of the text; of the same
// group, kind, namespace and name only the last stays. What is wrong in a file
// is a notice; a path that does not exist or cannot be listed is an error.
func Load(paths []string) (source.Snapshot, error) {
	files, notices, err := list(paths)
	if err != nil {
		return source.Snapshot{}, err
	}
	parsed := make([]*content, 0, len(files))
	total := 0
	for _, f := range files {
		c := readFile(f, MaxTotal-total)
		total += c.size
		parsed = append(parsed, c)
	}
	return assemble(notices, parsed), nil
}

// content is what one file holds.
type content struct {
	path     string
	size     int
	readable bool
	objects  []*source.Object
	notices  []model.Notice
}

// broken reports whether a part of the file could not be read.
func (c *content) broken() bool {
	return slices.ContainsFunc(c.notices, func(n model.Notice) bool { return n.Severity == model.Error })
}

// readFile never fails: what is wrong is a notice of the content.
func readFile(path string, budget int) *content {
	data, err := readBytes(path)
	if err == nil && len(data) > budget {
		err = errTooMuch
	}
	return fromBytes(path, data, err)
}

var errTooMuch = fmt.Errorf("skipped: all files together are larger than %d MiB", MaxTotal>>20)

// fromBytes parses what readBytes gave.
func fromBytes(path string, data []byte, err error) *content {
	c := &content{path: path, size: len(data), readable: err == nil}
	if err != nil {
		c.notices = []model.Notice{{
			Severity: model.Error, Reason: model.Unreadable, Origin: model.Origin{File: path}, Text: err.Error(),
		}}
		return c
	}
	c.objects, c.notices = Parse(path, data)
	return c
}

// readBytes reads one file up to MaxFile.
func readBytes(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() && st.Mode()&fs.ModeNamedPipe == 0 {
		return nil, errors.New("cannot be read: not a file")
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", cause(err))
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("larger than %d MiB", MaxFile>>20)
	}
	return data, nil
}

// look takes the signature of a file.
func look(path string) signature {
	st, err := os.Stat(path)
	if err != nil {
		return signature{}
	}
	return signature{id: fileID(st), size: st.Size(), mtime: st.ModTime().UnixNano(), ok: true}
}

// cause strips the operation and the path, which the notice says already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// list expands the paths into files, in order, each once.
func list(paths []string) ([]string, []model.Notice, error) {
	if len(paths) == 0 {
		return nil, nil, errors.New("no file or directory given")
	}
	var out []string
	var notices []model.Notice
	seen := make(map[string]bool)
	add := func(p string) error {
		if key := filepath.Clean(p); !seen[key] {
			seen[key] = true
			out = append(out, p)
		}
		if len(out) > MaxFiles {
			return fmt.Errorf("read %s: more than %d files", p, MaxFiles)
		}
		return nil
	}
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", p, cause(err))
		}
		if !st.IsDir() {
			if err := add(p); err != nil {
				return nil, nil, err
			}
			continue
		}
		names, told, err := yamlFiles(p)
		if err != nil {
			return nil, nil, err
		}
		notices = append(notices, told...)
		for _, n := range names {
			if err := add(n); err != nil {
				return nil, nil, err
			}
		}
	}
	return out, notices, nil
}

// yamlFiles are the files of a directory that Load reads, in name order, and
// what a user may wonder about: that there are none, or more below.
func yamlFiles(dir string) ([]string, []model.Notice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read directory %s: %w", dir, cause(err))
	}
	var out []string
	var notices []model.Notice
	tell := func(path, text string) {
		notices = append(notices, model.Notice{Severity: model.Info, Reason: model.NotFound, Origin: model.Origin{File: path}, Text: text})
	}
	for _, e := range entries {
		name := e.Name()
		p := filepath.Join(dir, name)
		if e.IsDir() && !strings.HasPrefix(name, ".") && holdsYAML(p) {
			tell(p, "directories below are not read: name it too if it is meant")
		}
		if !wanted(name) {
			continue
		}
		// Stat, not the entry: a mounted ConfigMap is made of symbolic links.
		// One that points nowhere is listed, so that reading it says so.
		if st, err := os.Stat(p); err == nil && !st.Mode().IsRegular() {
			continue
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		tell(dir, "no .yaml, .yml or .json file in this directory")
	}
	return out, notices, nil
}

func holdsYAML(dir string) bool {
	entries, _ := os.ReadDir(dir) // one that cannot be read holds nothing for us
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() && wanted(e.Name()) })
}

// wanted reports whether a name in a directory is a configuration file.
func wanted(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// assemble joins files, in order, into one snapshot and settles duplicates.
func assemble(notices []model.Notice, files []*content) source.Snapshot {
	type key struct{ group, kind, namespace, name string }
	snap := source.Snapshot{Notices: slices.Clone(notices)}
	last := make(map[key]*source.Object)
	keyOf := func(o *source.Object) key {
		group, _, ok := strings.Cut(o.APIVersion, "/")
		if !ok {
			group = ""
		}
		return key{group, o.Kind, o.Namespace, o.Name}
	}
	for _, f := range files {
		for _, o := range f.objects {
			last[keyOf(o)] = o
		}
	}
	for _, f := range files {
		snap.Notices = append(snap.Notices, f.notices...)
		for _, o := range f.objects {
			winner := last[keyOf(o)]
			if winner == o {
				snap.Objects = append(snap.Objects, o)
				continue
			}
			snap.Notices = append(snap.Notices, model.Notice{
				Severity: model.Warning, Reason: model.Duplicate, Origin: o.Origin(""),
				Text: fmt.Sprintf("defined twice: the one at %s is in effect, this one at %s is not",
					winner.Origin("").Place(), o.Origin("").Place()),
			})
		}
	}
	slices.SortStableFunc(snap.Notices, func(a, b model.Notice) int {
		if a.Origin.File != b.Origin.File {
			return 0 // keep path order
		}
		return cmp.Compare(a.Origin.Line, b.Origin.Line)
	})
	return snap
}
