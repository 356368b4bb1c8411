package inject

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pod adds the sidecar to a pod or to a template's metadata and spec, in place.
// owner names the Deployment or the like; it may be empty. The caller has
// Decided.
func (c *Config) Pod(namespace, owner string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) error {
	o, err := c.read(meta.Annotations)
	if err != nil {
		return err
	}
	if meta.Labels == nil {
		meta.Labels = map[string]string{}
	}
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	workload := owner
	if workload == "" {
		workload = strings.TrimSuffix(meta.GenerateName, "-")
	}
	if workload == "" {
		workload = meta.Name
	}
	canonical := first(meta.Labels, workload, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	setDefault(meta.Labels, "security.istio.io/tlsMode", "istio")
	setDefault(meta.Labels, "service.istio.io/canonical-name", clip(canonical))
	setDefault(meta.Labels, "service.istio.io/canonical-revision", clip(first(meta.Labels, "latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")))

	probers := map[string]corev1.Probe{}
	if o.RewriteProbes {
		probers = o.rewrite(spec)
	}
	proxy := o.proxy(namespace, workload, meta, spec, probers)
	proxy, err = merged(proxy, spec)
	if err != nil {
		return err
	}
	spec.Containers = slices.DeleteFunc(spec.Containers, isProxy)
	spec.InitContainers = slices.DeleteFunc(spec.InitContainers, isProxy)
	o.place(proxy, spec)
	for _, v := range o.volumes() {
		if !slices.ContainsFunc(spec.Volumes, func(x corev1.Volume) bool { return x.Name == v.Name }) {
			spec.Volumes = append(spec.Volumes, v)
		}
	}
	if o.MergeMetrics {
		mergeMetrics(meta)
	}
	setDefault(meta.Annotations, "kubectl.kubernetes.io/default-container", spec.Containers[o.main(spec)].Name)
	setDefault(meta.Annotations, "kubectl.kubernetes.io/default-logs-container", meta.Annotations["kubectl.kubernetes.io/default-container"])
	meta.Annotations["istio.io/rev"] = c.revision()
	meta.Annotations["sidecar.istio.io/status"] = o.status(spec)
	return nil
}

func isProxy(c corev1.Container) bool { return c.Name == Container }

// main is the program's container: the first that is not the sidecar.
func (o *choices) main(spec *corev1.PodSpec) int {
	return max(slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name != Container }), 0)
}

// place puts the redirect rules first, so that nothing leaves uncaptured, and
// the sidecar before everything else that runs. A native sidecar runs before
// the init containers of the user, which then have a network too.
func (o *choices) place(proxy corev1.Container, spec *corev1.PodSpec) {
	var before []corev1.Container
	if o.capture {
		before = append(before, o.redirect())
	}
	if o.native {
		always := corev1.ContainerRestartPolicyAlways
		proxy.RestartPolicy = &always
		proxy.Lifecycle = nil
		spec.InitContainers = append(append(before, proxy), spec.InitContainers...)
		return
	}
	// Without native sidecars nothing proxies while init containers run: the
	// rules come last, and init containers use the network as it is.
	spec.InitContainers = append(spec.InitContainers, before...)
	if o.HoldUntilReady {
		spec.Containers = append([]corev1.Container{proxy}, spec.Containers...)
	} else {
		spec.Containers = append(spec.Containers, proxy)
	}
}

// redirect sets the rules that send the pod's traffic to the sidecar. It may
// administer the network and nothing else.
func (o *choices) redirect() corev1.Container {
	args := []string{"redirect",
		"-p", "15001", "-z", "15006", "-u", strconv.Itoa(UID), "-m", "REDIRECT",
		"-i", o.inIP, "-x", o.exIP, "-b", o.inPorts, "-d", join(o.exPorts, strings.Join(own(), ",")),
	}
	if o.outIn != "" {
		args = append(args, "-q", o.outIn)
	}
	if o.outEx != "" {
		args = append(args, "-o", o.outEx)
	}
	if o.DNS {
		args = append(args, "--redirect-dns")
	}
	no, root := false, int64(0)
	return corev1.Container{
		Name: InitContainer, Image: o.Image, ImagePullPolicy: o.PullPolicy, Args: args, Resources: o.Resources,
		// There it writes down what it did: the sidecar may not ask the kernel.
		VolumeMounts: []corev1.VolumeMount{{Name: "istio-envoy", MountPath: "/etc/istio/proxy"}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, Privileged: &no, ReadOnlyRootFilesystem: new(true),
			RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: &no,
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
		},
	}
}

