package paths

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

var update = flag.Bool("update", false, "rewrite the decisions in testdata")

func TestPaths(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) { run(t, f) })
	}
}

// unpack writes a case's files into a directory, in which the test is then, and
// finds its section of expectations. The name is made absolute.
func unpack(t *testing.T, name *string, section string) (ar *txtar.Archive, at int) {
	t.Helper()
	ar, err := txtar.ParseFile(*name)
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.TrimSpace(ar.Comment)) == 0 {
		t.Error("the case does not say why it is there")
	}
	*name = mustAbs(t, *name)
	dir := t.TempDir()
	at = -1
	for i, f := range ar.Files {
		if f.Name == section {
			at = i
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if at < 0 {
		t.Fatal("no " + section)
	}
	t.Chdir(dir)
	return ar, at
}

func run(t *testing.T, name string) {
	ar, calls := unpack(t, &name, "calls")
	snap, err := file.Load([]string{"."})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range snap.Notices {
		t.Errorf("the case itself is broken: %v", n)
	}
	compiled, _ := control.Compile(snap)
	want := string(ar.Files[calls].Data)
	got := decide(t, compiled, want)
	if got == want {
		return
	}
	if !*update {
		t.Error(cmp.Diff(want, got))
		return
	}
	ar.Files[calls].Data = []byte(got)
	if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

// decide rewrites every "= " line to what is decided now, and checks the "~ "
// lines, which a step must say, and the "! " lines, which none may.
func decide(t *testing.T, c *control.Compiled, calls string) string {
	var out strings.Builder
	var a *explain.Answer
	for line := range strings.Lines(calls) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "= "):
		case strings.HasPrefix(line, "~ "):
			out.WriteString(line + "\n")
			if a != nil && !told(a, line[2:]) {
				t.Errorf("no step says %q; they say:\n%s", line[2:], steps(a))
			}
		case strings.HasPrefix(line, "! "):
			out.WriteString(line + "\n")
			if a != nil && told(a, line[2:]) {
				t.Errorf("a step says %q:\n%s", line[2:], steps(a))
			}
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			q, err := query(line)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			out.WriteString(line + "\n")
			if a, err = explain.Explain(c, q); err != nil {
				fmt.Fprintf(&out, "= error %v\n", err)
				continue
			}
			fmt.Fprintf(&out, "= %s\n", decision(a))
		}
	}
	return out.String()
}

func told(a *explain.Answer, text string) bool {
	return slices.ContainsFunc(a.Steps, func(s explain.Step) bool { return strings.Contains(s.Why, text) })
}

func steps(a *explain.Answer) string {
	var b strings.Builder
	if err := a.Text(&b); err != nil {
		return err.Error()
	}
	return b.String()
}

// query reads a call line: flags and arguments of tulle explain, with single
// quotes.
func query(line string) (explain.Query, error) {
	var q explain.Query
	args := split(line)
	var rest []string
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			rest = append(rest, args[i])
			continue
		}
		if args[i] == "--tls" {
			q.TLS = true
			continue
		}
		if i+1 == len(args) {
			return q, fmt.Errorf("%s needs a value", args[i])
		}
		v := args[i+1]
		switch args[i] {
		case "--from":
			q.From = v
		case "--gateway":
			q.Gateway = v
		case "--to":
			q.To = v
		case "--as":
			q.As = v
		case "--sni":
			q.SNI = v
		case "--alpn":
			q.ALPN = strings.Split(v, ",")
		case "--port":
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return q, err
			}
			q.Port = uint16(n)
		case "-H":
			k, h, _ := strings.Cut(v, ":")
			q.Headers = append(q.Headers, [2]string{k, h})
		default:
			return q, fmt.Errorf("unknown flag %s", args[i])
		}
		i++
	}
	if len(rest) != 2 {
		return q, fmt.Errorf("want METHOD URL, got %q", rest)
	}
	q.Method, q.URL = rest[0], rest[1]
	return q, nil
}

func split(line string) []string {
	var out []string
	var b strings.Builder
	quoted, word := false, false
	for _, c := range line {
		switch {
		case c == '\'':
			quoted, word = !quoted, true
		case c == ' ' && !quoted:
			if word {
				out = append(out, b.String())
			}
			b.Reset()
			word = false
		default:
			b.WriteRune(c)
			word = true
		}
	}
	if word {
		out = append(out, b.String())
	}
	return out
}

// shown headers; the others are told by wants in "~ " lines.
var hidden = map[string]bool{"x-forwarded-proto": true, "x-envoy-original-path": true, "x-envoy-original-host": true, "x-envoy-expected-rq-timeout-ms": true}

// decision is an answer in one line: outcome, where to, what changed, and the
// object that decided.
func decision(a *explain.Answer) string {
	out := []string{a.Outcome}
	if a.Status != 0 {
		out = append(out, strconv.Itoa(a.Status))
	}
	if a.ResponseFlags != "" {
		out = append(out, a.ResponseFlags)
	}
	if a.Redirect != "" {
		out = append(out, "to "+a.Redirect)
	}
	for _, d := range a.Destinations {
		out = append(out, fmt.Sprintf("[%d %s %s %d]", d.Weight, d.Cluster, d.TLS, d.Endpoints))
	}
	if r := a.Request; r.Path != "" {
		out = append(out, r.Authority+r.Path)
		for _, k := range slices.Sorted(maps.Keys(r.Headers)) {
			if !hidden[k] {
				out = append(out, k+"="+strconv.Quote(r.Headers[k]))
			}
		}
	}
	if a.Timeout != "" {
		out = append(out, "timeout "+a.Timeout)
	}
	if n := a.Retries.Attempts; n > 0 {
		out = append(out, fmt.Sprintf("retries %d", n))
	}
	if by := decider(a); by != "" {
		out = append(out, "by "+by)
	}
	return strings.Join(out, " ")
}

// decider is the user's object that the answer hangs on: of the last step that
// names one at the stage that matters for the outcome.
func decider(a *explain.Answer) string {
	stages := map[string][]string{
		explain.Denied: {"rbac"}, explain.TLSError: {"mtls", "tls"}, explain.Fault: {"fault"}, explain.NoListener: {"listener", "mtls"},
	}[a.Outcome]
	if stages == nil {
		stages = []string{"route", "tcp", "cors"}
	}
	proxy := ""
	if len(a.Steps) > 0 {
		proxy = a.Steps[0].Proxy
	}
	best := ""
	for _, s := range a.Steps {
		atCaller := s.Proxy == proxy || a.Outcome == explain.Denied || a.Outcome == explain.TLSError
		if s.Object == "" || !atCaller || !slices.Contains(stages, s.Stage) || s.Verdict == "no_match" && a.Outcome != explain.Denied {
			continue
		}
		best = strings.TrimSpace(s.Object + " " + s.Field + fmt.Sprintf(" %s:%d", s.File, s.Line))
	}
	return best
}

func mustAbs(t *testing.T, p string) string {
	t.Helper()
	a, err := filepath.Abs(p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
