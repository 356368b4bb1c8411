package generate

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// virtual is a VirtualService in the making.
type virtual struct {
	hosts    []string
	gateways []string // as written; nil: mesh
	ask      []string // hosts that requests name
	sidecar  bool
	edge     bool
	port     uint16 // of requests
}

// virtualServices makes one to three of them, with requests about each rule.
func (g *gen) virtualServices() {
	for i := range 1 + g.IntN(3) {
		v := g.virtual(i)
		var rules List
		for n := range 1 + g.IntN(5) {
			rules = append(rules, g.rule(v, i, n))
		}
		if g.percent(60) { // one for everything
			rules = append(rules, g.action(v, Obj{"name": "rest"}, nil))
		}
		spec := Obj{"hosts": list(v.hosts), "http": rules}
		if v.gateways != nil {
			spec["gateways"] = list(v.gateways)
		}
		if g.percent(10) {
			spec["exportTo"] = List{one(g, "*", ".", g.w.Client)}
		}
		g.add("networking.istio.io/v1", "VirtualService", "vs-"+itoa(i), spec)
		g.request(v, func(r *Request) { r.Target = one(g, "/", "/nothing", "/zzz?q=1") })
		if g.percent(30) { // a host that it is not for
			g.request(v, func(r *Request) { r.Host = "x" + r.Host })
		}
	}
}

func (g *gen) virtual(i int) *virtual {
	v := &virtual{port: 80}
	s := one(g, g.svcs...)
	switch g.IntN(6) {
	case 0:
		v.hosts = []string{"*." + placeholder + ".example"}
		v.ask = []string{"any." + placeholder + ".example", "x.y." + placeholder + ".example"}
	case 1, 2:
		v.hosts = []string{one(g, s.called()...)}
		v.ask = append(s.dialled(), s.host, s.host)
		if s.port != 80 && g.percent(50) {
			v.port = uint16(s.port)
		}
	case 3:
		v.hosts = []string{"*.second." + placeholder + ".example", "one." + placeholder + ".example"}
		v.ask = []string{"x.second." + placeholder + ".example", "one." + placeholder + ".example", "X.Second." + placeholder + ".example"}
	default:
		v.hosts = []string{"h" + itoa(i) + "." + placeholder + ".example"}
		v.ask = []string{v.hosts[0], v.hosts[0] + ":80", "H" + v.hosts[0][1:]}
	}
	switch g.IntN(6) {
	case 0:
		v.sidecar = true
	case 1:
		v.gateways, v.sidecar = []string{"mesh"}, true
	case 2:
		v.gateways, v.edge = []string{one(g, "edge", placeholder+"/edge", g.lastGateway)}, true
	case 3:
		v.gateways, v.sidecar, v.edge = []string{"mesh", "edge", g.lastGateway}, true, true
	default:
		v.gateways, v.sidecar, v.edge = []string{"mesh", placeholder + "/edge"}, true, true
	}
	return v
}

// request asks a VirtualService something, at the places where it acts.
func (g *gen) request(v *virtual, edit ...func(*Request)) {
	r := Request{Method: "GET", Target: "/", Host: one(g, v.ask...), Port: v.port}
	for _, f := range edit {
		f(&r)
	}
	if r.Body != "" && r.Method == "GET" {
		r.Method = "POST"
	}
	if v.sidecar || g.percent(5) {
		g.c.Requests = append(g.c.Requests, r)
	}
	if v.edge || g.percent(5) {
		r.Gateway = true
		if !slices.Contains(g.w.EdgePorts, r.Port) || g.percent(10) {
			r.Port = one(g, g.w.EdgePorts...)
		}
		g.c.Requests = append(g.c.Requests, r)
	}
}

// rule is one http rule with conditions.
func (g *gen) rule(v *virtual, i, n int) Obj {
	rule := Obj{}
	if g.percent(70) {
		rule["name"] = "rule-" + itoa(n)
	}
	var matches List
	var hits []func(*Request)
	for range 1 + g.IntN(2) {
		m := Obj{}
		cs := g.conditions(v, m)
		matches = append(matches, m)
		all := func(but int, miss bool) func(*Request) {
			var fs []func(*Request)
			for at, c := range cs {
				from := c.hit
				if at == but && miss {
					from = c.miss
				}
				if len(from) > 0 {
					fs = append(fs, one(g, from...))
				}
			}
			return func(r *Request) {
				for _, f := range fs {
					f(r)
				}
			}
		}
		hit := all(-1, false)
		hits = append(hits, hit)
		g.request(v, hit)
		if len(cs) > 0 {
			g.request(v, all(g.IntN(len(cs)), true))
		}
	}
	rule["match"] = matches
	return g.action(v, rule, hits)
}

// conditions fills one match.
func (g *gen) conditions(v *virtual, m Obj) (cs []condition) {
	if g.percent(80) {
		cs = append(cs, g.uriMatch(m))
	}
	for g.percent(30) {
		cs = append(cs, g.headerMatch(m, false))
	}
	if g.percent(12) {
		cs = append(cs, g.headerMatch(m, true))
	}
	for g.percent(20) {
		cs = append(cs, g.queryMatch(m))
	}
	if g.percent(15) {
		// Only methods that exist: Envoy refuses others before it looks at routes.
		p := one(g,
			pattern{"exact GET", []string{"GET"}, []string{"POST"}}, pattern{"exact PUT", []string{"PUT"}, []string{"GET"}},
			pattern{"prefix P", []string{"PUT", "POST", "PATCH"}, []string{"DELETE"}}, pattern{"prefix HEA", []string{"HEAD"}, []string{"GET"}},
			pattern{"regex P.*", []string{"PUT", "PATCH"}, []string{"GET"}}, pattern{"regex GET|DELETE", []string{"GET", "DELETE"}, []string{"POST"}},
			pattern{"regex GE", nil, []string{"GET"}}, pattern{"exact get", nil, []string{"GET"}})
		kind, v, _ := strings.Cut(p.re, " ")
		m["method"] = Obj{kind: v}
		cs = append(cs, conditionOf(p.hit, p.miss, func(s string) func(*Request) { return func(r *Request) { r.Method = s } }))
	}
	if g.percent(10) {
		h := one(g, v.ask...)
		m["authority"] = one(g, Obj{"exact": h}, Obj{"prefix": h[:1]}, Obj{"regex": ".*" + placeholder + ".*"}, Obj{"exact": "other.example"})
		cs = append(cs, condition{hit: []func(*Request){func(r *Request) { r.Host = h }}})
	}
	if g.percent(8) {
		m["scheme"] = one(g, Obj{"exact": "http"}, Obj{"exact": "https"}, Obj{"prefix": "http"}, Obj{"regex": "https?"})
	}
	if g.percent(8) {
		m["port"] = one(g, 80, 80, 8080, 81)
	}
	if g.percent(6) {
		ls := Obj{}
		for _, k := range slices.Sorted(maps.Keys(g.w.Labels)) {
			ls[k] = one(g, g.w.Labels[k], g.w.Labels[k], "other")
		}
		m["sourceLabels"] = ls
	}
	if g.percent(6) {
		m["sourceNamespace"] = one(g, g.w.Client, g.w.Client, "other")
	}
	if g.percent(8) && v.gateways != nil {
		m["gateways"] = List{one(g, v.gateways...)}
	}
	if g.percent(10) {
		m["statPrefix"] = "stat"
	}
	if len(cs) == 0 && g.percent(80) {
		cs = append(cs, g.uriMatch(m))
	}
	return cs
}
