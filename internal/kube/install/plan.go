package install

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Plan is what is installed.
type Plan struct {
	Profile   string
	Namespace string
	Revision  string // empty: default
	Suffix    string // of names: -REVISION, or nothing
	Hub, Tag  string
	Pull      string // imagePullPolicy
	Base      bool   // CRDs
	Control   bool   // the control plane
	Pilot     Workload
	Mesh      map[string]any // MeshConfig
	Values    map[string]any // for injection: Istio's values, as far as it reads them
	Trust     string         // trust domain
	Gateways  []*Gateway
	Findings  []Finding
}

// Workload is how a Deployment runs.
type Workload struct {
	Scale       bool // by an autoscaler between Min and Max
	Min, Max    int32
	CPU         int32 // percent, the autoscaler's aim
	Replicas    int32 // without Scale
	Resources   corev1.ResourceRequirements
	Env         []corev1.EnvVar
	Node        map[string]string
	Tolerations []corev1.Toleration
	Affinity    *corev1.Affinity
	Annotations map[string]string // of its pods
}

// Gateway is one ingress or egress gateway.
type Gateway struct {
	Workload
	Name, Namespace string
	Egress          bool
	Labels          map[string]string
	Service         Service
	Discovery       string // host:port of the control plane
	Image, Pull     string
	Trust           string
	Revision        string
	MeshConfig      map[string]any // defaultConfig
	Account         string         // service account
	LowPorts        bool           // it may listen below 1024
}

// Service in front of a gateway.
type Service struct {
	Type                     corev1.ServiceType                  `json:"type"`
	Ports                    []corev1.ServicePort                `json:"ports"`
	Annotations              map[string]string                   `json:"annotations"`
	LoadBalancerIP           string                              `json:"loadBalancerIP"`
	LoadBalancerSourceRanges []string                            `json:"loadBalancerSourceRanges"`
	ExternalTrafficPolicy    corev1.ServiceExternalTrafficPolicy `json:"externalTrafficPolicy"`
	ExternalIPs              []string                            `json:"externalIPs"`
	LoadBalancerClass        *string                             `json:"loadBalancerClass"`
}

// k8s is what is acted on of a component's k8s block, and the same words of
// values.
type k8s struct {
	Resources      *corev1.ResourceRequirements `json:"resources"`
	ReplicaCount   *int32                       `json:"replicaCount"`
	Env            []corev1.EnvVar              `json:"env"`
	NodeSelector   map[string]string            `json:"nodeSelector"`
	Tolerations    []corev1.Toleration          `json:"tolerations"`
	Affinity       *corev1.Affinity             `json:"affinity"`
	PodAnnotations map[string]string            `json:"podAnnotations"`
	HPASpec        *struct {
		MinReplicas *int32 `json:"minReplicas"`
		MaxReplicas *int32 `json:"maxReplicas"`
		Metrics     []struct {
			Resource struct {
				Name   string `json:"name"`
				Old    int32  `json:"targetAverageUtilization"`
				Target struct {
					AverageUtilization int32 `json:"averageUtilization"`
				} `json:"target"`
			} `json:"resource"`
		} `json:"metrics"`
	} `json:"hpaSpec"`
	Service            *Service          `json:"service"`
	ServiceAnnotations map[string]string `json:"serviceAnnotations"`
}

var k8sFields = []string{"resources", "replicaCount", "env", "nodeSelector", "tolerations", "affinity", "podAnnotations", "hpaSpec", "service", "serviceAnnotations"}

// defaultHub and how images there are called.
const defaultHub = "tulle"

