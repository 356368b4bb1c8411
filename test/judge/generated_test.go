package judge

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/test/judge/generate"
)

var (
	seed   = flag.Uint64("seed", 1, "of the generated configurations")
	number = flag.Int("n", 100, "how many configurations are generated")
	most   = flag.Int("most", 6, "how many findings are shown")
	whole  = flag.Bool("whole", false, "findings are shown as they were found")
	from   = flag.Uint64("from", 0, "number of the first of them")
)

// batch is how many configurations stand in the mesh at once.
const batch = 50

// TestGenerated compares both proxies, and explain, on generated
// configurations. -args -seed 7 -n 5000 is the long form.
func TestGenerated(t *testing.T) {
	var a *arena
	told := 0
	for at := 0; at < *number && told < *most; at += batch {
		if at%(20*batch) == 0 {
			a = openArena(t) // a new one now and then, so that logs stay short
		}
		var configs []*generate.Config
		for i := at; i < min(at+batch, *number); i++ {
			configs = append(configs, generate.Make(a.world, *seed, *from+uint64(i)))
		}
		seen := map[*generate.Config]bool{}
		var found []finding
		for _, f := range a.play(t, configs, true) {
			if told < *most && !seen[f.config] {
				seen[f.config] = true
				told++
				found = append(found, f)
			}
		}
		if !*whole {
			a.reduce(t, found)
		}
		for _, f := range found {
			text, err := f.config.YAML("c0nf")
			if err != nil {
				t.Fatal(err)
			}
			t.Errorf("seed %d, number %d: %s\n%s\n%s", f.config.Seed, f.config.Number, f.request, strings.Join(f.differ, "\n"), text)
		}
	}
}

// finding is a request on which not all agree.
type finding struct {
	config  *generate.Config
	request generate.Request
	differ  []string // a line each
	keys    []string // the fields
}

// reduce takes everything away from findings that they do not need.
func (a *arena) reduce(t *testing.T, found []finding) {
	t.Helper()
	for i, f := range found {
		found[i].config = &generate.Config{Seed: f.config.Seed, Number: f.config.Number, Objects: f.config.Objects, Requests: []generate.Request{f.request}}
	}
	next := make([][]*generate.Config, len(found)) // what has not been tried
	for i, f := range found {
		next[i] = f.config.Smaller()
	}
	for range 60 {
		var all []*generate.Config
		of := map[*generate.Config]int{}
		for i := range next {
			n := min(len(next[i]), 120/len(found))
			for _, c := range next[i][:n] {
				of[c] = i
			}
			all = append(all, next[i][:n]...)
			next[i] = next[i][n:]
		}
		if len(all) == 0 {
			return
		}
		better := map[int]bool{}
		for _, f := range a.play(t, all, false) {
			if i := of[f.config]; !better[i] && slices.Equal(f.keys, found[i].keys) {
				better[i] = true
				found[i] = f
				next[i] = f.config.Smaller()
			}
		}
	}
}

// question is a request of a configuration on its way.
type question struct {
	stand   stand
	origin  generate.Request
	named   generate.Request
	request request
	explain *explain.Answer
	broken  error // of explain
	got     [2]*answer
	err     [2]error
}

func (a *arena) ask(t *testing.T, stands []stand) []finding {
	t.Helper()
	var qs []*question
	a.asked++
	for _, s := range stands {
		for _, r := range s.Requests {
			n := r.Named(s.name)
			qs = append(qs, &question{stand: s, origin: r, named: n, request: request{
				method: n.Method, host: n.Host, target: n.Target, headers: n.Headers, body: n.Body,
			}})
		}
	}
	each(len(qs), func(i int) {
		q := qs[i]
		key := fmt.Sprintf("t%d-%d-", a.asked, i)
		for n, tm := range a.teams {
			d := door{tm.proxy, true}
			if q.named.Gateway {
				d = door{tm.edges[q.named.Port], false}
			}
			q.got[n], q.err[n] = q.request.send(d, key+strconv.Itoa(n))
		}
	})
	each(len(stands), func(i int) { a.explainAll(t, stands[i], qs) })
	a.collect(t, qs)
	var out []finding
	for _, q := range qs {
		if f := a.judge(q); len(f.keys) > 0 {
			out = append(out, f)
		}
	}
	return out
}

// explainAll asks explain about one configuration, which has a mesh of its own
// for that: explain lowers all that there is for each question.
func (a *arena) explainAll(t *testing.T, s stand, qs []*question) {
	compiled, _ := control.Compile(a.snapshot(t, []stand{s}, arenaCallers))
	for _, q := range qs {
		if q.stand.name != s.name {
			continue
		}
		query := explain.Query{From: a.world.Client + "/caller", Method: q.named.Method, URL: "http://" + q.named.Host + q.named.Target, Headers: q.named.Headers}
		if q.named.Gateway {
			query.From, query.Gateway, query.Port = "", a.world.Client+"/turn", q.named.Port
		}
		q.explain, q.broken = explain.Explain(compiled, query)
	}
}

