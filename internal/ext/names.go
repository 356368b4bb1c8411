package ext

import (
	"net/netip"
	"strconv"
	"strings"
)

// Demand is the client feature by which a sidecar says that it asks for what it
// uses. A control plane that gives it an Index will send nothing else unasked
// but what every sidecar has, and what answers lead to.
const Demand = "tulle.demand"

// Type URLs, and the name of the one Index.
const (
	IndexType = "type.googleapis.com/tulle.ext.v1.Index"
	IndexName = "index"
	HostType  = "type.googleapis.com/tulle.ext.v1.Host"
)

// anyAddress stands in names for every address; IPv6 has the same.
const anyAddress = "0.0.0.0"

// AddressListener is the name of the listener for connections to one address.
func AddressListener(at netip.AddrPort) string {
	return at.Addr().Unmap().WithZone("").String() + "_" + strconv.Itoa(int(at.Port()))
}

// PortListener is the name of the listener for connections to a port at whatever
// address has none of its own.
func PortListener(port uint16) string { return anyAddress + "_" + strconv.Itoa(int(port)) }

// NamedListener is the name of the listener with the one filter chain of a port
// for a server name.
func NamedListener(port uint16, sni string) string { return PortListener(port) + "/" + sni }

// HostRoute is the name of the route table with the one virtual host of a port
// for a host, as Canonical makes it.
func HostRoute(port uint16, host string) string { return PortListener(port) + "/" + host }

// Canonical is a host as it is asked for: in lower case and without a port.
func Canonical(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 && (strings.IndexByte(host, ':') == i || host[0] == '[') {
		host = host[:i]
	}
	return strings.ToLower(host)
}

// Lookup is what the name of a listener or a route table asks for.
type Lookup struct {
	Address netip.Addr // invalid: every address
	Port    uint16
	Host    string // of a request, or a server name; empty: the listener itself
}

// ParseLookup takes a name apart. It reports false for one that nobody would be
// given an answer to: not as the functions above write it.
func ParseLookup(name string) (l Lookup, ok bool) {
	at, host, named := strings.Cut(name, "/")
	i := strings.LastIndexByte(at, '_')
	if i < 0 || named && host == "" {
		return Lookup{}, false
	}
	port, err := strconv.ParseUint(at[i+1:], 10, 16)
	if err != nil || port == 0 || at[i+1] == '0' {
		return Lookup{}, false
	}
	l = Lookup{Port: uint16(port), Host: host}
	if at[:i] == anyAddress {
		return l, true
	}
	a, err := netip.ParseAddr(at[:i])
	if err != nil || named || a.String() != at[:i] || a != a.Unmap() || a.Zone() != "" {
		return Lookup{}, false
	}
	l.Address = a
	return l, true
}