// Make a Plan of files and --set words. version is that of this program, whose
// images are installed unless the input says otherwise.
func Make(files []File, sets []string, version string) (*Plan, error) {
	t, err := merge(files, sets)
	if err != nil {
		return nil, err
	}
	p := &Plan{Profile: cmp.Or(text(t.get("profile")), "default")}
	p.Namespace = cmp.Or(text(t.get("namespace")), text(t.get("values", "global", "istioNamespace")), "istio-system")
	p.Revision = cmp.Or(text(t.get("revision")), text(t.get("values", "revision")))
	if p.Revision == "default" {
		p.Revision = ""
	}
	if bad := validation.IsDNS1123Label(cmp.Or(p.Revision, "default")); len(bad) > 0 {
		return nil, fmt.Errorf("spec.revision %q: %s", p.Revision, bad[0])
	}
	if p.Revision != "" {
		p.Suffix = "-" + p.Revision
	}
	p.images(t, version)
	p.Pull = cmp.Or(text(t.get("values", "global", "imagePullPolicy")), "IfNotPresent")
	p.Base, p.Control = enabled(t.get("components", "base", "enabled")), enabled(t.get("components", "pilot", "enabled"))
	p.Mesh, _ = t.get("meshConfig").(map[string]any)
	p.Trust = cmp.Or(text(p.Mesh["trustDomain"]), "cluster.local")
	if err := p.pilot(t); err != nil {
		return nil, err
	}
	p.values(t)
	for _, kind := range []string{"ingress", "egress"} {
		if err := p.gateways(t, kind); err != nil {
			return nil, err
		}
	}
	t.unread(t.spec, "spec")
	p.Findings = append(p.Findings, t.findings...)
	return p, nil
}

// images: those of another mesh would not run.
func (p *Plan) images(t *tree, version string) {
	p.Hub, p.Tag = defaultHub, version
	for _, x := range [][]string{{"values", "global"}, {}} {
		hub, tag := append(x[:len(x):len(x)], "hub"), append(x[:len(x):len(x)], "tag")
		h, v := text(t.get(hub...)), text(t.get(tag...))
		if strings.Contains(h, "istio") || h == "" && v != "" && text(t.get("hub")) == "" && strings.Count(v, ".") == 2 && strings.HasPrefix(v, "1.") {
			t.findings = append(t.findings, Finding{Field: "spec." + strings.Join(tag, "."), Text: "ignored, with the hub beside it: those are Istio's images"})
			continue
		}
		p.Hub, p.Tag = cmp.Or(h, p.Hub), cmp.Or(v, p.Tag)
	}
}

// Control plane's address for proxies.
func (p *Plan) Discovery() string { return "istiod" + p.Suffix + "." + p.Namespace + ".svc:15012" }

// scale of a workload, from Istio's values.
func (t *tree) scale(path ...string) (w Workload, err error) {
	at := func(k string) []string { return append(append([]string(nil), path...), k) }
	w.Scale, _ = t.get(at("autoscaleEnabled")...).(bool)
	for k, dst := range map[string]*int32{"autoscaleMin": &w.Min, "autoscaleMax": &w.Max, "replicaCount": &w.Replicas} {
		if err := t.into(dst, at(k)...); err != nil {
			return w, err
		}
	}
	w.CPU = 80
	if err := t.into(&w.CPU, append(at("cpu"), "targetAverageUtilization")...); err != nil {
		return w, err
	}
	x := k8s{}
	for k, dst := range map[string]any{"resources": &x.Resources, "nodeSelector": &x.NodeSelector, "tolerations": &x.Tolerations, "affinity": &x.Affinity, "podAnnotations": &x.PodAnnotations} {
		if err := t.into(dst, at(k)...); err != nil {
			return w, err
		}
	}
	return w, w.take(&x)
}

// take what a k8s block says, which wins.
func (w *Workload) take(x *k8s) error {
	if x.Resources != nil {
		w.Resources = *x.Resources
	}
	if x.ReplicaCount != nil {
		w.Replicas = *x.ReplicaCount
	}
	if h := x.HPASpec; h != nil {
		w.Scale = true
		if h.MinReplicas != nil {
			w.Min = *h.MinReplicas
		}
		if h.MaxReplicas != nil {
			w.Max = *h.MaxReplicas
		}
		for _, m := range h.Metrics {
			if m.Resource.Name == "cpu" {
				w.CPU = cmp.Or(m.Resource.Target.AverageUtilization, m.Resource.Old, w.CPU)
			}
		}
	}
	w.Env = append(w.Env, x.Env...)
	if x.NodeSelector != nil {
		w.Node = x.NodeSelector
	}
	if x.Tolerations != nil {
		w.Tolerations = x.Tolerations
	}
	if x.Affinity != nil {
		w.Affinity = x.Affinity
	}
	if x.PodAnnotations != nil {
		w.Annotations = x.PodAnnotations
	}
	w.Min, w.Replicas = max(w.Min, 1), max(w.Replicas, 1)
	if w.Scale && w.Max < w.Min {
		return fmt.Errorf("autoscaling from %d to %d replicas: the least is above the most", w.Min, w.Max)
	}
	return nil
}

