// Package dialecttest runs the text cases of a dialect's reader.
//
// In: txtar files with the objects under in/ and the expected sections
// "notices" (severity, reason, place and text, a line each) and "model" (the
// text form). Out: a failed test with the difference, or, with -update, the
// rewritten file.
//
// What does not belong here: what any dialect means.
package dialecttest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

var update = flag.Bool("update", false, "rewrite the expected sections of the cases")

// Run runs every *.txtar of dir against one reader, and checks that it gives
// the same answer twice.
func Run(t *testing.T, dir string, r dialect.Reader) {
	cases, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases in %s: %v", dir, err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { runCase(t, path, r) })
	}
}

func runCase(t *testing.T, path string, r dialect.Reader) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(strings.TrimSpace(string(ar.Comment))) == 0 {
		t.Error("the case does not say why it exists")
	}
	var snap source.Snapshot
	for _, f := range ar.Files {
		if name, ok := strings.CutPrefix(f.Name, "in/"); ok {
			objects, notices := file.Parse(name, f.Data)
			snap.Objects = append(snap.Objects, objects...)
			snap.Notices = append(snap.Notices, notices...)
		}
	}
	frag, notices := dialect.ReadAll([]dialect.Reader{r}, snap)
	again, _ := dialect.ReadAll([]dialect.Reader{r}, snap)
	if !model.Equal(frag, again) {
		t.Error("the same objects were read differently")
	}
	got := map[string]string{"notices": Notices(notices), "model": model.Text(frag)}
	changed := false
	for _, section := range []string{"notices", "model"} {
		i := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == section })
		want := ""
		if i >= 0 {
			want = string(ar.Files[i].Data)
		}
		if got[section] == want {
			continue
		}
		if !*update {
			t.Errorf("%s (-want +got):\n%s", section, cmp.Diff(want, got[section]))
			continue
		}
		changed = true
		if i < 0 {
			ar.Files = append(ar.Files, txtar.File{Name: section})
			i = len(ar.Files) - 1
		}
		ar.Files[i].Data = []byte(got[section])
	}
	if changed {
		if err := os.WriteFile(path, txtar.Format(ar), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Notices renders notices, a line each.
func Notices(list []model.Notice) string {
	var b strings.Builder
	for _, n := range list {
		fmt.Fprintf(&b, "%v %s %s\n", n.Severity, n.Reason, n)
	}
	return b.String()
}
