package telemetry

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Workload is one side of a call, as labels name it. Immutable. Empty fields
// are printed as unknown.
type Workload struct {
	Name, Namespace, Canonical, Revision, App, Version, Cluster string
	Principal                                                   string // spiffe://…; empty: none
}

// ParseWorkload reads Istio's form "name;namespace;canonical;revision;cluster".
func ParseWorkload(s string) Workload {
	var w Workload
	for i, part := range strings.SplitN(s, ";", 6) {
		switch i {
		case 0:
			w.Name = part
		case 1:
			w.Namespace = part
		case 2:
			w.Canonical, w.App = part, part
		case 3:
			w.Revision, w.Version = part, part
		case 4:
			w.Cluster = part
		}
	}
	return w
}

// Record is what one request, or one TCP connection, was. Times are
// nanoseconds of the loop's clock, 0 when they did not come; Start is the wall
// clock at Begin. Heads are only valid while the record is reported.
type Record struct {
	Start                              time.Time
	Begin                              int64
	RequestEnd, ResponseStart, End     int64
	ServiceTime                        int64 // ms the upstream took until its head
	Local                              *Workload
	Inbound                            bool // reported by the destination
	TCP                                bool
	GRPC                               bool
	Version                            uint8 // 10, 11, 20; 0 on TCP
	Req, Resp, Trailers                *stream.Head
	Status                             int // 0: none was sent
	GRPCStatus                         int // with GRPC; -1: none came
	Flags                              Flags
	Details                            string
	Termination                        string // connection termination details
	TransportFailure                   string // upstream transport failure reason
	BytesReceived, BytesSent           uint64 // bodies; on TCP all bytes, of the downstream side
	Downstream, Direct                 netip.AddrPort
	DownstreamLocal                    netip.AddrPort
	SNI                                string
	TLS, Mutual                        bool
	TLSVersion, TLSCipher              string
	Peer                               string // the client's principal; empty: none
	PeerWorkload                       string // its workload in Istio's form, when known
	LocalPrincipal                     string // what we showed; empty: Local.Principal under mTLS
	Cluster, RouteName                 string
	Service, ServiceName, ServiceSpace string // the called service: host, name, namespace
	Upstream, UpstreamLocal            netip.AddrPort
	UpstreamTLS                        bool
	UpstreamPeer                       string
	UpstreamWorkload                   string
	Attempts                           int
}

// To notes the cluster a call goes to, and with it the called service.
func (r *Record) To(c *conf.Cluster) {
	r.Cluster = c.Name
	r.Service, r.ServiceName, r.ServiceSpace = c.Host, c.ServiceName, c.ServiceNamespace
	switch {
	case c.Host != "":
	case c.Name == "PassthroughCluster" || c.Name == "BlackHoleCluster" || c.Name == "InboundPassthroughCluster":
		r.ServiceName = c.Name
	}
}

// namespaceOf a SPIFFE principal spiffe://td/ns/N/sa/S; empty when it is none.
func namespaceOf(principal string) string {
	_, rest, ok := strings.Cut(principal, "/ns/")
	if !ok {
		return ""
	}
	ns, _, _ := strings.Cut(rest, "/")
	return ns
}
