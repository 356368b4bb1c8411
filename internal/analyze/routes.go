package analyze

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// rawRoutes is what the model does not keep of a VirtualService: whether
// something was written at all.
type rawRoutes struct {
	Spec struct {
		HTTP []struct {
			Mirror           json.RawMessage `json:"mirror"`
			MirrorPercentage json.RawMessage `json:"mirrorPercentage"`
			MirrorPercent    json.RawMessage `json:"mirrorPercent"`
			MirrorOld        json.RawMessage `json:"mirror_percent"`
			Mirrors          []struct {
				Percentage json.RawMessage `json:"percentage"`
			} `json:"mirrors"`
			Route []struct {
				Weight *int `json:"weight"`
			} `json:"route"`
			Match []struct {
				Headers        map[string]json.RawMessage `json:"headers"`
				WithoutHeaders map[string]json.RawMessage `json:"withoutHeaders"`
			} `json:"match"`
		} `json:"http"`
	} `json:"spec"`
}

// routes checks each set of rules by itself.
func (a *analysis) routes() {
	for _, r := range a.Fragment.RouteSets {
		a.rules(r)
		a.gatewayOnly(r)
	}
	for _, o := range a.Objects {
		if o.Kind != "VirtualService" {
			continue
		}
		var r rawRoutes
		if json.Unmarshal(o.JSON, &r) == nil {
			a.written(o, &r)
		}
	}
}

// written reports what is noticeable about how rules are written.
func (a *analysis) written(o *source.Object, r *rawRoutes) {
	for i, h := range r.Spec.HTTP {
		at := "spec.http[" + itoa(i) + "]"
		if h.Mirror != nil && h.MirrorPercentage == nil && h.MirrorPercent == nil && h.MirrorOld == nil {
			a.add("TUL0201", o.Origin(at+".mirror"), "without mirrorPercentage every request is copied")
		}
		for j, m := range h.Mirrors {
			if m.Percentage == nil {
				a.add("TUL0201", o.Origin(at+".mirrors["+itoa(j)+"]"), "without percentage every request is copied")
			}
		}
		if len(h.Route) == 1 && h.Route[0].Weight != nil && *h.Route[0].Weight != 100 {
			a.add("TUL0202", o.Origin(at+".route[0].weight"), "a single destination gets every request: its weight %d says nothing", *h.Route[0].Weight)
		}
		for j, m := range h.Match {
			for name := range m.Headers {
				a.claim(o, at+".match["+itoa(j)+"].headers."+name, name)
			}
			for name := range m.WithoutHeaders {
				a.claim(o, at+".match["+itoa(j)+"].withoutHeaders."+name, name)
			}
		}
	}
}

// claim reports routing by token claims where no RequestAuthentication exists
// that could apply to a gateway of the mesh.
func (a *analysis) claim(o *source.Object, path, header string) {
	if !strings.HasPrefix(strings.ToLower(header), "@request.auth.claims") {
		return
	}
	found := false
	a.each("security.istio.io", "RequestAuthentication", func(x *source.Object, r *raw) {
		sel, selects := r.selector()
		if !selects && (x.Namespace == a.Root || x.Namespace == o.Namespace) {
			found = true
		}
		for _, g := range a.Fragment.Gateways {
			found = found || selects && within(sel, g.Selector)
		}
	})
	if !found {
		a.add("IST0149", o.Origin(path), "%s: no RequestAuthentication checks tokens at a gateway, so there are no claims to route by", header)
	}
}

// rules reports matches that an earlier match hides, aborted destinations, and
// requests for which there is no rule.
func (a *analysis) rules(r *model.RouteSet) {
	rest := len(r.HTTP) > 0
	for j := range r.HTTP {
		rule := &r.HTTP[j]
		rest = rest && !takesAll(rule)
		if f := rule.Fault; f != nil && f.HasAbort && f.AbortPercent >= 100 && len(rule.Backends) > 0 {
			a.add("TUL0204", rule.Origin, "every request of this rule is aborted; its destinations get none")
		}
		a.hidden(r.HTTP, j)
	}
	if rest && len(r.Hosts) > 0 {
		a.add("TUL0203", r.Origin, "no rule takes every request: what matches none gets 404")
	}
}

