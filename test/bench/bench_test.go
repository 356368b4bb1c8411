package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMain is also the backend and the load that the tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := command(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// started is a bench whose backend runs.
func started(t *testing.T) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: t.TempDir(), self: self, seconds: 1}
	stop, err := b.startBackend(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return b
}

// The load gets from the backend as many answers as it should, at its own pace
// and at a fixed one.
func TestLoad(t *testing.T) {
	b := started(t)
	for _, tt := range []struct {
		name string
		addr string
		rate int
		args string
	}{
		{"http1", b.backend.h1, 500, "-front plain -conns 4"},
		{"unary", b.backend.h2, 500, "-front h2c -conns 2 -multi 4"},
		{"stream", b.backend.h2, 0, "-front h2c -conns 2 -multi 4 -grpc stream"},
		{"tcp", b.backend.tcp, 500, "-front tcp -conns 4 -size 1000"},
		{"tcp bulk", b.backend.tcp, 20, "-front tcp -conns 2 -size 1048576"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append(strings.Fields(tt.args), "-addr", tt.addr)
			r, err := b.callLoad(t.Context(), 500*time.Millisecond, args...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests == 0 || r.P50 <= 0 || r.P999 < r.P99 || r.P99 < r.P50 {
				t.Errorf("closed loop: %+v", r)
			}
			if tt.rate == 0 {
				return
			}
			r, err = b.callLoad(t.Context(), 500*time.Millisecond, append(args, "-rate", strconv.Itoa(tt.rate))...)
			if err != nil {
				t.Fatal(err)
			}
			if due := tt.rate/2 + 1; r.Requests == 0 || r.Requests > due {
				t.Errorf("%d/s for 0.5 s came to %d requests, want at most %d", tt.rate, r.Requests, due)
			}
		})
	}
}

// A process holds slow readers and idle connections until it is told to end.
func TestHold(t *testing.T) {
	b := started(t)
	for _, kind := range []string{"idle", "slow", "handshakes"} {
		h, err := b.hold(t.Context(), "-kind", kind, "-addr", b.backend.h1, "-conns", "3")
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		r, err := h.result()
		h.stop()
		if err != nil || r.Failed > 0 {
			t.Errorf("%s: %+v, %v", kind, r, err)
		}
	}
}

// A stream that ends otherwise than with gRPC status 0 fails the load.
func TestCalls(t *testing.T) {
	ok := frame(1, 4, 1, append([]byte{0x88, 0x0f, 0x10, 16}, "application/grpc"...))
	body := frame(0, 0, 1, make([]byte, grpcAnswer))
	good, bad := frame(1, 5, 1, append([]byte{0, 11}, "grpc-status\x010"...)), frame(1, 5, 1, append([]byte{0, 11}, "grpc-status\x0214"...))
	for _, tt := range []struct {
		name   string
		frames [][]byte
		done   int
		fails  bool
	}{
		{"good", [][]byte{ok, body, good}, 1, false},
		{"not ended", [][]byte{ok, body}, 0, false},
		{"status 14", [][]byte{ok, body, bad}, 0, true},
		{"no message", [][]byte{ok, good}, 0, true},
		{"no trailers", [][]byte{ok, frame(0, 1, 1, make([]byte, grpcAnswer))}, 0, true},
		{"reset", [][]byte{frame(3, 0, 1, []byte{0, 0, 0, 8})}, 0, true},
	} {
		c := &caller{o: &loadOptions{front: muxed}, calls: newCalls()}
		c.calls.start(c)
		all := slices.Concat(tt.frames...)
		half := len(all) / 2
		n, err := c.take(all[:half])
		if err == nil {
			var more int
			more, err = c.take(all[half:])
			n += more
		}
		if n != tt.done || (err != nil) != tt.fails {
			t.Errorf("%s: %d done, %v", tt.name, n, err)
		}
	}
}

