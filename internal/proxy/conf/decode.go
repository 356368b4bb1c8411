package conf

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// Type URLs of the resources that nodes are made from.
const (
	LDSType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RDSType = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	CDSType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EDSType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SDSType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Refused says why a resource is not accepted. Path is that of the field, as
// in "filter_chains[0].filters[1].typed_config"; empty: the resource.
type Refused struct{ Path, Text string }

func (r *Refused) Error() string {
	if r.Path == "" {
		return r.Text
	}
	return r.Path + ": " + r.Text
}

// DecodeListener makes a Listener of an encoded envoy.config.listener.v3.Listener.
// Errors are *Refused, here and in the other decoders.
func DecodeListener(b []byte) (*Listener, error) {
	m, err := wire.DecodeListener(b)
	if err != nil {
		return nil, refused(err)
	}
	return new(builder).listener(m)
}

// DecodeRoutes makes a RouteTable of an encoded envoy.config.route.v3.RouteConfiguration.
func DecodeRoutes(b []byte) (*RouteTable, error) {
	m, err := wire.DecodeRouteConfiguration(b)
	if err != nil {
		return nil, refused(err)
	}
	return new(builder).routeTable(m)
}

// DecodeCluster makes a Cluster of an encoded envoy.config.cluster.v3.Cluster.
func DecodeCluster(b []byte) (*Cluster, error) {
	m, err := wire.DecodeCluster(b)
	if err != nil {
		return nil, refused(err)
	}
	return new(builder).cluster(m)
}

// DecodeEndpoints makes Endpoints of an encoded envoy.config.endpoint.v3.ClusterLoadAssignment.
func DecodeEndpoints(b []byte) (*Endpoints, error) {
	m, err := wire.DecodeClusterLoadAssignment(b)
	if err != nil {
		return nil, refused(err)
	}
	return new(builder).endpoints(m, false)
}

// DecodeSecret makes a Secret of an encoded
// envoy.extensions.transport_sockets.tls.v3.Secret. Its PEM is not parsed.
func DecodeSecret(b []byte) (*Secret, error) {
	m, err := wire.DecodeSecret(b)
	if err != nil {
		return nil, refused(err)
	}
	return new(builder).secret(m)
}

// builder makes the nodes of one resource; it carries bounds and what can be
// shared within the resource.
type builder struct {
	patterns map[string]*pattern
	regex    int // bytes of patterns so far
	rules    int // RBAC rules so far
}

func refused(err error) *Refused {
	var w *wire.Error
	if errors.As(err, &w) {
		return &Refused{w.Path, w.Text}
	}
	var r *Refused
	if errors.As(err, &r) {
		return r
	}
	return &Refused{Text: err.Error()}
}

// refuse makes an error about a field; field may be empty.
func refuse(field, format string, args ...any) error {
	return &Refused{field, fmt.Sprintf(format, args...)}
}

// in puts a field before the path of err; nil stays nil.
func in(err error, field string) error {
	if err == nil {
		return nil
	}
	r := refused(err)
	switch {
	case r.Path == "":
		return &Refused{field, r.Text}
	case r.Path[0] == '[':
		return &Refused{field + r.Path, r.Text}
	}
	return &Refused{field + "." + r.Path, r.Text}
}

func inIndex(err error, field string, i int) error {
	if err == nil {
		return nil
	}
	return in(err, field+"["+strconv.Itoa(i)+"]")
}

func inKey(err error, field, key string) error {
	if err == nil {
		return nil
	}
	return in(err, field+"["+strconv.Quote(key)+"]")
}

// or is *p, or what unset means.
func or[T any](p *T, unset T) T {
	if p == nil {
		return unset
	}
	return *p
}

// duration is *d, refused when negative.
func duration(d *time.Duration, field string, unset time.Duration) (time.Duration, error) {
	if d == nil {
		return unset, nil
	}
	if *d < 0 {
		return 0, refuse(field, "%v is negative", *d)
	}
	return *d, nil
}

// off is a duration where 0 switches off, which the nodes write as -1; unset
// stays 0.
func off(d *time.Duration, field string) (time.Duration, error) {
	v, err := duration(d, field, 0)
	if err == nil && d != nil && v == 0 {
		return -1, nil
	}
	return v, err
}

// durations runs several readings and returns the first error.
func durations(rs ...durationField) error {
	for _, r := range rs {
		read := duration
		if r.zeroIsOff {
			read = func(d *time.Duration, field string, _ time.Duration) (time.Duration, error) { return off(d, field) }
		}
		v, err := read(r.from, r.field, r.unset)
		if err != nil {
			return err
		}
		*r.to = v
	}
	return nil
}

type durationField struct {
	to        *time.Duration
	from      *time.Duration
	field     string
	unset     time.Duration
	zeroIsOff bool
}

// million is a fraction in parts per million; nil is unset.
func million(f *wire.FractionalPercent, unset uint32) (uint32, error) {
	if f == nil {
		return unset, nil
	}
	per := uint64(100)
	switch f.Denominator {
	case wire.FractionalPercentDenominatorTypeTenThousand:
		per = 10_000
	case wire.FractionalPercentDenominatorTypeMillion:
		per = 1_000_000
	}
	return uint32(min(uint64(f.Numerator)*1_000_000/per, 1_000_000)), nil
}

func runtimeMillion(f *wire.RuntimeFractionalPercent, unset uint32) (uint32, error) {
	if f == nil {
		return unset, nil
	}
	return million(f.DefaultValue, unset)
}

// port checks a port number.
func port(n uint32, field string) (uint16, error) {
	if n > math.MaxUint16 {
		return 0, refuse(field, "%d is no port", n)
	}
	return uint16(n), nil
}

// address is an Address that is an IP socket; host is set instead where a name
// is allowed and given.
func address(a *wire.Address, names bool) (ip netip.AddrPort, pipe, host string, prt uint16, err error) {
	switch {
	case a == nil:
		return ip, "", "", 0, refuse("", "no address")
	case a.Pipe != nil:
		if a.Pipe.Path == "" {
			return ip, "", "", 0, refuse("pipe.path", "empty")
		}
		return ip, a.Pipe.Path, "", 0, nil
	case a.SocketAddress == nil:
		return ip, "", "", 0, refuse("", "no address")
	}
	s := a.SocketAddress
	p, err := port(or(s.PortValue, 0), "socket_address.port_value")
	if err != nil {
		return ip, "", "", 0, err
	}
	if addr, e := netip.ParseAddr(s.Address); e == nil {
		return netip.AddrPortFrom(addr.Unmap(), p), "", "", p, nil
	}
	if !names {
		return ip, "", "", 0, refuse("socket_address.address", "%q is no IP address", s.Address)
	}
	if !hostName(s.Address) {
		return ip, "", "", 0, refuse("socket_address.address", "%q is no host name", s.Address)
	}
	return ip, "", s.Address, p, nil
}

// hostName reports whether s can be a DNS name.
func hostName(s string) bool {
	if s == "" || len(s) > 254 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return s[0] != '.' && !strings.Contains(s, "..")
}

// prefix is a CidrRange, masked and unmapped.
func prefix(c *wire.CidrRange) (netip.Prefix, error) {
	a, err := netip.ParseAddr(c.AddressPrefix)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, refuse("address_prefix", "%q is no IP address", c.AddressPrefix)
	}
	bits := int(min(or(c.PrefixLen, 0), 129))
	if a.Is4In6() && bits >= 96 {
		bits -= 96
		a = a.Unmap()
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}, refuse("prefix_len", "%d is too long for %s", or(c.PrefixLen, 0), a)
	}
	return p, nil
}

func prefixes(cs []*wire.CidrRange, field string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, c := range cs {
		p, err := prefix(c)
		if err != nil {
			return nil, inIndex(err, field, i)
		}
		out = append(out, p)
	}
	return out, nil
}

// istio is filter_metadata["istio"].
func istio(m *wire.Metadata) map[string]any {
	if m == nil {
		return nil
	}
	return m.FilterMetadata["istio"]
}

// origin is the origin id that a resource's metadata carries.
func origin(m *wire.Metadata) string {
	s, _ := istio(m)["config"].(string)
	return s
}

// adsOnly checks that a config source is our stream.
func adsOnly(c *wire.ConfigSource, field string) error {
	switch {
	case c == nil:
		return refuse(field, "missing")
	case c.ResourceApiVersion == wire.ApiVersionV2:
		return refuse(field+".resource_api_version", "V2 is not supported")
	case c.Ads == nil:
		return refuse(field, "only ads is supported")
	}
	return nil
}
