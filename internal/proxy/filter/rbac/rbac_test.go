package rbac

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

const frontend = "spiffe://cluster.local/ns/shop/sa/frontend"

func input() *Input {
	h := &stream.Head{Method: []byte("GET"), Path: []byte("/admin/x?q=/public"), Authority: []byte("Orders:80")}
	h.AddString("x-role", "ops")
	return &Input{Head: h, Source: netip.MustParseAddrPort("10.1.2.3:999"), Remote: netip.MustParseAddrPort("[fd00::5]:1"),
		Destination: netip.MustParseAddrPort("10.9.9.9:8080"), ServerName: "orders.shop", TLS: true, Mutual: true, Principals: []string{frontend, "frontend.shop"}}
}

func str(k conf.StringKind, v string) *conf.StringMatch {
	m := &conf.StringMatch{Kind: k, Value: v}
	if k == conf.StrRegex {
		m.Regex = regexp.MustCompile(`\A(?:` + v + `)\z`)
	}
	return m
}

func header(name string, k conf.StringKind, v string) *conf.RBACRule {
	return &conf.RBACRule{Kind: conf.RBACHeader, Header: &conf.HeaderMatch{Name: name, StringMatch: *str(k, v)}}
}

func TestRules(t *testing.T) {
	path := func(k conf.StringKind, v string) *conf.RBACRule {
		return &conf.RBACRule{Kind: conf.RBACPath, String: str(k, v)}
	}
	who := func(k conf.StringKind, v string) *conf.RBACRule {
		return &conf.RBACRule{Kind: conf.RBACPrincipal, String: str(k, v)}
	}
	ip := func(k conf.RBACKind, p string) *conf.RBACRule {
		return &conf.RBACRule{Kind: k, Prefix: netip.MustParsePrefix(p)}
	}
	not := func(r *conf.RBACRule) *conf.RBACRule {
		return &conf.RBACRule{Kind: conf.RBACNot, Children: []*conf.RBACRule{r}}
	}
	plain := func(in *Input) { in.TLS, in.Mutual, in.Principals = false, false, nil }
	l4 := func(in *Input) { in.Head = nil }
	for i, c := range []struct {
		r    *conf.RBACRule
		edit func(*Input)
		want bool
	}{
		{&conf.RBACRule{Kind: conf.RBACAny}, l4, true},
		{path(conf.StrPrefix, "/admin"), nil, true},
		{path(conf.StrExact, "/admin/x"), nil, true},
		{path(conf.StrContains, "public"), nil, false}, // the query is not path
		{path(conf.StrRegex, "/admin/."), nil, true},
		{path(conf.StrPrefix, "/admin"), l4, false},
		{not(path(conf.StrPrefix, "/admin")), l4, true},
		{header(":method", conf.StrExact, "GET"), nil, true},
		{header(":method", conf.StrExact, "GET"), l4, false},
		{header(":authority", conf.StrExact, "Orders:80"), nil, true},
		{header("x-role", conf.StrPresent, ""), nil, true},
		{header("x-none", conf.StrPresent, ""), nil, false},
		{ip(conf.RBACSourceIP, "10.1.0.0/16"), nil, true},
		{ip(conf.RBACSourceIP, "10.2.0.0/16"), nil, false},
		{ip(conf.RBACRemoteIP, "fd00::/64"), nil, true},
		{ip(conf.RBACRemoteIP, "10.0.0.0/8"), nil, false},
		{ip(conf.RBACDestIP, "10.9.9.9/32"), nil, true},
		{ip(conf.RBACSourceIP, "0.0.0.0/0"), func(in *Input) { in.Source = netip.AddrPort{} }, false},
		{ip(conf.RBACSourceIP, "10.1.0.0/16"), func(in *Input) { in.Source = netip.MustParseAddrPort("[::ffff:10.1.2.3]:1") }, true},
		{&conf.RBACRule{Kind: conf.RBACDestPort, Port: 8080}, nil, true},
		{&conf.RBACRule{Kind: conf.RBACDestPort, Port: 80}, nil, false},
		{&conf.RBACRule{Kind: conf.RBACDestPortRange, Port: 8000, PortEnd: 8080}, nil, false},
		{&conf.RBACRule{Kind: conf.RBACDestPortRange, Port: 8080, PortEnd: 8081}, nil, true},
		{&conf.RBACRule{Kind: conf.RBACDestPortRange, Port: 8080}, nil, true},
		{&conf.RBACRule{Kind: conf.RBACServerName, String: str(conf.StrSuffix, ".shop")}, nil, true},
		{who(conf.StrExact, frontend), nil, true},
		{who(conf.StrExact, "frontend.shop"), nil, true},
		{who(conf.StrPrefix, "spiffe://other/"), nil, false},
		{who(conf.StrRegex, ".*"), plain, false},
		{not(who(conf.StrExact, frontend)), plain, true},
		{&conf.RBACRule{Kind: conf.RBACPrincipal}, nil, true},
		{&conf.RBACRule{Kind: conf.RBACPrincipal}, func(in *Input) { in.Mutual = false }, false},
		{who(conf.StrExact, frontend), func(in *Input) { in.Mutual = false }, false},
		{&conf.RBACRule{Kind: conf.RBACMetadata, Path: []string{"jwt", "iss"}, String: str(conf.StrExact, "me")}, nil, false},
		{&conf.RBACRule{Kind: conf.RBACMetadata, Path: []string{"jwt", "iss"}, String: str(conf.StrExact, "me"), Invert: true}, nil, true},
		{&conf.RBACRule{Kind: conf.RBACMetadata, Path: []string{"jwt"}, String: str(conf.StrExact, "me")},
			func(in *Input) { in.Metadata = func([]string) ([]byte, bool) { return []byte("me"), true } }, true},
		{&conf.RBACRule{Kind: conf.RBACAnd, Children: []*conf.RBACRule{path(conf.StrPrefix, "/admin"), header(":method", conf.StrExact, "POST")}}, nil, false},
		{&conf.RBACRule{Kind: conf.RBACOr, Children: []*conf.RBACRule{path(conf.StrPrefix, "/no"), header(":method", conf.StrExact, "GET")}}, nil, true},
	} {
		in := input()
		if c.edit != nil {
			c.edit(in)
		}
		if got := matches(c.r, in); got != c.want {
			t.Errorf("%d: %s: %v, want %v", i, words(c.r), got, c.want)
		}
	}
}