func (o *choices) proxy(namespace, workload string, meta *metav1.ObjectMeta, spec *corev1.PodSpec, probers map[string]corev1.Probe) corev1.Container {
	no, yes, id := false, true, int64(UID)
	health := func(failures int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready", Port: intstr.FromInt32(HealthPort)}},
			PeriodSeconds: 15, TimeoutSeconds: 3, FailureThreshold: failures,
		}
	}
	c := corev1.Container{
		Name: Container, Image: o.Image, ImagePullPolicy: o.PullPolicy,
		Args:      []string{"sidecar"},
		Env:       o.env(namespace, workload, meta, spec, probers),
		Resources: o.Resources,
		Ports:     []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: MetricsPort, Protocol: corev1.ProtocolTCP}},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, Privileged: &no, ReadOnlyRootFilesystem: &yes, RunAsNonRoot: &yes,
			RunAsUser: &id, RunAsGroup: &id, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		ReadinessProbe: health(4),
		VolumeMounts: []corev1.VolumeMount{
			{Name: "istiod-ca-cert", MountPath: "/var/run/secrets/istio"},
			{Name: "istio-token", MountPath: "/var/run/secrets/tokens"},
			{Name: "istio-data", MountPath: "/var/lib/istio/data"},
			{Name: "istio-envoy", MountPath: "/etc/istio/proxy"},
			{Name: "istio-podinfo", MountPath: "/etc/istio/pod"},
		},
	}
	if o.HoldUntilReady || o.native {
		c.StartupProbe = health(600)
		c.StartupProbe.PeriodSeconds = 1
	}
	if o.HoldUntilReady && !o.native {
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			Exec: &corev1.ExecAction{Command: []string{"/usr/local/bin/tulle-proxy", "wait"}}}}
	}
	return c
}

func (o *choices) env(namespace, workload string, meta *metav1.ObjectMeta, spec *corev1.PodSpec, probers map[string]corev1.Probe) []corev1.EnvVar {
	field := func(name, p string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: p}}}
	}
	cpu := func(name, p string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: p}}}
	}
	out := []corev1.EnvVar{
		{Name: "PILOT_CERT_PROVIDER", Value: "istiod"},
		{Name: "CA_ADDR", Value: o.Discovery},
		field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
		field("INSTANCE_IP", "status.podIP"), field("INSTANCE_IPS", "status.podIPs"),
		field("SERVICE_ACCOUNT", "spec.serviceAccountName"), field("HOST_IP", "status.hostIP"),
		field("ISTIO_META_NODE_NAME", "spec.nodeName"),
		{Name: "PROXY_CONFIG", Value: o.proxyConfigText()},
		{Name: "ISTIO_META_POD_PORTS", Value: podPorts(spec)},
		{Name: "ISTIO_META_APP_CONTAINERS", Value: appContainers(spec)},
		{Name: "ISTIO_META_CLUSTER_ID", Value: o.Cluster},
		{Name: "ISTIO_META_WORKLOAD_NAME", Value: workload},
		{Name: "ISTIO_META_MESH_ID", Value: o.TrustDomain},
		{Name: "TRUST_DOMAIN", Value: o.TrustDomain},
	}
	if !o.capture {
		out = append(out, corev1.EnvVar{Name: "ISTIO_META_INTERCEPTION_MODE", Value: "NONE"})
	} else {
		out = append(out, corev1.EnvVar{Name: "ISTIO_META_INTERCEPTION_MODE", Value: "REDIRECT"})
	}
	if o.everything {
		out = append(out, corev1.EnvVar{Name: "ISTIO_DELTA_XDS", Value: "false"})
	}
	if o.DNS {
		out = append(out, corev1.EnvVar{Name: "ISTIO_META_DNS_CAPTURE", Value: "true"})
	}
	if len(o.Resources.Limits) > 0 {
		if _, ok := o.Resources.Limits[corev1.ResourceCPU]; ok {
			out = append(out, cpu("ISTIO_CPU_LIMIT", "limits.cpu"))
		}
		if _, ok := o.Resources.Limits[corev1.ResourceMemory]; ok {
			out = append(out, cpu("GOMEMLIMIT", "limits.memory"))
		}
	}
	if len(probers) > 0 {
		b, _ := json.Marshal(probers) // a Probe always marshals
		out = append(out, corev1.EnvVar{Name: "ISTIO_KUBE_APP_PROBERS", Value: string(b)})
	}
	if o.MergeMetrics && meta.Annotations["prometheus.io/scrape"] == "true" {
		b, _ := json.Marshal(map[string]string{
			"scrape": "true", "path": meta.Annotations["prometheus.io/path"], "port": meta.Annotations["prometheus.io/port"]})
		out = append(out, corev1.EnvVar{Name: "ISTIO_PROMETHEUS_ANNOTATIONS", Value: string(b)})
	}
	return out
}

