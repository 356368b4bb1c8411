package paths

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/analyze"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// TestAnalyze finds in each case's YAML what its file "findings" says, and no
// more. Every code that Analyze can give stands in one of them.
func TestAnalyze(t *testing.T) {
	files, err := filepath.Glob("testdata/analyze/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			for _, code := range regexp.MustCompile(`\[([A-Z]+[0-9]+)\]`).FindAllStringSubmatch(findings(t, f), -1) {
				seen[code[1]] = true
			}
		})
	}
	// A proxy's refusal needs a proxy; the others need a dialect that does not
	// check so much by itself as Istio's.
	elsewhere := []string{"TUL0105", "TUL0106", "TUL0110", "TUL0112", "TUL0113"}
	for _, c := range analyze.Codes {
		if !seen[c.ID] && !slices.Contains(elsewhere, c.ID) {
			t.Errorf("no case gives %s %s", c.ID, c.Name)
		}
		delete(seen, c.ID)
	}
	for c := range seen {
		t.Errorf("%s is not in the list of codes", c)
	}
}

func findings(t *testing.T, name string) string {
	ar, want := unpack(t, &name, "findings")
	snap, err := file.Load([]string{"."})
	if err != nil {
		t.Fatal(err)
	}
	c, notices := control.Compile(snap)
	in := analyze.Input{Objects: snap.Objects, Fragment: c.Fragment, Mesh: c.Mesh, Notices: notices}
	var b strings.Builder
	for _, f := range analyze.Suppress(analyze.Analyze(in), nil, in) {
		b.WriteString(f.String() + "\n")
		if f.Level > model.Error {
			t.Errorf("level of %s", f)
		}
	}
	if got := b.String(); got != string(ar.Files[want].Data) {
		if !*update {
			t.Error(cmp.Diff(string(ar.Files[want].Data), got))
		} else {
			ar.Files[want].Data = []byte(got)
			if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.String()
}