func policies(action conf.RBACAction, ps ...conf.RBACPolicy) *conf.RBAC {
	return &conf.RBAC{Action: action, Policies: ps}
}

func policy(name string, permission *conf.RBACRule) conf.RBACPolicy {
	return conf.RBACPolicy{Name: name, Permissions: []*conf.RBACRule{permission}, Principals: []*conf.RBACRule{{Kind: conf.RBACAny}}}
}

func TestActions(t *testing.T) {
	yes, no := &conf.RBACRule{Kind: conf.RBACAny}, header("x-none", conf.StrPresent, "")
	for i, c := range []struct {
		r    *conf.RBAC
		want bool
		name string
	}{
		{nil, true, ""},
		{policies(conf.RBACAllow), false, ""},
		{policies(conf.RBACDeny), true, ""},
		{policies(conf.RBACLog), true, ""},
		{policies(conf.RBACAllow, policy("a", no), policy("b", yes), policy("c", yes)), true, "b"},
		{policies(conf.RBACAllow, policy("a", no)), false, ""},
		{policies(conf.RBACDeny, policy("a", no), policy("b", yes)), false, "b"},
		{policies(conf.RBACDeny, policy("a", no)), true, ""},
		{policies(conf.RBACLog, policy("a", yes)), true, "a"},
		{&conf.RBAC{Action: conf.RBACLog, Shadow: policies(conf.RBACDeny, policy("s", yes))}, true, ""},
	} {
		var w why.Why
		got, name := Eval(c.r, input(), &w)
		if got != c.want || name != c.name {
			t.Errorf("%d: %v by %q, want %v by %q", i, got, name, c.want, c.name)
		}
		if again, _ := Eval(c.r, input(), nil); again != got {
			t.Errorf("%d: with and without why differ", i)
		}
	}
	if ok, name := Shadow(&conf.RBAC{Shadow: policies(conf.RBACDeny, policy("s", yes))}, input(), nil); ok || name != "s" {
		t.Errorf("shadow: %v %s", ok, name)
	}
}

func TestPanicDenies(t *testing.T) {
	for _, action := range []conf.RBACAction{conf.RBACAllow, conf.RBACDeny, conf.RBACLog} {
		for _, r := range []*conf.RBACRule{{Kind: 99}, {Kind: conf.RBACNot}, {Kind: conf.RBACPath}, nil} {
			if ok, _ := Eval(policies(action, policy("a", r)), input(), nil); ok {
				t.Errorf("action %d, rule %v: a panic allowed", action, r)
			}
		}
	}
}

func TestDenialSaysWhy(t *testing.T) {
	p := policy("authorizationpolicy/shop/orders#spec.rules[0]", &conf.RBACRule{Kind: conf.RBACAny})
	p.Principals = []*conf.RBACRule{{Kind: conf.RBACPrincipal, String: str(conf.StrExact, "spiffe://cluster.local/ns/shop/sa/other")}}
	var w why.Why
	if ok, _ := Eval(policies(conf.RBACAllow, p), input(), &w); ok {
		t.Fatal("allowed")
	}
	if s := w.Steps[0]; s.Origin != p.Name || !strings.Contains(s.Text, "sa/other") || !strings.Contains(s.Text, frontend) {
		t.Errorf("%+v", s)
	}
	if s := w.Steps[1]; s.Verdict != "denied" || !strings.Contains(s.Text, p.Name) {
		t.Errorf("%+v", s)
	}
}

func TestAllocates(t *testing.T) {
	in := input()
	r := policies(conf.RBACAllow, policy("a", &conf.RBACRule{Kind: conf.RBACPath, String: str(conf.StrExact, "/no")}), policy("b", &conf.RBACRule{Kind: conf.RBACPrincipal, String: str(conf.StrExact, frontend)}))
	if n := testing.AllocsPerRun(100, func() { Eval(r, in, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
