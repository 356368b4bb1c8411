package generate

import (
	"slices"
	"strings"
)

// condition is one thing that a request must be, with ways to be it and ways to
// narrowly miss it.
type condition struct {
	hit, miss []func(*Request)
}

var paths = []string{"/", "/a", "/a/b", "/ab", "/a/", "/Api/v1", "/x.css", "/long/way/down", "/a%20b", "/d-e_f~g"}

// pattern is an expression with texts that it matches and texts that it does not.
type pattern struct {
	re        string
	hit, miss []string
}

var pathPatterns = []pattern{
	{"/v[0-9]+/.*", []string{"/v1/x", "/v12/"}, []string{"/v/x", "/v1", "/x/v1/x"}},
	{"/a|/b", []string{"/a", "/b"}, []string{"/ab", "/c", "/a/"}},
	{"(?i)/hello", []string{"/hello", "/HELLO"}, []string{"/hell", "/hello/"}},
	{`.*\.css`, []string{"/x.css", "/a/b.css"}, []string{"/xcss", "/x.css/"}},
	{"^/anchored$", []string{"/anchored"}, []string{"/anchored2", "/x/anchored"}},
	{"/[^/]+/edit", []string{"/7/edit", "/a.b/edit"}, []string{"//edit", "/a/b/edit"}},
	{"/.*", []string{"/", "/anything"}, nil},
	{"", nil, []string{"/"}},
}

var valuePatterns = []pattern{
	{"[0-9]+", []string{"1", "42"}, []string{"", "4x", "x4"}},
	{"a.*z", []string{"az", "a--z"}, []string{"a", "az1"}},
	{"^(.*?;)?(user=tom)(;.*)?$", []string{"user=tom", "a=b;user=tom;c"}, []string{"user=tommy", "xuser=tom"}},
	{"(?i)yes|no", []string{"YES", "no"}, []string{"yesno", "n"}},
	{".*", []string{"", "any thing"}, nil},
	{"*", []string{"x"}, nil},
	{".+", []string{"x"}, []string{""}},
}

var (
	headerNames = []string{"x-a", "x-b", "x-long-name", "cookie", "user-agent", "accept"}
	values      = []string{"1", "a", "ab", "A", "a b", "b=c", "é", `"q"`}
	queryNames  = []string{"q", "Q", "id", "a.b", "x-y"}
)

// other spellings of a path that a proxy may or may not take for it.
func (g *gen) spell(p string) string {
	if g.percent(80) {
		return p
	}
	path, query, _ := strings.Cut(p, "?")
	if query != "" {
		query = "?" + query
	}
	switch g.IntN(9) {
	case 0:
		return path + "/." + query
	case 1:
		return "/zz/.." + path + query
	case 2:
		return "/" + path + query
	case 3:
		if len(path) > 1 {
			return path[:1] + "%" + strings.ToUpper(hex(path[1])) + path[2:] + query
		}
	case 4:
		return path + query + one(g, "?", "?&", "?q", "?=1", "?q=1&q=2", "?a=%41")
	case 5:
		return path + "%2f" + query
	case 6:
		return path + "%2Fx" + query
	case 7:
		return strings.ReplaceAll(path, "/", "//") + query
	case 8:
		return path + "\\x" + query
	}
	return p
}

func hex(b byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[b>>4], digits[b&15]})
}

// stringMatch is a StringMatch, and texts.
func (g *gen) stringMatch(vocabulary []string, ps []pattern) (m Obj, hit, miss []string) {
	v := one(g, vocabulary...)
	switch g.IntN(5) {
	case 0, 1:
		return Obj{"exact": v}, []string{v}, []string{v + "x", "x" + v, flip(v)}
	case 2, 3:
		return Obj{"prefix": v}, []string{v, v + "x", v + "/x"}, []string{"x" + v, v[:len(v)-1], flip(v)}
	default:
		p := one(g, ps...)
		return Obj{"regex": p.re}, p.hit, p.miss
	}
}

// flip changes the case of every letter.
func flip(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r - 32
		}
		if 'A' <= r && r <= 'Z' {
			return r + 32
		}
		return r
	}, s)
}

// uriMatch sets uri, perhaps without regard to case.
func (g *gen) uriMatch(m Obj) condition {
	s, hit, miss := g.stringMatch(paths, slices.DeleteFunc(slices.Clone(pathPatterns), func(p pattern) bool { return p.re == "" }))
	m["uri"] = s
	if _, isRegex := s["regex"]; !isRegex && g.percent(20) {
		m["ignoreUriCase"] = true
		hit = append(hit, flip(hit[0]))
	}
	set := func(p string) func(*Request) {
		if !strings.HasPrefix(p, "/") {
			p = "/" + p
		}
		p = g.spell(p)
		return func(r *Request) {
			if _, q, ok := strings.Cut(r.Target, "?"); ok {
				r.Target = p + "?" + q
				return
			}
			r.Target = p
		}
	}
	return conditionOf(hit, miss, set)
}

func conditionOf(hit, miss []string, set func(string) func(*Request)) condition {
	var c condition
	for _, v := range hit {
		c.hit = append(c.hit, set(v))
	}
	for _, v := range miss {
		c.miss = append(c.miss, set(v))
	}
	return c
}

// headerMatch sets headers or withoutHeaders.
func (g *gen) headerMatch(m Obj, without bool) condition {
	name := one(g, headerNames...)
	var s Obj
	var hit, miss []string
	absent := func(r *Request) { r.drop(name) }
	if g.percent(20) {
		s, hit = Obj{}, []string{"1", "", "any thing"}
	} else {
		s, hit, miss = g.stringMatch(values, valuePatterns)
	}
	c := conditionOf(hit, miss, func(v string) func(*Request) {
		return func(r *Request) { r.set(name, v) }
	})
	if len(hit) > 0 && g.percent(20) { // twice in the request
		c.miss = append(c.miss, func(r *Request) { r.Headers = append(r.Headers, [2]string{name, hit[0]}, [2]string{name, "second"}) })
	}
	c.miss = append(c.miss, absent)
	key := "headers"
	if without {
		key = "withoutHeaders"
		c.hit, c.miss = c.miss, c.hit
	}
	into(m, key)[one(g, name, name, strings.ToUpper(name))] = s
	return c
}

func (g *gen) queryMatch(m Obj) condition {
	name := one(g, queryNames...)
	var s Obj
	var hit, miss []string
	if g.percent(20) {
		s, hit = Obj{}, []string{"1", ""}
	} else {
		s, hit, miss = g.stringMatch([]string{"1", "a", "ab", "a-b", "%20"}, valuePatterns[:3])
	}
	c := conditionOf(hit, miss, func(v string) func(*Request) {
		return func(r *Request) { r.query(name + "=" + strings.ReplaceAll(v, " ", "%20")) }
	})
	c.miss = append(c.miss, func(*Request) {}, func(r *Request) { r.query(name) })
	into(m, "queryParams")[name] = s
	return c
}

func into(m Obj, key string) Obj {
	in, ok := m[key].(Obj)
	if !ok {
		in = Obj{}
		m[key] = in
	}
	return in
}

func (r *Request) drop(name string) {
	r.Headers = slices.DeleteFunc(r.Headers, func(h [2]string) bool { return h[0] == name })
}

func (r *Request) set(name, value string) {
	r.drop(name)
	r.Headers = append(r.Headers, [2]string{name, value})
}

func (r *Request) query(kv string) {
	sep := "?"
	if strings.Contains(r.Target, "?") {
		sep = "&"
	}
	r.Target += sep + kv
}