// proxyConfigText is what the sidecar reads of its ProxyConfig.
func (o *choices) proxyConfigText() string {
	m := map[string]any{"discoveryAddress": o.Discovery, "logLevel": o.LogLevel}
	if o.Concurrency > 0 {
		m["concurrency"] = o.Concurrency
	}
	if len(o.runtime) > 0 {
		m["runtimeValues"] = o.runtime
	}
	if o.TerminationSec > 0 {
		m["terminationDrainDuration"] = fmt.Sprintf("%ds", o.TerminationSec)
	}
	b, _ := json.Marshal(m)
	return string(b)
}

func (o *choices) volumes() []corev1.Volume {
	audience, seconds := TokenAudience, int64(tokenSeconds)
	field := func(p, f string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: p, FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: f}}
	}
	return []corev1.Volume{
		{Name: "istio-envoy", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "istio-data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "istio-podinfo", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{field("labels", "metadata.labels"), field("annotations", "metadata.annotations")}}}},
		{Name: "istio-token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: &seconds, Path: "istio-token"}}}}}},
		{Name: "istiod-ca-cert", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: o.RootConfigMap}}}},
	}
}

// status is the annotation that says what was added.
func (o *choices) status(spec *corev1.PodSpec) string {
	s := struct {
		Init       []string `json:"initContainers"`
		Containers []string `json:"containers"`
		Volumes    []string `json:"volumes"`
		Revision   string   `json:"revision"`
	}{Revision: o.revision()}
	for _, c := range spec.InitContainers {
		if c.Name == InitContainer || c.Name == Container {
			s.Init = append(s.Init, c.Name)
		}
	}
	for _, c := range spec.Containers {
		if c.Name == Container {
			s.Containers = append(s.Containers, c.Name)
		}
	}
	for _, v := range o.volumes() {
		s.Volumes = append(s.Volumes, v.Name)
	}
	b, _ := json.Marshal(s)
	return string(b)
}

// mergeMetrics lets Prometheus scrape the sidecar, which adds the program's own
// metrics. Who says that the pod is not to be scraped is not.
func mergeMetrics(meta *metav1.ObjectMeta) {
	if meta.Annotations["prometheus.io/scrape"] == "false" {
		return
	}
	meta.Annotations["prometheus.io/scrape"] = "true"
	meta.Annotations["prometheus.io/port"] = strconv.Itoa(StatusPort)
	meta.Annotations["prometheus.io/path"] = "/stats/prometheus"
}

func podPorts(spec *corev1.PodSpec) string {
	ports := []corev1.ContainerPort{}
	for _, c := range spec.Containers {
		if c.Name != Container {
			ports = append(ports, c.Ports...)
		}
	}
	b, _ := json.Marshal(ports)
	return string(b)
}

func appContainers(spec *corev1.PodSpec) string {
	var names []string
	for _, c := range spec.Containers {
		if c.Name != Container {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ",")
}

func setDefault(m map[string]string, k, v string) {
	if m[k] == "" {
		m[k] = v
	}
}

func first(m map[string]string, otherwise string, keys ...string) string {
	for _, k := range keys {
		if m[k] != "" {
			return m[k]
		}
	}
	return otherwise
}

// clip keeps a label's value within its 63 characters.
func clip(s string) string {
	if len(s) <= 63 {
		return s
	}
	return strings.TrimRight(s[:63], "-_.")
}

// probePath is where the sidecar answers for a container's probe.
func probePath(container, probe string) string { return path.Join("/app-health", container, probe) }
