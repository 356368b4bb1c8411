package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/kube"
)

// Bootstrap is all that a proxy is told at its start; the rest comes by xDS.
// It is a JSON file, written by tulle run, tulle up or the injector.
type Bootstrap struct {
	// ID names the workload for logs; the control plane knows who asks by Token.
	ID        string   `json:"id"`
	Workload  Workload `json:"workload"`
	XDS       string   `json:"xds"`       // unix:///path or host:port
	TokenFile string   `json:"tokenFile"` // join token, read at every connect
	CAFile    string   `json:"caFile,omitempty"`
	// StateDir keeps the last good configuration; empty: none is kept.
	StateDir string `json:"stateDir,omitempty"`
	// SecretDir keeps certificate and key over restarts; it should be backed by
	// memory. Empty: a restart asks for a new certificate.
	SecretDir string `json:"secretDir,omitempty"`
	// Admin is where health, metrics and dumps are served: unix:///path or a
	// loopback host:port. Empty: nowhere.
	Admin       string `json:"admin,omitempty"`
	Concurrency int    `json:"concurrency,omitempty"` // event loops; 0: the CPU limit, at most 2 without one
	// Drain is how long requests may take to end when the process is asked to;
	// 0: 5 s. For DrainAccept of that, new connections are still taken; 0: for
	// none.
	Drain       Duration `json:"drain,omitempty"`
	DrainAccept Duration `json:"drainAccept,omitempty"`
	// ListenersDrain is how long connections of a listener that is changed or
	// removed may go on; 0: 45 s.
	ListenersDrain Duration `json:"listenersDrain,omitempty"`
	// RestartSocket is the path of a unix socket at which a new process takes
	// over from the running one; empty: none does. RestartDrain is how long the
	// old one's connections may go on; 0: 10 min.
	RestartSocket string   `json:"restartSocket,omitempty"`
	RestartDrain  Duration `json:"restartDrain,omitempty"`
	Agent         string   `json:"agent,omitempty"` // unix socket of the agent inside the program's namespaces
	// HostPorts are ports of our own localhost that the program may reach at
	// its localhost; with Agent only.
	HostPorts []uint16 `json:"hostPorts,omitempty"`
	Features  []string `json:"features,omitempty"` // declared to the control plane; nil: all
	// OnDemand asks for destinations when they are first used, instead of for all
	// of the mesh; for sidecars that capture connections, if the control plane
	// does so too.
	OnDemand bool `json:"onDemand,omitempty"`
	// Runtime holds Envoy's runtime keys that limit the connections of clients:
	// overload.global_downstream_max_connections, and for one listener
	// envoy.resource_limits.listener.<name>.connection_limit. Others are told in
	// a warning.
	Runtime  map[string]string `json:"runtime,omitempty"`
	NoBridge bool              `json:"noBridge,omitempty"` // never carry HTTP/1 as HTTP/2 between sidecars

	// Pod is what a pod's environment says; nil: we are in none.
	Pod *kube.Pod `json:"-"`
}

// Workload is what telemetry says about this proxy's own side.
type Workload struct {
	Name      string `json:"name"` // Deployment or pod name
	Namespace string `json:"namespace"`
	App       string `json:"app,omitempty"`
	Version   string `json:"version,omitempty"`
	Canonical string `json:"canonical,omitempty"`
	Revision  string `json:"revision,omitempty"`
	Account   string `json:"account,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	Gateway   bool   `json:"gateway,omitempty"`
}

// Duration is a time.Duration that JSON writes as "5s".
type Duration time.Duration

// UnmarshalText reads "5s".
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes "5s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// ReadBootstrap reads and checks a bootstrap file.
func ReadBootstrap(path string) (*Bootstrap, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	out := &Bootstrap{}
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("bootstrap %s: %w", path, err)
	}
	if out.XDS == "" {
		return nil, fmt.Errorf("bootstrap %s: %w", path, errors.New("xds: no address of a control plane"))
	}
	return out, nil
}
