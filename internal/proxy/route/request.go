package route

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Request is what a decision may look at. It is owned by the caller; nothing
// here keeps it.
type Request struct {
	Head *stream.Head
	// Source is the peer of the connection; Remote the client's address after
	// x-forwarded-for (the same as Source where nobody is trusted); Local the
	// address the connection was accepted on, or its original destination.
	Source, Remote, Local netip.AddrPort
	Upstream              netip.AddrPort // the endpoint, once there is one
	Random                uint64         // one per request: weights, fractions
	Start                 time.Time      // when the request began
	SNI                   string         // of the connection; empty: none
	PeerURI               string         // the client's URI SAN; empty: none
	LocalURI              string         // our own
	TLSVersion            string         // TLSv1.3; empty: plain
	TLSCipher             string
	RouteName             string
	Hostname              string
	Response              *stream.Head // while response headers are made, else nil
}

// IsConnect reports a CONNECT that opens a tunnel; an extended CONNECT (RFC
// 8441, RFC 9220) with a protocol is an upgrade.
func IsConnect(h *stream.Head) bool {
	return string(h.Method) == "CONNECT" && len(h.Protocol) == 0
}

// IsGRPC reports whether the content-type is application/grpc or one of its
// kinds (application/grpc+proto).
func IsGRPC(h *stream.Head) bool {
	ct := h.Get("content-type")
	const g = "application/grpc"
	return len(ct) >= len(g) && string(ct[:len(g)]) == g && (len(ct) == len(g) || ct[len(g)] == '+')
}

var methodGet = []byte("GET")

// Value is the value of a header or pseudo-header as matchers see it: fields
// of one name joined by commas, "host" meaning ":authority". It is nil when
// there is no such header. Only repeated fields allocate.
func Value(h *stream.Head, name string) []byte {
	var v []byte
	switch name {
	case ":authority", "host":
		v = h.Authority
	case ":path":
		v = h.Path
	case ":method":
		if v = h.Method; len(h.Protocol) > 0 && string(v) == "CONNECT" {
			v = methodGet
		}
	case ":scheme":
		v = h.Scheme
	case "upgrade", ":protocol":
		v = h.Protocol
	default:
		return h.Joined(name)
	}
	if len(v) == 0 {
		return nil
	}
	return v
}

// PathOnly is the path without query and fragment.
func PathOnly(p []byte) []byte {
	for i, c := range p {
		if c == '?' || c == '#' {
			return p[:i]
		}
	}
	return p
}
