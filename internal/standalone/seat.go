package standalone

import (
	"context"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Wish says which replica is to join the mesh.
type Wish struct {
	Namespace  string            `json:"namespace"`
	Deployment string            `json:"deployment,omitempty"` // labels, account, ports and probes come from it
	Service    string            `json:"service,omitempty"`    // else: labels and ports come from its selector
	Name       string            `json:"name,omitempty"`       // of the replica; empty: made from the Deployment's
	Labels     map[string]string `json:"labels,omitempty"`     // added
	Account    string            `json:"account,omitempty"`
	Ports      []uint16          `json:"ports,omitempty"` // that the program listens on, where nothing declares them
	HostPorts  []uint16          `json:"hostPorts,omitempty"`
	Gateway    bool              `json:"gateway,omitempty"`
	PID        int               `json:"pid"` // of the asking process
}

// Seat is a replica's place in the mesh.
type Seat struct {
	ID        string                    `json:"id"`
	Namespace string                    `json:"namespace"`
	Name      string                    `json:"name"`
	Owner     string                    `json:"owner,omitempty"`
	Labels    map[string]string         `json:"labels,omitempty"`
	Account   string                    `json:"account"`
	Token     string                    `json:"token"` // for xDS; a secret
	XDS       string                    `json:"xds"`   // unix:///path
	Address   netip.Addr                `json:"address"`
	Expose    []model.Expose            `json:"expose,omitempty"`
	HTTPProxy netip.AddrPort            `json:"httpProxy,omitzero"`
	Local     map[string]netip.AddrPort `json:"local,omitempty"` // dependencies by "host:port"
	Ready     *Probe                    `json:"ready,omitempty"` // readiness probe of the Deployment
}

// Probe is a Kubernetes probe of a standalone program.
type Probe struct {
	HTTPPath string        `json:"httpPath,omitempty"` // GET; empty: connect only
	Scheme   string        `json:"scheme,omitempty"`
	Port     uint16        `json:"port"`
	Exec     []string      `json:"exec,omitempty"`
	Initial  time.Duration `json:"initial,omitempty"`
	Period   time.Duration `json:"period,omitempty"`  // 0: 10 s
	Timeout  time.Duration `json:"timeout,omitempty"` // 0: 1 s
	Failures int           `json:"failures,omitempty"`
}

// Control is what standalone asks of the control plane; internal/api's client
// implements it.
type Control interface {
	// Join gives a seat as long as ctx lives; it is given up when the caller's
	// process dies too.
	Join(ctx context.Context, w Wish) (*Seat, error)
	// SetReady says whether the replica takes requests.
	SetReady(ctx context.Context, id string, ready bool) error
	// Address is where a program at that seat reaches host:port.
	Address(ctx context.Context, id, host string, port uint16) (netip.AddrPort, error)
}
