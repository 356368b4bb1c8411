package model

import (
	"net/netip"
	"time"
)

// DestinationPolicy says how clients talk to a host: one DestinationRule.
type DestinationPolicy struct {
	Name      string
	Namespace string
	Host      string // as written; completed by link; may be "*.x"
	Policy    TrafficPolicy
	Subsets   []Subset
	ExportTo  []string
	Selector  map[string]string // client workloads; nil: all
	Origin    Origin
}

// Subset of the endpoints of a host, by labels.
type Subset struct {
	Name   string
	Labels map[string]string
	Policy TrafficPolicy
	Origin Origin
}

// TrafficPolicy blocks; a nil block says nothing.
type TrafficPolicy struct {
	LoadBalancer *LoadBalancer
	Pool         *ConnectionPool
	Outlier      *Outlier
	TLS          *ClientTLS
	Retries      *RetryBudget
	Ports        []PortPolicy // replace all blocks but Retries for their port
}

// PortPolicy of one service port. Its blocks replace the surrounding policy's
// wholesale: what is nil here falls to the default. Its own Ports are empty.
type PortPolicy struct {
	Port uint16
	TrafficPolicy
}

// Balance algorithms.
type Balance uint8

// Algorithms. LeastRequest is the default.
const (
	LeastRequest Balance = iota
	RoundRobin
	Random
	OriginalDst // PASSTHROUGH
	RingHash
	Maglev
)

// LoadBalancer picks endpoints.
type LoadBalancer struct {
	Algorithm Balance
	Hash      *HashKey    // with RingHash, Maglev
	TableSize uint64      // ring minimum or maglev table; 0: default
	Locality  *LocalityLB // nil: mesh default
	Warmup    *Warmup     // nil: new endpoints get their share at once
	Origin    Origin
}

// Warmup lets an endpoint's share grow for a time after it has come.
type Warmup struct {
	Duration   time.Duration
	MinPercent *float64 // of its share at the beginning; nil: 10
	Aggression float64  // of the growth: 1 is linear, more is faster at first; 0: 1
}

// HashKey of consistent hashing; exactly one is set.
type HashKey struct {
	Header, Query string
	Cookie        *HashCookie
	SourceIP      bool
}

// HashCookie is made with TTL when absent and TTL is set.
type HashCookie struct {
	Name, Path string
	TTL        *time.Duration
	Attributes []Header // in order, SameSite and the like; their names as written
}

// LocalityLB prefers endpoints by where they and the client are. Distribute
// acts alone; the others need outlier detection, without which nothing would
// fail over. The zero value fails over by region, zone and subzone.
type LocalityLB struct {
	Disabled   bool
	Distribute []LocalityShare
	Failover   []LocalityPair
	// Priority lists labels ("key": as the client's, or "key=value") that make an
	// endpoint the nearer the more of them, from the first on, it has.
	Priority []string
}

// LocalityShare says where the requests of clients in From go: to each place by
// its weight. Places are "region/zone/subzone", the later parts perhaps left
// out, "*" for any.
type LocalityShare struct {
	From string
	To   map[string]uint32
}

// LocalityPair names the region that endpoints are taken from when those of From
// fail, before all others.
type LocalityPair struct{ From, To string }

// ConnectionPool limits. Zero values mean the default.
type ConnectionPool struct {
	MaxConnections        uint32
	ConnectTimeout        time.Duration
	Keepalive             *Keepalive
	MaxConnectionDuration time.Duration
	TCPIdleTimeout        time.Duration
	MaxPendingRequests    uint32
	MaxRequests           uint32
	MaxRequestsPerConn    uint32
	MaxRetries            uint32
	HTTPIdleTimeout       time.Duration
	H2Upgrade             H2Upgrade
	UseClientProtocol     bool
	MaxConcurrentStreams  uint32
	Origin                Origin
}

// RetryBudget lets a share of a destination's active and pending requests be
// retries; it replaces MaxRetries.
type RetryBudget struct {
	Percent *float64 // 20
	Min     uint32   // that are always allowed; 0: 3
}

// Never is an idle timeout of a ConnectionPool that does not come.
const Never time.Duration = -1

// Keepalive of TCP.
type Keepalive struct {
	Probes         uint32
	Time, Interval time.Duration
}

// H2Upgrade of HTTP/1 requests towards a destination.
type H2Upgrade uint8

// H2Upgrade values, as Istio's h2UpgradePolicy.
const (
	H2Default H2Upgrade = iota
	H2Always
	H2Never
)