// collect waits for the access logs and for what backends saw of each request.
func (a *arena) collect(t *testing.T, qs []*question) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for missing := 1; missing > 0; time.Sleep(20 * time.Millisecond) {
		missing = 0
		for n := range a.teams {
			a.teams[n].told()
			for _, q := range qs {
				if q.got[n] == nil {
					continue
				}
				q.got[n].Logs = a.teams[n].lines[q.got[n].Key]
				if len(q.got[n].Logs) == 0 {
					missing++
				}
			}
		}
		if missing > 0 && time.Now().After(deadline) {
			for _, q := range qs {
				for n := range a.teams {
					if q.got[n] != nil && len(q.got[n].Logs) == 0 {
						t.Errorf("%s: in no access log of %s: %s", q.stand.name, a.teams[n].name, q.named)
					}
				}
			}
			break
		}
	}
	for n := range a.teams {
		clear(a.teams[n].lines)
	}
	// Copies arrive a little later: what both sent is waited for.
	deadline = time.Now().Add(patience / 4)
	for again := true; again && time.Now().Before(deadline); {
		again = false
		for _, q := range qs {
			for n := range a.teams {
				if q.got[n] != nil {
					q.got[n].Tries = a.arrivals(q.got[n].Key)
				}
			}
			again = again || q.got[0] != nil && q.got[1] != nil && q.got[0].Tries != q.got[1].Tries
		}
		if again {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// arrivals is how often backends got a request.
func (a *arena) arrivals(key string) int {
	n := 0
	for _, e := range a.echos {
		n += len(e.requests(key))
	}
	return n
}

// judge compares what all three said.
func (a *arena) judge(q *question) finding {
	f := finding{config: q.stand.origin, request: q.origin}
	say := func(key, text string, args ...any) {
		f.keys = append(f.keys, key)
		f.differ = append(f.differ, "\t"+key+": "+fmt.Sprintf(text, args...))
	}
	if q.err[0] != nil || q.err[1] != nil {
		if fmt.Sprint(q.err[0]) != fmt.Sprint(q.err[1]) {
			say("error", "envoy %v, tulle-proxy %v", q.err[0], q.err[1])
		}
		return f
	}
	r := q.request
	switch {
	case q.got[0].Echo == nil:
		r.backend = "-"
	case q.explain != nil && len(q.explain.Destinations) == 1 && q.explain.Destinations[0].Endpoints > 1:
		r.backend = "*"
	}
	if strings.Contains(q.named.String(), "x-echo-fail") && (r.backend == "*" || q.copied()) {
		return f // which request a backend fails first is left to chance
	}
	if q.explain != nil {
		r.said = q.explain.Outcome
	}
	x, y := fields(result{request: r, answer: q.got[0]}), fields(result{request: r, answer: q.got[1]})
	for _, k := range slices.Sorted(maps.Keys(union(x, y))) {
		if q.local() && strings.HasSuffix(k, " cluster") || k == "saw x-envoy-expected-rq-timeout-ms" {
			continue // the destination that was not asked; the time that is left
		}
		if r.method == "HEAD" && !q.local() && strings.Contains(k, "content-length") {
			continue // of the backend's report
		}
		if x[k] != y[k] && onPurposeIs(&r, k, x[k], y[k]) == "" {
			say(k, "envoy %s, tulle-proxy %s", shown(x, k), shown(y, k))
		}
	}
	a.third(q, say)
	return f
}

// local reports whether the proxy answers by itself.
func (q *question) local() bool { return q.explain != nil && q.explain.Outcome != explain.Routed }

// copied reports whether the request is mirrored.
func (q *question) copied() bool {
	return q.explain != nil && slices.ContainsFunc(q.explain.Steps, func(s explain.Step) bool { return s.Stage == "mirror" })
}

// third holds explain to what both proxies did.
func (a *arena) third(q *question, say func(key, text string, args ...any)) {
	e, got := q.explain, q.got[1]
	if q.broken != nil {
		say("explain", "%v", q.broken)
		return
	}
	place := "web"
	if q.named.Gateway {
		place = "edge"
	}
	var log map[string]any
	for _, l := range got.Logs[place] {
		log = l
	}
	grpc := strings.HasPrefix(strings.Join(got.Headers["content-type"], ""), "application/grpc") // says the status another way
	if e.Status != 0 && e.Status != got.Status && !grpc {
		say("explain status", "explain %s %d, tulle-proxy %d", e.Outcome, e.Status, got.Status)
	}
	cluster, _ := log["cluster"].(string)
	switch e.Outcome {
	case explain.Redirected:
		if l := strings.Join(got.Headers["location"], ""); l != e.Redirect {
			say("explain redirect", "explain %q, tulle-proxy %q", e.Redirect, l)
		}
	case explain.Routed:
		if len(e.Destinations) == 0 || e.Destinations[0].Cluster != cluster {
			say("explain destination", "explain %v, tulle-proxy %q", e.Destinations, cluster)
		}
		if got.Echo != nil && (e.Request.Path != got.Echo.URI || e.Request.Authority != got.Echo.Host) {
			say("explain request", "explain %s%s, backend saw %s%s", e.Request.Authority, e.Request.Path, got.Echo.Host, got.Echo.URI)
		}
	default:
		if got.Echo != nil {
			say("explain outcome", "explain %s, backend %s answered", e.Outcome, got.Echo.Backend)
		}
	}
}
