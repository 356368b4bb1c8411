package dialect

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// watcher looks at objects of another reader and says nothing.
type watcher struct{}

func (watcher) Name() string               { return "watcher" }
func (watcher) Claims(_, kind string) bool { return kind == "A" }
func (watcher) Read(objects []*source.Object) (model.Fragment, []model.Notice) {
	return model.Fragment{Namespaces: []*model.Namespace{{Name: fmt.Sprint("saw ", len(objects))}}}, nil
}

// fake claims one kind and makes a namespace and a notice of each object.
type fake string

func (f fake) Name() string               { return string(f) }
func (f fake) Claims(_, kind string) bool { return kind == string(f) }
func (f fake) Read(objects []*source.Object) (model.Fragment, []model.Notice) {
	var out model.Fragment
	var notices []model.Notice
	for _, o := range objects {
		out.Namespaces = append(out.Namespaces, &model.Namespace{Name: o.Name})
		notices = append(notices, model.Notice{Origin: o.Origin(""), Text: string(f)})
	}
	return out, notices
}

// Objects go to every reader that claims them, nothing is passed over in
// silence, and the notices of all come in the order of the files.
func TestReadAll(t *testing.T) {
	object := func(version, kind, name, file string, line int) *source.Object {
		return &source.Object{APIVersion: version, Kind: kind, Name: name, File: file, Line: line}
	}
	snap := source.Snapshot{
		Objects: []*source.Object{
			object("v1", "B", "b1", "z.yaml", 1), object("v1", "A", "a1", "z.yaml", 5), object("v1", "C", "c1", "z.yaml", 3),
			object("networking.k8s.io/v1", "Ingress", "i", "a.yaml", 1), object("v1", "A", "a2", "a.yaml", 9),
		},
		Notices: []model.Notice{{Severity: model.Error, Origin: model.Origin{File: "z.yaml", Line: 4}, Text: "broken"}},
	}
	frag, notices := ReadAll([]Reader{fake("A"), fake("B"), watcher{}}, snap)
	var got []string
	for _, n := range frag.Namespaces {
		got = append(got, n.Name)
	}
	if want := []string{"a1", "a2", "b1", "saw 2"}; !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	got = nil
	for _, n := range notices {
		got = append(got, fmt.Sprintf("%v %s %s", n.Severity, n.Reason, n.Origin.Place()))
	}
	want := []string{"info  z.yaml:1", "info UnknownKind z.yaml:3", "error  z.yaml:4", "info  z.yaml:5", "warning UnknownKind a.yaml:1", "info  a.yaml:9"}
	if !slices.Equal(got, want) {
		t.Errorf("notices %q\nwant %q", got, want)
	}
}

func TestReportIsBounded(t *testing.T) {
	r := Report{Object: &source.Object{Kind: "K", Name: "n"}}
	for range MaxNotices + 50 {
		r.Doubtful("spec", "odd")
	}
	r.Invalid("spec", "bad")
	if n := len(r.Notices); n != MaxNotices+1 || r.Notices[n-1].Severity != model.Error || r.Errors() != 1 {
		t.Errorf("%d notices, %d errors, last %v", n, r.Errors(), r.Notices[n-1])
	}
}

func TestNearest(t *testing.T) {
	fields := []string{"destination", "headers", "host", "hosts", "weight"}
	for word, want := range map[string]string{"dest_ination": "destination", "Weight": "weight", "wieght": "weight", "weigth": "weight", "hots": "hosts", "x": "", "headrs": "headers", "": ""} {
		if got := Nearest(word, fields); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
