package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/proxy/feed/rpc"
)

// Bounds of probes.
const (
	maxProbes     = 256
	maxRedirects  = 10 // as the kubelet
	probeBody     = 10 << 10
	defaultProbe  = time.Second
	longestProbe  = 10 * time.Minute // also of hooks, which the pod's grace period bounds
	grpcSize      = 64 << 10
	servingStatus = 1 // grpc.health.v1.HealthCheckResponse.SERVING
)

// Probe is a kubelet's probe, or a lifecycle hook, as the pod said it before
// the injector sent it to us.
type Probe struct {
	HTTP *struct {
		Path    string  `json:"path"`
		Port    port    `json:"port"`
		Scheme  string  `json:"scheme"`
		Headers []Field `json:"httpHeaders"`
	} `json:"httpGet"`
	TCP *struct {
		Port port `json:"port"`
	} `json:"tcpSocket"`
	GRPC *struct {
		Port    port   `json:"port"`
		Service string `json:"service"`
	} `json:"grpc"`
	TimeoutSeconds int `json:"timeoutSeconds"`

	limit time.Duration
}

// port is a number; the injector has resolved names where it could. 0: there is
// no port of that name.
type port uint16

// UnmarshalJSON reads a number, or a name that was not resolved.
func (p *port) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 16)
	if err == nil {
		*p = port(n)
	}
	return nil
}

func parseProbes(text string) (map[string]*Probe, error) {
	var out map[string]*Probe
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, err
	}
	if len(out) > maxProbes {
		return nil, fmt.Errorf("%d probes, more than %d", len(out), maxProbes)
	}
	for path, p := range out {
		if p == nil || p.HTTP == nil && p.TCP == nil && p.GRPC == nil {
			return nil, fmt.Errorf("%s: want httpGet, tcpSocket or grpc", path)
		}
		p.limit = defaultProbe
		switch hook := strings.HasSuffix(path, "/prestopz") || strings.HasSuffix(path, "/poststartz"); {
		case hook:
			p.limit = longestProbe
		case p.TimeoutSeconds > 0:
			p.limit = min(time.Duration(p.TimeoutSeconds)*time.Second, longestProbe)
		}
	}
	return out, nil
}

// Answer asks the program what the kubelet asked us: from inside, on a
// connection that is not captured, as policies are not for the kubelet. It
// returns an HTTP status, and a few words where it is our own.
func (p *Pod) Answer(ctx context.Context, path string, header []Field) (status int, why string) {
	probe := p.Probes[path]
	if probe == nil {
		return 404, "no such probe: " + path
	}
	ctx, cancel := context.WithTimeout(ctx, probe.limit)
	defer cancel()
	var err error
	switch {
	case probe.port() == 0:
		err = errNoPort
	case probe.HTTP != nil:
		if status, err = p.askHTTP(ctx, probe, header); err == nil {
			return status, ""
		}
	case probe.TCP != nil:
		err = p.askTCP(ctx, uint16(probe.TCP.Port))
	default:
		err = p.askGRPC(ctx, probe)
	}
	if err != nil {
		return 500, err.Error()
	}
	return 200, ""
}

var errNoPort = errors.New("no container declares a port of the probe's name")

func (p *Probe) port() port {
	switch {
	case p.HTTP != nil:
		return p.HTTP.Port
	case p.TCP != nil:
		return p.TCP.Port
	}
	return p.GRPC.Port
}

// Sources are the addresses that connections to the program come from: the
// redirect rules leave them alone.
func Sources() (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{127, 0, 0, 6}), netip.AddrFrom16([16]byte{15: 6})
}

// to is where a port of the program is, and the source address that the
// redirect rules leave alone.
func (p *Pod) to(n uint16) (address string, source net.IP) {
	a := p.Addresses[0]
	v4, v6 := Sources()
	switch {
	case !p.Capture:
	case a.Is4():
		source = v4.AsSlice()
	default:
		source = v6.AsSlice()
	}
	return netip.AddrPortFrom(a, n).String(), source
}

