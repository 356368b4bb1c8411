package cors

import (
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

func head(method string, fields ...string) *stream.Head {
	h := &stream.Head{Method: []byte(method)}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, ": ")
		h.AddString(k, v)
	}
	return h
}

func dump(h *stream.Head) string {
	var b strings.Builder
	for _, f := range h.Fields {
		b.WriteString(string(f.Name) + "=" + string(f.Value) + ";")
	}
	return b.String()
}

func TestAllowed(t *testing.T) {
	p := &conf.CORS{Origins: []conf.StringMatch{{Value: "https://a.com"}, {Kind: conf.StrPrefix, Value: "https://b."},
		{Kind: conf.StrRegex, Regex: regexp.MustCompile(`\A(?:https://c[0-9]\.com)\z`)}}}
	for origin, want := range map[string]bool{"https://a.com": true, "https://a.com.evil": false, "https://b.org": true, "https://c1.com": true, "https://c12.com": false, "": false} {
		if got := Allowed(p, head("GET", "origin: "+origin)); got != want {
			t.Errorf("%s: %v", origin, got)
		}
	}
	if Allowed(p, head("GET")) || Allowed(nil, head("GET", "origin: https://a.com")) {
		t.Error("no origin or no policy")
	}
	if !Allowed(&conf.CORS{Origins: []conf.StringMatch{{Value: "*"}}}, head("GET", "origin: https://x")) {
		t.Error("any origin")
	}
}

func TestPreflight(t *testing.T) {
	for _, c := range []struct {
		h    *stream.Head
		want bool
	}{
		{head("OPTIONS", "origin: a", "access-control-request-method: PUT"), true},
		{head("OPTIONS", "origin: a"), false},
		{head("OPTIONS", "access-control-request-method: PUT"), false},
		{head("GET", "origin: a", "access-control-request-method: PUT"), false},
	} {
		if Preflight(c.h) != c.want {
			t.Errorf("%s %s", c.h.Method, dump(c.h))
		}
	}
}

func TestHeaders(t *testing.T) {
	p := &conf.CORS{Methods: "GET,PUT", Headers: "x-a", Expose: "x-b", MaxAge: "600", Credentials: true}
	req := head("OPTIONS", "origin: https://a.com")
	resp := &stream.Head{}
	Answer(p, req, resp, true)
	want := "access-control-allow-origin=https://a.com;access-control-allow-credentials=true;access-control-allow-methods=GET,PUT;access-control-allow-headers=x-a;access-control-max-age=600;"
	if got := dump(resp); got != want {
		t.Errorf("preflight: %s", got)
	}
	resp = head("", "access-control-allow-origin: *", "x: y")
	Decorate(p, req, resp)
	if got := dump(resp); got != "access-control-allow-origin=https://a.com;x=y;access-control-allow-credentials=true;access-control-expose-headers=x-b;" {
		t.Errorf("actual: %s", got)
	}
	resp = &stream.Head{}
	if Answer(&conf.CORS{}, req, resp, true); dump(resp) != "access-control-allow-origin=https://a.com;" {
		t.Errorf("bare: %s", dump(resp))
	}
}
