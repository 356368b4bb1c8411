package exchange

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/overload"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// retrying has the route try again so often, at once, under the conditions.
func retrying(on conf.RetryOn, n int) func(*rig) {
	return func(r *rig) {
		r.route.Forward.Retry = &conf.Retry{On: on, Attempts: n, BackoffBase: 1, BackoffMax: 1}
	}
}

// TestForward: heads, bodies and trailers go both ways as they come.
func TestForward(t *testing.T) {
	r := newRig(t, nil)
	r.do(func() {
		c := r.request("POST", false, nil)
		c.OnData([]byte("one"), false)
		c.OnData([]byte("two"), false)
		c.OnTrailers(trailers("asked"))
		u := r.ups[0]
		r.said("the endpoint", &u.spoken, "POST /a #1", "one", "two", "trailers asked end")
		u.OnHead(&stream.Head{Status: 103}, false)
		u.answer(200, false)
		u.OnData([]byte("three"), false)
		u.OnTrailers(trailers("told"))
		r.said("the client", &c.spoken, "103", "200", "three", "trailers told end")
		r.finished("200 - via_upstream")
	})
}

// TestWaits: what comes before there is a stream is kept, and the client is made
// to wait when it is much; an endpoint or a client that takes no more stops the
// other side.
func TestWaits(t *testing.T) {
	r := newRig(t, nil)
	r.do(func() {
		r.refer = []string{"wait"}
		c := r.request("POST", false, nil)
		c.OnData([]byte("early"), false)
		many := strings.Repeat("x", waitLimit)
		c.OnData([]byte(many), false)
		if c.said[len(c.said)-1] != "pause true" {
			t.Error("the client may send without end to nobody")
		}
		u := r.ups[0]
		r.ready(u)
		if body := strings.Join(u.said[1:], ""); u.said[0] != "POST /a #1" || body != "early"+many {
			t.Errorf("the endpoint is sent %q and a body of %d bytes", u.said[0], len(body))
		}
		u.blocked = true
		c.OnData([]byte("a"), false)
		u.blocked = false
		u.OnWritable()
		c.OnData(nil, true)
		u.answer(200, false)
		c.blocked = true
		u.OnData([]byte("b"), false)
		c.blocked = false
		c.OnWritable()
		u.OnData([]byte("c"), true)
		want := []string{"pause true", "pause false", "pause true", "pause false", "200", "b", "c end"}
		if strings.Join(c.said, ",") != strings.Join(want, ",") {
			t.Errorf("the client is told %q, want %q", c.said, want)
		}
		if at := strings.Join(u.said[len(u.said)-2:], ","); at != "pause true,pause false" {
			t.Errorf("the endpoint is told %q at last", at)
		}
		r.finished("200 - via_upstream")
	})
}

// TestRetry: a request is sent again, whole, until an answer stands or the
// policy is used up.
func TestRetry(t *testing.T) {
	r := newRig(t, retrying(conf.On5xx, 2))
	var c *client
	r.do(func() {
		c = r.request("POST", false, nil)
		c.OnData([]byte("body"), true)
		r.ups[0].answer(503, true)
	})
	r.until("the second attempt", func() bool { return len(r.ups) == 2 })
	r.do(func() { r.ups[1].OnReset(stream.ConnectionLost, "") })
	r.until("the third attempt", func() bool { return len(r.ups) == 3 })
	r.do(func() {
		r.ups[2].answer(200, true)
		r.said("the first", &r.ups[0].spoken, "POST /a #1", "body end", "reset")
		r.said("the second", &r.ups[1].spoken, "POST /a #2", "body end")
		r.said("the third", &r.ups[2].spoken, "POST /a #3", "body end", "reset") // it has ended: nothing to a codec
		r.said("the client", &c.spoken, "200 end")
		r.finished("200 - via_upstream")
		r.done = nil
		c = r.request("GET", true, nil)
	})
	for i := range 3 {
		r.until("an attempt", func() bool { return len(r.ups) == 4+i })
		r.do(func() { r.ups[3+i].answer(503, true) })
	}
	r.do(func() {
		r.said("the client", &c.spoken, "503 end")
		r.finished("503 URX via_upstream")
	})
}

