package route

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// head makes a request head of "METHOD URL" and "name: value" lines.
func head(method, authority, path string, fields ...string) *stream.Head {
	h := &stream.Head{Length: -1, Version: 11}
	h.Method, h.Scheme, h.Authority, h.Path = h.KeepString(method), h.KeepString("http"), h.KeepString(authority), h.KeepString(path)
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ":")
		h.AddString(k, strings.TrimSpace(v))
	}
	return h
}

// table indexes virtual hosts as conf's decoder does.
func table(ignorePort bool, hosts ...*conf.VirtualHost) *conf.RouteTable {
	t := &conf.RouteTable{Name: "t", Hosts: hosts, Exact: map[string]*conf.VirtualHost{}, IgnorePort: ignorePort}
	for _, v := range hosts {
		for _, d := range v.Domains {
			d = strings.ToLower(d)
			switch {
			case d == "*":
				t.Any = v
			case strings.HasPrefix(d, "*"):
				t.Suffix = append(t.Suffix, conf.WildHost{Part: d[1:], Host: v})
			case strings.HasSuffix(d, "*"):
				t.Prefix = append(t.Prefix, conf.WildHost{Part: d[:len(d)-1], Host: v})
			default:
				t.Exact[d] = v
			}
		}
	}
	long := func(w []conf.WildHost) {
		sort.SliceStable(w, func(i, j int) bool { return len(w[i].Part) > len(w[j].Part) })
	}
	long(t.Suffix)
	long(t.Prefix)
	return t
}

func vhost(name string, domains ...string) *conf.VirtualHost {
	return &conf.VirtualHost{Name: name, Domains: domains}
}

func TestHost(t *testing.T) {
	hosts := []*conf.VirtualHost{
		vhost("exact", "orders", "orders.shop", "orders.shop:80", "[fd00::1]", "10.0.0.1"),
		vhost("suffix", "*.example.com"), vhost("longer", "*.api.example.com"), vhost("dash", "*-x.org"),
		vhost("prefix", "www.*"), vhost("any", "*"),
	}
	for _, c := range []struct {
		host   string
		ignore bool
		want   string
	}{
		{"orders", false, "exact"}, {"ORDERS.Shop", false, "exact"}, {"orders.shop:80", false, "exact"},
		{"orders:80", false, "any"}, {"orders:80", true, "exact"}, {"orders.shop:8080", true, "exact"},
		{"[fd00::1]", true, "exact"}, {"[fd00::1]:80", true, "exact"}, {"[FD00::1]:80", true, "exact"}, {"10.0.0.1:1", true, "exact"},
		{"a.example.com", false, "suffix"}, {"b.api.example.com", false, "longer"}, {"api.example.com", false, "suffix"},
		{".example.com", false, "any"}, {"example.com", false, "any"}, {"a-x.org", false, "dash"}, {"-x.org", false, "any"},
		{"www.a", false, "prefix"}, {"www.", false, "any"}, {"www.a.example.com", false, "suffix"},
		{"", false, "any"}, {strings.Repeat("a", 600), false, "any"},
	} {
		var w why.Why
		got := Host(table(c.ignore, hosts...), []byte(c.host), &w)
		if got.Name != c.want {
			t.Errorf("%q (ignore port %v): %s, want %s", c.host, c.ignore, got.Name, c.want)
		}
		if len(w.Steps) != 1 {
			t.Errorf("%q: %d steps", c.host, len(w.Steps))
		}
	}
	var w why.Why
	if v := Host(table(true, hosts[:2]...), []byte("nowhere"), &w); v != nil {
		t.Fatalf("nowhere is %s", v.Name)
	}
	if s := w.Steps[0].Text; !strings.Contains(s, "nowhere") || !strings.Contains(s, "*.example.com") {
		t.Errorf("the no does not say what was tried: %s", s)
	}
}

