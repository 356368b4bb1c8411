package inject

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

func config() *Config {
	c := Defaults()
	c.Image, c.NativeSidecars = "tulle/proxy:1", true
	return &c
}

func TestDecide(t *testing.T) {
	enabled := map[string]string{"istio-injection": "enabled"}
	inject := func(v string) map[string]string { return map[string]string{"sidecar.istio.io/inject": v} }
	job := metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job"}}}
	for name, x := range map[string]struct {
		ns     string
		labels map[string]string
		meta   metav1.ObjectMeta
		spec   corev1.PodSpec
		change func(*Config)
		want   bool
		why    string
	}{
		"nobody asks":         {want: false, why: "asks for a sidecar"},
		"namespace":           {labels: enabled, want: true, why: "istio-injection=enabled"},
		"pod refuses":         {labels: enabled, meta: metav1.ObjectMeta{Labels: inject("false")}, want: false, why: "inject=false"},
		"annotation refuses":  {labels: enabled, meta: metav1.ObjectMeta{Annotations: inject("false")}, want: false, why: "annotation"},
		"label beats it":      {meta: metav1.ObjectMeta{Labels: inject("true"), Annotations: inject("false")}, want: true, why: "label"},
		"pod asks":            {meta: metav1.ObjectMeta{Labels: inject("true")}, want: true},
		"disabled wins":       {labels: map[string]string{"istio-injection": "disabled"}, meta: metav1.ObjectMeta{Labels: inject("true")}, want: false, why: "disabled"},
		"nonsense":            {labels: enabled, meta: metav1.ObjectMeta{Labels: inject("yes")}, want: false, why: `"yes"`},
		"host network":        {labels: enabled, spec: corev1.PodSpec{HostNetwork: true}, want: false, why: "host's network"},
		"kube-system":         {ns: "kube-system", labels: enabled, want: false, why: "never injected"},
		"injected already":    {labels: enabled, spec: corev1.PodSpec{Containers: []corev1.Container{{Name: Container, Image: "x"}}}, want: false, why: "already"},
		"wished for":          {labels: enabled, spec: corev1.PodSpec{Containers: []corev1.Container{{Name: Container, Image: "auto"}}}, want: true},
		"revision":            {labels: map[string]string{"istio.io/rev": "default"}, want: true, why: "istio.io/rev=default"},
		"other revision":      {labels: map[string]string{"istio.io/rev": "canary"}, want: false, why: "revision canary"},
		"tag":                 {labels: map[string]string{"istio.io/rev": "canary"}, change: func(c *Config) { c.Tags = []string{"canary"} }, want: true},
		"old label wins":      {labels: map[string]string{"istio.io/rev": "canary", "istio-injection": "enabled"}, want: true},
		"pod's revision":      {meta: metav1.ObjectMeta{Labels: map[string]string{"istio.io/rev": "default"}}, want: true},
		"every namespace":     {change: func(c *Config) { c.EveryNamespace = true }, want: true},
		"job, native":         {labels: enabled, meta: job, want: true},
		"job, classic":        {labels: enabled, meta: job, change: func(c *Config) { c.NativeSidecars = false }, want: false, why: "never end"},
		"never by selector":   {labels: enabled, meta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, change: func(c *Config) { c.NeverInject = []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}} }, want: false, why: "a=b"},
		"an empty one is not": {labels: enabled, change: func(c *Config) { c.NeverInject = []metav1.LabelSelector{{}} }, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := config()
			if x.change != nil {
				x.change(c)
			}
			ns := x.ns
			if ns == "" {
				ns = "shop"
			}
			got := c.Decide(ns, x.labels, &x.meta, &x.spec)
			if got.Inject != x.want || !strings.Contains(got.Why, x.why) {
				t.Errorf("%+v, want %v because of %q", got, x.want, x.why)
			}
		})
	}
}

const orders = `
apiVersion: v1
kind: Pod
metadata:
  generateName: orders-
  labels: {app: orders, version: v2}
  annotations: {prometheus.io/scrape: "true", prometheus.io/port: "9100"}
spec:
  futureField: {kept: true}
  initContainers: [{name: migrate, image: orders}]
  containers:
  - name: app
    image: orders
    ports: [{name: web, containerPort: 8080}]
    livenessProbe: {httpGet: {path: /live, port: web, httpHeaders: [{name: a, value: b}]}, timeoutSeconds: 4}
    readinessProbe: {tcpSocket: {port: 8080}}
    startupProbe: {exec: {command: ["true"]}}
    lifecycle: {preStop: {httpGet: {path: /bye, port: 8080}}}
`

// inject applies the patch to the text as an API server does.
func inject(t *testing.T, c *Config, text string) corev1.Pod {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Patch(raw, "shop", "")
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(p)
	if err != nil {
		t.Fatal(err)
	}
	out, err := patch.Apply(raw)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "futureField") && !strings.Contains(string(out), `"futureField":{"kept":true}`) {
		t.Error("an unknown field was lost")
	}
	var pod corev1.Pod
	if err := json.Unmarshal(out, &pod); err != nil {
		t.Fatal(err)
	}
	if d := c.Decide("shop", map[string]string{"istio-injection": "enabled"}, &pod.ObjectMeta, &pod.Spec); d.Inject {
		t.Error("the injected pod would be injected again")
	}
	return pod
}

