package ratelimit

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

func request(fields ...string) *Input {
	h := &stream.Head{Method: []byte("GET"), Path: []byte("/a?b"), Authority: []byte("h")}
	for i := 0; i < len(fields); i += 2 {
		h.AddString(fields[i], fields[i+1])
	}
	return &Input{Head: h, Remote: netip.MustParseAddr("10.0.0.1")}
}

// TestBucket: what is there goes at once, and comes back steadily, not in leaps.
func TestBucket(t *testing.T) {
	const second = int64(time.Second)
	c := &conf.RateLimit{Whole: &conf.Bucket{Size: 3, Fill: 2, Interval: time.Second}}
	l := New(c)
	now := 100 * second
	for i, want := range []struct {
		after int64
		v     Verdict
	}{
		{0, Verdict{Allowed: true, Left: 2}},
		{0, Verdict{Allowed: true, Left: 1}},
		{0, Verdict{Allowed: true}},
		{0, Verdict{}},
		{second/2 - 1, Verdict{}},
		{1, Verdict{Allowed: true}},
		{second / 2, Verdict{Allowed: true}},
		{3600 * second, Verdict{Allowed: true, Left: 2}}, // full, not more
	} {
		now += want.after
		want.v.By = c.Whole
		if got := l.Take(c, request(), now); got != want.v {
			t.Errorf("step %d: %+v, want %+v", i, got, want.v)
		}
	}
	slow := &conf.RateLimit{Whole: &conf.Bucket{Size: 1, Fill: 1, Interval: 90 * time.Second}}
	l = New(slow)
	l.Take(slow, request(), now)
	if v := l.Take(slow, request(), now+second/2); v.Allowed || v.Wait != 89 {
		t.Errorf("%+v", v)
	}
}

// TestDescriptors: a value of its own has a bucket of its own, exact entries come
// before free ones, and the slowest bucket refuses first.
func TestDescriptors(t *testing.T) {
	bucket := func(n uint32) conf.Bucket { return conf.Bucket{Size: n, Fill: n, Interval: time.Hour} }
	c := &conf.RateLimit{
		MaxValues: 100,
		Descriptors: []conf.RateDescriptor{
			{Entries: []conf.RateEntry{{Key: "user"}}, Bucket: bucket(1)},
			{Entries: []conf.RateEntry{{Key: "user", Value: "vip"}}, Bucket: bucket(3)},
			{Entries: []conf.RateEntry{{Key: "post", Value: "yes"}, {Key: "path"}}, Bucket: bucket(2)},
		},
		Rules: []conf.RateRule{
			{Actions: []conf.RateAction{{Kind: conf.RateHeader, Key: "user", Header: "x-user"}}},
			{Actions: []conf.RateAction{
				{Kind: conf.RateMatch, Key: "post", Value: []byte("yes"), Match: []conf.HeaderMatch{{Name: ":method", StringMatch: conf.StringMatch{Kind: conf.StrExact, Value: "POST"}}}},
				{Kind: conf.RatePath, Key: "path"},
			}},
		},
	}
	l := New(c)
	ask := func(in *Input) string {
		v := l.Take(c, in, 1)
		if v.By == nil {
			return fmt.Sprint(v.Allowed, " free")
		}
		return fmt.Sprint(v.Allowed, " ", v.By.Size, " ", v.Left)
	}
	post := request("x-user", "ann")
	post.Head.Method, post.Head.Path = []byte("POST"), []byte("/x?1")
	for i, x := range []struct {
		in   *Input
		want string
	}{
		{request(), "true free"},
		{request("x-user", "ann"), "true 1 0"},
		{request("x-user", "ann"), "false 1 0"},
		{request("x-user", "bob"), "true 1 0"},
		{request("x-user", "vip"), "true 3 2"},
		{request("x-user", "vip"), "true 3 1"},
		{post, "false 1 0"}, // ann's own bucket, before that of the path loses one
	} {
		if got := ask(x.in); got != x.want {
			t.Errorf("request %d: %s, want %s", i, got, x.want)
		}
	}
	post.Head = request().Head
	post.Head.Method = []byte("POST")
	for _, want := range []string{"true 2 1", "true 2 0", "false 2 0"} {
		if got := ask(post); got != want {
			t.Errorf("the path's: %s, want %s", got, want)
		}
	}
}

// TestBounded: many values do not make the table grow, and a value that comes
// all the time keeps its bucket.
func TestBounded(t *testing.T) {
	tab := newTable(&conf.Bucket{Size: 1, Fill: 1, Interval: time.Hour}, 100)
	first := tab.get([]byte("steady"))
	for i := range 10_000 {
		tab.get(fmt.Appendf(nil, "%d", i))
		if tab.get([]byte("steady")) != first {
			t.Fatalf("after %d values the steady one has another bucket", i)
		}
	}
	n := 0
	g := tab.gen.Load()
	for _, m := range []*sync.Map{g.now, g.old} {
		m.Range(func(any, any) bool { n++; return true })
	}
	if n > 101 {
		t.Errorf("%d values are kept", n)
	}
}

// TestTogether: however many take at once, the bucket gives what it has.
func TestTogether(t *testing.T) {
	c := &conf.RateLimit{Whole: &conf.Bucket{Size: 1000, Fill: 1, Interval: time.Hour}}
	l := New(c)
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			in := request()
			for range 1000 {
				if l.Take(c, in, 5).Allowed {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 1000 {
		t.Errorf("%d of 1000", got.Load())
	}
}

// TestRegistry: a limit that stays as it was keeps its buckets, and what is gone
// is forgotten.
func TestRegistry(t *testing.T) {
	var r Registry
	if r.Get("a") != nil {
		t.Error("there is one")
	}
	a := &conf.RateLimit{Key: "a", Whole: &conf.Bucket{Size: 1, Fill: 1, Interval: time.Hour}}
	b := *a
	r.Use([]*conf.RateLimit{a})
	old := r.Get("a")
	r.Use([]*conf.RateLimit{&b, {Key: "c"}})
	if r.Get("a") != old || r.Get("c") == nil {
		t.Error("a limit was made anew")
	}
	r.Use(nil)
	if r.Get("a") != nil {
		t.Error("it is still there")
	}
}

// TestNothingAllocated on the way of a request that is limited as a whole.
func TestNothingAllocated(t *testing.T) {
	c := &conf.RateLimit{Whole: &conf.Bucket{Size: 1 << 30, Fill: 1, Interval: time.Hour}}
	l, in := New(c), request()
	if n := testing.AllocsPerRun(100, func() { l.Take(c, in, 7) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