// dumbHost is the definition: every domain is tried, the best one wins.
func dumbHost(t *conf.RouteTable, host string) *conf.VirtualHost {
	host = strings.ToLower(host)
	if t.IgnorePort {
		if i := strings.LastIndex(host, ":"); i >= 0 && !strings.Contains(host[i:], "]") {
			host = host[:i]
		}
	}
	var best *conf.VirtualHost
	score := -1
	for _, v := range t.Hosts {
		for _, d := range v.Domains {
			s := -1
			switch {
			case d == "*":
				s = 0
			case strings.HasPrefix(d, "*") && len(host) > len(d)-1 && strings.HasSuffix(host, d[1:]):
				s = 10000 + len(d)
			case strings.HasSuffix(d, "*") && len(host) > len(d)-1 && strings.HasPrefix(host, d[:len(d)-1]):
				s = 1000 + len(d)
			case d == host:
				s = 100000
			}
			if s > score {
				best, score = v, s
			}
		}
	}
	return best
}

func TestHostAgainstDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	letters := []string{"a", "b", ".", "a.b", ":", "8", "[", "]"}
	word := func() string {
		s := ""
		for range rnd.IntN(5) {
			s += letters[rnd.IntN(len(letters))]
		}
		return s
	}
	for range 20000 {
		var hosts []*conf.VirtualHost
		used := map[string]bool{}
		for i := range rnd.IntN(6) {
			d := word()
			switch rnd.IntN(4) {
			case 0:
				d = "*" + d
			case 1:
				d += "*"
			}
			if d != "" && !used[d] && !strings.Contains(strings.Trim(d, "*"), "*") && d != "**" {
				used[d] = true
				hosts = append(hosts, vhost(fmt.Sprint(i), d))
			}
		}
		tb := table(rnd.IntN(2) == 0, hosts...)
		h := word()
		if rnd.IntN(2) == 0 {
			h = strings.ToUpper(h)
		}
		if got, want := Host(tb, []byte(h), nil), dumbHost(tb, h); got != want {
			t.Fatalf("host %q: got %v, want %v of %v", h, got, want, used)
		}
	}
}

func hm(name string, kind conf.StringKind, value string) conf.HeaderMatch {
	m := conf.HeaderMatch{Name: name, StringMatch: conf.StringMatch{Kind: kind, Value: value}}
	if kind == conf.StrRegex {
		m.Regex = regexp.MustCompile(`\A(?:` + value + `)\z`)
	}
	return m
}

