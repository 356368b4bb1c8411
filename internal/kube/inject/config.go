package inject

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names and numbers of Istio's contract.
const (
	Container     = "istio-proxy"
	InitContainer = "istio-init"
	UID           = 1337
	StatusPort    = 15020 // probes of the program, merged metrics, drain
	HealthPort    = 15021
	MetricsPort   = 15090
	TokenAudience = "istio-ca"
	tokenSeconds  = 43200
)

// Config of the mesh, as the control plane knows it. Read only while in use.
type Config struct {
	Image          string // of tulle-proxy
	PullPolicy     corev1.PullPolicy
	Discovery      string // host:port of the control plane
	TrustDomain    string
	Cluster        string // id; empty: Kubernetes
	Revision       string
	Tags           []string // other names of the revision
	RootConfigMap  string   // in every namespace, key root-cert.pem
	NativeSidecars bool     // the kubelets run init containers with restartPolicy Always
	EveryNamespace bool     // enableNamespacesByDefault
	NeverInject    []metav1.LabelSelector
	AlwaysInject   []metav1.LabelSelector
	Resources      corev1.ResourceRequirements
	HoldUntilReady bool // the program starts when the sidecar is ready
	RewriteProbes  bool
	DNS            bool // questions go through the sidecar
	LogLevel       string
	Concurrency    int // event loops; 0: by the CPU limit
	ExcludeRanges  []string
	TerminationSec int // terminationDrainDuration; 0: 5
	MergeMetrics   bool
}

// Defaults are Istio's, with the resources that this proxy needs.
func Defaults() Config {
	q := resource.MustParse
	return Config{
		Discovery: "istiod.istio-system.svc:15012", TrustDomain: "cluster.local", Cluster: "Kubernetes",
		RootConfigMap: "istio-ca-root-cert", PullPolicy: corev1.PullIfNotPresent,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: q("10m"), corev1.ResourceMemory: q("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: q("2"), corev1.ResourceMemory: q("1Gi")},
		},
		HoldUntilReady: true, RewriteProbes: true, DNS: true, MergeMetrics: true, LogLevel: "info",
	}
}

// choices are a Config's with what a pod's annotations change.
type choices struct {
	Config
	capture bool
	// everything: the sidecar asks for all of the mesh, not for what is used.
	everything bool
	inIP       string // outgoing address ranges that are captured
	exIP       string
	inPorts    string // incoming ports that are captured
	exPorts    string
	outIn      string // outgoing ports that are captured whatever the address
	outEx      string
	native     bool
	runtime    map[string]string // Envoy's runtime keys
}

// read takes the annotations of one pod. A value that cannot be read is an
// error: the pod is refused rather than run in another way than asked.
func (c *Config) read(a map[string]string) (choices, error) {
	r := reader{annotations: a}
	o := choices{Config: *c, native: c.NativeSidecars, capture: true}
	o.Resources = *c.Resources.DeepCopy()
	r.str("sidecar.istio.io/proxyImage", &o.Image)
	r.quantity("sidecar.istio.io/proxyCPU", &o.Resources.Requests, corev1.ResourceCPU)
	r.quantity("sidecar.istio.io/proxyMemory", &o.Resources.Requests, corev1.ResourceMemory)
	r.quantity("sidecar.istio.io/proxyCPULimit", &o.Resources.Limits, corev1.ResourceCPU)
	r.quantity("sidecar.istio.io/proxyMemoryLimit", &o.Resources.Limits, corev1.ResourceMemory)
	r.str("sidecar.istio.io/logLevel", &o.LogLevel)
	r.boolean("sidecar.istio.io/rewriteAppHTTPProbers", &o.RewriteProbes)
	r.boolean("sidecar.istio.io/nativeSidecar", &o.native)
	r.str("sidecar.istio.io/discoveryAddress", &o.Discovery)
	r.boolean("prometheus.istio.io/merge-metrics", &o.MergeMetrics)
	mode := "REDIRECT"
	r.str("sidecar.istio.io/interceptionMode", &mode)
	switch mode {
	case "REDIRECT":
	case "NONE":
		o.capture = false
	default:
		r.fail("sidecar.istio.io/interceptionMode", "%s is not supported; REDIRECT and NONE are", mode)
	}
	o.inIP, o.inPorts = "*", "*"
	r.ranges("traffic.sidecar.istio.io/includeOutboundIPRanges", &o.inIP)
	o.exIP = strings.Join(c.ExcludeRanges, ",")
	r.ranges("traffic.sidecar.istio.io/excludeOutboundIPRanges", &o.exIP)
	r.ports("traffic.sidecar.istio.io/includeInboundPorts", &o.inPorts)
	r.ports("traffic.sidecar.istio.io/excludeInboundPorts", &o.exPorts)
	r.ports("traffic.sidecar.istio.io/includeOutboundPorts", &o.outIn)
	r.ports("traffic.sidecar.istio.io/excludeOutboundPorts", &o.outEx)
	r.proxyConfig("proxy.istio.io/config", &o)
	return o, r.err
}

// reader collects the first error.
type reader struct {
	annotations map[string]string
	err         error
}

func (r *reader) fail(name, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("annotation %s: %s", name, fmt.Sprintf(format, args...))
	}
}

func (r *reader) str(name string, p *string) {
	if v, ok := r.annotations[name]; ok && v != "" {
		*p = v
	}
}

func (r *reader) boolean(name string, p *bool) {
	v, ok := r.annotations[name]
	if !ok {
		return
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.fail(name, "%q is neither true nor false", v)
		return
	}
	*p = b
}

func (r *reader) quantity(name string, list *corev1.ResourceList, of corev1.ResourceName) {
	v, ok := r.annotations[name]
	if !ok {
		return
	}
	q, err := resource.ParseQuantity(v)
	if err != nil {
		r.fail(name, "%q is no quantity as 100m or 64Mi", v)
		return
	}
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[of] = q
}

// ranges are address blocks with commas between, or * alone.
func (r *reader) ranges(name string, p *string) {
	v, ok := r.annotations[name]
	if !ok {
		return
	}
	if v != "*" && v != "" {
		for x := range strings.SplitSeq(v, ",") {
			x = strings.TrimSpace(x)
			if _, err := netip.ParsePrefix(x); err != nil {
				if _, err := netip.ParseAddr(x); err != nil {
					r.fail(name, "%q is no address block as 10.0.0.0/8", x)
					return
				}
			}
		}
	}
	*p = strings.ReplaceAll(v, " ", "")
}

// ports are numbers with commas between, or * alone.
func (r *reader) ports(name string, p *string) {
	v, ok := r.annotations[name]
	if !ok {
		return
	}
	if v != "*" && v != "" {
		for x := range strings.SplitSeq(v, ",") {
			if n, err := strconv.ParseUint(strings.TrimSpace(x), 10, 16); err != nil || n == 0 {
				r.fail(name, "%q is no port", x)
				return
			}
		}
	}
	*p = strings.ReplaceAll(v, " ", "")
}

// own are the sidecar's ports, which are never captured.
func own() []string {
	return []string{strconv.Itoa(StatusPort), strconv.Itoa(HealthPort), strconv.Itoa(MetricsPort)}
}

func join(lists ...string) string {
	var out []string
	for _, l := range lists {
		for x := range strings.SplitSeq(l, ",") {
			if x != "" && !slices.Contains(out, x) {
				out = append(out, x)
			}
		}
	}
	return strings.Join(out, ",")
}
