package model

import (
	"net/netip"
	"time"
)

// Role of a client proxy.
type Role uint8

// Roles.
const (
	Sidecar Role = iota
	GatewayRole
)

// Capture is how a sidecar gets its traffic.
type Capture uint8

// Captures. Redirected connections carry their original destination; with
// Ports the sidecar opens a real socket per dependency.
const (
	Redirected Capture = iota
	PortsMode
)

// Client is the proxy for which a View is made: what the control plane itself
// knows of it, never what it says of itself.
type Client struct {
	Role      Role
	Namespace string
	Name      string // workload name
	Labels    map[string]string
	Account   string
	Addresses []netip.Addr
	Ports     map[string]uint16
	Locality  Locality
	Host      string // node name; may be empty
	Network   string
	Capture   Capture
	// Local maps "host:port" of dependencies to the socket the sidecar opens
	// for them, and HTTPProxy is the socket of its HTTP proxy; Ports mode only.
	Local     map[string]netip.AddrPort
	HTTPProxy netip.AddrPort
	Expose    []Expose // standalone: see Workload.Expose
	Features  []string // client_features that it declared
	// Assumed is a gateway for which the user has described no workload (files
	// alone, standalone): it stands where Istio installs one, and its
	// certificates may be in the namespace of the Gateway that names them.
	Assumed bool
}

// View is the mesh as one client must see it. Everything is chosen: names are
// complete, precedence is settled, defaults are filled in. lower only writes
// it down as xDS. Immutable; slices are in a stable order.
type View struct {
	Client   Client
	Settings Settings
	Clusters []*Cluster // every destination it may reach, by Name
	// Refers, in a View that holds only a part, are clusters that connections of
	// its listeners go to: their timeouts and hashing, not their endpoints.
	Refers   []*Cluster
	HTTP     []*HTTPTable // route tables that listeners refer to, by Name
	Outbound []*Outbound
	Inbound  []*Inbound
	Servers  []*GatewayPort
	Broken   []*BrokenServer
	Secrets  []*Secret // that its Gateways name and it may have
	// Aliases are hosts that stand for another one, which has the clusters
	// (ExternalName Services of services in the mesh).
	Aliases map[string]string
	// Elsewhere is the cluster that gets what no listener or route is for, when
	// any destination is allowed; empty: where the client dialled.
	Elsewhere string
	// InboundDefault applies to captured connections to ports no service declares.
	InboundDefault InboundPolicy
}

// Cluster is one destination with its policy settled:
// outbound|port|subset|host.
type Cluster struct {
	Name       string
	Service    *Service
	Port       Port
	Subset     string
	Labels     map[string]string // of the subset
	Resolution Resolution
	External   bool
	Balance    LoadBalancer
	Pool       ConnectionPool
	Outlier    *Outlier // nil: off
	Retries    *RetryBudget
	TLS        ClientTLS
	SNI        string   // of mesh mTLS: outbound_.80_.v1_.orders.shop.svc.cluster.local
	SANs       []string // spiffe ids that endpoints may have, for mesh mTLS; nil: any of the trust domain
	Endpoints  []ClusterEndpoint
	// Shares weigh the localities of Endpoints, and no other gets requests; nil:
	// each weighs what its endpoints do.
	Shares map[Locality]uint32
	// Weighted: a locality is chosen before an endpoint of it.
	Weighted bool
	HTTP2    bool     // speak HTTP/2 to it
	Origins  []Origin // the Service, then the DestinationRules that shaped it
}

// ClusterEndpoint is one resolved endpoint.
type ClusterEndpoint struct {
	Address  string // IP, DNS name or unix:///path
	Port     uint16
	Weight   uint32
	Locality Locality
	Priority uint32 // 0 first, without gaps; for this client
	Labels   map[string]string
	Host     string // node name; may be empty
	MTLS     bool   // mesh mTLS by auto mTLS
	Ready    bool
	Workload string // ns/name for telemetry; may be empty
	Owner    string
	Account  string
	Network  string
}

// HTTPTable is one route table: "80", "orders.shop.svc.cluster.local:8080",
// "http_proxy", "http.8080", "https.443.https.gw.ns", "inbound|8080||".
type HTTPTable struct {
	Name     string
	Hosts    []*VirtualHost
	WithPort bool // domains carry ports (http_proxy); else a port in Host is ignored
}