func TestMatch(t *testing.T) {
	invert := func(m conf.HeaderMatch) conf.HeaderMatch { m.Invert = true; return m }
	empty := func(m conf.HeaderMatch) conf.HeaderMatch { m.MissingAsEmpty = true; return m }
	headers := func(ms ...conf.HeaderMatch) conf.Match { return conf.Match{Path: "/", Headers: ms} }
	query := func(kind conf.StringKind, v string) conf.Match {
		return conf.Match{Path: "/", Query: []conf.QueryMatch{{Name: "q", StringMatch: conf.StringMatch{Kind: kind, Value: v}}}}
	}
	get := func(path string, fields ...string) *stream.Head { return head("GET", "shop", path, fields...) }
	for i, c := range []struct {
		m    conf.Match
		h    *stream.Head
		want bool
	}{
		{conf.Match{Path: "/foo"}, get("/foobar?x"), true},
		{conf.Match{Path: "/foo"}, get("/fo?/foo"), false},
		{conf.Match{Path: "/FOO", IgnoreCase: true}, get("/fOobar"), true},
		{conf.Match{Path: "/FOO"}, get("/foo"), false},
		{conf.Match{Kind: conf.PathExact, Path: "/foo"}, get("/foo?a=b"), true},
		{conf.Match{Kind: conf.PathExact, Path: "/foo"}, get("/foo#frag"), true},
		{conf.Match{Kind: conf.PathExact, Path: "/foo"}, get("/foo/"), false},
		{conf.Match{Kind: conf.PathSegments, Path: "/foo"}, get("/foo"), true},
		{conf.Match{Kind: conf.PathSegments, Path: "/foo"}, get("/foo/bar"), true},
		{conf.Match{Kind: conf.PathSegments, Path: "/foo"}, get("/foobar"), false},
		{conf.Match{Kind: conf.PathSegments, Path: "/foo"}, get("/foo?bar"), true},
		{conf.Match{Kind: conf.PathRegex, Regex: regexp.MustCompile(`\A(?:/v[12])\z`)}, get("/v1?x=/v3"), true},
		{conf.Match{Kind: conf.PathRegex, Regex: regexp.MustCompile(`\A(?:/v[12])\z`)}, get("/v10"), false},
		{conf.Match{Kind: conf.PathConnect}, head("CONNECT", "a:1", ""), true},
		{conf.Match{Path: "/"}, head("CONNECT", "a:1", ""), false},
		{headers(hm("x", conf.StrExact, "1")), get("/", "x: 1"), true},
		{headers(hm("x", conf.StrExact, "1,2")), get("/", "x: 1", "x: 2"), false}, // each value by itself
		{headers(hm("x", conf.StrExact, "1")), get("/", "x: 1", "x: 2"), true},
		{headers(hm("x", conf.StrExact, "2")), get("/", "x: 1", "x: 2"), true},
		{headers(hm("x", conf.StrExact, "1")), get("/"), false},
		{headers(invert(hm("x", conf.StrExact, "1"))), get("/", "x: 2"), true},
		{headers(invert(hm("x", conf.StrExact, "1"))), get("/"), false},
		{headers(invert(empty(hm("x", conf.StrExact, "1")))), get("/"), true},
		{headers(hm("x", conf.StrPresent, "")), get("/", "x:"), true},
		{headers(hm("x", conf.StrPresent, "")), get("/"), false},
		{headers(invert(hm("x", conf.StrPresent, ""))), get("/"), true},
		{headers(hm("x", conf.StrAbsent, "")), get("/"), true},
		{headers(hm("x", conf.StrAbsent, "")), get("/", "x: 1"), false},
		{headers(hm("x", conf.StrSuffix, "b")), get("/", "x: ab"), true},
		{headers(hm("x", conf.StrContains, "b")), get("/", "x: abc"), true},
		{headers(hm("x", conf.StrRegex, "a|ab")), get("/", "x: ab"), true},
		{headers(hm("x", conf.StrRegex, "a")), get("/", "x: ab"), false},
		{headers(hm(":method", conf.StrExact, "GET")), get("/"), true},
		{headers(hm(":authority", conf.StrExact, "shop")), get("/"), true},
		{headers(hm("host", conf.StrPrefix, "sh")), get("/"), true},
		{headers(hm(":scheme", conf.StrExact, "https")), get("/"), false},
		{headers(conf.HeaderMatch{Name: "n", StringMatch: conf.StringMatch{Kind: conf.StrRange}, Low: -3, High: 5}), get("/", "n: -3"), true},
		{headers(conf.HeaderMatch{Name: "n", StringMatch: conf.StringMatch{Kind: conf.StrRange}, Low: -3, High: 5}), get("/", "n: 5"), false},
		{headers(conf.HeaderMatch{Name: "n", StringMatch: conf.StringMatch{Kind: conf.StrRange}, Low: 0, High: 5}), get("/", "n: 1x"), false},
		{query(conf.StrExact, "1"), get("/?a&q=1&q=2"), true},
		{query(conf.StrExact, "2"), get("/?a&q=1&q=2"), false},
		{query(conf.StrPresent, ""), get("/?q"), true},
		{query(conf.StrPresent, ""), get("/?qq=1"), false},
		{query(conf.StrExact, "a%20b"), get("/?q=a%20b"), true},
		{conf.Match{Path: "/", GRPC: true}, get("/", "content-type: application/grpc+proto"), true},
		{conf.Match{Path: "/", GRPC: true}, get("/", "content-type: application/grpc-web"), false},
		{conf.Match{Path: "/", Fraction: 500000}, get("/"), true},
		{conf.Match{Path: "/", Fraction: 499999}, get("/"), false},
	} {
		r := &Request{Head: c.h, Random: 3000499999}
		v := vhost("v")
		v.Routes = []*conf.Route{{Name: "r", Match: c.m, Origin: "o"}}
		var w why.Why
		if got := Match(v, r, &w) != nil; got != c.want {
			t.Errorf("%d: %s matches %s %s: %v", i, describe(&c.m), c.h.Method, c.h.Path, got)
		}
		if (Match(v, r, nil) != nil) != c.want || w.Steps[0].Origin != "o" {
			t.Errorf("%d: with and without why differ: %v", i, w.Steps)
		}
	}
}