// Outlier ejects failing endpoints. Nil pointers mean the default.
type Outlier struct {
	Consecutive5xx     *uint32 // 5; 0: off
	ConsecutiveGateway *uint32 // off
	SplitLocalErrors   bool
	ConsecutiveLocal   *uint32
	Interval           time.Duration // 10 s
	BaseEjection       time.Duration // 30 s
	MaxEjectionPercent *uint32       // 10
	MinHealthPercent   uint32
	Origin             Origin
}

// TLSMode towards a destination.
type TLSMode uint8

// TLS modes of clients. Auto is mesh mTLS where the endpoint has a sidecar.
const (
	TLSAuto TLSMode = iota
	TLSDisable
	TLSSimple
	TLSMutual
	TLSIstioMutual
)

// ClientTLS of a DestinationPolicy.
type ClientTLS struct {
	Mode               TLSMode
	Certificate, Key   string // files
	CACertificates     string
	CRL                string // file of revocation lists
	CA                 string // PEM bundle itself, instead of a file
	CredentialName     string
	SANs               []string
	SNI                string
	InsecureSkipVerify bool
	Origin             Origin
}

// Gateway opens ports on gateway proxies.
type Gateway struct {
	Name      string
	Namespace string
	Selector  map[string]string // nil: every gateway workload
	// Closed is a Gateway API Gateway: it selects workloads of its own namespace
	// only, and only RouteSets that name one of its servers are bound to it.
	Closed  bool
	Servers []Server
	Origin  Origin
}

// Server is one port of a Gateway with its hosts.
type Server struct {
	Name     string
	Port     Port
	Bind     string
	Hosts    []string // "ns/host", "./host" or "host"; lower-case
	Redirect bool     // httpsRedirect
	TLS      *ServerTLS
	Origin   Origin
}

// ServerTLSMode of a Server.
type ServerTLSMode uint8

// Modes, as Gateway.tls.mode.
const (
	ServerPassthrough ServerTLSMode = iota
	ServerSimple
	ServerMutual
	ServerOptionalMutual
	ServerIstioMutual
	ServerAutoPassthrough
)

// ServerTLS of a Server.
type ServerTLS struct {
	Mode              ServerTLSMode
	CredentialNames   []string
	Certificate, Key  string             // files
	More              []CertificateFiles // further ones, of other kinds of key
	CACertificates    string
	CRL               string // file of revocation lists
	CA                string // PEM bundle itself, instead of a file
	CACredential      string // Secret that holds the CA certificates, instead of the credential's own
	Granted           []Ref  // Secrets of any namespace, beside CredentialNames; the reader has checked that they may be used
	SANs              []string
	MinVersion        string // "1.0".."1.3"; empty: 1.2
	MaxVersion        string
	CipherSuites      []string
	InsecureSkip      bool
	CertificateHashes []string
	KeyHashes         []string // of public keys (SPKI), base64
	Origin            Origin
}

// CertificateFiles are a certificate chain and its key.
type CertificateFiles struct{ Certificate, Key string }

// MTLSMode that a workload asks of its clients.
type MTLSMode uint8

// Modes. Unset inherits.
const (
	MTLSUnset MTLSMode = iota
	MTLSDisable
	MTLSPermissive
	MTLSStrict
)

// String is Istio's word.
func (m MTLSMode) String() string {
	return [...]string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}[m]
}

// MTLSPolicy is one PeerAuthentication.
type MTLSPolicy struct {
	Name      string
	Namespace string
	Selector  map[string]string // nil: the namespace (or, in the root namespace, the mesh)
	Mode      MTLSMode
	Ports     map[uint16]MTLSMode // workload ports
	Origin    Origin
}

// AuthzAction of an AuthzPolicy.
type AuthzAction uint8

// Actions.
const (
	Allow AuthzAction = iota
	Deny
	Audit
	Custom
)

// String is Istio's word.
func (a AuthzAction) String() string { return [...]string{"ALLOW", "DENY", "AUDIT", "CUSTOM"}[a] }

// AuthzPolicy is one AuthorizationPolicy.
type AuthzPolicy struct {
	Name      string
	Namespace string
	Selector  map[string]string
	Gateways  []Ref // targetRefs of kind Gateway
	Services  []Ref // targetRefs of kind Service
	Action    AuthzAction
	Provider  string
	DryRun    bool
	Rules     []AuthzRule // none: never matches
	// Broken is set when a part of the policy could not be understood. A
	// broken ALLOW policy allows nothing by that rule; a broken DENY policy
	// denies: the reader has already made the rules so.
	Origin Origin
}

// AuthzRule matches when one of From (if any), one of To (if any) and all of
// When match.
type AuthzRule struct {
	From   []AuthzSource
	To     []AuthzOperation
	When   []AuthzCondition
	Origin Origin
}

