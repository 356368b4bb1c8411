package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Query is a request that somebody might make.
type Query struct {
	From    string // calling workload, namespace/name; exclusive with Gateway
	Gateway string // Gateway object through which the call comes in
	To      string // destination workload; empty: found by the route
	As      string // principal that the destination sees, instead of the caller's
	Port    uint16 // destination port; 0: from the URL
	TLS     bool   // the client itself speaks TLS
	SNI     string // its server name; empty: the host
	ALPN    []string
	Method  string
	URL     string
	Headers [][2]string
}

// ErrQuery is wrapped by errors about the query itself.
var ErrQuery = errors.New("query")

// Addresses that stand for what the configuration does not name; all are of
// the documentation ranges (RFC 5737).
var (
	somewhere = netip.MustParseAddr("198.51.100.1") // a destination outside
	somebody  = netip.MustParseAddr("203.0.113.1")  // a client outside
	nobody    = netip.MustParseAddr("192.0.2.1")    // a workload without an address
)

// run is one explanation under way.
type run struct {
	c      *control.Compiled
	q      Query
	a      *Answer
	head   stream.Head
	host   string // of the URL, without port, lower-case
	port   uint16
	source netip.Addr // of the caller
	self   string     // the caller's principal
	hops   int        // gateways passed
}

// Explain decides what would happen. Errors are about the query: unknown
// workloads or gateways, a URL that is none.
func Explain(c *control.Compiled, q Query) (*Answer, error) {
	r := &run{c: c, q: q, a: &Answer{Destinations: []Destination{}, Request: Request{Headers: map[string]string{}}, Steps: []Step{}}}
	if err := r.parse(); err != nil {
		return nil, err
	}
	if q.To != "" {
		if _, err := c.Workload(q.To); err != nil {
			return nil, err
		}
	}
	cl, name, err := r.caller()
	if err != nil {
		return nil, err
	}
	cl.Features = []string{lower.FeatureBridge}
	s := newSide(name, c.Mesh.View(cl), r.a)
	defer s.close()
	if q.Gateway == "" && cl.Role == model.GatewayRole {
		return nil, fmt.Errorf("%w: %s is a gateway; name its Gateway with --gateway", ErrQuery, q.From)
	}
	return r.a, r.start(s)
}

// parse reads URL and headers into the request head.
func (r *run) parse() error {
	scheme, rest, ok := strings.Cut(r.q.URL, "://")
	if !ok {
		scheme, rest = "http", r.q.URL
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case "http":
	case "https":
		r.q.TLS = true
	default:
		return fmt.Errorf("%w: url %s: want http or https", ErrQuery, r.q.URL)
	}
	rest, _, _ = strings.Cut(rest, "#")
	authority, path := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if strings.HasPrefix(path, "?") {
		path = "/" + path
	}
	if err := r.target(authority); err != nil {
		return err
	}
	if r.q.Method == "" {
		r.q.Method = "GET"
	}
	h := &r.head
	h.Reset()
	h.Version = 11
	h.Method, h.Scheme, h.Path, h.Authority = h.KeepString(r.q.Method), h.KeepString("http"), h.KeepString(path), h.KeepString(authority)
	for _, kv := range r.q.Headers {
		name, value := strings.ToLower(strings.TrimSpace(kv[0])), strings.TrimSpace(kv[1])
		switch {
		case name == "":
			return fmt.Errorf("%w: a header without a name", ErrQuery)
		case name == "host" || name == ":authority":
			h.Authority = h.KeepString(value)
		default:
			h.AddString(name, value)
		}
		if name == "content-type" && strings.HasPrefix(value, "application/grpc") {
			h.Version = 20
		}
	}
	for _, p := range r.q.ALPN {
		if p == "h2" {
			h.Version = 20
		}
	}
	return nil
}

// target splits host and port of the URL's authority.
func (r *run) target(authority string) error {
	host, port := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		host, port = authority[:i], authority[i+1:]
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "" {
		return fmt.Errorf("%w: url %s has no host", ErrQuery, r.q.URL)
	}
	r.host, r.port = host, r.q.Port
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%w: url %s: port %q is no port", ErrQuery, r.q.URL, port)
		}
		if r.port == 0 {
			r.port = uint16(n)
		}
	}
	if r.port == 0 {
		if r.port = 80; r.q.TLS {
			r.port = 443
		}
	}
	if r.q.TLS && r.q.SNI == "" {
		if _, err := netip.ParseAddr(host); err != nil {
			r.q.SNI = host
		}
	}
	return nil
}

// caller finds whose proxy decides first.
func (r *run) caller() (cl model.Client, name string, err error) {
	switch {
	case r.q.From != "" && r.q.Gateway != "":
		return cl, "", fmt.Errorf("%w: --from and --gateway exclude each other", ErrQuery)
	case r.q.From != "":
		cl, err = r.c.Workload(r.q.From)
		r.source = addressOf(cl)
		name = r.q.From
		if w := r.workload(name); w != nil && !w.MTLS && !w.Gateway && w.Origin.Kind != "WorkloadEntry" {
			r.a.Steps = append(r.a.Steps, Step{Proxy: name, Stage: "caller", Object: w.Origin.Object(), File: w.Origin.File, Line: w.Origin.Line,
				Verdict: "assumed", Why: "nothing asks for a sidecar here; this is what one would do"})
		}
	case r.q.Gateway != "":
		var assumed bool
		if cl, assumed, err = r.c.Gateway(r.q.Gateway); err != nil {
			return cl, "", err
		}
		r.source = addressOf(cl)
		if name = cl.Namespace + "/" + cl.Name; assumed {
			r.a.Steps = append(r.a.Steps, Step{Proxy: name, Stage: "caller", Verdict: "assumed",
				Why: "no workload is selected by the Gateway; a proxy with the selected labels is assumed"})
		}
	default:
		return cl, "", fmt.Errorf("%w: who calls? Give --from NS/WORKLOAD or --gateway NS/NAME", ErrQuery)
	}
	if err != nil {
		return cl, "", err
	}
	r.self = principal(r.c.Mesh.Settings.TrustDomain, cl)
	return cl, name, nil
}

func addressOf(cl model.Client) netip.Addr {
	if len(cl.Addresses) > 0 {
		return cl.Addresses[0]
	}
	return nobody
}

func principal(domain string, cl model.Client) string {
	account := cl.Account
	if account == "" {
		account = "default"
	}
	return "spiffe://" + domain + "/ns/" + cl.Namespace + "/sa/" + account
}

// start runs the caller's proxy, then the destination's.
func (r *run) start(s *side) error {
	in := inflight{destination: netip.AddrPortFrom(somewhere, r.port), source: netip.AddrPortFrom(r.source, 0), tls: r.q.TLS, sni: r.q.SNI, alpn: r.q.ALPN}
	var l = r.sidecarListener
	if r.q.Gateway != "" {
		in.source = netip.AddrPortFrom(somebody, 0)
		l = r.gatewayListener
	}
	listener := l(s, &in)
	if listener == nil {
		r.a.Outcome = NoListener
		return nil
	}
	r.a.Listener = listener.Name
	to := s.connection(r, listener, &in)
	if to == nil {
		return r.passed(s, in.destination)
	}
	return r.arrive(s, to)
}
