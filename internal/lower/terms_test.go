package lower

import (
	"regexp"
	"testing"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/internal/model"
)

// TestHeaderValue: a percent sign that Envoy cannot read would cost the whole
// route table.
func TestHeaderValue(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		"50%":                    "50%%",
		"%":                      "%%",
		"%%":                     "%%",
		"100%% sure":             "100%% sure",
		"%REQ(x-id)%":            "%REQ(x-id)%",
		"a%PROTOCOL%b":           "a%PROTOCOL%b",
		"%NOPE%":                 "%%NOPE%%",
		"%REQ(x":                 "%%REQ(x",
		"%START_TIME(%Y)%":       "%%START_TIME(%%Y)%%",
		"%REQ(a):10%%PROTOCOL%":  "%REQ(a):10%%PROTOCOL%",
		"x%y%z":                  "x%%y%%z",
		"%20 and %RESPONSE_CODE": "%%20 and %%RESPONSE_CODE",
	} {
		l := New(&model.View{})
		if got := l.headerValue(model.Header{Name: "h", Value: in}, model.Origin{}); got != want {
			t.Errorf("headerValue(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPathTemplate(t *testing.T) {
	for _, c := range []struct {
		template, path string
		want           bool
	}{
		{"/a/{*}/b", "/a/x/b", true},
		{"/a/{*}/b", "/a//b", false},
		{"/a/{*}/b", "/a/x/y/b", false},
		{"/a/{**}", "/a/x/y", true},
		{"/a/{**}", "/a/", true},
		{"/a/{**}/z", "/a/x/y/z", true},
		{"/a.b/{*}", "/aXb/c", false},
		{"/{id}/{*}", "/{id}/c", true},
		{"/{*}", "/a", true},
	} {
		re, ok := pathTemplate(c.template)
		if !ok {
			t.Errorf("%s is no template", c.template)
			continue
		}
		if got := regexp.MustCompile("^(?:" + re + ")$").MatchString(c.path); got != c.want {
			t.Errorf("%s on %s: %v, want %v", c.template, c.path, got, c.want)
		}
	}
	if _, ok := pathTemplate("/plain/{id}"); ok {
		t.Error("/plain/{id} has no template operator")
	}
}

// FuzzTerms: whatever users write, lowering neither panics nor loops.
func FuzzTerms(f *testing.F) {
	f.Add("a/{*}/%REQ(x)%*")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			t.Skip("objects come as JSON, which has only UTF-8")
		}
		l := New(&model.View{})
		l.headerValue(model.Header{Name: "h", Value: s}, model.Origin{})
		if re, ok := pathTemplate(s); ok {
			regexp.MustCompile(re)
		}
		b := rbacRule{l: l, p: &model.AuthzPolicy{Namespace: "n"}}
		rule := model.AuthzRule{
			From: []model.AuthzSource{{Principals: []string{s}, Namespaces: []string{s}, Accounts: []string{s}, IPBlocks: []string{s}}},
			To:   []model.AuthzOperation{{Hosts: []string{s}, Ports: []string{s}, Methods: []string{s}, Paths: []string{s}}},
			When: []model.AuthzCondition{{Key: s, Values: []string{s}}, {Key: "source.ip", Values: []string{s}}},
		}
		if p, err := b.policy(&rule); err == nil && p == nil {
			t.Error("no policy and no error")
		} else if err == nil {
			encode(p)
		}
	})
}