// takesAll reports whether a rule takes every request at every client.
func takesAll(h *model.HTTPRule) bool {
	if len(h.Matches) == 0 {
		return true
	}
	for i := range h.Matches {
		if link.Covers(&h.Matches[i], &model.HTTPMatch{}) {
			return true
		}
	}
	return false
}

// hidden reports matches of rule j that an earlier match takes the requests of.
// A rule that is hidden as a whole is link's to report.
func (a *analysis) hidden(rules []model.HTTPRule, j int) {
	type loss struct{ match, rule, by int }
	var lost []loss
	whole := true
	for k := range rules[j].Matches {
		rule, by := hiddenBy(rules[:j+1], k)
		if rule >= 0 {
			lost = append(lost, loss{k, rule, by})
		}
		whole = whole && rule >= 0 && rule < j
	}
	if whole {
		return
	}
	for _, l := range lost {
		a.add("IST0131", rules[j].Matches[l.match].Origin, "match %d of rule %d never decides: match %d of rule %d takes its requests first", l.match, j, l.by, l.rule)
	}
}

// hiddenBy finds the first match before match k of the last rule that takes all
// of it; rule -1: none.
func hiddenBy(rules []model.HTTPRule, k int) (rule, match int) {
	last := len(rules) - 1
	for i := range rules {
		for n := range rules[i].Matches {
			if i == last && n >= k {
				break
			}
			if link.Covers(&rules[i].Matches[n], &rules[last].Matches[k]) {
				return i, n
			}
		}
	}
	return -1, 0
}

// gatewayOnly reports hosts of the mesh in a set that sidecars never see.
func (a *analysis) gatewayOnly(r *model.RouteSet) {
	if slices.Contains(r.Gateways, "mesh") || len(r.HTTP) == 0 {
		return
	}
	for _, h := range r.Hosts {
		if strings.Contains(h, "*") {
			continue
		}
		if s := a.Mesh.Service(r.Namespace, h); s != nil && s.Kubernetes {
			a.add("TUL0207", r.Origin, "it is bound to gateways only (%s): requests between services to %s do not follow its rules; add the gateway mesh", strings.Join(r.Gateways, ", "), s.Host)
		}
	}
}

// bypassed reports subsets that are chosen at sidecars for a host which a
// gateway routes to without choosing: a canary that requests from outside
// never meet.
func (a *analysis) bypassed() {
	type choice struct {
		set    *model.RouteSet
		subset string
	}
	chosen := map[string]choice{} // by host
	for _, r := range a.Fragment.RouteSets {
		if !slices.Contains(r.Gateways, "mesh") {
			continue
		}
		for _, b := range backends(r) {
			s := a.Mesh.Service(r.Namespace, b.Host)
			if s == nil || b.Subset == "" || !slices.ContainsFunc(r.Hosts, func(h string) bool { return a.Mesh.Service(r.Namespace, h) == s }) {
				continue
			}
			if _, ok := chosen[s.Host]; !ok {
				chosen[s.Host] = choice{r, b.Subset}
			}
		}
	}
	for _, r := range a.Fragment.RouteSets {
		at := slices.IndexFunc(r.Gateways, func(g string) bool { return g != "mesh" })
		if at < 0 {
			continue
		}
		for _, b := range backends(r) {
			s := a.Mesh.Service(r.Namespace, b.Host)
			if s == nil || b.Subset != "" {
				continue
			}
			if c, ok := chosen[s.Host]; ok && c.set != r {
				a.add("IST0140", b.Origin, "requests through gateway %s go to any endpoint of %s: subset %s and the other rules of %s act at sidecars only", r.Gateways[at], s.Host, c.subset, where(c.set.Origin))
			}
		}
	}
}

func backends(r *model.RouteSet) []model.Backend {
	var out []model.Backend
	for i := range r.HTTP {
		out = append(out, r.HTTP[i].Backends...)
	}
	return out
}
