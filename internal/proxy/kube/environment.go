package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Ports of a sidecar and of a gateway, by contract.
const (
	AdminPort    = 15000 // on loopback
	OutboundPort = 15001
	InboundPort  = 15006
	StatusPort   = 15020 // probes of the program, merged metrics, drain, quit
	HealthPort   = 15021
	MetricsPort  = 15090 // the proxy's own metrics
)

// Places of the files that are mounted.
const (
	TokenFile = "/var/run/secrets/tokens/istio-token"
	RootsFile = "/var/run/secrets/istio/root-cert.pem"
	StateDir  = "/var/lib/istio/data"
	SecretDir = "/etc/istio/proxy" // backed by memory
	infoDir   = "/etc/istio/pod"
)

// Pod is what a proxy is told about its pod. Immutable.
type Pod struct {
	Gateway   bool
	Name      string
	Namespace string
	Account   string
	Addresses []netip.Addr // the first is the pod's main one
	Workload  string       // the Deployment or the like
	Cluster   string
	Domain    string // of the cluster's names
	Labels    map[string]string
	Metadata  map[string]string // of the xDS node

	Discovery   string // host:port of the control plane
	Concurrency int    // event loops; 0: not said
	Memory      int64  // limit of the container, in bytes; 0: not said
	LogLevel    slog.Level
	Runtime     map[string]string // Envoy's runtime keys
	Drain       time.Duration     // how long requests may take to end after SIGTERM
	// UntilIdle waits for connections to end as long as it takes, after Drain.
	UntilIdle bool
	DNS       bool // questions are redirected here
	Capture   bool // connections are redirected here
	// OnDemand: destinations are asked for when they are first used. Istio's
	// ISTIO_DELTA_XDS=false, in proxyMetadata, wants all of them, as it does there.
	OnDemand bool

	Probes map[string]*Probe // by path; see Answer
	Scrape *Scrape           // nil: the program has no metrics
}

// ID of the pod's xDS node.
func (p *Pod) ID() string {
	role := "sidecar"
	if p.Gateway {
		role = "router"
	}
	return fmt.Sprintf("%s~%s~%s.%s~%s.svc.%s", role, p.Addresses[0], p.Name, p.Namespace, p.Namespace, p.Domain)
}

// ErrNotInPod is wrapped when the environment is not that of a pod.
var ErrNotInPod = errors.New("this is no pod that the injector made")

// proxyConfig is what is acted on of Istio's ProxyConfig.
type proxyConfig struct {
	Discovery   string `json:"discoveryAddress"`
	LogLevel    string `json:"logLevel"`
	Concurrency int    `json:"concurrency"`
	Drain       string `json:"terminationDrainDuration"`

	RuntimeValues map[string]string `json:"runtimeValues"`
}

// FromEnvironment reads the contract. get is os.Getenv.
func FromEnvironment(gateway bool, get func(string) string) (*Pod, error) {
	e := environment{get: get}
	p := &Pod{
		Gateway: gateway, Name: e.must("POD_NAME"), Namespace: e.must("POD_NAMESPACE"),
		Account: e.or("SERVICE_ACCOUNT", "default"), Cluster: e.or("ISTIO_META_CLUSTER_ID", "Kubernetes"),
		Domain: e.or("DOMAIN_SUFFIX", "cluster.local"), Workload: get("ISTIO_META_WORKLOAD_NAME"),
		Capture: !gateway && get("ISTIO_META_INTERCEPTION_MODE") != "NONE",
		DNS:     !gateway && e.boolean("ISTIO_META_DNS_CAPTURE"), UntilIdle: e.boolean("EXIT_ON_ZERO_ACTIVE_CONNECTIONS"),
	}
	p.OnDemand = p.Capture && (get("ISTIO_DELTA_XDS") == "" || e.boolean("ISTIO_DELTA_XDS"))
	if p.Workload == "" {
		p.Workload = p.Name
	}
	e.addresses(p)
	e.proxyConfig(p)
	if n := e.number("ISTIO_CPU_LIMIT"); p.Concurrency == 0 {
		p.Concurrency = n
	}
	// The injector says the whole limit; in Go's own notation it is the user's word.
	if n, err := strconv.ParseInt(get("GOMEMLIMIT"), 10, 64); err == nil {
		p.Memory = n
	}
	if d := get("MINIMUM_DRAIN_DURATION"); p.UntilIdle && d != "" {
		p.Drain = e.duration("MINIMUM_DRAIN_DURATION", d)
	}
	if text := get("ISTIO_KUBE_APP_PROBERS"); text != "" {
		var err error
		if p.Probes, err = parseProbes(text); err != nil {
			e.fail("ISTIO_KUBE_APP_PROBERS", err)
		}
	}
	if text := get("ISTIO_PROMETHEUS_ANNOTATIONS"); text != "" {
		var err error
		if p.Scrape, err = parseScrape(text); err != nil {
			e.fail("ISTIO_PROMETHEUS_ANNOTATIONS", err)
		}
	}
	if e.err != nil {
		return nil, e.err
	}
	p.Metadata = e.metadata(p)
	return p, nil
}