// TestNoRetry: what may not be sent again is not.
func TestNoRetry(t *testing.T) {
	for name, x := range map[string]struct {
		on   conf.RetryOn
		play func(r *rig, c *client)
		says []string
		log  string
	}{
		"another status": {conf.OnConnectFailure | conf.OnReset, func(r *rig, c *client) { r.ups[0].answer(503, true) }, []string{"503 end"}, "503 - via_upstream"},
		"the endpoint may have seen it": {conf.OnConnectFailure | conf.OnRefusedStream, func(r *rig, c *client) { r.ups[0].OnReset(stream.ConnectionLost, "") },
			[]string{"503", "upstream connect error or disconnect/reset before headers. reset reason: connection termination end"}, "503 UC upstream_reset_before_response_started{connection_termination}"},
		"an answer has begun": {conf.On5xx | conf.OnReset, func(r *rig, c *client) {
			r.ups[0].answer(200, false)
			r.ups[0].OnData([]byte("half"), false)
			r.ups[0].OnReset(stream.ConnectionLost, "")
		}, []string{"200", "half", "reset"}, "200 UC upstream_reset_after_response_started{connection_termination}"},
		"the body is too large to keep": {conf.On5xx, func(r *rig, c *client) {
			c.OnData([]byte(strings.Repeat("x", 1<<20)), false)
			c.OnData([]byte("more"), true)
			r.ups[0].answer(503, true)
		}, []string{"503 end"}, "503 - via_upstream"},
		"no policy": {0, func(r *rig, c *client) { r.ups[0].OnReset(stream.Refused, "") },
			[]string{"503", "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset end"}, "503 UR upstream_reset_before_response_started{remote_refused_stream_reset}"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) {
				if x.on != 0 {
					retrying(x.on, 2)(r)
				}
			})
			r.do(func() {
				c := r.request("POST", false, nil)
				if name != "the body is too large to keep" {
					c.OnData([]byte("body"), true)
				}
				x.play(r, c)
				r.said("the client", &c.spoken, x.says...)
				r.finished(x.log)
			})
			if len(r.ups) != 1 {
				t.Errorf("%d attempts", len(r.ups))
			}
		})
	}
}

// TestConnectFailure: an endpoint that cannot be reached has seen nothing.
func TestConnectFailure(t *testing.T) {
	r := newRig(t, func(r *rig) {
		retrying(conf.OnConnectFailure, 3)(r)
		r.route.Forward.Retry.AvoidPrevious, r.route.Forward.Retry.PickAttempts = true, 10
		r.refer = []string{"refused"}
	})
	var c *client
	r.do(func() { c = r.request("GET", true, nil) })
	r.until("the second attempt", func() bool { return len(r.ups) == 2 })
	r.do(func() {
		if r.ups[0].at == r.ups[1].at {
			t.Errorf("%s twice, though another is there", r.ups[0].at)
		}
		r.ups[1].answer(200, true)
		r.said("the client", &c.spoken, "200 end")
		r.finished("200 - via_upstream")
	})
}

// TestPerTryTimeout: each attempt has its time; the last one's end is the answer.
func TestPerTryTimeout(t *testing.T) {
	r := newRig(t, func(r *rig) {
		retrying(conf.On5xx, 1)(r)
		r.route.Forward.Retry.PerTryTimeout = time.Millisecond
	})
	var c *client
	r.do(func() { c = r.request("GET", true, nil) })
	r.until("the end", func() bool { return len(r.done) == 1 })
	r.do(func() {
		if len(r.ups) != 2 {
			t.Fatalf("%d attempts, want 2", len(r.ups))
		}
		for _, u := range r.ups {
			if last := u.said[len(u.said)-1]; last != "reset" {
				t.Errorf("an attempt that was given up is told %q at last", last)
			}
		}
		r.said("the client", &c.spoken, "504", "upstream request timeout end")
		r.finished("504 URX,UT upstream_per_try_timeout")
	})
}

// TestTimeout: the route's time counts from the end of the request, over all
// attempts, and cuts an answer that has begun.
func TestTimeout(t *testing.T) {
	r := newRig(t, func(r *rig) { r.route.Forward.Timeout = time.Millisecond })
	var a, b *client
	r.do(func() { a, b = r.request("GET", true, nil), r.request("GET", true, nil); r.ups[1].answer(200, false) })
	r.until("both ends", func() bool { return len(r.done) == 2 })
	r.do(func() {
		r.said("the one", &a.spoken, "504", "upstream request timeout end")
		r.said("the other", &b.spoken, "200", "reset")
		slices.Sort(r.done)
		r.finished("200 UT response_timeout", "504 UT response_timeout")
	})
}

// TestEarlyAnswer: an answer that ends before its request does stands; the rest
// of the request goes nowhere.
func TestEarlyAnswer(t *testing.T) {
	r := newRig(t, nil)
	r.do(func() {
		c := r.request("POST", false, nil)
		c.OnData([]byte("some"), false)
		u := r.ups[0]
		u.answer(413, false)
		u.OnData([]byte("too much"), true)
		r.said("the client", &c.spoken, "413", "too much end")
		r.said("the endpoint", &u.spoken, "POST /a #1", "some")
		r.finished("413 - via_upstream")
		c.OnData([]byte("rest"), true) // its codec may not have heard yet
		r.said("the endpoint", &u.spoken, "POST /a #1", "some")
	})
}