// A request that could not be sent in time is late from when it was due.
func TestLoadCountsWaiting(t *testing.T) {
	c := &caller{o: &loadOptions{front: plain}, due: []int64{0, 10, 20}}
	c.fd = -1
	_ = c.send() // the descriptor is bad: nothing leaves, one is under way
	if c.sent != 1 {
		t.Fatalf("%d requests are under way on one HTTP/1.1 connection", c.sent)
	}
	if n, err := c.take([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := c.take([]byte("cHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTT")); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := c.take([]byte("P/1.1 503 No\r\n\r\n")); err == nil {
		t.Error("an error is taken for an answer")
	}
}

// The backend shows a request as it saw it, and has two sizes of answers.
func TestBackend(t *testing.T) {
	at := started(t).backend
	s := &subject{c: direct, column: equal, front: plain, running: &running{addr: at.h1}}
	r, err := s.ask(http.MethodGet, 3, echoPath)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(r.body), "GET "+echoPath+" HTTP/1.1\r\nHost: "+hostName(3)+"\r\n") {
		t.Errorf("echo is %q", r.body)
	}
	for path, want := range map[string]int{loadPath: 1 << 10, bulkPath: 100 << 10, hugePath: hugeSize} {
		if r, err = s.ask(http.MethodGet, 3, path); err != nil || len(r.body) != want {
			t.Errorf("%s: %d bytes, want %d (%v)", path, len(r.body), want, err)
		}
	}
	if err := s.checkHuge(); err != nil {
		t.Error(err)
	}
	s = &subject{c: direct, column: equal, front: muxed, running: &running{addr: at.h2}}
	if r, err = s.ask(http.MethodPost, 3, grpcPath); err != nil {
		t.Fatal(err)
	}
	if r.status != 200 || len(r.body) != 1<<10 || r.trailer.Get("grpc-status") != "0" {
		t.Errorf("gRPC: %d, %d bytes, trailers %v", r.status, len(r.body), r.trailer)
	}
	if err := checkEcho(at.tcp); err != nil {
		t.Error(err)
	}
}

// Whatever makes an answer other than the backend's is refused.
func TestUnequal(t *testing.T) {
	mk := func(status int, body string, header ...string) *reply {
		r := &reply{status: status, body: []byte(body), header: http.Header{}, trailer: http.Header{}}
		for i := 0; i < len(header); i += 2 {
			r.header.Set(header[i], header[i+1])
		}
		return r
	}
	want := mk(200, "x", "a", "1", removeOnResponse, "2")
	if err := mk(200, "x", "a", "1", removeOnResponse, "2", "Server", "me", "date", "now").equals(want, false); err != nil {
		t.Error(err)
	}
	if err := mk(200, "x", "a", "1", setOnResponse[0], setOnResponse[1]).equals(want, true); err != nil {
		t.Error(err)
	}
	for _, bad := range []*reply{mk(404, "x", "a", "1", removeOnResponse, "2"), mk(200, "y", "a", "1", removeOnResponse, "2"),
		mk(200, "x", removeOnResponse, "2"), mk(200, "x", "a", "1", removeOnResponse, "2", "b", "1")} {
		if bad.equals(want, false) == nil {
			t.Errorf("%+v passes for %+v", bad, want)
		}
	}
	if want.equals(want, true) == nil {
		t.Error("headers that are not changed pass for changed")
	}
}

// run of two shapes: values are CPU microseconds of tulle and nginx by round.
func run2(tulle, nginx []float64) *samples {
	a := newSamples()
	for _, x := range []struct {
		name string
		v    []float64
	}{{"direct", nil}, {"tulle", tulle}, {"nginx", nginx}} {
		s := &series{Shape: "h1-64", Column: equal, Contender: x.name, Idle: 1000}
		for i := range tulle {
			m := slot{RPS: 100, P50: 50, P99: 100}
			if x.v != nil {
				m.CPU, m.P50, m.P99 = x.v[i], 80, 160
			}
			s.Slots = append(s.Slots, m)
		}
		a.Series = append(a.Series, s)
	}
	return &a
}

// Only what is outside the range of the baseline's rounds has moved, and a
// slower machine has moved nothing.
func TestMoved(t *testing.T) {
	base := run2([]float64{8, 8.2, 7.9}, []float64{10, 10, 10})
	for _, tt := range []struct {
		name string
		now  *samples
		want string
	}{
		{"same", run2([]float64{8.1, 8, 8}, []float64{10, 10, 10}), "nothing"},
		{"slower machine", run2([]float64{16.1, 16, 16}, []float64{20, 20, 20}), "nothing"},
		{"noise", run2([]float64{9, 8, 9}, []float64{10, 10, 10}), "nothing"},
		{"worse", run2([]float64{9, 9.1, 9}, []float64{10, 10, 10}), "WORSE"},
		{"better", run2([]float64{7, 7.1, 7}, []float64{10, 10, 10}), "better"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			if n := moved(&b, base, tt.now); (n == 0) != (tt.want == "nothing") || !strings.Contains(b.String(), tt.want) {
				t.Errorf("%d changes:\n%s", n, b.String())
			}
		})
	}
}

