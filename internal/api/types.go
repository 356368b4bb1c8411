package api

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Info is what a client of the control plane needs to know first.
type Info struct {
	Version string    `json:"version"` // of the program
	PID     int       `json:"pid"`
	Socket  string    `json:"socket"`  // xDS and CA for proxies on this machine
	Address string    `json:"address"` // the same over TLS
	Roots   string    `json:"roots"`   // trust bundle, PEM
	Config  string    `json:"config"`  // version of the configuration being served; empty: none yet
	Since   time.Time `json:"since"`   // when that version came
	Errors  int       `json:"errors"`  // notices by severity
	Warns   int       `json:"warnings"`
}

// Event is one line of a lease: the registration first, then what changes.
type Event struct {
	Registration *control.Registration     `json:"registration,omitempty"`
	Local        map[string]netip.AddrPort `json:"local,omitempty"` // all sockets of dependencies, when there are new ones
}

// Workload is a registered workload.
type Workload struct {
	ID      string            `json:"id"` // namespace/name
	Owner   string            `json:"owner,omitempty"`
	Account string            `json:"serviceAccount"`
	Labels  map[string]string `json:"labels,omitempty"`
	IP      string            `json:"ip"`
	Ready   bool              `json:"ready"`
	Gateway bool              `json:"gateway,omitempty"`
	Proxy   bool              `json:"proxy"` // its proxy is connected
}

// Deployment is one in the configuration, and how many processes run for it.
type Deployment struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Running   int    `json:"running"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
}

// Notice is a model.Notice.
type Notice struct {
	Severity  string       `json:"severity"`
	Reason    model.Reason `json:"reason"`
	Kind      string       `json:"kind,omitempty"`
	Namespace string       `json:"namespace,omitempty"`
	Name      string       `json:"name,omitempty"`
	Field     string       `json:"field,omitempty"`
	File      string       `json:"file,omitempty"`
	Line      int          `json:"line,omitempty"`
	Message   string       `json:"message"`
	Text      string       `json:"text"` // the whole as one line
}

// Proxy is one xDS stream.
type Proxy struct {
	Workload string      `json:"workload"` // namespace/name
	Agent    string      `json:"agent"`
	Proof    string      `json:"proof"` // how it proved who it is
	Since    time.Time   `json:"since"`
	Delta    bool        `json:"delta"`
	Demand   bool        `json:"onDemand,omitempty"` // asks for what it uses
	Synced   bool        `json:"synced"`
	Types    []ProxyType `json:"types"`
}

// ProxyType is where one resource type of a stream stands.
type ProxyType struct {
	Type    string   `json:"type"`             // type URL
	State   string   `json:"state"`            // SYNCED, STALE (not answered yet), REJECTED or NOT SENT
	Sent    string   `json:"sent,omitempty"`   // configuration version
	Acked   string   `json:"acked,omitempty"`  // configuration version
	Held    int      `json:"held"`             // resources
	Names   int      `json:"names,omitempty"`  // asked for by name
	Absent  int      `json:"absent,omitempty"` // of them: lead nowhere
	Refused []string `json:"refused,omitempty"`
	Reason  string   `json:"reason,omitempty"`

	SentAt    time.Time `json:"sentAt,omitzero"`
	AckedAt   time.Time `json:"ackedAt,omitzero"`
	Responses uint64    `json:"responses"`
	Resources uint64    `json:"resources"` // in all responses
	Bytes     uint64    `json:"bytes"`     // of their bodies
}

// failure is the body of an answer that is an error.
type failure struct {
	Error string `json:"error"`
}
