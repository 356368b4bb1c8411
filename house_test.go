package house

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tulle-mesh/tulle/"

// room is one row of the import table in ARCHITECTURE.md.
type room struct {
	pattern string   // internal/dialect/*, cmd/tulle
	allowed []string // import path patterns; "std" is always allowed
	used    bool
}

// TestHouse keeps the rules that ARCHITECTURE.md states: who may import whom,
// one package comment each, no shelves, no overlong functions.
func TestHouse(t *testing.T) {
	rooms := readTable(t)
	for dir, files := range packages(t) {
		r := find(rooms, dir)
		if r == nil {
			t.Errorf("%s is not in the import table of ARCHITECTURE.md", dir)
			continue
		}
		r.used = true
		checkPackage(t, r, dir, files)
	}
	for _, r := range rooms {
		if !r.used {
			t.Errorf("ARCHITECTURE.md has a row for %s, which has no package", r.pattern)
		}
	}
}

// readTable reads the rows between the import-table markers: | room | purpose | may import |.
func readTable(t *testing.T) []*room {
	f, err := os.Open("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rooms []*room
	in := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "<!-- import table -->":
			in = true
		case line == "<!-- end of import table -->":
			in = false
		case in && strings.HasPrefix(line, "| `"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			if len(cells) != 3 {
				t.Fatalf("import table row has %d cells: %s", len(cells), line)
			}
			r := &room{pattern: strings.Trim(strings.TrimSpace(cells[0]), "`")}
			r.allowed = strings.Fields(strings.NewReplacer("`", " ", ",", " ").Replace(cells[2]))
			rooms = append(rooms, r)
		}
	}
	if len(rooms) == 0 {
		t.Fatal("ARCHITECTURE.md has no import table")
	}
	return rooms
}

// find returns the most specific row for a directory.
func find(rooms []*room, dir string) *room {
	var best *room
	for _, r := range rooms {
		if match(r.pattern, dir) && (best == nil || len(r.pattern) > len(best.pattern)) {
			best = r
		}
	}
	return best
}

// match: equal, or a pattern ending in /... that is a parent, or in /* for one level.
func match(pattern, path string) bool {
	if p, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == p || strings.HasPrefix(path, p+"/")
	}
	if p, ok := strings.CutSuffix(pattern, "/*"); ok {
		rest, ok := strings.CutPrefix(path, p+"/")
		return ok && !strings.Contains(rest, "/")
	}
	return pattern == path
}

// packages lists the directories with Go files, and their files.
func packages(t *testing.T) map[string][]string {
	out := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == "testdata" || n == "bin" || n == "tools" || (path != "." && strings.HasPrefix(n, ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if dir := filepath.Dir(path); strings.HasSuffix(path, ".go") && dir != "." {
			out[filepath.ToSlash(dir)] = append(out[filepath.ToSlash(dir)], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func checkPackage(t *testing.T, r *room, dir string, files []string) {
	for _, part := range strings.Split(dir, "/") {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "misc"}, part) {
			t.Errorf("%s: a room called %q says nothing", dir, part)
		}
	}
	fset := token.NewFileSet()
	comments, tests := 0, 0
	for _, path := range files {
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if strings.HasSuffix(path, "_test.go") {
			tests++
			continue
		}
		if f.Doc != nil && !ast.IsGenerated(f) {
			comments++
		}
		checkImports(t, r, dir, path, f)
		if !ast.IsGenerated(f) {
			checkLength(t, fset, f)
		}
	}
	if comments != 1 && tests != len(files) {
		t.Errorf("%s: want one package comment, have %d", dir, comments)
	}
}

func checkImports(t *testing.T, r *room, dir, path string, f *ast.File) {
	for _, im := range f.Imports {
		p := strings.Trim(im.Path.Value, `"`)
		first, _, _ := strings.Cut(p, "/")
		if !strings.Contains(first, ".") {
			continue // standard library
		}
		p = strings.TrimPrefix(p, module)
		if match(dir+"/...", p) {
			continue // a room may use its own parts
		}
		if !slices.ContainsFunc(r.allowed, func(a string) bool { return match(a, p) }) {
			t.Errorf("%s imports %s, which ARCHITECTURE.md does not allow to %s", path, p, r.pattern)
		}
	}
}

// checkLength wants functions of at most 100 lines, or a comment "Long because".
func checkLength(t *testing.T, fset *token.FileSet, f *ast.File) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		from, to := fset.Position(fn.Pos()), fset.Position(fn.End())
		if n := to.Line - from.Line + 1; n > 100 && !strings.Contains(fn.Doc.Text(), "Long because") {
			t.Errorf("%s: %s has %d lines; split it or say \"Long because ...\" in its comment", from, fn.Name.Name, n)
		}
	}
}
