package conf

import (
	"math"
	"net/netip"
	"regexp"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// Listener is one envoy.config.listener.v3.Listener.
type Listener struct {
	Name           string
	Addresses      []netip.AddrPort // first is the main one; unmapped
	Pipe           string           // unix socket instead of Addresses
	Bind           bool             // false: reached only through an OriginalDst listener
	OriginalDst    bool             // use_original_dst: hand over to the listener of the original destination
	RestoreDst     bool             // original_dst filter: the original destination counts, without a hand-over
	InspectTLS     bool
	InspectHTTP    bool
	InspectTimeout time.Duration // 0: wait for ever; then go on with what is known
	InspectClose   bool          // close instead of going on after InspectTimeout
	Inbound        bool          // traffic_direction
	IgnoreLimit    bool          // ignore_global_conn_limit: the limit of all clients' connections is not for it
	Chains         []*Chain
	Default        *Chain // nil: connections that match no chain are closed
	BufferLimit    int    // per connection, bytes; 0: 1 MiB
	AccessLog      []*AccessLog
	Origin         string // origin id, for explain and logs
}

// Chain is a filter chain: what is done with a connection.
type Chain struct {
	Name   string
	Match  ChainMatch
	TLS    *ServerTLS // nil: plain
	RBAC   []*RBAC    // network RBAC, in order
	HTTP   *HTTP      // exactly one of HTTP and TCP
	TCP    *TCP
	Origin string

	HandshakeTimeout time.Duration // transport_socket_connect_timeout; 0: the engine's own
}

// ChainMatch; empty lists match everything. The order of specificity is
// Envoy's: destination port, destination prefix, server name, transport
// protocol, application protocols, source.
type ChainMatch struct {
	DestinationPort uint16
	Prefixes        []netip.Prefix
	ServerNames     []string // lower-case; "*.x" by suffix
	Transport       string   // "tls", "raw_buffer"
	ALPN            []string
	SourcePrefixes  []netip.Prefix
}

// SystemRoots is the name of the secret that is the machine's own CA bundle.
// Secrets that rest in files of this machine are named, as Istio's agent
// names them, "file-cert:CHAIN~KEY" and "file-root:CA" ("file-root:CA~CRL"); a
// bundle that stands in the configuration itself is "file-inline:PEM".
const SystemRoots = "file-root:system"

// Pins name certificates that a peer may show, by SHA-256: of the certificate,
// or of its key (SubjectPublicKeyInfo). One of either list is enough.
type Pins struct {
	Certificates, Keys [][32]byte
}

// Empty reports whether any certificate will do.
func (p *Pins) Empty() bool { return len(p.Certificates)+len(p.Keys) == 0 }

// ServerTLS of a chain (DownstreamTlsContext).
type ServerTLS struct {
	Certificates  []string // secret names
	Validation    string   // secret name of the CA bundle; empty: client certificates are not looked at
	RequireClient bool
	SANs          []StringMatch // identities allowed; empty: any that validates
	Pins          Pins
	ALPN          []string
	MinVersion    uint16 // crypto/tls numbers; 0: 1.2
	MaxVersion    uint16
	CipherSuites  []uint16
	NoTickets     bool // no session tickets
}

// ClientTLS towards a cluster (UpstreamTlsContext).
type ClientTLS struct {
	Certificate  string // secret name; empty: none is shown
	Validation   string // secret name; empty: the server is not verified
	SANs         []StringMatch
	Pins         Pins
	SNI          string
	AutoSNI      bool // from the request's authority
	AutoSAN      bool // the server's certificate must also be good for the SNI that was sent
	ALPN         []string
	MinVersion   uint16
	MaxVersion   uint16
	CipherSuites []uint16
	Mesh         bool // mesh mTLS: ALPN holds "istio"; "tulle1" may be offered
}

// HTTPCodec of an HTTP manager.
type HTTPCodec uint8

// Codecs.
const (
	CodecAuto HTTPCodec = iota
	CodecHTTP1
	CodecHTTP2
)

// HTTP is an HttpConnectionManager.
type HTTP struct {
	StatPrefix       string
	Codec            HTTPCodec
	RouteName        string        // RDS
	Routes           *RouteTable   // inline, instead of RouteName
	Filters          []Filter      // without the router, in order
	Upgrades         []string      // lower-case: "websocket", "connect"
	IdleTimeout      time.Duration // connection, 0: 1 h; negative: off
	StreamIdle       time.Duration // 0: 5 min; negative: off
	RequestTimeout   time.Duration // whole request received; 0: none
	MaxConnDuration  time.Duration
	DrainTimeout     time.Duration // 0: 5 s
	HeadersTimeout   time.Duration // request head received; 0: none
	ServerName       string        // empty: "envoy"
	ServerHeader     ServerHeader
	StripDot         bool // strip_trailing_host_dot
	SuppressHeaders  bool // the router adds no x-envoy-* headers
	XFCC             XFCC
	XFCCFields       XFCCFields
	UseRemoteAddress bool
	TrustedHops      int
	SkipXFFAppend    bool
	NoRequestID      bool // generate_request_id false
	KeepRequestID    bool // preserve_external_request_id
	NormalizePath    bool
	MergeSlashes     bool
	EscapedSlashes   EscapedSlashes
	StripPort        StripPort
	AcceptHTTP10     bool
	MaxHeadBytes     int    // 0: 60 KiB
	MaxHeaders       int    // 0: 100
	MaxStreams       uint32 // h2 concurrent streams; 0: Envoy's default
	StreamWindow     uint32
	ConnWindow       uint32
	Floods           Floods
	MaxStream        time.Duration // of an exchange, unless its route says another; 0: no limit
	Compressors      []*Compressor
	MaxRequests      uint32 // of one connection, which ends after them; 0: no limit
	AccessLog        []*AccessLog
}

// Floods are limits of HTTP/2 frames that carry nothing; 0: Envoy's default.
type Floods struct{ OutFrames, OutControl, Empty, Priority, WindowUpdates uint32 }

// XFCC is what is done with x-forwarded-client-cert.
type XFCC uint8

// XFCC modes; Sanitize removes it.
const (
	XFCCSanitize XFCC = iota
	XFCCForwardOnly
	XFCCAppendForward
	XFCCSanitizeSet
	XFCCAlwaysForward
)

// XFCCFields that AppendForward and SanitizeSet write beside By and Hash.
type XFCCFields struct{ Subject, Cert, Chain, DNS, URI bool }

// ServerHeader is what is done with the response header server.
type ServerHeader uint8

// Modes.
const (
	ServerOverwrite ServerHeader = iota
	ServerAppendIfAbsent
	ServerPassThrough
)

// EscapedSlashes is path_with_escaped_slashes_action.
type EscapedSlashes uint8

// Actions.
const (
	KeepEscaped EscapedSlashes = iota
	RejectEscaped
	RedirectEscaped
	ForwardEscaped
)

// StripPort of the authority before matching.
type StripPort uint8

// Modes.
const (
	KeepPort StripPort = iota
	StripMatching
	StripAny
)

// Filter is the configuration of one HTTP filter; one of the pointers is set.
type Filter struct {
	Name     string // as in typed_per_filter_config
	RBAC     *RBAC
	CORS     bool
	Fault    *Fault // nil in Fault position: only per route
	HasFault bool
	Limit    *RateLimit
	MaxBody  int64 // of a request, bytes; 0: another filter
	Compress bool  // here HTTP.Compressors begin to act
}

// TCP is a tcp_proxy.
type TCP struct {
	StatPrefix  string
	Clusters    []WeightedCluster // one or more
	IdleTimeout time.Duration     // 0: 1 h; negative: off
	MaxConnect  uint32            // attempts; 0: 1
	AccessLog   []*AccessLog
	HashSource  bool          // hash_policy: source ip
	MaxDuration time.Duration // of the connection; 0: no limit
}

// WeightedCluster of a route or tcp_proxy.
type WeightedCluster struct {
	Name        string
	Weight      uint32
	Request     HeaderEdit
	Response    HeaderEdit
	Origin      string
	HostRewrite string // wins over the route's
}

// RouteTable is one RouteConfiguration, indexed for matching.
type RouteTable struct {
	Name  string
	Hosts []*VirtualHost
	Exact map[string]*VirtualHost // lower-case, as written, ports included
	// Suffix and Prefix wildcards ("*.x", "x.*"), longest first.
	Suffix, Prefix []WildHost
	Any            *VirtualHost // "*"
	IgnorePort     bool         // ignore_port_in_host_matching
	MaxDirectBody  int
	Request        HeaderEdit
	Response       HeaderEdit
}

// WildHost is a wildcard domain without its "*".
type WildHost struct {
	Part string
	Host *VirtualHost
}

// VirtualHost of a RouteTable.
type VirtualHost struct {
	Name         string
	Domains      []string
	Routes       []*Route
	RequireTLS   bool
	AttemptCount bool // include_request_attempt_count
	Retry        *Retry
	CORS         *CORS
	Request      HeaderEdit
	Response     HeaderEdit
	RBAC         map[string]*RBACOverride // per filter name
	Origin       string
}

// Route: a match and one of Forward, Redirect, Direct.
type Route struct {
	Name       string
	Match      Match
	Forward    *Forward
	Redirect   *Redirect
	Direct     *Direct
	Request    HeaderEdit
	Response   HeaderEdit
	Fault      *Fault
	CORS       *CORS
	RBAC       map[string]*RBACOverride
	Decorator  string
	StatPrefix string
	Origin     string // origin id from filter_metadata["istio"]
}

// PathKind of a Match.
type PathKind uint8

// Kinds of path match. PathSegments matches whole segments
// (path_separated_prefix).
const (
	PathPrefix PathKind = iota
	PathExact
	PathRegex
	PathSegments
	PathConnect // CONNECT requests
)

// Match of a Route.
type Match struct {
	Kind       PathKind
	Path       string
	Regex      *regexp.Regexp // PathRegex: whole path without query
	IgnoreCase bool
	Headers    []HeaderMatch // incl. ":method", ":authority", ":scheme"
	Query      []QueryMatch
	GRPC       bool
	// Fraction in parts per million of requests that match at all; 0: all.
	Fraction uint32
}

// StringKind of a StringMatch.
type StringKind uint8

// Kinds.
const (
	StrExact StringKind = iota
	StrPrefix
	StrSuffix
	StrContains
	StrRegex // whole value
	StrPresent
	StrAbsent
	StrRange // HeaderMatch only: Low <= integer < High
)

// StringMatch on a value.
type StringMatch struct {
	Kind       StringKind
	Value      string
	Regex      *regexp.Regexp
	IgnoreCase bool
	SAN        SANType // in lists of SANs: the kind of name it is compared with
}

// SANType is a kind of subject alternative name.
type SANType uint8

// Kinds. SANAny is compared with all of them.
const (
	SANAny SANType = iota
	SANURI
	SANDNS
	SANIP
	SANEmail
)

// HeaderMatch on a header or pseudo-header.
type HeaderMatch struct {
	Name string
	StringMatch
	Low, High      int64
	Invert         bool
	MissingAsEmpty bool
}

// QueryMatch on a query parameter.
type QueryMatch struct {
	Name string
	StringMatch
}

// Header is a name (lower-case) and a value. Value may hold Envoy's %COMMAND%
// operators; Dynamic says so.
type Header struct {
	Name, Value string
	Dynamic     bool
	KeepEmpty   bool // sent even when Value comes out empty
}

// HeaderEdit is applied: remove, then set and add in order.
type HeaderEdit struct {
	Set, Add, AddIfAbsent []Header
	Remove                []string
}

// Empty reports whether nothing is edited.
func (e *HeaderEdit) Empty() bool {
	return len(e.Set)+len(e.Add)+len(e.AddIfAbsent)+len(e.Remove) == 0
}

// Forward is a RouteAction.
type Forward struct {
	Clusters         []WeightedCluster // one or more; weights as given
	Total            uint32            // sum of weights
	ClusterHeader    string            // cluster_header instead of Clusters
	PrefixRewrite    string
	HasPrefixRewrite bool
	RegexRewrite     *regexp.Regexp
	RegexReplace     string // \1 form
	HostRewrite      string
	AutoHost         bool // auto_host_rewrite
	AppendXFH        bool
	Timeout          time.Duration // 0: none
	IdleTimeout      time.Duration // 0: the manager's; negative: off
	MaxGRPC          time.Duration // max_grpc_timeout; negative: header ignored
	Retry            *Retry        // nil: none
	Mirrors          []Mirror
	Hash             []HashPolicy
	Upgrades         map[string]bool // per route switches
	ConnectTCP       bool            // connect_config: CONNECT ends here, its payload goes to the cluster as bytes
	NotFoundCode     int             // cluster_not_found_response_code; 0: 503
	MaxStream        time.Duration   // the whole exchange, streams too; 0: no limit
}

// Mirror shadows requests.
type Mirror struct {
	Cluster string
	// Fraction in parts per million.
	Fraction uint32
	NoSuffix bool // disable_shadow_host_suffix_append
}

// HashPolicy for consistent hashing; one of the sources.
type HashPolicy struct {
	Header, Query, Cookie, CookiePath string
	CookieAttributes                  string // "; NAME=VALUE" each
	CookieTTL                         time.Duration
	MakeCookie                        bool
	SourceIP                          bool
	Terminal                          bool
}

// Retry is a RetryPolicy.
type Retry struct {
	On            RetryOn
	Codes         []int
	Attempts      int // beyond the first
	PerTryTimeout time.Duration
	PerTryIdle    time.Duration
	BackoffBase   time.Duration
	BackoffMax    time.Duration
	AvoidPrevious bool // previous_hosts predicate
	PickAttempts  int  // host_selection_retry_max_attempts
	AllPriorities bool // previous_priorities
}

// RetryOn is a set of conditions.
type RetryOn uint32

// Retry conditions, by Envoy's token.
const (
	On5xx RetryOn = 1 << iota
	OnGatewayError
	OnReset
	OnResetBeforeRequest
	OnConnectFailure
	OnRefusedStream
	OnRetriable4xx
	OnRetriableCodes
	OnEnvoyRateLimited
	OnHTTP3Failure
	OnGRPCCancelled
	OnGRPCDeadline
	OnGRPCInternal
	OnGRPCExhausted
	OnGRPCUnavailable
)

// Redirect is a RedirectAction.
type Redirect struct {
	HTTPS            bool
	Scheme           string
	Host             string
	Port             uint16
	Path             string
	PrefixRewrite    string
	HasPrefixRewrite bool
	Code             int
	StripQuery       bool
}

// Direct is a DirectResponseAction.
type Direct struct {
	Status int
	Body   []byte
}

// Fault injected before forwarding. Fractions in parts per million.
type Fault struct {
	Delay         time.Duration
	DelayFraction uint32
	AbortHTTP     int // 0: none
	AbortGRPC     int // -1: none
	AbortFraction uint32
}

// CORS policy of a route or virtual host.
type CORS struct {
	Origins          []StringMatch
	Methods          string
	Headers          string
	Expose           string
	MaxAge           string
	Credentials      bool
	ForwardUnmatched bool // forward_not_matching_preflights
}

// RBACAction of an RBAC.
type RBACAction uint8

// Actions.
const (
	RBACAllow RBACAction = iota
	RBACDeny
	RBACLog
)

// RBAC is a list of policies, in name order.
type RBAC struct {
	Action     RBACAction
	Policies   []RBACPolicy
	Shadow     *RBAC // dry run
	StatPrefix string
}

// RBACOverride of a route.
type RBACOverride struct{ RBAC *RBAC } // nil RBAC: switched off

// RBACPolicy matches when one permission and one principal match.
type RBACPolicy struct {
	Name        string
	Permissions []*RBACRule
	Principals  []*RBACRule
}

// RBACKind of a rule node.
type RBACKind uint8

// Kinds. Permissions and principals share the tree.
const (
	RBACAny RBACKind = iota
	RBACAnd
	RBACOr
	RBACNot
	RBACHeader
	RBACPath
	RBACDestIP
	RBACDestPort
	RBACDestPortRange
	RBACServerName
	RBACPrincipal // authenticated principal name (SPIFFE URI)
	RBACSourceIP  // direct remote address
	RBACRemoteIP  // after x-forwarded-for
	RBACMetadata  // dynamic metadata by path
)

// RBACRule is a node of the rule tree.
type RBACRule struct {
	Kind     RBACKind
	Children []*RBACRule
	Header   *HeaderMatch
	String   *StringMatch // path, server name, principal, metadata; nil principal: any authenticated
	Prefix   netip.Prefix
	Port     uint16
	PortEnd  uint16   // exclusive; 0: 65536
	Path     []string // metadata: filter, then keys
	List     bool     // metadata: String is tried on each element of a list
	Invert   bool
}

// ClusterType is how endpoints are found.
type ClusterType uint8

// Types.
const (
	ClusterStatic ClusterType = iota
	ClusterEDS
	ClusterDNS // strict
	ClusterLogicalDNS
	ClusterOriginalDst
)

// Balance is the load-balancing algorithm.
type Balance uint8

// Algorithms.
const (
	BalanceLeastRequest Balance = iota
	BalanceRoundRobin
	BalanceRandom
	BalanceRingHash
	BalanceMaglev
	BalanceClusterProvided
)

// Cluster is one envoy.config.cluster.v3.Cluster.
type Cluster struct {
	Name                                string
	Type                                ClusterType
	EDSName                             string     // service_name; empty: Name
	Endpoints                           *Endpoints // inline: static and DNS
	Balance                             Balance
	TableSize                           uint64
	Choices                             uint32        // of least request; 0: 2
	LocalityWeighted                    bool          // Locality.Weight counts
	Warmup                              *Warmup       // slow start; nil: none
	ConnectTimeout                      time.Duration // 0: 5 s, Envoy's default
	Limits                              Limits
	Outlier                             *Outlier
	Panic                               float64    // percent; Envoy's default 50
	TLS                                 *ClientTLS // transport_socket
	TLSMatches                          []TLSMatch // transport_socket_matches, in order; win over TLS
	Protocol                            UpstreamProtocol
	IdleTimeout                         time.Duration // 0: 1 h; negative: off
	MaxConnDuration                     time.Duration
	MaxRequestsPerConn                  uint32 // 0: no limit
	MaxStreams                          uint32 // h2 streams per connection; 0: the peer's
	DNSRefresh                          time.Duration
	DNSFamily                           string // "auto","v4","v6","all"
	Keepalive                           *Keepalive
	BindSource, BindSource6             netip.Addr // IPv4 and IPv6 source of connections
	BufferLimit                         int
	Host, ServiceName, ServiceNamespace string // from filter_metadata["istio"].services
	External                            bool
	Origin                              []string // origin ids
}

// Warmup lets an endpoint's share grow while it is new (SlowStartConfig).
type Warmup struct {
	Window     time.Duration
	Min        float64 // of its share at the beginning, 0..1
	Aggression float64 // its share is time/Window to the power 1/Aggression
}

// Share of an endpoint that came so many nanoseconds ago, 0..1.
func (w *Warmup) Share(age int64) float64 {
	f := float64(max(age, int64(time.Millisecond))) / float64(w.Window)
	if f >= 1 {
		return 1
	}
	if w.Aggression != 1 {
		f = math.Pow(f, 1/w.Aggression)
	}
	return max(f, w.Min)
}

// UpstreamProtocol spoken to endpoints.
type UpstreamProtocol uint8

// Protocols.
const (
	UpHTTP1 UpstreamProtocol = iota
	UpHTTP2
	UpDownstream // what the client spoke
	UpAuto       // by ALPN
)

// TLSMatch picks TLS (nil: plain) for endpoints whose
// filter_metadata["envoy.transport_socket_match"] has all Labels.
type TLSMatch struct {
	Name   string
	Labels map[string]string
	TLS    *ClientTLS
}

// Limits are the circuit breakers of default priority; 0 means none was set
// (Envoy's defaults are filled in by the decoder).
type Limits struct {
	Connections, Pending, Requests, Retries uint32
	// BudgetPercent of active and pending requests, at least BudgetMin, may be
	// retries (retry_budget); with 0 Retries counts.
	BudgetPercent float64
	BudgetMin     uint32
}

// Outlier detection.
type Outlier struct {
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal uint32 // 0: off
	SplitLocal                                           bool
	Interval, BaseEjection, MaxEjectionTime              time.Duration
	MaxEjectionPercent                                   uint32
	AlwaysEjectOne                                       bool // always_eject_one_host
}

// Keepalive of TCP.
type Keepalive struct {
	Probes         uint32
	Time, Interval time.Duration
}

// Endpoints is one ClusterLoadAssignment.
type Endpoints struct {
	Cluster       string
	Localities    []Locality
	Overprovision uint32 // 0: 140
	Stale         bool
}

// Locality group of endpoints.
type Locality struct {
	Region, Zone, Subzone string
	Weight                uint32 // 0: not weighted
	Priority              uint32
	Endpoints             []Endpoint
}

// Endpoint address with what is said about it.
type Endpoint struct {
	Addr     netip.AddrPort // unmapped; invalid when Host or Pipe is set
	Host     string         // DNS name, with Port
	Port     uint16
	Pipe     string
	Hostname string // for auto_host_rewrite
	Weight   uint32 // at least 1
	Health   Health
	Match    map[string]string // envoy.transport_socket_match
	Workload string            // "name;namespace;canonical-name;revision;cluster", as Istio writes it
}

// Health of an endpoint as the control plane says it.
type Health uint8

// Health states. Draining and Unhealthy get no new requests.
const (
	HealthUnknown Health = iota
	Healthy
	Unhealthy
	Draining
	Degraded
)

// AccessLog to stdout, a file, or nowhere.
type AccessLog struct {
	Path      string // /dev/stdout
	Format    string // text; empty with JSON nil: Envoy's default
	JSON      []LogField
	OmitEmpty bool
	Flags     []string // response flags, as NR, of which one must be set; empty: all requests
}

// LogField of a JSON access log.
type LogField struct{ Key, Format string }

// Secret is a certificate with key, or a CA bundle. PEM.
type Secret struct {
	Name  string
	Chain []byte
	Key   []byte // never logged or dumped
	CA    []byte
	CRL   []byte
}

// Snapshot is every accepted resource at one moment. Immutable; maps are never
// changed once published.
type Snapshot struct {
	Listeners map[string]*Listener
	Routes    map[string]*RouteTable
	Clusters  map[string]*Cluster
	Endpoints map[string]*Endpoints
	Secrets   map[string]*Secret
	Names     *NameTable // nil: none was asked for
	Index     *ext.Index // nil: none was asked for
	Version   uint64
}