func TestMatchFirstWinsAndTellsWhatWasTried(t *testing.T) {
	v := vhost("shop:80")
	v.Origin = "service/shop/orders"
	v.Routes = []*conf.Route{
		{Name: "a", Match: conf.Match{Path: "/api"}}, {Name: "b", Match: conf.Match{Path: "/api/v1"}},
		{Name: "c", Match: conf.Match{Path: "/", Headers: []conf.HeaderMatch{hm("authorization", conf.StrExact, "secret")}}},
	}
	r := &Request{Head: head("GET", "shop", "/api/v1")}
	if got := Match(v, r, nil); got.Name != "a" {
		t.Errorf("got %s", got.Name)
	}
	r.Head = head("GET", "shop", "/other", "authorization: mine")
	var w why.Why
	if Match(v, r, &w) != nil {
		t.Fatal("matched")
	}
	last := w.Steps[len(w.Steps)-1].Text
	for _, want := range []string{"/other", "prefix /api", "/api/v1", "shop:80"} {
		if !strings.Contains(last, want) {
			t.Errorf("%q is not in %s", want, last)
		}
	}
	for _, s := range w.Steps {
		if strings.Contains(s.Text, "mine") {
			t.Errorf("a credential is told: %s", s.Text)
		}
	}
}

func TestPick(t *testing.T) {
	f := &conf.Forward{Clusters: []conf.WeightedCluster{{Name: "a", Weight: 90}, {Name: "z", Weight: 0}, {Name: "b", Weight: 10}}, Total: 100}
	n := map[string]int{}
	for i := range uint64(1000) {
		n[Pick(f, i).Name]++
	}
	if n["a"] != 900 || n["b"] != 100 {
		t.Errorf("split %v", n)
	}
	if Pick(&conf.Forward{}, 1) != nil || Pick(&conf.Forward{Clusters: f.Clusters[1:2]}, 7).Name != "z" {
		t.Error("none or a single cluster")
	}
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		name string
		m    conf.Match
		f    conf.Forward
		path string
		want string
	}{
		{"prefix", conf.Match{Path: "/api/"}, conf.Forward{PrefixRewrite: "/", HasPrefixRewrite: true}, "/api/v1?q=/api/", "/v1?q=/api/"},
		{"prefix in other case", conf.Match{Path: "/api", IgnoreCase: true}, conf.Forward{PrefixRewrite: "/x", HasPrefixRewrite: true}, "/API/v1", "/x/v1"},
		{"exact", conf.Match{Kind: conf.PathExact, Path: "/a"}, conf.Forward{PrefixRewrite: "/b", HasPrefixRewrite: true}, "/a?x", "/b?x"},
		{"whole path of a regex", conf.Match{Kind: conf.PathRegex}, conf.Forward{PrefixRewrite: "/b", HasPrefixRewrite: true}, "/a/b/c?x", "/b?x"},
		{"regex", conf.Match{Path: "/"}, conf.Forward{RegexRewrite: regexp.MustCompile(`/user/(\d+)`), RegexReplace: `/u-\1\\`}, "/user/42/user/7?n=/user/1", `/u-42\/u-7\?n=/user/1`},
		{"regex without a match", conf.Match{Path: "/"}, conf.Forward{RegexRewrite: regexp.MustCompile(`x`), RegexReplace: `y`}, "/a", "/a"},
	} {
		h := head("GET", "shop", c.path)
		p := &Path{Table: &conf.RouteTable{}, Host: &conf.VirtualHost{}, Route: &conf.Route{Match: c.m, Forward: &c.f}}
		Rewrite(p, &Request{Head: h})
		if string(h.Path) != c.want || string(h.Get("x-envoy-original-path")) != c.path {
			t.Errorf("%s: %s (original %s), want %s", c.name, h.Path, h.Get("x-envoy-original-path"), c.want)
		}
	}
}