// askHTTP follows redirects to the same host, as the kubelet does; one to
// another host is an answer.
func (p *Pod) askHTTP(ctx context.Context, probe *Probe, header []Field) (int, error) {
	h := probe.HTTP
	q := question{secure: strings.EqualFold(h.Scheme, "https"), path: h.Path, limit: probeBody}
	if !strings.HasPrefix(q.path, "/") {
		q.path = "/" + q.path
	}
	q.address, q.source = p.to(uint16(h.Port))
	for _, f := range header {
		if !own(f.Name) && !slices.ContainsFunc(h.Headers, func(x Field) bool { return strings.EqualFold(x.Name, f.Name) }) {
			q.header = append(q.header, f)
		}
	}
	for _, x := range h.Headers {
		name := strings.ToLower(x.Name)
		switch {
		case name == "host":
			q.authority = x.Value
		case own(name):
		case strings.ContainsAny(x.Name+x.Value, "\r\n\x00"):
			return 0, fmt.Errorf("header %q of the probe", x.Name)
		default:
			q.header = append(q.header, Field{name, x.Value})
		}
	}
	for range maxRedirects {
		a, err := ask(ctx, &q)
		if err != nil {
			return 0, err
		}
		if !q.follow(a) {
			return a.status, nil
		}
	}
	return 0, fmt.Errorf("%d redirects", maxRedirects)
}

// own are fields of a connection, which is ours.
func own(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "accept-encoding":
		return true
	}
	return false
}

// follow makes q the question that a redirect to the same host asks for.
func (q *question) follow(a *answer) bool {
	if a.status < 301 || a.status > 308 || a.status > 303 && a.status < 307 || a.location == "" {
		return false
	}
	authority := q.authority
	if authority == "" {
		authority = q.address
	}
	base, err := url.Parse("http://" + authority + q.path)
	if err != nil {
		return false
	}
	to, err := base.Parse(a.location)
	if err != nil || to.Hostname() != base.Hostname() || to.Scheme != "http" && to.Scheme != "https" {
		return false
	}
	n := to.Port()
	if to.Host != base.Host && n == "" {
		n = map[string]string{"http": "80", "https": "443"}[to.Scheme]
	}
	if n != "" && to.Host != base.Host {
		host, _, _ := net.SplitHostPort(q.address)
		q.address = net.JoinHostPort(host, n)
	}
	if strings.Contains(a.location, "://") {
		q.secure = to.Scheme == "https"
	}
	if q.authority != "" {
		q.authority = to.Host
	}
	q.path = to.RequestURI()
	return true
}

func (p *Pod) askTCP(ctx context.Context, n uint16) error {
	d := net.Dialer{}
	address, source := p.to(n)
	if source != nil {
		d.LocalAddr = &net.TCPAddr{IP: source}
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// askGRPC calls grpc.health.v1.Health/Check.
func (p *Pod) askGRPC(ctx context.Context, probe *Probe) error {
	address, source := p.to(uint16(probe.GRPC.Port))
	d := net.Dialer{}
	if source != nil {
		d.LocalAddr = &net.TCPAddr{IP: source}
	}
	c := rpc.New(rpc.Options{Scheme: "http", Authority: address, UserAgent: "kube-probe", MaxMessage: grpcSize,
		Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }})
	defer c.Close()
	var in []byte
	if probe.GRPC.Service != "" {
		in = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), probe.GRPC.Service)
	}
	out, err := c.Call(ctx, "/grpc.health.v1.Health/Check", in)
	if err != nil {
		return err
	}
	for len(out) > 0 {
		n, kind, size := protowire.ConsumeTag(out)
		if size < 0 {
			return protowire.ParseError(size)
		}
		out = out[size:]
		if n == 1 && kind == protowire.VarintType {
			v, size := protowire.ConsumeVarint(out)
			if size >= 0 && v == servingStatus {
				return nil
			}
		}
		if size = protowire.ConsumeFieldValue(n, kind, out); size < 0 {
			return protowire.ParseError(size)
		}
		out = out[size:]
	}
	return errors.New("the service is not serving")
}
