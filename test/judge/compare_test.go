package judge

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// result is what a stage answered to one line in one role.
type result struct {
	request request
	role    string
	answer  *answer
	err     error
}

// run asks a stage everything and holds the answers to the table.
func run(t *testing.T, s *stage) []result {
	t.Helper()
	var out []result
	for _, r := range readRequests(t) {
		for _, role := range r.roles() {
			a, err := s.ask(r, role)
			out = append(out, result{r, role, a, err})
			if err != nil {
				t.Errorf("requests.txt:%d %s: %s\n\t%v", r.line, role, r.text, err)
				continue
			}
			if wrong := r.check(a); len(wrong) > 0 {
				t.Errorf("requests.txt:%d %s: %s\n\t%s", r.line, role, r.text, strings.Join(wrong, "\n\t"))
			}
		}
	}
	return out
}

// compare tells every field in which two stages differ.
func compare(t *testing.T, want, got []result) {
	t.Helper()
	for i, w := range want {
		g := got[i]
		if w.err != nil || g.err != nil {
			continue // told by run
		}
		if d := cmp.Diff(plainText(t, w), plainText(t, g)); d != "" {
			t.Errorf("requests.txt:%d %s: %s\n(-envoy +tulle)\n%s", w.request.line, w.role, w.request.text, d)
		}
	}
}

var (
	uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	hash = regexp.MustCompile(`Hash=[0-9a-f]{64}`)
	cert = regexp.MustCompile(`Cert="[^"]*"`)
)

// plainText is an answer with everything that differs from run to run
// replaced by its form.
func plainText(t *testing.T, r result) string {
	t.Helper()
	a := *r.answer
	a.Headers = tidy(a.Headers)
	if !r.request.counts() {
		a.Tries = 0
	}
	if a.Echo != nil {
		e := *a.Echo
		e.Headers = tidy(e.Headers)
		if len(e.Body) > 100 {
			e.Body = fmt.Sprintf("%d bytes", len(e.Body))
		}
		if r.request.backend == "*" {
			e.Backend = "*"
		}
		a.Echo = &e
	}
	if len(a.Text) > 1000 {
		a.Text = fmt.Sprintf("%d bytes", len(a.Text))
	}
	if a.Echo != nil { // the report's own length says nothing new
		for _, k := range []string{"(content-length)", "content-length"} {
			if a.Headers[k] != nil {
				a.Headers[k] = []string{"(n)"}
			}
		}
	}
	b, err := json.MarshalIndent(a, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// counts reports whether the number of tries is the same every time.
func (r *request) counts() bool { return r.backend != "-" }

// tidy replaces what no two runs have in common.
func tidy(h map[string][]string) map[string][]string {
	out := map[string][]string{}
	for k, vs := range h {
		switch k {
		case "date":
			continue
		case "x-echo-key":
			vs = []string{"(key)"}
		case "x-envoy-upstream-service-time":
			vs = []string{"(time)"}
		}
		for _, v := range vs {
			if k == "x-request-id" && uuid.MatchString(v) {
				v = "(uuid)"
			}
			v = hash.ReplaceAllString(v, "Hash=(hash)")
			v = cert.ReplaceAllString(v, `Cert="(pem)"`)
			out[k] = append(out[k], v)
		}
	}
	return out
}
