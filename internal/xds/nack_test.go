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