// bench.json holds medians, latencies as added, and leaves out the rest.
func TestRows(t *testing.T) {
	raw, err := json.Marshal(run2([]float64{8, 9, 7}, []float64{10, 10, 11}).rows())
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"shape":"h1-64","column":"equal","contender":"direct","rps":100,"rss_idle_kb":1000},` +
		`{"shape":"h1-64","column":"equal","contender":"tulle","cpu_us_per_request":8,"rps":100,"added_p50_us":30,"added_p99_us":60,"rss_idle_kb":1000},` +
		`{"shape":"h1-64","column":"equal","contender":"nginx","cpu_us_per_request":10,"rps":100,"added_p50_us":30,"added_p99_us":60,"rss_idle_kb":1000}]`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	var b bytes.Buffer
	if err := run2([]float64{8, 9, 7}, []float64{10, 10, 11}).table(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "7.0..9.0    0.80") {
		t.Errorf("the table lacks spread and ratio:\n%s", b.String())
	}
}

// A target is missed by what its median exceeds, and none is met without a
// measurement.
func TestTargets(t *testing.T) {
	a := run2([]float64{8, 8.4, 8.4}, []float64{10, 10, 10})
	zero, one := 0.0, 1.0
	a.Series = append(a.Series, []*series{
		{Shape: "handshakes-200", Column: equal, Contender: "tulle", Slots: []slot{{P99: 300, Quiet99: 100, Longest: 500}, {P99: 160, Quiet99: 80, Longest: 2500, OverMS: .5}, {P99: 500, Quiet99: 200, Longest: 1000}}},
		{Shape: "h2-8x16", Column: filters, Contender: "tulle", Slots: []slot{{Allocs: &zero}}},
		{Shape: "mtls-pair-64", Column: filters, Contender: "tulle", Slots: []slot{{Allocs: &one}}},
	}...)
	var b bytes.Buffer
	if err := a.print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`HTTP/1.1 plaintext, CPU to nginx +0.80 +0.70 +0.84 x +MISSED by 5 %`,
		`HTTP/1.1 plaintext, CPU to HAProxy .* not measured`,
		`p99 while 200 peers handshake, to the quiet .* 2.50 x +MISSED by 25 %`,
		`longest round of a loop, by the clock, while 200 peers handshake .* 1.00 ms +met`,
		`handshakes-200 .* 1000 +0.00`,
		`allocations per request, HTTP/2 .* 0.00 +met`,
		`allocations per request, mTLS pair .* 1.00 +MISSED`,
		`mTLS pair, filters on, CPU to envoy-istio .* not measured`,
		`handshakes-200 +equal +tulle +- +100 .* 2.50 +2.0..3.0`,
	} {
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("no line matches %s in\n%s", want, b.String())
		}
	}
}

// Rounds are told from what was counted before, and from what the metrics say.
func TestRounds(t *testing.T) {
	before, after := map[float64]float64{}, map[float64]float64{}
	const text = "# TYPE x\n" + roundsMetric + "_bucket{le=\"0.0005\"} %d\n" + roundsMetric + "_bucket{le=\"0.001\"} %d\n" +
		roundsMetric + "_bucket{le=\"0.0025\"} %d\n" + roundsMetric + "_bucket{le=\"+Inf\"} %d\n" + roundsMetric + "_count 7\n"
	for _, err := range []error{
		addRounds(before, fmt.Sprintf(text, 10, 20, 30, 40)),
		addRounds(after, fmt.Sprintf(text, 500, 1017, 1029, 1039)), // of two processes
		addRounds(after, fmt.Sprintf(text, 1, 1, 1, 1)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if longest, over := longRounds(before, after); longest != 2500 || over != 2 {
		t.Errorf("the longest took %v us, %v of 1,000 over 1 ms", longest, over)
	}
	if longest, _ := longRounds(map[float64]float64{}, after); longest != 1e6 {
		t.Errorf("beyond all bounds: %v us", longest)
	}
	if err := addRounds(after, "tulle_proxy_uptime_seconds 3\n"); err == nil {
		t.Error("metrics without rounds are taken")
	}
}

// Every target names a shape that is measured, in a column in which we compete.
func TestTargetsAreMeasured(t *testing.T) {
	for _, x := range targetList {
		i := slices.IndexFunc(shapes, func(s shape) bool { return s.name == x.shape })
		if i < 0 || !tulle.can(shapes[i].front, x.column) {
			t.Errorf("%s: nothing measures %s in the column %s", x.name, x.shape, x.column)
		}
	}
}

// What the control plane gives a proxy are as many clusters as were asked for,
// each with its endpoints.
func TestManyClusters(t *testing.T) {
	all, err := manyClusters(3)
	if err != nil || len(all) != 6 {
		t.Fatalf("%d resources, %v", len(all), err)
	}
	if _, err := resourcesOf([]byte("{}")); err == nil {
		t.Error("nothing passes for resources")
	}
}

// The picture is XML, with a bar for each contender but direct.
func TestPicture(t *testing.T) {
	p := run2([]float64{8}, []float64{16}).picture()
	d := xml.NewDecoder(bytes.NewReader(p))
	bars := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 3 { // the background is one
		t.Errorf("%d rectangles:\n%s", bars, p)
	}
}

func TestStatistics(t *testing.T) {
	if m := median([]float64{4, 1, 3, 2}); *m != 2.5 {
		t.Error("median of four:", *m)
	}
	if median(nil) != nil {
		t.Error("nothing has a median")
	}
	var v []float64
	for i := range 1000 {
		v = append(v, float64(999-i))
	}
	if p := percentile(v, .99); math.Abs(p-990) > 1 {
		t.Error("p99:", p)
	}
}

// Every contender is given all of the route table.
func TestTable(t *testing.T) {
	rows := table()
	if len(rows) != hostCount*prefixCount {
		t.Fatalf("%d rows", len(rows))
	}
	p := &plan{stage: on(plain), filters: true, dir: t.TempDir(), backend: backends{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}}
	var ngx strings.Builder
	nginxServers(&ngx, "127.0.0.1:4", "", "http://b", "")
	yaml, err := p.tulleYAML("127.0.0.1:4")
	if err != nil {
		t.Fatal(err)
	}
	env, err := json.Marshal((&envoyConf{plan: p, addr: "127.0.0.1:4", to: []string{"127.0.0.1:1"}, inbound: true, outbound: true}).bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		for name, text := range map[string]string{
			"nginx": ngx.String(), "tulle": yaml, "envoy": string(env),
		} {
			if !strings.Contains(text, r.host) || !strings.Contains(text, r.prefix) {
				t.Errorf("%s lacks %s%s", name, r.host, r.prefix)
			}
		}
	}
}