// VirtualHost of an HTTPTable.
type VirtualHost struct {
	Name           string   // host:port
	Domains        []string // as matched against Host, perhaps with port or wildcard
	Routes         []*Route // first match wins
	RequireTLS     bool     // answer 301 to https
	AllowAny       bool     // catch-all towards PassthroughCluster
	BlackHole      bool
	IncludeAttempt bool
	Origin         Origin // of the server that wants RequireTLS; else zero
}

// Route is one settled HTTP rule: exactly one of Backends, Redirect, Direct.
type Route struct {
	Name      string    // rule name, "default" for a service's own route
	Match     HTTPMatch // its config-time parts are empty
	Backends  []RouteBackend
	Redirect  *Redirect
	Direct    *DirectResponse
	Rewrite   *Rewrite
	Timeout   time.Duration // 0: none
	NotFound  int           // status of a backend that is Missing; 0: 503
	Retry     *Retry        // nil: off
	Fault     *Fault
	Mirrors   []RouteMirror
	CORS      *CORS
	Headers   *HeaderOps
	Hash      *HashKey // from the destination's load balancer
	Operation string   // decorator: host:port/path
	Origin    Origin
}

// RouteBackend is a weighted cluster. Weights are as configured, 100 for a
// single destination. A backend that is not in the mesh keeps its cluster name
// and Missing is set: the proxy answers NC.
type RouteBackend struct {
	Cluster string
	Weight  uint32
	Headers *HeaderOps
	Missing bool
	// Authority replaces the request's, where only this one of several
	// destinations asks for it; else Route.Rewrite has it.
	Authority string
	Origin    Origin
}

// RouteMirror copies requests to a cluster.
type RouteMirror struct {
	Cluster string
	Percent float64
}

// Outbound is one listener of a sidecar (not bound when Redirected).
type Outbound struct {
	Name      string
	Address   netip.Addr // unspecified: every address of the port
	Port      uint16
	Extra     []netip.Addr // further addresses (dual stack)
	Bind      bool         // open a real socket
	Protocol  Protocol     // HTTP kinds: Table; Sniff: Table and TCP; TLS and TCP: TCP
	Table     string
	TCP       []*TCPRoute
	HTTPProxy bool // serves absolute-form requests and CONNECT
	BySNI     bool // on demand: TCP leaves out what is asked for by server name
	Alone     bool // on demand: part of a port's listener, without what takes the rest
	Within    bool // on demand: for a range of addresses of a port's listener
	Origin    Origin
}

// TCPRoute is one settled L4 rule of a listener; first match wins.
type TCPRoute struct {
	SNI      []string // empty: any
	Subnets  []netip.Prefix
	Backends []RouteBackend
	Origin   Origin
}

// Inbound is one declared port of the client's own workload.
type Inbound struct {
	Port        uint16 // workload port
	Protocol    Protocol
	Service     *Service // nil: declared by the workload alone
	ServicePort uint16
	Listen      netip.AddrPort // standalone without capture; zero: captured
	App         netip.AddrPort // where the program listens; zero: same address and port
	Policy      InboundPolicy
	Pool        ConnectionPool // DestinationRule connectionPool acts inbound too
	Origin      Origin
}

// InboundPolicy is what a port asks of its clients.
type InboundPolicy struct {
	MTLS       MTLSMode         // never Unset
	MTLSOrigin Origin           // zero: the default
	Authz      []*AuthzPolicy   // that select this workload, root namespace first
	Requests   []*RequestPolicy // the same
}

// GatewayPort is one socket of a gateway with the servers merged on it.
type GatewayPort struct {
	Name     string // 0.0.0.0_8080
	Bind     netip.Addr
	Port     uint16           // the port the process listens on (target port)
	External uint16           // the port in the Gateway
	Listen   netip.AddrPort   // standalone: the real socket; zero: Bind and Port
	Table    string           // plain HTTP ports: one table for all servers
	Servers  []*GatewayServer // TLS and TCP servers, chosen by SNI
	Policy   InboundPolicy
	Origin   Origin
}

// GatewayServer is one TLS or TCP server of a GatewayPort.
type GatewayServer struct {
	Hosts    []string // SNI; "*": any
	Protocol Protocol
	TLS      *ServerTLS
	Secrets  []string // resource names of its certificates: kubernetes://name
	Table    string   // terminated HTTP
	TCP      []*TCPRoute
	Origin   Origin
}

// BrokenServer is a server of a Gateway that cannot serve, for want of a usable
// certificate or of routes. It is not among the GatewayPorts; explain tells it.
type BrokenServer struct {
	Port   uint16 // the port the process would listen on
	Hosts  []string
	Why    string
	Origin Origin
}
