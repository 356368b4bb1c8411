package dialect

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// strict makes a namespace of each object, named by its text, and none of one whose
// text begins with "bad"; of one that begins with "half" it makes one and tells an
// error nevertheless.
type strict struct{}

func (strict) Name() string               { return "strict" }
func (strict) Claims(_, _ string) bool    { return true }
func (strict) Join(o *source.Object) Join { return Join{Namespace: o.Namespace} }
func (strict) Read(objects []*source.Object) (f model.Fragment, notices []model.Notice) {
	for _, o := range objects {
		text := string(o.JSON)
		if strings.HasPrefix(text, "panic") {
			panic(text)
		}
		if !strings.HasPrefix(text, "bad") {
			f.Namespaces = append(f.Namespaces, &model.Namespace{Name: text})
		}
		if !strings.HasPrefix(text, "good") {
			notices = append(notices, model.Notice{Severity: model.Error, Origin: o.Origin(""), Text: text, Void: strings.HasPrefix(text, "bad")})
		}
	}
	return f, notices
}

// relating is strict, but no Joiner.
type relating struct{ strict }

func (relating) Join() {}

// An object that is not valid any more is what it was when it was, until it is
// mended or removed; one that never was is not in effect, and the user is told
// which. Other objects are as they are now.
func TestKeep(t *testing.T) {
	for name, c := range map[string]struct {
		r          Reader
		half, told string // what an error leads to that puts nothing out of effect
	}{"joiner": {strict{}, "good 1", "half, 0 kept"}, "no joiner": {relating{}, "half", "half"}} {
		t.Run(name, func(t *testing.T) {
			m := NewMemory([]Reader{c.r})
			version := 0
			step := func(want, told string, texts ...string) {
				t.Helper()
				version++
				var snap source.Snapshot
				for i, text := range texts {
					if text != "" {
						snap.Objects = append(snap.Objects, &source.Object{APIVersion: fmt.Sprint("g/v", version), Kind: "K", Namespace: "n", Name: fmt.Sprint(i), JSON: []byte(text)})
					}
				}
				f, notices := m.Read(snap)
				var got, said []string
				for _, n := range f.Namespaces {
					got = append(got, n.Name)
				}
				for _, n := range notices {
					switch {
					case strings.Contains(n.Text, "stays in effect"):
						said = append(said, n.Origin.Name+" kept")
					case strings.Contains(n.Text, "not in effect"):
						said = append(said, n.Origin.Name+" out")
					case n.Severity == model.Error:
						said = append(said, n.Text)
					}
				}
				if slices.Sort(got); strings.Join(got, ", ") != want || strings.Join(said, ", ") != told {
					t.Errorf("%q: %q in effect, want %q; told %q, want %q", texts, got, want, said, told)
				}
			}
			step("good 1, good 2", "", "good 1", "good 2")
			step("good 1, good 3", "bad, 0 kept", "bad", "good 3")
			step("good 1, good 4", "bad too, 0 kept", "bad too", "good 4") // what is kept is what was valid, not what was before
			step("good 1, good 4", "bad too, bad, 0 kept, 2 out", "bad too", "good 4", "bad")
			step("good 4, good 5", "bad, 2 out", "good 5", "good 4", "bad") // mended
			step("good 4, good 5", "bad, bad, 0 kept, 2 out", "bad", "good 4", "bad")
			step("good 4", "", "", "good 4", "") // removed
			step("good 4", "bad, 0 out", "bad", "good 4")
			step("good 1, good 4", "", "good 1", "good 4")
			func() { // a reader's bug does not lose what was valid
				defer func() { _ = recover(); m.Reset() }()
				step("", "", "panic", "good 4")
			}()
			step("good 1, good 4", "bad, 0 kept", "bad", "good 4")
			step(c.half, c.told, "half")
		})
	}
}
