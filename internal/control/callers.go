package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// callers says who is behind a call, from what the transport proved and from
// the records of the control plane.
type callers struct {
	registry *registry
	pods     *pods // nil: standalone
	domains  identity.Domains
	token    func(context.Context, string) (*identity.Caller, error) // see Options.Token; may be nil
}

// authenticate takes, in this order, a bearer token, a client certificate, or
// the user id at the other end of a unix socket. What is shown must hold: a
// wrong token is not made up for by a good certificate.
func (c *callers) authenticate(ctx context.Context) (*identity.Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if auth := md.Get("authorization"); len(auth) > 0 {
		token, ok := strings.CutPrefix(auth[0], "Bearer ")
		if !ok || len(auth) > 1 {
			return nil, status.Error(codes.Unauthenticated, "authorization: want one bearer token")
		}
		return c.byToken(ctx, token)
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no credential")
	}
	switch a := p.AuthInfo.(type) {
	case credentials.TLSInfo:
		return c.byCertificate(a.State)
	case peerCreds:
		return &identity.Caller{Proof: identity.PeerCreds, UID: a.uid}, nil
	}
	return nil, status.Error(codes.Unauthenticated, "no credential: show a join token or a client certificate")
}

func (c *callers) byToken(ctx context.Context, token string) (*identity.Caller, error) {
	if x := c.registry.byBearer(token); x != nil {
		return &identity.Caller{ID: x.id, Proof: identity.JoinToken, Workload: x.key, Revoked: x.revoked}, nil
	}
	if c.token == nil {
		return nil, status.Error(codes.Unauthenticated, "the token is not valid (any more)")
	}
	caller, err := c.token(ctx, token)
	switch {
	case errors.Is(err, identity.ErrRefused):
		return nil, status.Error(codes.Unauthenticated, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return caller, nil
}

func (c *callers) byCertificate(s tls.ConnectionState) (*identity.Caller, error) {
	if len(s.VerifiedChains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "no credential: show a join token or a client certificate")
	}
	leaf := s.VerifiedChains[0][0]
	id, err := identity.FromCertificate(leaf)
	if err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "client certificate: %v", err)
	}
	if !c.domains.Trusts(id.TrustDomain) {
		return nil, status.Errorf(codes.Unauthenticated, "client certificate: trust domain %s is not ours", id.TrustDomain)
	}
	return &identity.Caller{ID: c.domains.Canonical(id), Proof: identity.Certificate, Expires: leaf.NotAfter}, nil
}

// claims are what a node says of itself that could be held against our record.
type claims struct {
	role, workload     string // of the node id, Istio's "role~ip~name.namespace~domain"; empty: no such id
	namespace, account string // of the metadata; empty: not said
	name               string
}

func claimsOf(n *xds.Node) claims {
	c := claims{namespace: n.Metadata["NAMESPACE"], account: n.Metadata["SERVICE_ACCOUNT"], name: n.Metadata["NAME"]}
	part := strings.Split(n.ID, "~")
	if len(part) != 4 || part[0] != "sidecar" && part[0] != "router" {
		return c
	}
	i := strings.LastIndexByte(part[2], '.')
	if i <= 0 || i == len(part[2])-1 {
		return c
	}
	c.role, c.workload = part[0], part[2][i+1:]+"/"+part[2][:i]
	return c
}

// workload finds the record of an authenticated caller. The node may choose
// among the caller's own workloads (by certificate, account or user id), never
// go beyond them; a claim that contradicts the record is denied.
func (c *callers) workload(ctx context.Context, caller *identity.Caller, n *xds.Node) (seat, error) {
	said := claimsOf(n)
	key := caller.Workload
	if key == "" {
		if key = said.workload; key == "" {
			return seat{}, fmt.Errorf("%w: node id %q names no workload; want role~ip~name.namespace~domain", xds.ErrDenied, n.ID)
		}
	}
	var at seat
	var w *model.Workload
	if x := c.registry.find(key); x != nil {
		at, w = x.seat(), x.workloadNow(c.registry)
		if caller.Proof == identity.PeerCreds && (!x.hasUID || x.uid != caller.UID) {
			return seat{}, fmt.Errorf("%w: %s is another's workload", xds.ErrDenied, key)
		}
	} else if c.pods != nil && caller.Proof != identity.PeerCreds {
		p, err := c.pods.await(ctx, key)
		if err != nil {
			return seat{}, err
		}
		at, w = seat{key, c.pods.id(p.workload), p.gone}, p.workload
	} else {
		return seat{}, fmt.Errorf("%w: %s", xds.ErrUnknown, key)
	}
	if caller.Proof != identity.PeerCreds && caller.ID != at.id {
		return seat{}, fmt.Errorf("%w: %s is another's workload", xds.ErrDenied, key)
	}
	switch {
	case said.workload != "" && said.workload != key:
		return seat{}, fmt.Errorf("%w: this is %s, the node says %s", xds.ErrDenied, key, said.workload)
	case said.role != "" && (said.role == "router") != w.Gateway:
		return seat{}, fmt.Errorf("%w: %s is no %s", xds.ErrDenied, key, said.role)
	case said.namespace != "" && said.namespace != w.Namespace,
		said.account != "" && said.account != w.Account,
		said.name != "" && said.name != w.Name:
		return seat{}, fmt.Errorf("%w: the node's metadata is not that of %s", xds.ErrDenied, key)
	}
	return at, nil
}

// Peer is the process at the other end of a unix socket, as the kernel says.
type Peer struct {
	UID uint32
	PID int // at the time of the connect
}

// peerCreds is the auth information of a unix socket: who is at its other end,
// as the kernel says.
type peerCreds struct {
	credentials.CommonAuthInfo
	uid uint32
}

// AuthType implements credentials.AuthInfo.
func (peerCreds) AuthType() string { return "unix-peer" }

// unixCredentials are gRPC transport credentials for unix sockets: no
// encryption, and the peer's user id.
type unixCredentials struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (unixCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, err := PeerOf(c)
	if err != nil {
		return nil, nil, err
	}
	return c, peerCreds{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, p.UID}, nil
}

// ClientHandshake implements credentials.TransportCredentials; not for use.
func (unixCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server side only")
}

// Info implements credentials.TransportCredentials.
func (unixCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

// Clone implements credentials.TransportCredentials.
func (u unixCredentials) Clone() credentials.TransportCredentials { return u }

// OverrideServerName implements credentials.TransportCredentials.
func (unixCredentials) OverrideServerName(string) error { return nil }

// serverTLS is the configuration of the listener: our certificate, and the
// client's if it has one. Everything else has to bring a token.
func (p *Plane) serverTLS() (*tls.Config, error) {
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2"},
		ClientAuth:     tls.VerifyClientCertIfGiven,
		GetCertificate: p.cert.get,
	}
	// The roots are those of the moment.
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := conf.Clone()
		c.GetConfigForClient, c.ClientCAs = nil, p.ca.Pool()
		return c, nil
	}
	_, err := p.cert.get(nil)
	return conf, err
}

// serverNames under which every control plane may be dialled.
var (
	serverNames = []string{"localhost", "tulle", "istiod.istio-system.svc"}
	serverAddrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
)