func names(l []corev1.Container) string {
	var out []string
	for _, c := range l {
		out = append(out, c.Name)
	}
	return strings.Join(out, " ")
}

func sidecar(t *testing.T, p *corev1.Pod) *corev1.Container {
	t.Helper()
	for _, l := range []*[]corev1.Container{&p.Spec.Containers, &p.Spec.InitContainers} {
		if i := slices.IndexFunc(*l, isProxy); i >= 0 {
			return &(*l)[i]
		}
	}
	t.Fatal("no sidecar")
	return nil
}

// The rules come before the sidecar and the sidecar before all else; without
// native sidecars init containers keep their network.
func TestOrder(t *testing.T) {
	p := inject(t, config(), orders)
	if got := names(p.Spec.InitContainers) + " | " + names(p.Spec.Containers); got != "istio-init istio-proxy migrate | app" {
		t.Error(got)
	}
	if s := sidecar(t, &p); s.RestartPolicy == nil || s.StartupProbe == nil {
		t.Error("the native sidecar does not restart or is not waited for")
	}
	c := config()
	c.NativeSidecars = false
	p = inject(t, c, orders)
	if got := names(p.Spec.InitContainers) + " | " + names(p.Spec.Containers); got != "migrate istio-init | istio-proxy app" {
		t.Error(got)
	}
	if s := sidecar(t, &p); s.Lifecycle == nil || s.RestartPolicy != nil {
		t.Error("the program does not wait for the sidecar")
	}
	if got := p.Annotations["kubectl.kubernetes.io/default-container"]; got != "app" {
		t.Errorf("kubectl logs shows %s", got)
	}
}

func TestProbes(t *testing.T) {
	p := inject(t, config(), orders)
	app := p.Spec.Containers[0]
	if app.LivenessProbe.HTTPGet.Path != "/app-health/app/livez" || app.LivenessProbe.HTTPGet.Port.IntVal != StatusPort || app.LivenessProbe.TimeoutSeconds != 4 {
		t.Errorf("liveness %+v", app.LivenessProbe)
	}
	if app.ReadinessProbe.TCPSocket != nil || app.ReadinessProbe.HTTPGet.Path != "/app-health/app/readyz" {
		t.Errorf("readiness %+v", app.ReadinessProbe)
	}
	if app.StartupProbe.Exec == nil {
		t.Error("a command was rewritten")
	}
	if app.Lifecycle.PreStop.HTTPGet.Path != "/app-health/app/prestopz" {
		t.Errorf("preStop %+v", app.Lifecycle.PreStop)
	}
	var kept map[string]corev1.Probe
	for _, e := range sidecar(t, &p).Env {
		if e.Name == "ISTIO_KUBE_APP_PROBERS" {
			if err := json.Unmarshal([]byte(e.Value), &kept); err != nil {
				t.Fatal(err)
			}
		}
	}
	live := kept["/app-health/app/livez"]
	if live.HTTPGet == nil || live.HTTPGet.Path != "/live" || live.HTTPGet.Port != intstr.FromInt32(8080) || live.TimeoutSeconds != 4 || len(live.HTTPGet.HTTPHeaders) != 1 {
		t.Errorf("kept %+v", live)
	}
	if len(kept) != 3 {
		t.Errorf("%d probes kept, want 3", len(kept))
	}
	off := inject(t, config(), strings.Replace(orders, "annotations: {", `annotations: {sidecar.istio.io/rewriteAppHTTPProbers: "false", `, 1))
	if off.Spec.Containers[0].LivenessProbe.HTTPGet.Path != "/live" {
		t.Error("rewritten although the annotation says no")
	}
}

