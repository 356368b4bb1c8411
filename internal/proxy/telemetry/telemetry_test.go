package telemetry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

var local = &Workload{Name: "orders-v1", Namespace: "shop", Canonical: "orders", Revision: "v1", App: "orders", Version: "v1", Cluster: "east",
	Principal: "spiffe://cluster.local/ns/shop/sa/orders"}

func record() *Record {
	req := &stream.Head{Method: []byte("GET"), Path: []byte(`/a"b?c=é`), Authority: []byte("orders.shop")}
	req.AddString("user-agent", "curl/8")
	req.AddString("x-request-id", "id-1")
	resp := &stream.Head{Status: 200}
	resp.AddString("x-envoy-upstream-service-time", "3")
	r := &Record{Start: time.Unix(1700000000, 5e6), Begin: 100e6, RequestEnd: 101e6, ResponseStart: 104e6, End: 105e6, Local: local, Version: 11,
		Req: req, Resp: resp, Status: 200, Details: "via_upstream", BytesReceived: 7, BytesSent: 2000, GRPCStatus: -1,
		Downstream: netip.MustParseAddrPort("10.0.0.1:555"), DownstreamLocal: netip.MustParseAddrPort("[fd00::1]:80"),
		Upstream: netip.MustParseAddrPort("10.0.0.2:8080"), UpstreamLocal: netip.MustParseAddrPort("10.0.0.1:777"), RouteName: "default",
		UpstreamPeer: "spiffe://cluster.local/ns/shop/sa/users", UpstreamWorkload: "users-abc;shop;users;v2;east"}
	r.To(&conf.Cluster{Name: "outbound|80||users.shop.svc.cluster.local", Host: "users.shop.svc.cluster.local", ServiceName: "users", ServiceNamespace: "shop"})
	return r
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		format, want string
		edit         func(*Record)
	}{
		{IstioFormat, `[2023-11-14T22:13:20.005Z] "GET /a"b?c=é HTTP/1.1" 200 - via_upstream - "-" 7 2000 5 3 "-" "curl/8" "id-1" "orders.shop" "10.0.0.2:8080" outbound|80||users.shop.svc.cluster.local 10.0.0.1:777 [fd00::1]:80 10.0.0.1:555 - default` + "\n", nil},
		{"", `[2023-11-14T22:13:20.005Z] "GET /a"b?c=é HTTP/1.1" 200 - 7 2000 5 3 "-" "curl/8" "id-1" "orders.shop" "10.0.0.2:8080"` + "\n", nil},
		{IstioFormat, `[2023-11-14T22:13:20.005Z] "- - -" 0 URX,UF - - "connection_refused" 7 2000 5 - "-" "-" "-" "-" "10.0.0.2:8080" outbound|80||users.shop.svc.cluster.local 10.0.0.1:777 [fd00::1]:80 10.0.0.1:555 sni -` + "\n",
			func(r *Record) {
				r.Version, r.Req, r.Resp, r.Status, r.Details, r.RouteName = 0, nil, nil, 0, "", ""
				r.Flags, r.TransportFailure, r.SNI = FlagURX|FlagUF, "connection refused", "sni"
			}},
		{"%REQ(none?user-agent):4% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %REQ(:path)%",
			"curl 4 1 10.0.0.1 8080 /?x", func(r *Record) { r.Req.Path = []byte("/\nx") }},
	} {
		r := record()
		if c.edit != nil {
			c.edit(r)
		}
		l, err := Compile(&conf.AccessLog{Format: c.format})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, string(l.Append(nil, r))); d != "" {
			t.Error(d)
		}
	}
	if _, err := Compile(&conf.AccessLog{Format: "%NOPE%"}); err == nil {
		t.Error("an unknown command compiles")
	}
	if _, err := Compile(&conf.AccessLog{Flags: []string{"XX"}}); err == nil {
		t.Error("an unknown flag compiles")
	}
}

