package model

import "time"

// RouteSet says where requests for its hosts go: one VirtualService, or what
// another dialect makes of its own kind.
type RouteSet struct {
	Name      string
	Namespace string
	Hosts     []string // as written, lower-cased; short names are completed by link
	Gateways  []string // "mesh", "ns/name" or, of closed ones, "ns/name/server" completed by the reader; never empty
	ExportTo  []string
	HTTP      []HTTPRule
	TLS       []TLSRule
	TCP       []TCPRule
	// Settled rules are in their final order, and the reader has told what is
	// wrong with them: link checks nothing.
	Settled bool
	Origin  Origin
}

// HTTPRule routes the requests that one of its Matches describes.
type HTTPRule struct {
	Name     string
	Matches  []HTTPMatch // none: every request
	Backends []Backend
	Redirect *Redirect
	Direct   *DirectResponse
	Rewrite  *Rewrite
	Timeout  *time.Duration // nil or 0: none
	Retry    *Retry         // nil: the mesh default
	Fault    *Fault
	Mirrors  []Mirror
	CORS     *CORS
	Headers  *HeaderOps
	Delegate *Ref
	Origin   Origin
}

// Ref names an object; an empty Namespace is the referrer's.
type Ref struct{ Namespace, Name string }

// HTTPMatch: all set conditions must hold. The last three choose at which
// client the rule exists at all; the rest is matched per request.
type HTTPMatch struct {
	Name            string
	Path            *StringMatch
	IgnorePathCase  bool
	Scheme          *StringMatch
	Method          *StringMatch
	Authority       *StringMatch
	Headers         []NamedMatch
	WithoutHeaders  []NamedMatch
	Query           []NamedMatch
	StatPrefix      string
	Port            uint16            // 0: any
	SourceLabels    map[string]string // client workload
	SourceNamespace string
	Gateways        []string // overrides RouteSet.Gateways; then SourceLabels are ignored
	Origin          Origin
}

// StringMatch is one of the kinds; Regex is RE2 and matches the whole value.
type StringMatch struct {
	Kind  MatchKind
	Value string
}

// MatchKind of a StringMatch.
type MatchKind uint8

// Kinds of StringMatch. PathPrefix matches whole path segments (Gateway API,
// Ingress); Prefix matches bytes (Istio). Present only asks for existence.
const (
	Exact MatchKind = iota
	Prefix
	Regex
	Present
	PathPrefix
	Suffix
)

// NamedMatch is a StringMatch on a header (lower-case name) or query parameter.
type NamedMatch struct {
	Name string
	StringMatch
}

// Backend is one weighted destination.
type Backend struct {
	Host    string // as written; completed by link
	Subset  string
	Port    uint16 // 0: the service's only port, else the port of the request
	Weight  uint32 // as written; a single destination takes all
	Headers *HeaderOps
	Invalid bool // leads nowhere; its share of the requests gets 500
	Origin  Origin
}

// HeaderOps are applied in the order set, add, remove.
type HeaderOps struct{ Request, Response HeaderEdit }

// HeaderEdit of one direction. Names lower-case, lists in name order.
type HeaderEdit struct {
	Set, Add []Header
	Remove   []string
}

// Header is a name (lower-case) and a value.
type Header struct{ Name, Value string }

// Redirect answers with a Location. Empty parts stay as in the request.
type Redirect struct {
	Path       string // whole new path; exclusive with PathPrefix
	PathPrefix string // replaces the matched prefix
	Authority  string
	Scheme     string
	Port       uint16 // 0: derive as FromRequestPort says
	// FromRequestPort keeps the request's port; else the scheme's default is used.
	FromRequestPort bool
	Code            int // 0: 301
}

// DirectResponse answers by itself.
type DirectResponse struct {
	Status int
	Body   []byte
}

// Rewrite changes the request before it leaves.
type Rewrite struct {
	Path      string // replaces the matched prefix, or the whole path of exact and regex matches
	Authority string
	Regex     string // RE2; with Replace: on the path
	Replace   string
}

// Retry of failed attempts.
type Retry struct {
	Attempts        int // beyond the first; 0: off
	PerTryTimeout   time.Duration
	On              []string // Envoy's retry_on tokens
	Codes           []int    // retriable-status-codes
	RemoteLocality  *bool
	IgnorePrevious  *bool
	BackoffBase     time.Duration // 0: 25 ms
	BackoffMax      time.Duration // 0: 10 x base
	FromMeshDefault bool
}

// Fault is injected before routing to a destination. Percentages are 0-100.
type Fault struct {
	DelayPercent float64
	Delay        time.Duration // 0: none
	AbortPercent float64
	AbortStatus  int // HTTP; 0: none
	AbortGRPC    int // gRPC status; -1: none
	HasAbort     bool
}

// Mirror sends a copy of the request and forgets the answer.
type Mirror struct {
	Backend Backend
	Percent float64
}

// CORS as the Fetch standard has it.
type CORS struct {
	AllowOrigins     []StringMatch
	AllowMethods     []string
	AllowHeaders     []string
	ExposeHeaders    []string
	MaxAge           *time.Duration
	AllowCredentials *bool
	// IgnoreUnmatched answers preflights of unknown origins here instead of
	// forwarding them.
	IgnoreUnmatched bool
}

// TLSRule routes unopened TLS by SNI.
type TLSRule struct {
	Matches  []L4Match
	Backends []Backend
	Origin   Origin
}

// TCPRule routes connections.
type TCPRule struct {
	Matches  []L4Match // none: every connection
	Backends []Backend
	Origin   Origin
}

// L4Match of a TLSRule (SNI) or TCPRule.
type L4Match struct {
	SNI             []string
	DestSubnets     []string
	Port            uint16
	SourceLabels    map[string]string
	SourceNamespace string
	Gateways        []string
	Origin          Origin
}
