package route

import (
	"bytes"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

func TestNormalize(t *testing.T) {
	norm, merge := conf.HTTP{NormalizePath: true}, conf.HTTP{MergeSlashes: true}
	both := conf.HTTP{NormalizePath: true, MergeSlashes: true}
	esc := func(a conf.EscapedSlashes) conf.HTTP { return conf.HTTP{NormalizePath: true, EscapedSlashes: a} }
	for _, c := range []struct {
		c        conf.HTTP
		in, want string
		action   PathAction
	}{
		{norm, "/a/b?x=/../y", "/a/b?x=/../y", PathGoOn},
		{norm, "/a/../b", "/b", PathGoOn},
		{norm, "/a/./b", "/a/b", PathGoOn},
		{norm, "/a/b/..", "/a/", PathGoOn},
		{norm, "/..", "/", PathGoOn},
		{norm, "/../../a", "/a", PathGoOn},
		{norm, "/a/%2e%2E/b", "/b", PathGoOn},
		{norm, "/a/.%2e/b?q=%2e", "/b?q=%2e", PathGoOn},
		{norm, "/a/...", "/a/...", PathGoOn},
		{norm, "/a/.hidden", "/a/.hidden", PathGoOn},
		{norm, "/a/..b/c", "/a/..b/c", PathGoOn},
		{norm, "/a.b/c..", "/a.b/c..", PathGoOn},
		{norm, `/a\b\..\c`, "/a/c", PathGoOn},
		{norm, "/%61dmin", "/admin", PathGoOn},
		{norm, "/a%2Fb", "/a%2Fb", PathGoOn},
		{norm, "/a%2fb%zz%", "/a%2fb%zz%", PathGoOn},
		{norm, "/a b", "/a%20b", PathGoOn},
		{norm, "/é", "/%C3%A9", PathGoOn},
		{norm, "/\xff", "/\xff", PathReject},
		{norm, "/a%00b", "/a%00b", PathReject},
		{norm, "/a//b", "/a//b", PathGoOn},
		{norm, "/a//../b", "/a/b", PathGoOn},
		{norm, "/a/..;x=1/b", "/b", PathGoOn},
		{norm, "/a/;x/b", "/a/;x/b", PathGoOn},
		{norm, "/a|b^c`d{e}\"<>", "/a%7Cb%5Ec%60d%7Be%7D%22%3C%3E", PathGoOn},
		{norm, "/%7Eu%2D%5F%2e", "/~u-_.", PathGoOn},
		{norm, "/%41%C3%A9%7f", "/A%C3%A9%7f", PathGoOn},
		{norm, "/a#b", "/a#b", PathReject},
		{conf.HTTP{}, "/a?b#c", "/a?b#c", PathReject},
		{norm, "a/b", "/a/b", PathGoOn},
		{norm, "*", "*", PathGoOn},
		{norm, "", "", PathGoOn},
		{merge, "/a//b///c?x=//y", "/a/b/c?x=//y", PathGoOn},
		{merge, "//", "/", PathGoOn},
		{merge, "/a/../b", "/a/../b", PathGoOn},
		{both, "/a//../b//c", "/a/b/c", PathGoOn},
		{esc(conf.KeepEscaped), "/a%2F..", "/a%2F..", PathGoOn},
		{esc(conf.RejectEscaped), "/a%2Fb", "/a%2Fb", PathReject},
		{esc(conf.RejectEscaped), "/a?b=%2F", "/a?b=%2F", PathGoOn},
		{esc(conf.RedirectEscaped), "/a%2F..%5cb?q", "/b?q", PathRedirect},
		{esc(conf.ForwardEscaped), "/a%2f..%2Fb?q", "/b?q", PathGoOn},
		{conf.HTTP{}, "/a/../b%2f", "/a/../b%2f", PathGoOn},
	} {
		got, action := Normalize([]byte("x")[:0], []byte(c.in), &c.c)
		if string(got) != c.want || action != c.action {
			t.Errorf("%q: %q %d, want %q %d", c.in, got, action, c.want, c.action)
		}
	}
}

// dumbNormal resolves dot segments on a list of segments.
func dumbNormal(p string) string {
	p = strings.ReplaceAll(p, `\`, "/")
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	segs := strings.Split(p[1:], "/")
	var out []string
	for i, s := range segs {
		plain, err := url.PathUnescape(s)
		if err != nil {
			panic(err)
		}
		last := i == len(segs)-1
		switch plain {
		case ".", "..":
			if plain == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, plain)
		}
	}
	return "/" + strings.Join(out, "/")
}

func FuzzNormalize(f *testing.F) {
	f.Add([]byte{1, 2, 0, 3, 3, 1, 4})
	f.Add([]byte{0, 1, 3, 1, 3, 5, 1})
	pieces := []string{"a", "/", ".", "..", "%2e", "%2E.", `\`, "b.", "//", "%61"}
	f.Fuzz(func(t *testing.T, in []byte) {
		var b strings.Builder
		for _, c := range in {
			b.WriteString(pieces[int(c)%len(pieces)])
		}
		p := "/" + b.String()
		got, action := Normalize(nil, []byte(p), &conf.HTTP{NormalizePath: true})
		if want := dumbNormal(p); string(got) != want || action != PathGoOn {
			t.Fatalf("%q: %q, want %q", p, got, want)
		}
		again, _ := Normalize(nil, got, &conf.HTTP{NormalizePath: true})
		if !bytes.Equal(again, got) {
			t.Fatalf("%q: not stable: %q then %q", p, got, again)
		}
	})
}

func TestTimeouts(t *testing.T) {
	sec := time.Second
	for i, c := range []struct {
		f      conf.Forward
		retry  *conf.Retry
		fields []string
		want   Timeouts
		expect string // x-envoy-expected-rq-timeout-ms
		grpc   string // grpc-timeout afterwards
	}{
		{conf.Forward{Timeout: 2 * sec}, nil, nil, Timeouts{Total: 2 * sec}, "2000", ""},
		{conf.Forward{}, nil, nil, Timeouts{}, "", ""},
		{conf.Forward{Timeout: 2 * sec}, &conf.Retry{PerTryTimeout: sec}, nil, Timeouts{2 * sec, sec}, "1000", ""},
		{conf.Forward{Timeout: 2 * sec}, &conf.Retry{PerTryTimeout: 3 * sec}, nil, Timeouts{Total: 2 * sec}, "2000", ""},
		{conf.Forward{Timeout: 2 * sec}, nil, []string{"x-envoy-upstream-rq-timeout-ms:500"}, Timeouts{Total: sec / 2}, "500", ""},
		{conf.Forward{Timeout: 2 * sec}, nil, []string{"x-envoy-upstream-rq-timeout-ms:zero"}, Timeouts{Total: 2 * sec}, "2000", ""},
		{conf.Forward{Timeout: 2 * sec}, nil, []string{"x-envoy-upstream-rq-per-try-timeout-ms:500"}, Timeouts{2 * sec, sec / 2}, "500", ""},
		{conf.Forward{Timeout: 2 * sec, MaxGRPC: -1}, nil, []string{"content-type:application/grpc", "grpc-timeout:1S"}, Timeouts{Total: 2 * sec}, "2000", "1S"},
		{conf.Forward{Timeout: 2 * sec, MaxGRPC: 2 * sec}, nil, []string{"content-type:application/grpc", "grpc-timeout:1S"}, Timeouts{Total: sec}, "1000", "1000m"},
		{conf.Forward{Timeout: 2 * sec, MaxGRPC: 2 * sec}, nil, []string{"content-type:application/grpc", "grpc-timeout:1H"}, Timeouts{Total: 2 * sec}, "2000", "2000m"},
		{conf.Forward{Timeout: 2 * sec, MaxGRPC: 2 * sec}, nil, []string{"content-type:application/grpc"}, Timeouts{Total: 2 * sec}, "2000", "2000m"},
		{conf.Forward{}, nil, []string{"content-type:application/grpc", "grpc-timeout:30M"}, Timeouts{Total: 30 * time.Minute}, "1800000", "1800000m"},
		{conf.Forward{}, nil, []string{"content-type:application/grpc", "grpc-timeout:99999999H"}, Timeouts{Total: 1<<63 - 1}, "9223372036854", "2562047H"},
		{conf.Forward{}, nil, []string{"content-type:application/grpc", "grpc-timeout:-1S"}, Timeouts{}, "", "-1S"},
	} {
		h := head("GET", "a", "/", c.fields...)
		got := TimeoutsFor(&c.f, c.retry, h)
		if got != c.want {
			t.Errorf("%d: %+v, want %+v", i, got, c.want)
			continue
		}
		TimeoutHeaders(&c.f, got, h)
		if s := string(h.Get("x-envoy-expected-rq-timeout-ms")); s != c.expect {
			t.Errorf("%d: expected timeout header %q", i, s)
		}
		if s := string(h.Get("grpc-timeout")); s != c.grpc {
			t.Errorf("%d: grpc-timeout %q, want %q", i, s, c.grpc)
		}
		if h.Has("x-envoy-upstream-rq-timeout-ms") || h.Has("x-envoy-upstream-rq-per-try-timeout-ms") {
			t.Errorf("%d: the request for a timeout is passed on", i)
		}
	}
}

func TestRetryConditions(t *testing.T) {
	on, n := RetryHeaders(head("GET", "a", "/", "x-envoy-retry-on: 5xx, connect-failure,nonsense", "x-envoy-retry-grpc-on:unavailable", "x-envoy-max-retries:3"))
	if on != conf.On5xx|conf.OnConnectFailure|conf.OnGRPCUnavailable || n != 3 {
		t.Errorf("%v %d", RetryWords(on), n)
	}
	if got := strings.Join(RetryWords(conf.OnGatewayError|conf.OnGRPCUnavailable), ","); got != "gateway-error,unavailable" {
		t.Error(got)
	}
	resp := func(status int, fields ...string) *stream.Head {
		h := head("", "", "", fields...)
		h.Status = status
		return h
	}
	for i, c := range []struct {
		on    conf.RetryOn
		codes []int
		h     *stream.Head
		want  bool
	}{
		{conf.On5xx, nil, resp(500), true}, {conf.On5xx, nil, resp(499), false}, {conf.OnGatewayError, nil, resp(500), false},
		{conf.OnGatewayError, nil, resp(504), true}, {conf.OnRetriable4xx, nil, resp(409), true}, {conf.OnRetriableCodes, []int{418}, resp(418), true},
		{conf.OnRetriableCodes, nil, resp(503), false}, {conf.OnConnectFailure, nil, resp(503), false},
		{conf.OnGRPCUnavailable, nil, resp(200, "grpc-status:14"), true}, {conf.OnGRPCUnavailable, nil, resp(200, "grpc-status:13"), false},
		{conf.On5xx, nil, resp(503, "x-envoy-ratelimited: true"), false}, {conf.OnEnvoyRateLimited, nil, resp(429, "x-envoy-ratelimited: true"), true},
	} {
		if got := Retries(c.on, c.codes, c.h); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	for i, c := range []struct {
		on    conf.RetryOn
		r     stream.Reset
		begun bool
		want  bool
	}{
		{conf.OnConnectFailure, stream.ConnectFailed, false, true}, {conf.OnConnectFailure, stream.ConnectionLost, true, false},
		{conf.OnRefusedStream, stream.Refused, true, true}, {conf.OnReset, stream.ConnectionLost, true, true},
		{conf.OnResetBeforeRequest, stream.ConnectionLost, false, true}, {conf.OnResetBeforeRequest, stream.ConnectionLost, true, false},
		{conf.OnGatewayError, stream.ConnectionLost, true, true}, {conf.OnGatewayError, stream.Refused, true, true},
		{conf.OnGatewayError, stream.Overflow, false, false}, {conf.OnRetriable4xx, stream.ConnectionLost, true, false},
		{conf.On5xx, stream.ProtocolError, true, true}, {conf.On5xx, stream.Overflow, false, false}, {conf.On5xx, stream.Cancelled, true, true},
	} {
		if got := RetriesReset(c.on, c.r, c.begun); got != c.want {
			t.Errorf("reset %d: %v", i, got)
		}
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	tb, r, p := hotPath()
	h := r.Head
	orig := append([]byte(nil), h.Path...)
	var buf [512]byte
	n := testing.AllocsPerRun(200, func() {
		h.Path = h.Path[:0]
		*h = *head0(h, orig)
		if _, a := Normalize(buf[:0], h.Path, &conf.HTTP{NormalizePath: true, MergeSlashes: true}); a != PathGoOn {
			t.Fatal("rejected")
		}
		v := Host(tb, h.Authority, nil)
		rt := Match(v, r, nil)
		p.Host, p.Route = v, rt
		p.Cluster = Pick(rt.Forward, r.Random)
		TimeoutHeaders(rt.Forward, TimeoutsFor(rt.Forward, RetryPolicy(v, rt.Forward), h), h)
		Rewrite(p, r)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// head0 restores what Rewrite changed, in the head's own storage.
func head0(h *stream.Head, path []byte) *stream.Head {
	h.Reset()
	h.Method, h.Scheme, h.Authority, h.Path = h.KeepString("GET"), h.KeepString("http"), h.KeepString("Orders.shop:80"), h.Keep(path)
	h.AddString("x-user", "ann")
	h.AddString("accept", "*/*")
	return h
}

func hotPath() (*conf.RouteTable, *Request, *Path) {
	v := vhost("orders", "orders.shop", "*.shop")
	v.Routes = []*conf.Route{
		{Match: conf.Match{Path: "/none"}},
		{Match: conf.Match{Kind: conf.PathRegex, Regex: regexp.MustCompile(`\A(?:/x[0-9]+)\z`)}},
		{Match: conf.Match{Path: "/api", Headers: []conf.HeaderMatch{hm("x-user", conf.StrExact, "ann"), hm(":method", conf.StrExact, "GET")}},
			Request: conf.HeaderEdit{Set: []conf.Header{{Name: "x-from", Value: "%DOWNSTREAM_REMOTE_ADDRESS%", Dynamic: true}}, Remove: []string{"accept"}},
			Forward: &conf.Forward{Clusters: []conf.WeightedCluster{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}}, Total: 2,
				PrefixRewrite: "/v1", HasPrefixRewrite: true, HostRewrite: "new", Timeout: time.Second}},
	}
	tb := table(true, v)
	return tb, &Request{Head: head("GET", "Orders.shop:80", "/api/orders/7?x=1", "x-user: ann", "accept: */*"), Random: 3}, &Path{Table: tb}
}

func BenchmarkHostAndMatch(b *testing.B) {
	tb, r, _ := hotPath()
	b.ReportAllocs()
	for b.Loop() {
		if Match(Host(tb, r.Head.Authority, nil), r, nil) == nil {
			b.Fatal("no route")
		}
	}
}

func BenchmarkNormalizeClean(b *testing.B) {
	p := []byte("/api/orders/7?x=1")
	c := &conf.HTTP{NormalizePath: true}
	b.ReportAllocs()
	for b.Loop() {
		Normalize(nil, p, c)
	}
}