func TestJSON(t *testing.T) {
	c := &conf.AccessLog{JSON: []conf.LogField{{Key: "method", Format: "%REQ(:METHOD)%"}, {Key: "path", Format: "%REQ(:PATH)%"}, {Key: "code", Format: "%RESPONSE_CODE%"},
		{Key: "flags", Format: "%RESPONSE_FLAGS%"}, {Key: "none", Format: "%REQ(none)%"}, {Key: "both", Format: "a-%REQ(none)%-%PROTOCOL%"}, {Key: "plain", Format: "x"}}}
	l, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	r := record()
	r.Req.Path = []byte("/\x01\"\\\xff")
	got := string(l.Append(nil, r))
	want := `{"method":"GET","path":"/\u0001\"\\` + "\ufffd" + `","code":200,"flags":"-","none":null,"both":"a---HTTP/1.1","plain":"x"}` + "\n"
	want = strings.Replace(want, `\u0001`, "?", 1)
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(got), &v); err != nil {
		t.Error(err)
	}
	c.OmitEmpty = true
	l, _ = Compile(c)
	if got := string(l.Append(nil, record())); strings.Contains(got, "none") || !json.Valid([]byte(got)) {
		t.Errorf("omit: %s", got)
	}
}

func TestFlags(t *testing.T) {
	if got := (FlagUF | FlagURX | FlagDR).String(); got != "URX,UF,DR" {
		t.Error(got)
	}
	if FlagNC.String() != "NC" || FlagUPE.String() != "UPE" || Flags(0).String() != "-" {
		t.Error("names")
	}
	for i, n := range flagNames {
		if ParseFlag(n) != 1<<i {
			t.Error(n)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		o      Outcome
		cause  string
		status int
		flag   string
		detail string
		body   string
		grpc   int
	}{
		{NoRoute, "", 404, "NR", "route_not_found", "", 12},
		{NoCluster(0), "", 503, "NC", "cluster_not_found", "", 14},
		{NoCluster(500), "", 500, "NC", "cluster_not_found", "", 2},
		{DeniedBy("ns a"), "", 403, "-", "rbac_access_denied_matched_policy[ns_a]", "RBAC: access denied", 7},
		{DeniedBy(""), "", 403, "-", "rbac_access_denied_matched_policy[none]", "RBAC: access denied", 7},
		{UpstreamTimeout, "", 504, "UT", "response_timeout", "upstream request timeout", 14},
		{Aborted(418, -1), "", 418, "FI", "fault_filter_abort", "fault filter abort", 2},
		{Aborted(503, 5), "", 503, "FI", "fault_filter_abort", "fault filter abort", 5},
		{Aborted(200, 0), "", 200, "FI", "fault_filter_abort", "fault filter abort", 0},
		{FromCluster(cluster.NoHealthy), "", 503, "UH", "no_healthy_upstream", "no healthy upstream", 14},
		{FromCluster(fmt.Errorf("x: %w", cluster.Overflow)), "", 503, "UO", "upstream_reset_before_response_started{overflow}",
			"upstream connect error or disconnect/reset before headers. reset reason: overflow", 14},
		{FromCluster(io.EOF), "", 500, "-", "internal_error", "", 2},
		{FromReset(stream.ConnectFailed), "delayed connect error: Connection refused", 503, "UF",
			"upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
			"upstream connect error or disconnect/reset before headers. reset reason: remote connection failure", 14},
		{FromReset(stream.ConnectionLost), "", 503, "UC", "upstream_reset_before_response_started{connection_termination}",
			"upstream connect error or disconnect/reset before headers. reset reason: connection termination", 14},
		{FromReset(stream.ProtocolError), "", 502, "UPE", "upstream_reset_before_response_started{protocol_error}",
			"upstream connect error or disconnect/reset before headers. reset reason: protocol error", 14},
	} {
		if c.o.Status != c.status || c.o.Flag.String() != c.flag || c.o.Detail(c.cause) != c.detail || c.o.Text(c.cause) != c.body || c.o.GRPC() != c.grpc {
			t.Errorf("%+v: %d %s %s %q %d", c.o, c.o.Status, c.o.Flag, c.o.Detail(c.cause), c.o.Text(c.cause), c.o.GRPC())
		}
	}
	o := FromReset(stream.Refused)
	o.Retried = true
	if got := o.Text(""); got != "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote refused stream reset" {
		t.Error(got)
	}
	if PercentEncode("a%é") != "a%25%C3%A9" || PercentEncode("plain") != "plain" {
		t.Error("percent encoding")
	}
}

// sample grammar of the text format, version 0.0.4.
var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,|\}))*)? (\S+)$`)

// parse reads an exposition strictly: HELP and TYPE first, every sample of its
// family together, no sample twice.
func parse(t *testing.T, text string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	family, kind := "", ""
	seen := map[string]bool{}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			family, _, _ = strings.Cut(rest, " ")
			if seen[family] {
				t.Errorf("family %s twice", family)
			}
			seen[family] = true
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			var name string
			if name, kind, _ = strings.Cut(rest, " "); name != family {
				t.Errorf("TYPE %s after HELP %s", name, family)
			}
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a sample: %s", line)
		}
		base := m[1]
		if kind == "histogram" {
			for _, s := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, s)
			}
		}
		if base != family {
			t.Errorf("sample %s in family %s", m[1], family)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		id := m[1] + m[2]
		if _, dup := out[id]; dup {
			t.Errorf("%s twice", id)
		}
		out[id] = v
	}
	return out
}

func TestExposition(t *testing.T) {
	s := New(2)
	defer s.Close()
	r := record()
	s.Request(0, r, nil)
	s.Request(1, r, nil)
	in := record()
	in.Inbound, in.Mutual, in.Peer, in.GRPC, in.GRPCStatus = true, true, "spiffe://cluster.local/ns/front\"end/sa/x", true, 14
	in.Flags = FlagUH
	s.Request(1, in, nil)
	tcp := &Record{TCP: true, Local: local, Begin: 1, End: 2, BytesReceived: 11, BytesSent: 22}
	s.Opened(0, tcp)
	s.Closed(0, tcp, nil)
	s.Gauge("tulle_proxy_connections", "Open connections.", func() float64 { return 3.5 })
	s.Counter("tulle_proxy_panics_total", "Panics survived.").Add(2)
	s.Histogram("tulle_proxy_rounds", "Rounds.", []float64{.001, .0025}, func() ([]uint64, float64) { return []uint64{5, 2, 1}, 1.5 })
	var b bytes.Buffer
	if err := s.Expose(&b, 3); err != nil {
		t.Fatal(err)
	}
	got := parse(t, b.String())
	src := `reporter="source",source_workload="orders-v1",source_canonical_service="orders",source_canonical_revision="v1",source_workload_namespace="shop",source_principal="spiffe://cluster.local/ns/shop/sa/orders",source_app="orders",source_version="v1",source_cluster="east",destination_workload="users-abc",destination_workload_namespace="shop",destination_principal="spiffe://cluster.local/ns/shop/sa/users",destination_app="users",destination_version="v2",destination_service="users.shop.svc.cluster.local",destination_canonical_service="users",destination_canonical_revision="v2",destination_service_name="users",destination_service_namespace="shop",destination_cluster="east",request_protocol="http",response_code="200",grpc_response_status="",response_flags="-",connection_security_policy="unknown"`
	for id, want := range map[string]float64{
		"istio_requests_total{" + src + "}":                                 2,
		"istio_request_duration_milliseconds_bucket{" + src + `,le="1"}`:    0,
		"istio_request_duration_milliseconds_bucket{" + src + `,le="5"}`:    2,
		"istio_request_duration_milliseconds_bucket{" + src + `,le="+Inf"}`: 2,
		"istio_request_duration_milliseconds_sum{" + src + "}":              10,
		"istio_request_duration_milliseconds_count{" + src + "}":            2,
		"istio_response_bytes_sum{" + src + "}":                             4000,
		"istio_response_bytes_bucket{" + src + `,le="2500"}`:                2,
		"istio_response_bytes_bucket{" + src + `,le="1000"}`:                0,
		"tulle_proxy_connections":                                           3.5,
		"tulle_proxy_panics_total":                                          2,
		"tulle_proxy_metric_series":                                         3,
		`tulle_proxy_rounds_bucket{le="0.001"}`:                             5,
		`tulle_proxy_rounds_bucket{le="0.0025"}`:                            7,
		`tulle_proxy_rounds_bucket{le="+Inf"}`:                              8,
		"tulle_proxy_rounds_count":                                          8,
		"tulle_proxy_rounds_sum":                                            1.5,
		`istio_tcp_received_bytes_total{` + labelsOf(tcp) + "}":             11,
		`istio_tcp_sent_bytes_total{` + labelsOf(tcp) + "}":                 22,
		`istio_tcp_connections_opened_total{` + labelsOf(tcp) + "}":         1,
		`istio_tcp_connections_closed_total{` + labelsOf(tcp) + "}":         1,
	} {
		if v, ok := got[id]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", id, v, ok, want)
		}
	}
	text := b.String()
	for _, want := range []string{`source_workload_namespace="front\"end"`, `connection_security_policy="mutual_tls"`, `request_protocol="grpc",response_code="200",grpc_response_status="14",response_flags="UH"`, `source_workload="unknown"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(labelsOf(tcp), "response_code") {
		t.Error("TCP has a response code")
	}
}

func labelsOf(r *Record) string { return string(appendLabels(nil, r)) }

func TestSeriesExpire(t *testing.T) {
	s := New(1)
	defer s.Close()
	hour := int64(time.Hour)
	r := record()
	r.Begin, r.End = hour, hour
	s.Request(0, r, nil)
	old := record()
	old.Status, old.Begin, old.End = 500, 1, 1
	s.Request(0, old, nil)
	show := func(now int64) string {
		var b bytes.Buffer
		if err := s.Expose(&b, now); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if text := show(hour); !strings.Contains(text, `response_code="200"`) || strings.Contains(text, `response_code="500"`) {
		t.Error("the old series is shown, or the new one is not")
	}
	old.Begin, old.End = hour, hour
	s.Request(0, old, nil)
	id := "istio_requests_total{" + labelsOf(old) + "}"
	if got := parse(t, show(hour))[id]; got != 1 {
		t.Errorf("a series that came back counts %v", got)
	}
	if n := len(s.metrics.loops[0].known); n != 2 {
		t.Errorf("the loop remembers %d series", n)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	s := New(1)
	defer s.Close()
	s.metrics.max = 100
	r := record()
	for i := range 110 {
		r.ServiceName = strconv.Itoa(i)
		s.Request(0, r, nil)
	}
	var b bytes.Buffer
	if err := s.Expose(&b, r.End); err != nil {
		t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "istio_requests_total{") {
			n, _ := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			total += n
		}
	}
	if total != 110 {
		t.Errorf("requests in all: %v", total)
	}
	if !strings.Contains(b.String(), "\ntulle_proxy_metric_spilled_total 10\n") {
		t.Error("the spilled ones are not counted")
	}
}

func TestLogGoesToItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	s := New(3)
	nr := &conf.AccessLog{Path: path, Format: "NR %RESPONSE_CODE%\n", Flags: []string{"NR"}}
	all := &conf.AccessLog{Path: path, Format: "%ROUTE_NAME%\n"}
	var wg sync.WaitGroup
	for loop := range 3 {
		wg.Go(func() {
			r := record()
			for i := range 1000 {
				r.RouteName = fmt.Sprintf("%d-%d", loop, i)
				s.Request(loop, r, []*conf.AccessLog{nr, all})
			}
		})
	}
	wg.Wait()
	r := record()
	r.Flags, r.Status, r.RouteName = FlagNR, 404, "last"
	s.Refused(0, r, []*conf.AccessLog{nr})
	s.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	next := [3]int{}
	found := 0
	for _, l := range lines {
		if l == "NR 404" {
			found++
			continue
		}
		var loop, i int
		if n, _ := fmt.Sscanf(l, "%d-%d", &loop, &i); n != 2 || next[loop] != i {
			t.Fatalf("line %q, want number %d", l, next[loop])
		}
		next[loop]++
	}
	if found != 1 || next != [3]int{1000, 1000, 1000} {
		t.Errorf("NR lines %d, others %v", found, next)
	}
}

// slow never finishes a write until it is told to.
type slow struct{ gate chan struct{} }

func (w slow) Write(p []byte) (int, error) { <-w.gate; return len(p), nil }

func TestFullRingDropsAndNeverWaits(t *testing.T) {
	s := &Set{metrics: newMetrics(1)}
	gate := make(chan struct{})
	s.logs.open = func(string) (io.Writer, error) { return slow{gate}, nil }
	s.logs.start(1)
	c := []*conf.AccessLog{{Path: "x", Format: strings.Repeat("a", 1023) + "\n"}}
	for range 4 * ringSize / 1024 {
		s.Request(0, record(), c)
	}
	if n := s.logs.dropped.Load(); n == 0 {
		t.Error("nothing was dropped")
	}
	close(gate)
	s.Close()
}

func TestRing(t *testing.T) {
	r := &ring{buf: make([]byte, 16)}
	var got, want []byte
	for i := range 100 {
		p := bytes.Repeat([]byte{byte(i)}, i%7)
		if r.put(p) {
			want = append(want, p...)
		}
		if i%3 == 0 {
			r.drain(func(b []byte) { got = append(got, b...) })
		}
	}
	r.drain(func(b []byte) { got = append(got, b...) })
	if !bytes.Equal(got, want) {
		t.Errorf("got %v want %v", got, want)
	}
	if r.put(make([]byte, 17)) {
		t.Error("more than the ring holds")
	}
}

func TestReportingDoesNotAllocate(t *testing.T) {
	s := New(1)
	defer s.Close()
	r := record()
	logs := []*conf.AccessLog{{Path: os.DevNull, Format: IstioFormat}}
	s.Request(0, r, logs)
	if n := testing.AllocsPerRun(1000, func() { s.Request(0, r, logs) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	s := New(1)
	defer s.Close()
	r := record()
	b.ReportAllocs()
	for b.Loop() {
		s.Request(0, r, nil)
	}
}

func BenchmarkRequestWithLog(b *testing.B) {
	s := New(1)
	defer s.Close()
	r := record()
	logs := []*conf.AccessLog{{Path: os.DevNull, Format: IstioFormat}}
	b.ReportAllocs()
	for b.Loop() {
		s.Request(0, r, logs)
	}
}

// shortDisk takes some bytes, then none until it has room again.
type shortDisk struct {
	mu   sync.Mutex
	room int
	b    []byte
}

func (d *shortDisk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(d.room, len(p))
	d.room -= n
	d.b = append(d.b, p[:n]...)
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

// TestFullDisk: every line is written or counted; after a disk was full no line
// goes on where another was torn.
func TestFullDisk(t *testing.T) {
	for room := range 40 {
		d := &shortDisk{room: room}
		l := &logs{}
		s := &sink{out: d}
		l.out(s, []byte("first\nsecond\nthi"))
		l.out(s, []byte("rd\nfourth\n"))
		d.room = 1000
		l.out(s, []byte("fifth\n"))
		whole := 0
		for line := range strings.Lines(string(d.b)) {
			switch line {
			case "first\n", "second\n", "third\n", "fourth\n", "fifth\n":
				whole++
			default:
				if !strings.HasSuffix(line, "\n") || len(line) > len("second") {
					t.Errorf("room %d: %q", room, d.b)
				}
			}
		}
		// A line that only lacks its end is counted, and whole in the end.
		if n := int(l.dropped.Load()) + whole; n < 5 || n > 6 {
			t.Errorf("room %d: %d written, %d dropped: %q", room, whole, n, d.b)
		}
	}
}