// TestClientGone: a client may go at any moment. Nothing is left behind, and no
// endpoint works for nobody.
func TestClientGone(t *testing.T) {
	for name, x := range map[string]struct {
		play func(r *rig, c *client)
		up   []string
		log  string
	}{
		"before a stream is there": {nil, nil, "0 DC downstream_remote_disconnect"},
		"while it sends":           {func(r *rig, c *client) { c.OnData([]byte("a"), false) }, []string{"POST /a #1", "a", "reset"}, "0 DC downstream_remote_disconnect"},
		"while it waits":           {func(r *rig, c *client) { c.OnData(nil, true) }, []string{"POST /a #1", " end", "reset"}, "0 DC downstream_remote_disconnect"},
		"after a head": {func(r *rig, c *client) { c.OnData(nil, true); r.ups[0].answer(200, false) },
			[]string{"POST /a #1", " end", "reset"}, "200 DC downstream_remote_disconnect"},
		"between attempts": {func(r *rig, c *client) { c.OnData(nil, true); r.ups[0].answer(503, true) },
			[]string{"POST /a #1", " end", "reset"}, "0 DC downstream_remote_disconnect"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) {
				retrying(conf.On5xx, 3)(r)
				r.route.Forward.Retry.BackoffBase, r.route.Forward.Retry.BackoffMax = time.Hour, time.Hour
				if x.play == nil {
					r.refer = []string{"wait"}
				}
			})
			r.do(func() {
				c := r.request("POST", false, nil)
				if x.play != nil {
					x.play(r, c)
				}
				c.OnReset(stream.ConnectionLost, "")
				r.said("the endpoint", &r.ups[0].spoken, x.up...)
				r.finished(x.log)
			})
		})
	}
}

// TestUpgrade: both ways of a tunnel end for themselves, in either order; what
// the listener does not pass on is refused.
func TestUpgrade(t *testing.T) {
	r := newRig(t, nil)
	ask := func(protocol string) func(*stream.Head) {
		return func(h *stream.Head) { h.Protocol, h.Body = []byte(protocol), true }
	}
	r.do(func() {
		for _, first := range []string{"client", "endpoint"} {
			c := r.request("GET", false, ask("websocket"))
			u := r.ups[len(r.ups)-1]
			u.answer(101, false)
			c.OnData([]byte("ping"), first == "client")
			u.OnData([]byte("pong"), first == "endpoint")
			if len(r.done) > 0 {
				t.Errorf("the %s has ended its side, and all is over: %q", first, r.done)
			}
			if first == "client" {
				u.OnData([]byte("bye"), true)
				r.said("the client", &c.spoken, "101", "pong", "bye end")
			} else {
				c.OnData([]byte("bye"), true)
				r.said("the endpoint", &u.spoken, "GET /a #1", "ping", "bye end")
			}
			r.finished("101 - via_upstream")
			r.done = nil
		}
		c := r.request("GET", false, ask("other"))
		r.said("the client", &c.spoken, "403 end")
		r.finished("403 - upgrade_failed")
	})
	if len(r.ups) != 2 {
		t.Errorf("%d attempts", len(r.ups))
	}
}

// TestInterim: 1xx heads go through and mean nothing; to HTTP/1.0 they do not.
func TestInterim(t *testing.T) {
	r := newRig(t, nil)
	r.do(func() {
		for _, v := range []uint8{10, 11, 20} {
			r.done = nil
			c := r.request("POST", false, func(h *stream.Head) { h.Version = v; h.AddString("expect", "100-continue") })
			u := r.ups[len(r.ups)-1]
			u.answer(100, false)
			c.OnData([]byte("body"), true)
			u.answer(200, true)
			if v == 10 {
				r.said("the client", &c.spoken, "200 end")
			} else {
				r.said("the client", &c.spoken, "100", "200 end")
			}
			r.finished("200 - via_upstream")
		}
	})
}

// TestFull: a cluster that has its limit of requests, and a process without
// memory, answer at once.
func TestFull(t *testing.T) {
	r := newRig(t, func(r *rig) { r.conf.Limits.Requests = 1 })
	r.do(func() {
		a, b := r.request("GET", true, nil), r.request("GET", true, nil)
		r.said("the second", &b.spoken, "503", "upstream connect error or disconnect/reset before headers. reset reason: overflow end")
		r.ups[0].answer(200, true)
		r.said("the first", &a.spoken, "200 end")
		r.finished("503 UO upstream_reset_before_response_started{overflow}", "200 - via_upstream")
		r.done = nil
		r.env.Memory = overload.New(100, func() int64 { return 93 })
		r.env.Memory.Sample()
		c := r.request("GET", true, nil)
		r.said("the client", &c.spoken, "503", "envoy overloaded end")
		r.finished("503 OM overload")
	})
	if len(r.ups) != 1 {
		t.Errorf("%d attempts", len(r.ups))
	}
}