func (p *Plan) pilot(t *tree) (err error) {
	if p.Pilot, err = t.scale("values", "pilot"); err != nil {
		return fmt.Errorf("spec.values.pilot: %w", err)
	}
	var x k8s
	for _, f := range k8sFields {
		if f == "service" || f == "serviceAnnotations" {
			continue
		}
		var part k8s
		v := t.get("components", "pilot", "k8s", f)
		if v == nil {
			continue
		}
		if err := decode(map[string]any{f: v}, &part); err != nil {
			return fmt.Errorf("spec.components.pilot.k8s.%s: %w", f, err)
		}
		if err := decode(map[string]any{f: v}, &x); err != nil {
			return err
		}
	}
	if err := p.Pilot.take(&x); err != nil {
		return fmt.Errorf("spec.components.pilot.k8s: %w", err)
	}
	return nil
}

// values that the webhook reads of the installation, as they are.
func (p *Plan) values(t *tree) {
	proxy := map[string]any{}
	for _, k := range []string{"image", "logLevel", "resources", "excludeIPRanges", "holdApplicationUntilProxyStarts"} {
		if v := t.get("values", "global", "proxy", k); v != nil {
			proxy[k] = v
		}
	}
	if img := text(proxy["image"]); img == "proxyv2" || img == "distroless" {
		delete(proxy, "image")
	}
	global := map[string]any{"hub": p.Hub, "tag": p.Tag, "imagePullPolicy": p.Pull, "proxy": proxy, "istioNamespace": p.Namespace}
	if v := t.get("values", "global", "multiCluster", "clusterName"); v != nil {
		global["multiCluster"] = map[string]any{"clusterName": v}
	}
	p.Values = map[string]any{"global": global, "revision": p.Revision}
	injector := map[string]any{}
	for _, k := range []string{"enableNamespacesByDefault", "rewriteAppHTTPProbe", "neverInjectSelector", "alwaysInjectSelector"} {
		if v := t.get("values", "sidecarInjectorWebhook", k); v != nil {
			injector[k] = v
		}
	}
	if len(injector) > 0 {
		p.Values["sidecarInjectorWebhook"] = injector
	}
	if v := t.get("values", "revisionTags"); v != nil {
		p.Values["revisionTags"] = v
	}
}

// EveryNamespace says that namespaces are injected unless they forbid it.
func (p *Plan) EveryNamespace() bool {
	m, _ := p.Values["sidecarInjectorWebhook"].(map[string]any)
	on, _ := m["enableNamespacesByDefault"].(bool)
	return on
}

func (p *Plan) gateways(t *tree, kind string) error {
	list, _ := t.get("components", kind+"Gateways").([]any)
	values := "istio-" + kind + "gateway"
	used := false
	for i, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return fmt.Errorf("spec.components.%sGateways[%d]: not an object", kind, i)
		}
		if on, ok := m["enabled"].(bool); ok && !on {
			continue
		}
		used = true
		g, err := p.gateway(t, m, kind, values)
		if err != nil {
			return fmt.Errorf("spec.components.%sGateways[%d]: %w", kind, i, err)
		}
		p.Gateways = append(p.Gateways, g)
	}
	if !used { // the profile's values of a gateway that is not there are no finding
		t.read["spec.values.gateways."+values] = true
	}
	return nil
}