func TestAnnotations(t *testing.T) {
	with := func(a string) string { return strings.Replace(orders, "annotations: {", "annotations: {"+a+", ", 1) }
	p := inject(t, config(), with(`sidecar.istio.io/proxyCPU: 50m, sidecar.istio.io/proxyMemoryLimit: 99Mi, traffic.sidecar.istio.io/excludeOutboundPorts: "3306, 6379", traffic.sidecar.istio.io/excludeInboundPorts: "9090", traffic.sidecar.istio.io/includeOutboundIPRanges: 10.0.0.0/8, proxy.istio.io/config: "concurrency: 3\nterminationDrainDuration: 8s\nruntimeValues: {overload.global_downstream_max_connections: \"9\"}"`))
	s := sidecar(t, &p)
	if s.Resources.Requests.Cpu().String() != "50m" || s.Resources.Limits.Memory().String() != "99Mi" {
		t.Errorf("resources %v", s.Resources)
	}
	args := strings.Join(p.Spec.InitContainers[0].Args, " ")
	for _, want := range []string{"-o 3306,6379", "-d 9090,15020,15021,15090", "-i 10.0.0.0/8", "-u 1337"} {
		if !strings.Contains(args, want) {
			t.Errorf("%s is not in %s", want, args)
		}
	}
	for _, e := range s.Env {
		if e.Name == "PROXY_CONFIG" && (!strings.Contains(e.Value, `"concurrency":3`) || !strings.Contains(e.Value, `"terminationDrainDuration":"8s"`) ||
			!strings.Contains(e.Value, `"runtimeValues":{"overload.global_downstream_max_connections":"9"}`)) {
			t.Error(e.Value)
		}
	}
	if p.Annotations["prometheus.io/port"] != "15020" {
		t.Error("Prometheus does not ask the sidecar")
	}
	all := inject(t, config(), with(`proxy.istio.io/config: "proxyMetadata: {ISTIO_DELTA_XDS: \"false\"}"`))
	has := func(s *corev1.Container) bool {
		return slices.Contains(s.Env, corev1.EnvVar{Name: "ISTIO_DELTA_XDS", Value: "false"})
	}
	if !has(sidecar(t, &all)) || has(s) {
		t.Error("the sidecar is not told to ask for everything, or another one is")
	}
	none := inject(t, config(), with("sidecar.istio.io/interceptionMode: NONE"))
	if strings.Contains(names(none.Spec.InitContainers), InitContainer) {
		t.Error("rules are set although nothing is captured")
	}
	for _, bad := range []string{
		`traffic.sidecar.istio.io/excludeOutboundPorts: http`, `traffic.sidecar.istio.io/includeOutboundIPRanges: all`,
		`sidecar.istio.io/proxyCPU: much`, `sidecar.istio.io/rewriteAppHTTPProbers: maybe`, `sidecar.istio.io/interceptionMode: TPROXY`,
		`proxy.istio.io/config: "concurrency: many"`,
		`proxy.istio.io/config: "runtimeValues: {overload.global_downstream_max_connections: \"none\"}"`,
		`proxy.istio.io/config: "runtimeValues: {overload.max_connections: \"5\"}"`,
		`proxy.istio.io/config: "proxyMetadata: {ISTIO_DELTA_XDS: perhaps}"`,
	} {
		raw, err := yaml.YAMLToJSON([]byte(with(bad)))
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(bad, ":")
		if _, err := config().Patch(raw, "shop", ""); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A container istio-proxy of the user's own is laid over ours.
func TestOverlay(t *testing.T) {
	p := inject(t, config(), orders+`
  - name: istio-proxy
    image: auto
    resources: {requests: {cpu: 77m}}
    env: [{name: MINE, value: "1"}]
`)
	s := sidecar(t, &p)
	if s.Image != "tulle/proxy:1" || s.Resources.Requests.Cpu().String() != "77m" || s.Resources.Limits.Cpu().IsZero() {
		t.Errorf("%s %v", s.Image, s.Resources)
	}
	if !slices.ContainsFunc(s.Env, func(e corev1.EnvVar) bool { return e.Name == "MINE" }) || !slices.ContainsFunc(s.Env, func(e corev1.EnvVar) bool { return e.Name == "POD_NAME" }) {
		t.Error("one environment was lost")
	}
	if n := strings.Count(names(p.Spec.InitContainers)+names(p.Spec.Containers), Container); n != 1 {
		t.Errorf("%d sidecars", n)
	}
}

// What runs beside a program meets the restricted Pod Security Standard; what
// sets the rules needs one capability more.
func TestSecurity(t *testing.T) {
	p := inject(t, config(), orders)
	for _, c := range p.Spec.InitContainers[:2] {
		x := c.SecurityContext
		if *x.Privileged || *x.AllowPrivilegeEscalation || !*x.ReadOnlyRootFilesystem || !slices.Equal(x.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: %+v", c.Name, x)
		}
		want := map[string][]corev1.Capability{InitContainer: {"NET_ADMIN"}, Container: nil}[c.Name]
		if diff := cmp.Diff(want, x.Capabilities.Add); diff != "" {
			t.Errorf("%s: %s", c.Name, diff)
		}
	}
}

func TestObject(t *testing.T) {
	c := config()
	raw := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"orders"},"spec":{"template":{"metadata":{"labels":{"app":"orders"}},"spec":{"containers":[{"name":"app","image":"x"}]}}}}`)
	patch, d, err := c.Object("Deployment", raw, "shop", map[string]string{"istio-injection": "enabled"})
	if err != nil || !d.Inject || !strings.Contains(string(patch), `"ISTIO_META_WORKLOAD_NAME","value":"orders"`) {
		t.Errorf("%v %+v %s", err, d, patch)
	}
	if _, d, err := c.Object("Deployment", raw, "shop", nil); err != nil || d.Inject {
		t.Errorf("%v %+v", err, d)
	}
	if _, _, err := c.Object("Service", raw, "shop", nil); err != ErrNoPods {
		t.Error(err)
	}
}
