package xds

import (
	"fmt"
	"slices"
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
	if a.Find("t", "y") != b.Find("t", "y") || a.Find("t", "x") == b.Find("t", "x") {
		t.Error("what is equal is not shared, or what differs is")
	}
	if a.Same(b) || !a.Same(a) || a.Same(nil) || !b.Same(NewSet("3", b, []Resource{{Type: "t", Name: "x", Body: []byte("2")}, {Type: "t", Name: "y", Body: []byte("1")}, {Type: "u", Name: "x", Body: []byte("1")}})) {
		t.Error("Same")
	}
}

// Sets that share a catalog behave as if each had all of it, and know what is
// new without comparing all of it.
func TestSetWithCatalog(t *testing.T) {
	res := func(name, body string) Resource { return Resource{Type: "t", Name: name, Body: []byte(body)} }
	ref := func(name, body string) *Resource { return NewResource("t", name, []byte(body)) }
	other := &Resource{Type: "u", Name: "x", Version: "1"}
	base := (*Catalog)(nil).Change([]*Resource{ref("b", "1"), ref("d", "1"), ref("f", "1"), other}, nil)
	own := base.With("1", nil, []Resource{res("a", "1"), res("d", "2"), res("e", "1")})
	if d := cmp.Diff([]string{"a", "b", "d", "e", "f"}, own.Names("t")); d != "" {
		t.Error(d)
	}
	if string(own.Find("t", "d").Body) != "2" || own.Find("t", "b") != base.Find("t", "b") || own.Find("t", "c") != nil {
		t.Error("what is found")
	}
	if base.Change([]*Resource{ref("b", "1")}, []Key{{"t", "none"}}) != base {
		t.Error("nothing changed, and the catalog is another")
	}
	next := base.Change([]*Resource{ref("b", "2"), ref("d", "9"), ref("g", "1")}, []Key{{"t", "f"}}).Change([]*Resource{ref("h", "1")}, nil)
	later := next.With("2", own, []Resource{res("a", "1"), res("d", "2"), res("e", "3")})
	names, ok := later.since(own, "t")
	slices.Sort(names)
	if d := cmp.Diff([]string{"b", "e", "f", "g", "h"}, names); !ok || d != "" {
		t.Error(ok, d)
	}
	if names, ok := later.since(own, "u"); !ok || len(names) > 0 {
		t.Error("another type has news", names)
	}
	for range longestLog {
		next = next.Change([]*Resource{ref("b", fmt.Sprint(next.serial))}, nil)
	}
	if _, ok := next.With("3", nil, nil).since(own, "t"); ok {
		t.Error("the log reaches back for ever")
	}
	flat := NewSet("4", nil, []Resource{res("a", "1"), res("b", "2"), res("d", "2"), res("e", "3"), res("g", "1"), res("h", "1"), {Type: "u", Name: "x", Version: "1"}})
	if !flat.Same(later) || !later.Same(flat) || flat.Same(own) {
		t.Error("the same resources, put together otherwise, are not the same")
	}
}

// A refusal that comes after the next response is told, and the resource is not
// sent again unless it changes.
func TestLateRefusalIsTold(t *testing.T) {
	s := newSubscription(ClusterType, true)
	s.subscribe(nil, nil, true)
	set := NewSet("1", nil, []Resource{{Type: ClusterType, Name: "a", Body: []byte("1")}, {Type: ClusterType, Name: "b", Body: []byte("1")}})
	s.next(set, true)
	s.last = "1"
	set = NewSet("2", set, []Resource{{Type: ClusterType, Name: "a", Body: []byte("1")}, {Type: ClusterType, Name: "b", Body: []byte("2")}})
	s.all = true
	if r := s.next(set, true); r == nil || len(r.resources) != 1 || r.resources[0].Name != "b" {
		t.Fatalf("got %+v", r)
	}
	s.last = "2"
	a, _ := set.Find(ClusterType, "a"), s.late("0", "x")
	if got := s.late("1", "a: no\nb: neither"); !slices.Equal(got, []Rejection{{ClusterType, "a", a.Version, "no"}, {ClusterType, "b", Hash([]byte("1")), "neither"}}) {
		t.Errorf("got %+v", got)
	}
	if got := s.late("1", "again"); got != nil {
		t.Errorf("told twice: %+v", got)
	}
	s.accept()
	s.all = true
	if r := s.next(set, true); r != nil {
		t.Errorf("sent again: %+v", r)
	}
	set = NewSet("3", set, []Resource{{Type: ClusterType, Name: "a", Body: []byte("2")}, {Type: ClusterType, Name: "b", Body: []byte("2")}})
	s.all = true
	if r := s.next(set, true); r == nil || len(r.resources) != 1 || r.resources[0].Name != "a" {
		t.Errorf("got %+v", r)
	}
}