func TestRewriteHost(t *testing.T) {
	h := head("GET", "Shop:80", "/", "x-forwarded-host: first")
	p := &Path{Table: &conf.RouteTable{}, Host: &conf.VirtualHost{}, Route: &conf.Route{Forward: &conf.Forward{HostRewrite: "new", AppendXFH: true}}}
	Rewrite(p, &Request{Head: h})
	if string(h.Authority) != "new" || string(h.Get("x-forwarded-host")) != "first,Shop:80" || string(h.Get("x-envoy-original-host")) != "Shop:80" {
		t.Errorf("%s %s", h.Authority, h.Fields)
	}
	f := &conf.Forward{AutoHost: true}
	AutoHost(f, h, "pod-1")
	if string(h.Authority) != "pod-1" {
		t.Errorf("%s", h.Authority)
	}
	if AutoHost(f, h, ""); string(h.Authority) != "pod-1" {
		t.Errorf("%s", h.Authority)
	}
}

func TestEdit(t *testing.T) {
	r := &Request{
		Head:   head("GET", "shop:80", "/p?q", "x-user: ann", "drop: me", "keep: 1"),
		Source: netip.MustParseAddrPort("10.0.0.9:99"), Remote: netip.MustParseAddrPort("[fd00::7]:1234"),
		Local: netip.MustParseAddrPort("127.0.0.1:80"), SNI: "sni", Start: time.Unix(0, 123e6),
	}
	e := &conf.HeaderEdit{
		Remove: []string{"drop", "keep"},
		Set:    []conf.Header{{Name: "a", Value: "1"}, {Name: "who", Value: "%REQ(X-User)%/%REQ(none?:path)%", Dynamic: true}},
		Add: []conf.Header{{Name: "a", Value: "2"}, {Name: "empty", Value: "%REQ(none)%", Dynamic: true}, {Name: "pct", Value: "5%%", Dynamic: true},
			{Name: "r", Value: "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_PORT% %PROTOCOL% %REQUESTED_SERVER_NAME%", Dynamic: true},
			{Name: "t", Value: "%START_TIME% %START_TIME(%s.%3f)% %REQ(:METHOD):1%", Dynamic: true}},
		AddIfAbsent: []conf.Header{{Name: "x-user", Value: "no"}, {Name: "new", Value: "yes"}},
	}
	Edit(r.Head, e, r)
	var b bytes.Buffer
	for _, f := range r.Head.Fields {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	want := `x-user: ann
a: 1
who: ann//p?q
a: 2
pct: 5%
r: [fd00::7]:1234 fd00::7 10.0.0.9:99 80 HTTP/1.1 sni
t: 1970-01-01T00:00:00.123Z 0.123 G
new: yes
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestEditOrder(t *testing.T) {
	set := func(v string) conf.HeaderEdit { return conf.HeaderEdit{Add: []conf.Header{{Name: "x", Value: v}}} }
	p := &Path{
		Table: &conf.RouteTable{Request: set("table"), Response: set("table")}, Host: &conf.VirtualHost{Request: set("host"), Response: set("host")},
		Route:   &conf.Route{Request: set("route"), Response: set("route"), Forward: &conf.Forward{}},
		Cluster: &conf.WeightedCluster{Request: set("cluster"), Response: set("cluster")},
	}
	r := &Request{Head: head("GET", "a", "/")}
	Rewrite(p, r)
	res := &stream.Head{}
	EditResponse(p, res, r)
	if s := string(r.Head.Joined("x")); s != "cluster,route,host,table" || s != string(res.Joined("x")) {
		t.Errorf("%s and %s", s, res.Joined("x"))
	}
}

func TestLocation(t *testing.T) {
	for _, c := range []struct {
		d                       conf.Redirect
		scheme, authority, path string
		want                    string
	}{
		{conf.Redirect{HTTPS: true}, "http", "a.com", "/x?q=1", "https://a.com/x?q=1"},
		{conf.Redirect{HTTPS: true}, "http", "a.com:80", "/", "https://a.com/"},
		{conf.Redirect{HTTPS: true}, "http", "a.com:8080", "/", "https://a.com:8080/"},
		{conf.Redirect{Scheme: "http"}, "https", "a.com:443", "/", "http://a.com/"},
		{conf.Redirect{Scheme: "http"}, "http", "a.com:80", "/", "http://a.com:80/"},
		{conf.Redirect{Port: 8443, HTTPS: true}, "http", "a.com:80", "/", "https://a.com:8443/"},
		{conf.Redirect{Port: 8443}, "http", "[fd00::1]:80", "/", "http://[fd00::1]:8443/"},
		{conf.Redirect{HTTPS: true}, "http", "[fd00::1]:80", "/", "https://[fd00::1]/"},
		{conf.Redirect{Port: 81}, "http", "[fd00::1]", "/", "http://[fd00::1]:81/"},
		{conf.Redirect{Host: "b.com"}, "http", "a.com:8080", "/x", "http://b.com/x"},
		{conf.Redirect{Path: "/new"}, "http", "a.com", "/x?q=1", "http://a.com/new?q=1"},
		{conf.Redirect{Path: "/new?own=1"}, "http", "a.com", "/x?q=1", "http://a.com/new?own=1"},
		{conf.Redirect{Path: "/new", StripQuery: true}, "http", "a.com", "/x?q=1", "http://a.com/new"},
		{conf.Redirect{Path: "/new?own=1", StripQuery: true}, "http", "a.com", "/x?q=1", "http://a.com/new?own=1"},
		{conf.Redirect{PrefixRewrite: "/y", HasPrefixRewrite: true}, "http", "a.com", "/x/z?q=1", "http://a.com/y/z?q=1"},
	} {
		h := head("GET", c.authority, c.path)
		h.Scheme = []byte(c.scheme)
		p := &Path{Route: &conf.Route{Match: conf.Match{Path: "/x"}, Redirect: &c.d}}
		if c.path == "/" {
			p.Route.Match.Path = "/"
		}
		if got := string(Location([]byte("> "), p, h)); got != "> "+c.want {
			t.Errorf("%+v of %s: %s, want %s", c.d, c.path, got, c.want)
		}
	}
	h := head("GET", "a.com:80", "/x?y")
	if v := (&conf.VirtualHost{RequireTLS: true}); !NeedsTLS(v, h) || string(TLSLocation(nil, h)) != "https://a.com:80/x?y" {
		t.Error("require_tls")
	}
	if h.AddString("x-forwarded-proto", "https"); NeedsTLS(&conf.VirtualHost{RequireTLS: true}, h) {
		t.Error("require_tls of a request that was https at the edge")
	}
}

func TestStripPort(t *testing.T) {
	for _, c := range []struct {
		method, authority string
		mode              conf.StripPort
		want              string
	}{
		{"GET", "a:80", conf.StripMatching, "a"}, {"GET", "a:81", conf.StripMatching, "a:81"}, {"GET", "a:81", conf.StripAny, "a"},
		{"GET", "[::1]:80", conf.StripAny, "[::1]"}, {"GET", "[::1]", conf.StripAny, "[::1]"}, {"CONNECT", "a:80", conf.StripAny, "a:80"},
		{"GET", "a:x", conf.StripAny, "a:x"}, {"GET", "a:80", conf.KeepPort, "a:80"},
	} {
		h := head(c.method, c.authority, "/")
		if StripPort(h, c.mode, 80); string(h.Authority) != c.want {
			t.Errorf("%s: %s, want %s", c.authority, h.Authority, c.want)
		}
	}
}
