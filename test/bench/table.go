package main

import (
	"fmt"
	"slices"
)

// The route table that every contender is given: hosts with prefixes each, all
// leading to one backend.
const (
	hostCount   = 20
	prefixCount = 10
)

// route is one row: requests for the host whose path begins with the prefix.
type route struct{ host, prefix string }

// hostName is the name of the n-th host.
func hostName(n int) string { return fmt.Sprintf("svc%d.bench.svc.cluster.local", n) }

// table lists the rows by host; within a host the longest prefix is first.
func table() []route {
	out := make([]route, 0, hostCount*prefixCount)
	for h := range hostCount {
		for p := range prefixCount - 2 {
			out = append(out, route{hostName(h), fmt.Sprintf("/svc%d/v%d/", h, p+1)})
		}
		out = append(out, route{hostName(h), "/api/v1/"}, route{hostName(h), "/"})
	}
	return out
}

// prefixesOf are the prefixes of one host, in order.
func prefixesOf(host string) (out []string) {
	for _, r := range table() {
		if r.host == host {
			out = append(out, r.prefix)
		}
	}
	return out
}

// rule is one of the ten of the policy in the column "filters": a request is
// let in if its method and path, and the header's value, match one of them.
type rule struct {
	methods []string
	prefix  string // of the path
	header  string // "": any request
	value   string
}

// rules end with the one that lets the load in, so that all ten are looked at.
func rules() []rule {
	var out []rule
	for i := range 9 {
		out = append(out, rule{methods: []string{"GET", "POST"}, prefix: fmt.Sprintf("/team%d/", i), header: "x-tenant", value: fmt.Sprintf("t%d", i)})
	}
	return append(out, rule{methods: []string{"GET", "POST"}, prefix: "/"})
}

// Header operations of the column "filters". The load sends the header that is
// removed from requests, the backend the one that is removed from answers.
var (
	setOnRequest     = [2]string{"x-bench-env", "prod"}
	removeOnRequest  = "x-internal-debug"
	setOnResponse    = [2]string{"x-served-by", "bench"}
	removeOnResponse = "x-version"
)

// The request that the load consists of, as an API client in a browser sends it.
const (
	loadHost = 7
	loadPath = "/api/v1/items?id=42"
	bulkPath = "/api/v1/100k?id=42"
	hugePath = "/api/v1/10m?id=42"
	hugeSize = 10 << 20
	echoPath = "/api/v1/?echo"
	grpcPath = "/api/v1/pkg.Service/Method"
)

var loadHeaders = [][2]string{
	{"user-agent", "bench/1.0 (X11; Linux x86_64)"},
	{"accept", "application/json, text/plain, */*"},
	{"accept-encoding", "identity"},
	{"accept-language", "en-US,en;q=0.9,zh-CN;q=0.8"},
	{"authorization", "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef"},
	{"x-request-id", "7f3c1b2a-9d5e-4c6f-8a7b-1c2d3e4f5a6b"},
	{removeOnRequest, "1"},
}

var grpcHeaders = [][2]string{
	{"content-type", "application/grpc"},
	{"te", "trailers"},
	{"user-agent", "grpc-go/1.80.0"},
	{"authorization", "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef"},
	{"x-request-id", "7f3c1b2a-9d5e-4c6f-8a7b-1c2d3e4f5a6b"},
	{removeOnRequest, "1"},
}

// front is what a contender is asked to be.
type front string

// Fronts. A contender is started anew for each of them.
const (
	plain  front = "plain" // HTTP/1.1 on both sides
	muxed  front = "h2c"   // HTTP/2 in clear text on both sides
	paired front = "pair"  // two of the kind, mutual TLS between, HTTP/1.1 outside
	ending front = "tls"   // TLS ends here, HTTP/1.1 behind
	stream front = "tcp"   // bytes
	fed    front = "xds"   // plain, configured over xDS
)

// shape is one kind of load.
type shape struct {
	name string
	stage
	quick bool // part of -quick
	main  bool // a target stands on it: measured for the whole time, others for half
	conns int
	multi int       // streams of an HTTP/2 connection
	path  string    // of HTTP shapes
	body  int       // bytes of the request, HTTP/1.1
	size  int       // bytes of a message, TCP shapes
	grpc  string    // our own load with gRPC: "unary" or "stream"
	fixed bool      // latency at a fixed rate is taken at this shape, for its front
	scene *scenario // something happens while requests come at a fixed rate; nil: saturation
}

func on(f front) stage { return stage{front: f} }

// shapes by front, those of idle memory first: memory that a load leaves hides
// theirs.
var shapes = []shape{
	{name: "idle-10000", stage: on(plain), scene: &scenario{idle: 10000, once: true}},
	{name: "h1-8", stage: on(plain), conns: 8, path: loadPath},
	{name: "h1-64", stage: on(plain), conns: 64, path: loadPath, quick: true, main: true, fixed: true},
	{name: "h1-256", stage: on(plain), conns: 256, path: loadPath},
	{name: "h1-100k", stage: on(plain), conns: 16, path: bulkPath},
	{name: "h1-10m", stage: on(plain), conns: 4, path: hugePath},
	{name: "h1-10m-up", stage: on(plain), conns: 4, path: loadPath, body: hugeSize},
	{name: "slow-reader", stage: on(plain), scene: &scenario{slow: 8}},
	{name: "h2-8x16", stage: on(muxed), conns: 8, multi: 16, path: grpcPath, quick: true, main: true, fixed: true},
	{name: "h2-32x1", stage: on(muxed), conns: 32, multi: 1, path: grpcPath},
	{name: "grpc-unary", stage: on(muxed), conns: 16, multi: 4, grpc: unary},
	{name: "grpc-stream", stage: on(muxed), conns: 8, multi: 8, grpc: streaming},
	{name: "mtls-pair-64", stage: on(paired), conns: 64, path: loadPath, quick: true, main: true, fixed: true},
	{name: "handshakes", stage: on(paired), scene: &scenario{peers: 8, full: true}},
	{name: "handshakes-200", stage: on(paired), scene: &scenario{peers: 200}},
	{name: "mtls-pair-1peer", stage: stage{paired, 1}, conns: 64, path: loadPath},
	{name: "mtls-pair-2peers", stage: stage{paired, 2}, conns: 64, path: loadPath},
	{name: "mtls-pair-4peers", stage: stage{paired, 4}, conns: 64, path: loadPath},
	{name: "idle-tls-2000", stage: on(ending), scene: &scenario{idle: 2000, once: true}},
	{name: "tls-gateway-64", stage: on(ending), conns: 64, path: loadPath, main: true, fixed: true},
	{name: "tcp-64", stage: on(stream), conns: 64, size: 1 << 10, main: true, fixed: true},
	{name: "tcp-bulk", stage: on(stream), conns: 4, size: 1 << 20, main: true},
	{name: "clusters-2000", stage: on(fed), scene: &scenario{clusters: 2000}},
}

// choose picks shapes by name; without names all, or the quick ones.
func choose(names []string, quick bool) ([]shape, error) {
	for _, n := range names {
		if !slices.ContainsFunc(shapes, func(s shape) bool { return s.name == n }) {
			return nil, fmt.Errorf("there is no shape %q", n)
		}
	}
	var out []shape
	for _, s := range shapes {
		if len(names) == 0 && (s.quick || !quick) || slices.Contains(names, s.name) {
			out = append(out, s)
		}
	}
	return out, nil
}

// stages of shapes, in order.
func stages(of []shape) (out []stage) {
	for _, s := range of {
		if !slices.Contains(out, s.stage) {
			out = append(out, s.stage)
		}
	}
	return out
}