func (p *Plan) gateway(t *tree, m map[string]any, kind, values string) (*Gateway, error) {
	w, err := t.scale("values", "gateways", values)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		Workload: w, Name: text(m["name"]), Namespace: cmp.Or(text(m["namespace"]), p.Namespace), Egress: kind == "egress",
		Discovery: p.Discovery(), Image: p.Image(), Pull: p.Pull, Trust: p.Trust, Revision: p.Revision,
	}
	if bad := validation.IsDNS1123Label(g.Name); len(bad) > 0 {
		return nil, fmt.Errorf("name %q: %s", g.Name, bad[0])
	}
	g.Account = g.Name + "-service-account"
	g.MeshConfig, _ = p.Mesh["defaultConfig"].(map[string]any)
	for k, dst := range map[string]any{"type": &g.Service.Type, "ports": &g.Service.Ports, "serviceAnnotations": &g.Service.Annotations,
		"loadBalancerIP": &g.Service.LoadBalancerIP, "externalTrafficPolicy": &g.Service.ExternalTrafficPolicy} {
		if err := t.into(dst, "values", "gateways", values, k); err != nil {
			return nil, err
		}
	}
	g.Labels = map[string]string{"app": g.Name, "istio": kind + "gateway"}
	var own struct {
		Label map[string]string `json:"label"`
		K8s   k8s               `json:"k8s"`
	}
	if err := decode(m, &own); err != nil {
		return nil, err
	}
	for k, v := range own.Label {
		g.Labels[k] = v
	}
	p.ignored(t, g.Name, m)
	if s := own.K8s.Service; s != nil {
		if len(s.Ports) == 0 {
			s.Ports = g.Service.Ports
		}
		s.Type = cmp.Or(s.Type, g.Service.Type)
		g.Service = *s
	}
	if own.K8s.ServiceAnnotations != nil {
		g.Service.Annotations = own.K8s.ServiceAnnotations
	}
	if err := g.take(&own.K8s); err != nil {
		return nil, err
	}
	g.ports()
	return g, g.check()
}

// ignored tells what of a gateway's own words has no effect.
func (p *Plan) ignored(t *tree, name string, m map[string]any) {
	at := "spec.components.*Gateways[" + name + "]"
	tell := func(field string) {
		t.findings = append(t.findings, Finding{Field: at + "." + field, Text: "ignored: Tulle has no use for it"})
	}
	has := func(list []string, k string) bool {
		for _, x := range list {
			if x == k {
				return true
			}
		}
		return false
	}
	for k := range m {
		if !has([]string{"name", "namespace", "enabled", "label", "k8s"}, k) {
			tell(k)
		}
	}
	block, _ := m["k8s"].(map[string]any)
	for k := range block {
		if !has(k8sFields, k) {
			tell("k8s." + k)
		}
	}
}

// ports that a gateway has unless it says others: Istio's.
func (g *Gateway) ports() {
	if len(g.Service.Ports) == 0 {
		port := func(name string, number, target int32) corev1.ServicePort {
			return corev1.ServicePort{Name: name, Port: number, TargetPort: intstr.FromInt32(target), Protocol: corev1.ProtocolTCP}
		}
		g.Service.Ports = []corev1.ServicePort{port("http2", 80, 8080), port("https", 443, 8443)}
		if !g.Egress {
			g.Service.Ports = append([]corev1.ServicePort{port("status-port", 15021, 15021)}, g.Service.Ports...)
		}
	}
	for i := range g.Service.Ports {
		x := &g.Service.Ports[i]
		x.Protocol = cmp.Or(x.Protocol, corev1.ProtocolTCP)
		if x.TargetPort == (intstr.IntOrString{}) {
			x.TargetPort = intstr.FromInt32(x.Port)
		}
	}
}

func (g *Gateway) check() error {
	names := map[string]bool{}
	for _, x := range g.Service.Ports {
		if x.Port < 1 || x.Port > 65535 {
			return fmt.Errorf("service port %d", x.Port)
		}
		if len(g.Service.Ports) > 1 && x.Name == "" || names[x.Name] {
			return fmt.Errorf("service port %d needs a name of its own", x.Port)
		}
		names[x.Name] = true
		if n := x.TargetPort.IntValue(); n > 0 && n < 1024 {
			return errors.New("target ports below 1024 need a capability that the gateway does not have; target 8080 for 80")
		}
	}
	return nil
}

// Image of the proxy.
func (p *Plan) Image() string { return p.Hub + "/proxy:" + p.Tag }
