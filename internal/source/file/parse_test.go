package file

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/source"
)

var update = flag.Bool("update", false, "rewrite the expected sections of testdata")

// TestCases loads the files under in/ of each case and compares the section
// "got": a line per object and a line per notice.
func TestCases(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			want, at := "", -1
			for i, f := range ar.Files {
				if f.Name == "got" {
					want, at = string(f.Data), i
					continue
				}
				path := filepath.Join(dir, strings.TrimPrefix(f.Name, "in/"))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, unescape(f.Data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			snap, err := Load([]string{dir})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.NewReplacer(dir+string(filepath.Separator), "", dir, "DIR").Replace(render(snap))
			if got == want {
				return
			}
			if *update {
				if at < 0 {
					ar.Files = append(ar.Files, txtar.File{Name: "got"})
					at = len(ar.Files) - 1
				}
				ar.Files[at].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(ar), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Error(cmp.Diff(want, got))
		})
	}
}

// unescape writes what an editor would hide: <TAB>, <NBSP>, <BOM>, <BAD>.
func unescape(b []byte) []byte {
	for name, text := range map[string]string{"<TAB>": "\t", "<NBSP>": "\u00a0", "<BOM>": "\ufeff", "<BAD>": "\xff"} {
		b = bytes.ReplaceAll(b, []byte(name), []byte(text))
	}
	return b
}

func render(s source.Snapshot) string {
	var b strings.Builder
	for _, o := range s.Objects {
		fmt.Fprintf(&b, "%s: %s %s\n", o.Origin("").Place(), o.APIVersion, o.Origin("").Object())
	}
	for _, n := range s.Notices {
		fmt.Fprintf(&b, "%v %s %s\n", n.Severity, n.Reason, n)
	}
	return b.String()
}

func TestLinesOfFields(t *testing.T) {
	const text = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: a
  labels:
    app.kubernetes.io/name: a
    app: b
spec:
  http:
  - match:
    - uri:
        prefix: /one
    - {uri: {prefix: /two},
       headers: {"x.y": {exact: z}}}
    route:
      - destination:
          host: a
`
	objects, notices := Parse("f.yaml", []byte(text))
	if len(objects) != 1 || len(notices) != 0 {
		t.Fatalf("%d objects, notices %v", len(objects), notices)
	}
	for path, line := range map[string]int{
		"": 1, "spec": 8, "spec.http": 9, "spec.http[0]": 10, "spec.http[0].match": 10,
		"spec.http[0].match[0].uri.prefix": 12, "spec.http[0].match[1].uri": 13,
		"spec.http[0].match[1].headers.x.y.exact": 14, "spec.http[0].route[0].destination.host": 17,
		"metadata.labels.app.kubernetes.io/name": 6, "metadata.labels.app": 7,
		"spec.http[0].timeout": 10, "spec.http[7].route": 9, "spec.tcp[0]": 8, "spec.http[x": 9, "status": 1,
	} {
		if got := objects[0].Origin(path).Line; got != line {
			t.Errorf("%s: line %d, want %d", path, got, line)
		}
	}
}

// What is read is what an API server would hold.
func TestJSON(t *testing.T) {
	for in, want := range map[string]string{
		"a: yes\nb: off\nc: \"yes\"\nd: 007\ne: 1.50\nf: 1e3\ng: ~\nh: 2024-01-01\ni: 0x10\nj: !!str 5\nk: n": `{"a":true,"b":false,"c":"yes","d":7,"e":1.5,"f":1000,"g":null,"h":"2024-01-01","i":16,"j":"5","k":"n"}`,
		"a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2":                                                           `{"a":{"b":1},"c":{"b":1},"d":{"b":1,"e":2}}`,
		"a: |\n  one\n  two\nb: >-\n  one\n  two":                                                             `{"a":"one\ntwo\n","b":"one two"}`,
		"a: <&>":                  `{"a":"<&>"}`,
		"a: 18446744073709551615": `{"a":18446744073709551615}`,
	} {
		objects, notices := Parse("f", []byte("apiVersion: v1\nkind: X\nmetadata: {name: n}\nspec:\n  "+strings.ReplaceAll(in, "\n", "\n  ")+"\n"))
		if len(objects) != 1 {
			t.Errorf("%s: %v", in, notices)
			continue
		}
		_, got, _ := strings.Cut(string(objects[0].JSON), `"spec":`)
		if got = strings.TrimSuffix(got, "}"); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestBounds(t *testing.T) {
	head := "apiVersion: v1\nkind: X\nmetadata: {name: n}\n"
	bomb := head + "a0: &a0 [x, x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	for name, text := range map[string]string{
		"alias bomb": bomb,
		"cycle":      head + "a: &a [*a]\n",
		"depth":      head + "a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n",
		"document":   head + "a: " + strings.Repeat("x", MaxDocument) + "\n",
		"lists":      head + strings.Repeat("- ", 5000),
	} {
		objects, notices := Parse(name, []byte(text))
		if len(objects) != 0 || len(notices) != 1 {
			t.Errorf("%s: %d objects, notices %v", name, len(objects), notices)
		}
	}
	many := strings.Repeat(head+"---\n", MaxDocuments+10)
	if objects, notices := Parse("many", []byte(many)); len(objects) != MaxDocuments || len(notices) != 1 {
		t.Errorf("documents: %d objects, %d notices", len(objects), len(notices))
	}
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load([]string{big}); err != nil || len(s.Notices) != 1 {
		t.Errorf("big file: %v %v", s.Notices, err)
	}
}

func FuzzParse(f *testing.F) {
	cases, _ := filepath.Glob("testdata/*.txtar")
	for _, c := range cases {
		if ar, err := txtar.ParseFile(c); err == nil {
			for _, file := range ar.Files {
				f.Add(file.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, notices := Parse("f", data)
		lines := 1
		for _, r := range string(data) { // what YAML takes as line breaks
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
				lines++
			}
		}
		for _, o := range objects {
			if o.Name == "" || o.Kind == "" || len(o.JSON) == 0 || o.Line < 1 {
				t.Fatalf("half an object: %+v", o)
			}
			for _, p := range []string{"spec", "spec.http[0].match[1].uri", "metadata.labels.a.b", "spec[", "[0]"} {
				if l := o.Origin(p).Line; l < 1 || l > lines {
					t.Fatalf("%s stands in line %d", p, l)
				}
			}
		}
		for _, n := range notices {
			if n.Origin.Line < 0 || n.Origin.Line > lines {
				t.Fatalf("notice in line %d: %v", n.Origin.Line, n)
			}
		}
	})
}
