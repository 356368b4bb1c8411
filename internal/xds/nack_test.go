package xds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlame(t *testing.T) {
	names := []string{"0.0.0.0_80", "0.0.0.0_8080", "outbound|80||a.b", "80", "8080", "virtualInbound"}
	for _, c := range []struct {
		text string
		want map[string]string
	}{
		{"", nil},
		{"nothing that anyone knows", nil},
		{"Error adding/updating listener(s) 0.0.0.0_8080: cannot bind '0.0.0.0:8080': in use, virtualInbound: bad chain\n",
			map[string]string{"0.0.0.0_8080": "cannot bind '0.0.0.0:8080': in use", "virtualInbound": "bad chain"}},
		{"outbound|80||a.b: connect_timeout: must be positive\n80: virtual_hosts[0].domains: empty",
			map[string]string{"outbound|80||a.b": "connect_timeout: must be positive", "80": "virtual_hosts[0].domains: empty"}},
		{"could not bind port 80: in use", nil}, // a number in passing is no name
		{`route "8080" has no domains`, map[string]string{"8080": "has no domains"}},
		{"outbound|80||a.b.c: no such name here", nil},
		{"x0.0.0.0_80: no such name here", nil},
		{"virtualInbound", map[string]string{"virtualInbound": "virtualInbound"}},
	} {
		if d := cmp.Diff(c.want, blame(c.text, names)); d != "" {
			t.Errorf("%q (-want +got):\n%s", c.text, d)
		}
	}
}

func TestNewSetShares(t *testing.T) {
	a := NewSet("1", nil, []Resource{{Type: "t", Name: "x", Body: []byte("1")}, {Type: "t", Name: "y", Body: []byte("1")}, {Type: "u", Name: "x", Body: []byte("1")}})
	b := NewSet("2", a, []Resource{{Type: "t", Name: "x", Body: []byte("2")}, {Type: "t", Name: "y", Body: []byte("1")}, {Type: "u", Name: "x", Body: []byte("1")}})
	if a.Find("t", "y") != b.Find("t", "y") || a.of("u") != b.of("u") || a.of("t") == b.of("t") {
		t.Error("what is equal is not shared, or what differs is")
	}
	if a.Same(b) || !a.Same(a) || a.Same(nil) || !b.Same(NewSet("3", b, []Resource{{Type: "t", Name: "x", Body: []byte("2")}, {Type: "t", Name: "y", Body: []byte("1")}, {Type: "u", Name: "x", Body: []byte("1")}})) {
		t.Error("Same")
	}
}

// Sets that share a base behave as if each had all of it.
func TestSetWithBase(t *testing.T) {
	res := func(name, body string) Resource { return Resource{Type: "t", Name: name, Body: []byte(body)} }
	base := NewSet("1", nil, []Resource{res("b", "1"), res("d", "1"), {Type: "u", Name: "x", Body: []byte("1")}})
	own := base.With("1", nil, []Resource{res("a", "1"), res("d", "2"), res("e", "1")})
	if d := cmp.Diff([]string{"a", "b", "d", "e"}, own.Names("t")); d != "" {
		t.Error(d)
	}
	if string(own.Find("t", "d").Body) != "2" || own.Find("t", "b") != base.Find("t", "b") || own.of("u") != base.of("u") || own.Find("t", "c") != nil {
		t.Error("what is found")
	}
	next := NewSet("2", base, []Resource{res("b", "1"), res("d", "1"), {Type: "u", Name: "x", Body: []byte("2")}})
	later := next.With("2", own, []Resource{res("a", "1"), res("d", "2"), res("e", "1")})
	if later.of("t") != own.of("t") || later.of("u") == own.of("u") || later.Same(own) {
		t.Error("what is equal is not shared, or what differs is")
	}
	if x := next.With("3", later, []Resource{res("a", "1"), res("d", "2"), res("e", "2")}); x.Same(later) || x.Find("t", "e").Version == later.Find("t", "e").Version {
		t.Error("a change of its own is not seen")
	}
	flat := NewSet("4", nil, []Resource{res("a", "1"), res("b", "1"), res("d", "2"), res("e", "1"), {Type: "u", Name: "x", Body: []byte("2")}})
	if !flat.Same(later) || !later.Same(flat) {
		t.Error("the same resources, put together otherwise, are not the same")
	}
}