// ReadInfo reads the labels that the downward API has mounted; a file that is
// not there says nothing.
func (p *Pod) ReadInfo() error {
	b, err := os.ReadFile(infoDir + "/labels")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("labels of the pod: %w", err)
	}
	p.Labels, err = parseInfo(string(b))
	return err
}

// parseInfo reads lines of the form key="value", as the downward API writes.
func parseInfo(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		value, err := strconv.Unquote(v)
		if !ok || err != nil {
			return nil, fmt.Errorf("labels of the pod: line %q is not key=\"value\"", line)
		}
		out[k] = value
	}
	return out, nil
}

// environment collects the first error.
type environment struct {
	get func(string) string
	err error
}

func (e *environment) fail(name string, err error) {
	if e.err == nil {
		e.err = fmt.Errorf("environment %s: %w", name, err)
	}
}

func (e *environment) must(name string) string {
	v := e.get(name)
	if v == "" {
		e.fail(name, fmt.Errorf("not set: %w", ErrNotInPod))
	}
	return v
}

func (e *environment) or(name, otherwise string) string {
	if v := e.get(name); v != "" {
		return v
	}
	return otherwise
}

func (e *environment) boolean(name string) bool {
	v := e.get(name)
	if v == "" {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		e.fail(name, fmt.Errorf("%q is neither true nor false", v))
	}
	return b
}

// maxLoops bounds event loops, as many machines have processors.
const maxLoops = 1024

func (e *environment) number(name string) int {
	v := e.get(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		e.fail(name, fmt.Errorf("%q is no number", v))
	}
	return min(n, maxLoops)
}

func (e *environment) duration(name, v string) time.Duration {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		e.fail(name, fmt.Errorf("%q is no duration as 5s", v))
	}
	return d
}

func (e *environment) addresses(p *Pod) {
	list := e.or("INSTANCE_IPS", e.must("INSTANCE_IP"))
	if main := e.get("INSTANCE_IP"); main != "" {
		list = main + "," + list
	}
	for x := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(x))
		if err != nil {
			e.fail("INSTANCE_IPS", fmt.Errorf("%q is no address", x))
			return
		}
		if a = a.Unmap(); len(p.Addresses) == 0 || p.Addresses[0] != a {
			p.Addresses = append(p.Addresses, a)
		}
	}
}

func (e *environment) proxyConfig(p *Pod) {
	c := proxyConfig{}
	if text := e.must("PROXY_CONFIG"); text != "" {
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			e.fail("PROXY_CONFIG", err)
		}
	}
	if p.Discovery = c.Discovery; c.Discovery == "" {
		e.fail("PROXY_CONFIG", errors.New("no discoveryAddress"))
	}
	if c.Concurrency < 0 || c.Concurrency > maxLoops {
		e.fail("PROXY_CONFIG", fmt.Errorf("concurrency %d", c.Concurrency))
	}
	p.Concurrency, p.Runtime = c.Concurrency, c.RuntimeValues
	if n := e.get("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS"); n != "" { // of proxyMetadata, the newer word
		if p.Runtime == nil {
			p.Runtime = map[string]string{}
		}
		p.Runtime["overload.global_downstream_max_connections"] = n
	}
	if p.Drain = 5 * time.Second; c.Drain != "" {
		p.Drain = e.duration("PROXY_CONFIG", c.Drain)
	}
	p.LogLevel = level(c.LogLevel)
}

// level is the nearest of ours to a name of Envoy's; what is none is info.
func level(name string) slog.Level {
	switch strings.ToLower(name) {
	case "trace", "debug":
		return slog.LevelDebug
	case "warning", "warn":
		return slog.LevelWarn
	case "error", "critical", "off":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// metadata is what the node says of itself. The control plane believes its own
// record; it may hold this against it.
func (e *environment) metadata(p *Pod) map[string]string {
	out := map[string]string{"NAME": p.Name, "NAMESPACE": p.Namespace, "SERVICE_ACCOUNT": p.Account, "CLUSTER_ID": p.Cluster,
		"WORKLOAD_NAME": p.Workload}
	var ips []string
	for _, a := range p.Addresses {
		ips = append(ips, a.String())
	}
	out["INSTANCE_IPS"] = strings.Join(ips, ",")
	for _, n := range []string{"INTERCEPTION_MODE", "DNS_CAPTURE", "MESH_ID", "NODE_NAME", "NETWORK"} {
		if v := e.get("ISTIO_META_" + n); v != "" {
			out[n] = v
		}
	}
	return out
}
