package model

import (
	"net/netip"
	"time"
)

// Namespace is a scope for names and policies.
type Namespace struct {
	Name   string
	Labels map[string]string
	Origin Origin
}

// Protocol is what a port speaks.
type Protocol uint8

// Protocols. Sniff means that the user said nothing: HTTP/1, HTTP/2 and TLS
// are told apart by the first bytes, anything else is TCP.
const (
	Sniff Protocol = iota
	HTTP
	HTTP2
	GRPC
	HTTPS // TLS that is not ours to open; routed by SNI
	TLS   // the same
	TCP
	UDP // never proxied
)

// IsHTTP reports whether requests can be read without opening TLS.
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// IsHTTP2 reports whether the port speaks HTTP/2 in clear text.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC }

// IsTLS reports whether the bytes are TLS that is routed by SNI.
func (p Protocol) IsTLS() bool { return p == HTTPS || p == TLS }

// String is the lower-case name that Istio uses as port-name prefix; Sniff is "auto".
func (p Protocol) String() string {
	return [...]string{"auto", "http", "http2", "grpc", "https", "tls", "tcp", "udp"}[p]
}

// Resolution is how the endpoints of a service are found.
type Resolution uint8

// Resolutions, as ServiceEntry names them. Kubernetes services are Static,
// headless ones Passthrough.
const (
	Static        Resolution = iota // endpoints are listed or selected
	DNS                             // strict DNS: every address of every endpoint name
	DNSRoundRobin                   // logical DNS: one connection target, re-resolved
	Passthrough                     // the address the client dialled (ServiceEntry NONE, headless)
)

// Service is a name that clients call, with its ports.
type Service struct {
	Name       string
	Namespace  string
	Host       string // lower-case FQDN or ServiceEntry host, perhaps "*.x"; one Service per host
	Kubernetes bool   // answers to the short names svc, svc.ns, svc.ns.svc too
	External   bool   // MESH_EXTERNAL: never mTLS by itself
	Headless   bool
	Resolution Resolution
	Addresses  []netip.Prefix // VIPs; empty: reached by name or port alone
	Ports      []Port
	Selector   map[string]string // workloads of the namespace; nil: none
	Endpoints  []Endpoint        // listed by hand or by an EndpointSlice
	Sliced     bool              // EndpointSlices for it exist: Endpoints win over Selector
	ExportTo   []string          // "*", ".", names; nil: everywhere
	SANs       []string          // identities that its endpoints may have; nil: from the workloads
	Origin     Origin
}

// Port of a service.
type Port struct {
	Number     uint16
	Name       string
	Protocol   Protocol
	Target     uint16 // port at the workload; 0: see TargetName, else Number
	TargetName string // named container port
}

// Endpoint is one listed address of a service.
type Endpoint struct {
	Address  string            // IP, DNS name, or unix:///path
	Ports    map[string]uint16 // by service port name; absent: the port's target
	Labels   map[string]string
	Locality Locality
	Weight   uint32 // 0: 1
	Network  string
	Account  string // service account; empty: unknown
	Workload string // name of the Workload it belongs to, when known (EndpointSlice targetRef)
	Ready    bool
	Origin   Origin
}

// Locality of a workload or endpoint; parts may be empty.
type Locality struct{ Region, Zone, Subzone string }

// Workload is one running copy of a program (a pod, a VM, a process), or,
// with Template, the description of such copies (a Deployment).
type Workload struct {
	Name      string // pod, WorkloadEntry, Deployment or process name, unique by kind in the namespace
	Namespace string
	Template  bool     // Deployment: selects policies and says who calls, but is no endpoint
	Owner     string   // name of its Deployment; empty: none known
	Address   string   // IP; DNS name (WorkloadEntry); empty on templates
	More      []string // its further IPs (dual stack)
	Host      string   // node name or host name; may be empty
	Labels    map[string]string
	Account   string            // service account, never empty (Kubernetes says "default")
	Ports     map[string]uint16 // named ports
	Locality  Locality
	Weight    uint32
	Network   string
	Ready     bool
	MTLS      bool      // a sidecar of ours (or Istio's) is in front: auto mTLS applies
	Injection Injection // whether one will be, while MTLS is not set; link settles it
	Gateway   bool      // runs tulle-proxy as a gateway
	Expose    []Expose  // standalone, where sockets are not captured
	Probe     *Probe    // templates: when a copy takes requests; nil: when it listens
	Origin    Origin
}

// Injection is what a description of a workload that does not run yet says
// about the sidecar it will have.
type Injection uint8

// Injections.
const (
	InjectNone      Injection = iota // none, or it runs already and MTLS says all
	InjectIfAsked                    // if the namespace asks for it (a Pod as users write it)
	InjectUnlessNot                  // unless the namespace forbids it (a template; or it asks itself)
)

// Probe finds out whether a program takes requests: by an HTTP request whose
// answer is below 400, by a command that succeeds, else by connecting.
type Probe struct {
	Path     string            // of a GET; empty: no HTTP
	TLS      bool              // HTTP over TLS, the certificate is not checked
	Headers  map[string]string // of the GET
	Host     string            // to connect to; empty: the copy
	Port     uint16            // 0 with Exec
	Exec     []string          // command
	Initial  time.Duration     // before the first probe
	Period   time.Duration     // between two; 0: 10 s
	Timeout  time.Duration     // of one; 0: 1 s
	Failures uint32            // in a row that make it not ready; 0: 3
	Success  uint32            // in a row that make it ready; 0: 1
}

// Expose says where a port of a standalone workload is really reached.
type Expose struct {
	Port   uint16         // the workload port, as services target it
	Listen netip.AddrPort // where the sidecar listens for peers; zero: see Gateway listeners
	App    netip.AddrPort // where the program listens
}

// Secret is key material named by Gateways. Values print as redacted.
type Secret struct {
	Name, Namespace string
	Type            string
	Data            map[string]Sensitive
	Origin          Origin
}

// Sensitive bytes never appear in logs, dumps or text forms.
type Sensitive []byte

// String hides the value.
func (Sensitive) String() string { return "[redacted]" }

// GoString hides the value.
func (Sensitive) GoString() string { return "[redacted]" }

// MarshalJSON hides the value.
func (Sensitive) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }
