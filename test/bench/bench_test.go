package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain is also the backend that the tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "backend" {
		if err := command(context.Background(), os.Args[1:]); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// startedBackend runs the backend as the bench does.
func startedBackend(t *testing.T) backends {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: t.TempDir(), self: self}
	stop, err := b.startBackend(t.Context())
	if err != nil {
		t.Skip("no second core, or no taskset:", err)
	}
	t.Cleanup(stop)
	return b.backend
}

// The load gets from the backend as many answers as it should, at its own pace
// and at a fixed one.
func TestLoad(t *testing.T) {
	at := startedBackend(t)
	for _, tt := range []struct {
		name string
		o    loadOptions
	}{
		{"http1", loadOptions{front: plain, addr: at.h1, conns: 4}},
		{"http2", loadOptions{front: muxed, addr: at.h2, conns: 2, multi: 4}},
		{"tcp", loadOptions{front: stream, addr: at.tcp, conns: 4, size: 1000}},
		{"tcp bulk", loadOptions{front: stream, addr: at.tcp, conns: 2, size: 1 << 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.o
			o.last, o.message = time.Second, make([]byte, o.size) // long enough on a busy machine
			r, err := loadUntil(&o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests == 0 || r.P50 <= 0 || r.P999 < r.P99 || r.P99 < r.P50 {
				t.Errorf("closed loop: %+v", r)
			}
			if o.size > 1000 {
				return // a rate of large messages is the machine's own
			}
			o.rate, o.last = 500, time.Second
			if r, err = loadUntil(&o); err != nil {
				t.Fatal(err)
			}
			if r.Requests > 501 {
				t.Errorf("500/s for 1 s came to %d requests", r.Requests)
			}
		})
	}
}

// loadUntil loads until something is answered: backend and load share one
// process here, and one core with whatever else the machine does.
func loadUntil(o *loadOptions) (r *loadResult, err error) {
	for range 20 {
		if r, err = load(o); err == nil {
			break
		}
	}
	return r, err
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
	at := startedBackend(t)
	s := &subject{c: direct, column: equal, front: plain, running: &running{addr: at.h1}}
	r, err := s.ask(http.MethodGet, 3, echoPath)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(r.body), "GET "+echoPath+" HTTP/1.1\r\nHost: "+hostName(3)+"\r\n") {
		t.Errorf("echo is %q", r.body)
	}
	for path, want := range map[string]int{loadPath: 1 << 10, bulkPath: 100 << 10} {
		if r, err = s.ask(http.MethodGet, 3, path); err != nil || len(r.body) != want {
			t.Errorf("%s: %d bytes, want %d (%v)", path, len(r.body), want, err)
		}
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
	p := &plan{front: plain, filters: true, dir: t.TempDir(), backend: backends{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}}
	var ngx strings.Builder
	nginxServers(&ngx, "127.0.0.1:4", "", "http://b", "")
	yaml, err := p.tulleYAML("127.0.0.1:4")
	if err != nil {
		t.Fatal(err)
	}
	env, err := json.Marshal((&envoyConf{plan: p, addr: "127.0.0.1:4", to: "127.0.0.1:1", inbound: true, outbound: true}).bootstrap())
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
