package judge

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
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
	return ask(t, s, true)
}

func ask(t *testing.T, s *stage, check bool) []result {
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
			if wrong := r.check(a); check && len(wrong) > 0 {
				t.Errorf("requests.txt:%d %s: %s\n\t%s", r.line, role, r.text, strings.Join(wrong, "\n\t"))
			}
		}
	}
	s.addLogs(t, out)
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
		a, b := fields(w), fields(g)
		var diff []string
		for _, k := range slices.Sorted(maps.Keys(union(a, b))) {
			if a[k] != b[k] && onPurposeIs(&w.request, k, a[k], b[k]) == "" {
				diff = append(diff, fmt.Sprintf("%s: envoy %s, tulle-proxy %s", k, shown(a, k), shown(b, k)))
			}
		}
		if len(diff) > 0 {
			t.Errorf("requests.txt:%d %s: %s\n\t%s", w.request.line, w.role, w.request.text, strings.Join(diff, "\n\t"))
		}
	}
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func shown(m map[string]string, k string) string {
	v, ok := m[k]
	if !ok {
		return "has none"
	}
	return strconv.Quote(v)
}

var (
	uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	hash = regexp.MustCompile(`Hash=[0-9a-f]{64}`)
	cert = regexp.MustCompile(`Cert="[^"]*"`)
)

// fields of an answer, with everything that differs from run to run replaced
// by its form.
func fields(r result) map[string]string {
	a := r.answer
	out := map[string]string{"status": strconv.Itoa(a.Status), "text": long(a.Text)}
	if r.request.backend != "-" {
		out["tries"] = strconv.Itoa(a.Tries)
	}
	for k, v := range tidy(a.Headers) {
		out["got "+k] = v
	}
	for workload, lines := range a.Logs {
		if r.request.backend == "*" && workload != "web" && workload != "edge" {
			workload = "whoever"
		}
		for k := range lines[0] {
			var vs []string
			for _, l := range lines {
				vs = append(vs, fmt.Sprint(l[k]))
			}
			slices.Sort(vs) // attempts may meet different loops, whose lines have no order
			if k != "key" {
				out["log of "+workload+" "+k] = strings.Join(vs, " | ")
			}
		}
	}
	e := a.Echo
	if e == nil {
		return out
	}
	for _, k := range []string{"got (content-length)", "got content-length"} {
		if out[k] != "" { // the report's own length says nothing new
			out[k] = "(n)"
		}
	}
	if r.request.backend != "*" {
		out["backend"] = e.Backend
	}
	out["saw protocol"], out["saw method"], out["saw host"], out["saw target"], out["saw body"] = e.Proto, e.Method, e.Host, e.URI, long(e.Body)
	for k, v := range tidy(e.Headers) {
		out["saw "+k] = v
	}
	return out
}

func long(s string) string {
	if len(s) > 1000 {
		return fmt.Sprintf("%d bytes", len(s))
	}
	return s
}

// tidy replaces what no two runs have in common, and joins what a header has.
func tidy(h map[string][]string) map[string]string {
	out := map[string]string{}
	for k, vs := range h {
		v := strings.Join(vs, " | ")
		switch k {
		case "date":
			continue
		case "x-echo-key":
			v = "(key)"
		case "x-envoy-upstream-service-time":
			v = "(time)"
		case "x-forwarded-for":
			v = ownAddress(v)
		case "x-request-id":
			if uuid.MatchString(v) {
				v = "(uuid)"
			}
		}
		v = hash.ReplaceAllString(v, "Hash=(hash)")
		out[k] = cert.ReplaceAllString(v, `Cert="(pem)"`)
	}
	return out
}

// ownAddress replaces this machine's addresses at the end of x-forwarded-for:
// Envoy writes the first one that is not loopback for a client on loopback.
func ownAddress(v string) string {
	i := strings.LastIndexByte(v, ',') + 1
	last := v[i:]
	if last == "127.0.0.1" {
		return v[:i] + "(own)"
	}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.String() == last {
			return v[:i] + "(own)"
		}
	}
	return v
}
