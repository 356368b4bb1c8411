package pool

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Owner of a ticket gets exactly one of its calls, inside Get or later.
type Owner interface {
	// Ready hands over a stream whose Peer is the ticket's.
	Ready(s stream.Stream, via *Upstream)
	// Failed says why there is none; detail is a few plain words.
	Failed(r stream.Reset, detail string)
}

// Large is from where on a body is kept away from small requests, bytes.
const Large = 1 << 20

// Ticket asks for one stream. The owner keeps it in place until Done.
type Ticket struct {
	Cluster   *cluster.Handle
	Endpoint  *cluster.Endpoint
	Version   uint8  // what the client speaks: 10, 11, 20
	Upgrade   bool   // the request asks for another protocol
	Raw       bool   // a connection of its own that carries the body as bytes (CONNECT ends here)
	Large     bool   // its body is known to be large: it goes with others of the kind
	Authority []byte // for SNI where the cluster takes it from the request
	Peer      stream.Peer
	Owner     Owner

	g          *group
	prev, next *Ticket
	waiting    bool
	virtual    bool // occupies a virtual connection
	raw        *raw
}

// Done ends the ticket: it leaves the queue, or gives its virtual connection
// back. The stream itself is ended by its user. Done may be called twice.
func (t *Ticket) Done() {
	switch {
	case t.raw != nil:
		t.raw.done()
		t.raw = nil
	case t.waiting:
		t.g.unqueue(t)
		t.Cluster.Release(cluster.Pending)
	case t.virtual:
		t.virtual = false
		t.Cluster.Release(cluster.Connections)
		t.g.serve()
	}
}

// Upstream describes the connection behind a stream.
type Upstream struct {
	Local, Remote netip.AddrPort
	TLS           bool
	Principal     string // SPIFFE URI of the peer
	HTTP2         bool
	Ours          bool // the peer chose "tulle1": it is a proxy of our own
	Bridged       bool // HTTP/1 travels as HTTP/2 there: mark the request
	Reused        bool // the connection has carried a request before
	// Refused is why the peer ended TLS after the handshake, before it sent
	// anything: in TLS 1.3 a client learns so that its certificate was not taken.
	Refused string
}