// AuthzSource: all set lists must match. Values may be exact, "prefix*",
// "*suffix" or "*" (present).
type AuthzSource struct {
	Principals, NotPrincipals               []string
	RequestPrincipals, NotRequestPrincipals []string
	Namespaces, NotNamespaces               []string
	Accounts, NotAccounts                   []string // "ns/sa"
	IPBlocks, NotIPBlocks                   []string
	RemoteIPBlocks, NotRemoteIPBlocks       []string
}

// AuthzOperation: all set lists must match.
type AuthzOperation struct {
	Hosts, NotHosts     []string
	Ports, NotPorts     []string
	Methods, NotMethods []string
	Paths, NotPaths     []string
}

// AuthzCondition on an attribute.
type AuthzCondition struct {
	Key               string
	Values, NotValues []string
}

// RequestPolicy is what of our own API a workload's requests are held to.
type RequestPolicy struct {
	Name      string
	Namespace string
	Selector  map[string]string // nil: the namespace (or, in the root namespace, the mesh)
	Services  []Ref             // targetRefs: requests that come in for these
	Gateways  []Ref             // targetRefs: gateways that a Gateway API object made
	Limits    []RateLimit
	Bounds    RequestBounds
	Compress  *Compression // nil: answers stay as they are
	Origin    Origin
}

// RequestBounds are how large a request may be and how long it may take; 0:
// what it is without them.
type RequestBounds struct {
	HeaderBytes uint32 // of the whole head, in KiB steps
	Headers     uint32
	BodyBytes   uint32
	HeaderTime  time.Duration // for the head to come
	RequestTime time.Duration // for the whole request to come
	IdleTime    time.Duration // without a byte either way
	StreamTime  time.Duration // from the head to the end of the answer
}

// Stricter returns what holds where both do.
func (b RequestBounds) Stricter(o RequestBounds) RequestBounds {
	return RequestBounds{
		HeaderBytes: lower(b.HeaderBytes, o.HeaderBytes), Headers: lower(b.Headers, o.Headers), BodyBytes: lower(b.BodyBytes, o.BodyBytes),
		HeaderTime: lower(b.HeaderTime, o.HeaderTime), RequestTime: lower(b.RequestTime, o.RequestTime),
		IdleTime: lower(b.IdleTime, o.IdleTime), StreamTime: lower(b.StreamTime, o.StreamTime),
	}
}

// lower is the lower of two bounds of which 0 is none.
func lower[T uint32 | time.Duration](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Compression of answers.
type Compression struct {
	Algorithms   []string // gzip, brotli; the first is preferred where a client takes both alike
	ContentTypes []string // empty: Envoy's list
	MinBytes     uint32   // shorter answers stay as they are
	Origin       Origin
}

// RateLimit is what each proxy lets in of the requests that match.
type RateLimit struct {
	Requests uint32 // per Per, flowing in steadily
	Per      time.Duration
	Burst    uint32 // at once, after a rest
	Path     *StringMatch
	Method   *StringMatch
	Headers  []NamedMatch
	// By splits the limit: each value of these has it whole.
	By     []LimitKey
	Silent bool // no x-ratelimit-* and retry-after in answers
	Origin Origin
}

// LimitKey is what a RateLimit is split by.
type LimitKey struct {
	Kind   LimitKind
	Header string // of ByHeader, lower-case
}

// LimitKind of a LimitKey.
type LimitKind uint8

// Kinds. A request without the header is not limited; those of clients without
// a certificate are one principal.
const (
	ByHeader LimitKind = iota
	ByAddress
	ByPath
	ByPrincipal
)

// Settings of the whole mesh. The zero value is not useful; see link.Defaults.
type Settings struct {
	TrustDomain        string
	TrustDomainAliases []string
	RootNamespace      string
	ClusterDomain      string // cluster.local
	AllowAny           bool   // outboundTrafficPolicy
	AutoMTLS           bool
	AccessLog          AccessLog
	ConnectTimeout     time.Duration
	Keepalive          *Keepalive      // of connections to destinations; nil: none
	UpgradeHTTP2       bool            // HTTP/1 requests travel as HTTP/2 unless a destination says no
	Retry              *Retry          // of routes that say nothing; nil: Istio's
	Pool               *ConnectionPool // of destinations that say nothing
	Outlier            *Outlier        // of destinations that say nothing
	Locality           *LocalityLB     // of destinations that say nothing; nil: by region, zone and subzone
	Paths              PathForm
	// Who sees objects that say nothing of it; empty: everybody.
	ServiceExportTo, RouteExportTo, DestinationExportTo []string
	// VirtualIPs is where Kubernetes Services without an address get one from,
	// as a cluster would give them; the zero Prefix: they get none.
	VirtualIPs netip.Prefix
}

// AccessLog of the mesh.
type AccessLog struct {
	Enabled bool
	JSON    bool
	Format  string // empty: Istio's default
}
