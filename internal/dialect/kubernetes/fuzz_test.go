package kubernetes

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

func FuzzRead(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*.txtar")
	for _, c := range cases {
		if ar, err := txtar.ParseFile(c); err == nil {
			for _, part := range ar.Files {
				f.Add(part.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _ := file.Parse("f", data)
		objects = slices.DeleteFunc(objects, func(o *source.Object) bool { return !Reader{}.Claims(o.APIVersion, o.Kind) })
		frag, notices := Reader{}.Read(objects)
		for _, n := range notices {
			if n.Text == "" || n.Origin.Line < 1 {
				t.Fatalf("half a notice: %+v", n)
			}
		}
		for _, s := range frag.Services {
			for _, p := range s.Ports {
				if p.Number == 0 {
					t.Fatalf("port 0 of %s is in effect", s.Host)
				}
			}
		}
		for _, w := range frag.Workloads {
			if w.Account == "" {
				t.Fatalf("%s has no account", w.Name)
			}
		}
	})
}
