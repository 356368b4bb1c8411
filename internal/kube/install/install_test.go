package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/internal/kube/webhook"
)

// ecommerce is how people write an IstioOperator for a shop.
const ecommerce = `
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: ecommerce-istio, namespace: istio-system}
spec:
  profile: demo
  components:
    ingressGateways:
    - name: istio-ingressgateway
      enabled: true
      k8s:
        service:
          ports:
          - {port: 80, targetPort: 8080, name: http2}
          - {port: 443, targetPort: 8443, name: https}
          - {port: 15021, targetPort: 15021, name: status-port}
        resources:
          requests: {cpu: 100m, memory: 128Mi}
          limits: {cpu: 2000m, memory: 1024Mi}
    egressGateways:
    - name: istio-egressgateway
      enabled: true
  values:
    global:
      proxy:
        resources:
          requests: {cpu: 10m, memory: 32Mi}
          limits: {cpu: 2000m, memory: 1024Mi}
    gateways:
      istio-ingressgateway: {autoscaleEnabled: true, autoscaleMin: 2, autoscaleMax: 10}
    pilot:
      autoscaleEnabled: true
      autoscaleMin: 2
      autoscaleMax: 5
      resources:
        requests: {cpu: 100m, memory: 256Mi}
        limits: {cpu: 2000m, memory: 1024Mi}
`

// tuned is another one, without a profile.
const tuned = `
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: tuned-istio, namespace: istio-system}
spec:
  values:
    pilot:
      env: {PILOT_PUSH_THROTTLE: "100", PILOT_TRACE_SAMPLING: "100"}
      resources:
        requests: {cpu: 500m, memory: 2Gi}
        limits: {cpu: 2000m, memory: 4Gi}
    global:
      proxy:
        resources:
          requests: {cpu: 10m, memory: 32Mi}
          limits: {cpu: 500m, memory: 256Mi}
        logLevel: "warning"
    gateways:
      istio-ingressgateway:
        resources:
          requests: {cpu: 100m, memory: 128Mi}
          limits: {cpu: 2000m, memory: 1Gi}
`

func plan(t *testing.T, sets []string, files ...string) *Plan {
	t.Helper()
	var in []File
	for i, f := range files {
		in = append(in, File{fmt.Sprintf("%d.yaml", i+1), []byte(f)})
	}
	p, err := Make(in, sets, "v1")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// installed are the objects of a plan by "Kind name".
func installed(t *testing.T, p *Plan) map[string]*unstructured.Unstructured {
	t.Helper()
	list, err := p.Objects()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*unstructured.Unstructured{}
	for _, o := range list {
		k := o.GetKind() + " " + o.GetName()
		if out[k] != nil && o.GetKind() != "Role" {
			t.Errorf("%s twice", k)
		}
		out[k] = o
		if o.GetLabels()[PartOf] != Name {
			t.Errorf("%s has no label", k)
		}
	}
	return out
}

// as reads an object strictly: a field that its type does not have fails.
func as[T any](t *testing.T, all map[string]*unstructured.Unstructured, key string) *T {
	t.Helper()
	o := all[key]
	if o == nil {
		t.Fatalf("there is no %s", key)
	}
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, out, true); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return out
}

func scale(t *testing.T, all map[string]*unstructured.Unstructured, name string) string {
	h := as[autoscalingv2.HorizontalPodAutoscaler](t, all, "HorizontalPodAutoscaler "+name)
	return fmt.Sprintf("%d..%d", *h.Spec.MinReplicas, h.Spec.MaxReplicas)
}

func resources(r corev1.ResourceRequirements) string {
	return fmt.Sprintf("%s/%s..%s/%s", r.Requests.Cpu(), r.Requests.Memory(), r.Limits.Cpu(), r.Limits.Memory())
}

func TestEcommerce(t *testing.T) {
	p := plan(t, nil, ecommerce)
	for _, f := range p.Findings {
		t.Errorf("finding: %s", f)
	}
	all := installed(t, p)
	if got := scale(t, all, "istio-ingressgateway"); got != "2..10" {
		t.Errorf("ingress gateway %s", got)
	}
	if got := scale(t, all, "istiod"); got != "2..5" {
		t.Errorf("control plane %s", got)
	}
	pilot := as[appsv1.Deployment](t, all, "Deployment istiod").Spec.Template.Spec.Containers[0]
	if got := resources(pilot.Resources); got != "100m/256Mi..2/1Gi" {
		t.Errorf("control plane's resources %s", got)
	}
	if pilot.Image != "tulle/tulle:v1" || !slices.Contains(pilot.Args, "--kube") {
		t.Errorf("%s %v", pilot.Image, pilot.Args)
	}
	g := as[appsv1.Deployment](t, all, "Deployment istio-ingressgateway")
	if got := resources(g.Spec.Template.Spec.Containers[0].Resources); got != "100m/128Mi..2/1Gi" {
		t.Errorf("gateway's resources %s", got)
	}
	if g.Spec.Replicas != nil {
		t.Error("the autoscaler's replicas are set by hand")
	}
	env := g.Spec.Template.Spec.Containers[0].Env
	conf := env[slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == "PROXY_CONFIG" })].Value
	if conf != `{"discoveryAddress":"istiod.istio-system.svc:15012"}` { // JSON: the proxy reads no YAML
		t.Errorf("the gateway's settings %s", conf)
	}
	var ports []string
	for _, x := range as[corev1.Service](t, all, "Service istio-ingressgateway").Spec.Ports {
		ports = append(ports, fmt.Sprintf("%s %d->%s", x.Name, x.Port, x.TargetPort.String()))
	}
	if got := strings.Join(ports, ", "); got != "http2 80->8080, https 443->8443, status-port 15021->15021" {
		t.Errorf("ports %s", got)
	}
	if all["Deployment istio-egressgateway"] == nil {
		t.Error("no egress gateway")
	}
	if got := as[corev1.Service](t, all, "Service istio-egressgateway").Spec.Type; got != corev1.ServiceTypeClusterIP {
		t.Errorf("egress gateway's service is a %s", got)
	}
	mesh := as[corev1.ConfigMap](t, all, "ConfigMap istio").Data["mesh"]
	if mesh != "accessLogFile: /dev/stdout" {
		t.Errorf("mesh config %q", mesh)
	}
	// What the webhook makes of it.
	values := as[corev1.ConfigMap](t, all, "ConfigMap istio-sidecar-injector").Data["values"]
	c, err := webhook.Settings([]byte(values), []byte(mesh), true)
	if err != nil {
		t.Fatal(err)
	}
	if got := resources(c.Resources); got != "10m/32Mi..2/1Gi" || c.Image != "tulle/proxy:v1" {
		t.Errorf("sidecars: %s, %s", got, c.Image)
	}
}

func TestTuned(t *testing.T) {
	p := plan(t, nil, tuned)
	want := []string{
		"1.yaml: spec.values.pilot.env.PILOT_PUSH_THROTTLE: ignored: only what changed is sent, so that pushes need no throttle",
		"1.yaml: spec.values.pilot.env.PILOT_TRACE_SAMPLING: ignored: spans are not made yet",
	}
	if got := findings(p); !slices.Equal(got, want) {
		t.Errorf("findings %q", got)
	}
	all := installed(t, p)
	pilot := as[appsv1.Deployment](t, all, "Deployment istiod").Spec.Template.Spec.Containers[0]
	if got := resources(pilot.Resources); got != "500m/2Gi..2/4Gi" {
		t.Errorf("control plane's resources %s", got)
	}
	g := as[appsv1.Deployment](t, all, "Deployment istio-ingressgateway")
	if got := resources(g.Spec.Template.Spec.Containers[0].Resources); got != "100m/128Mi..2/1Gi" {
		t.Errorf("gateway's resources %s", got)
	}
	if all["Deployment istio-egressgateway"] != nil {
		t.Error("an egress gateway, which only the demo has")
	}
	c, err := webhook.Settings([]byte(as[corev1.ConfigMap](t, all, "ConfigMap istio-sidecar-injector").Data["values"]), nil, true)
	if err != nil || c.LogLevel != "warning" || resources(c.Resources) != "10m/32Mi..500m/256Mi" {
		t.Errorf("sidecars: %+v, %v", c, err)
	}
}

func findings(p *Plan) (out []string) {
	for _, f := range p.Findings {
		out = append(out, f.String())
	}
	return out
}

// Several files: the later holds, and is told where it contradicts; gateways
// merge by name; --set holds over all.
func TestMerge(t *testing.T) {
	p := plan(t, []string{"values.pilot.autoscaleMax=7", "revision=canary", "components.ingressGateways[0].k8s.replicaCount=4"}, ecommerce, tuned)
	got := strings.Join(findings(p), "\n")
	for _, want := range []string{
		`spec.values.pilot.resources.requests.cpu: 1.yaml says "100m", 2.yaml says "500m": the latter holds`,
		`spec.values.global.proxy.resources.limits.memory: 1.yaml says "1024Mi", 2.yaml says "256Mi": the latter holds`,
		"PILOT_PUSH_THROTTLE",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no finding %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, `"10m"`) {
		t.Errorf("what both say alike is no conflict:\n%s", got)
	}
	if p.Pilot.Max != 7 || p.Gateways[0].Replicas != 4 || len(p.Gateways) != 2 {
		t.Errorf("%+v", p)
	}
	all := installed(t, p)
	if all["Deployment istiod-canary"] == nil || all["Service istiod-canary"] == nil {
		t.Error("the revision has no control plane of its own")
	}
	hook := fmt.Sprint(all["MutatingWebhookConfiguration istio-sidecar-injector-canary"].Object)
	if !strings.Contains(hook, "canary") || strings.Contains(hook, "istio-injection:enabled") {
		t.Errorf("a revision takes what belongs to the default: %s", hook)
	}
}

func TestProfiles(t *testing.T) {
	for name, want := range map[string]string{
		"default": "istio-ingressgateway", "demo": "istio-ingressgateway istio-egressgateway", "minimal": "", "empty": "",
	} {
		p := plan(t, []string{"profile=" + name})
		if f := findings(p); f != nil {
			t.Errorf("%s: %q", name, f)
		}
		var names []string
		for _, g := range p.Gateways {
			names = append(names, g.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: gateways %q", name, got)
		}
		if all := installed(t, p); (len(all) == 0) != (name == "empty") {
			t.Errorf("%s: %d objects", name, len(all))
		}
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		text string
		sets []string
		file string
	}{
		{"there is no profile \"ambient\"; there are default, demo, empty, minimal", []string{"profile=ambient"}, ""},
		{"want PATH=VALUE", []string{"x"}, ""},
		{"1.yaml: document 1: it is a ConfigMap of \"v1\"; want IstioOperator", nil, "apiVersion: v1\nkind: ConfigMap"},
		{"key \"spec\" already set", nil, "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {}\nspec: {}"},
		{"spec.revision \"a b\"", []string{"revision=a b"}, ""},
		{"spec.values.pilot: autoscaling from 9 to 5 replicas", []string{"values.pilot.autoscaleMin=9"}, ""},
		{"spec.components.ingressGateways[1]: name", []string{"components.ingressGateways=[{k8s: {}}]"}, ""},
		{"target ports below 1024", []string{"components.ingressGateways=[{name: g, k8s: {service: {ports: [{port: 80, targetPort: 80}]}}}]"}, ""},
		{"spec.values.pilot.resources", []string{"values.pilot.resources=lots"}, ""},
	} {
		var files []File
		if c.file != "" {
			files = []File{{"1.yaml", []byte(c.file)}}
		}
		if _, err := Make(files, c.sets, "v1"); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v, want %q", err, c.text)
		}
	}
}

// Images of another mesh would not run, and what is not acted on is told.
func TestIgnored(t *testing.T) {
	p := plan(t, []string{"hub=docker.io/istio", "tag=1.27.1", "values.global.proxy.privileged=true", "components.cni.enabled=true",
		"components.ingressGateways=[{name: istio-ingressgateway, k8s: {overlays: []}}]"})
	if p.Hub != "tulle" || p.Tag != "v1" {
		t.Errorf("images %s %s", p.Hub, p.Tag)
	}
	got := strings.Join(findings(p), "\n")
	for _, want := range []string{"Istio's images", "spec.values.global.proxy.privileged: ignored", "spec.components.cni.enabled: ignored", "k8s.overlays: ignored"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	p = plan(t, []string{"hub=registry.example/mesh", "tag=2"})
	if got := p.Image(); got != "registry.example/mesh/proxy:2" {
		t.Error(got)
	}
}

// Every pod of ours bears the restricted pod security standard, and no root
// file system is written.
func TestRestricted(t *testing.T) {
	for key, o := range installed(t, plan(t, []string{"profile=demo"})) {
		if o.GetKind() != "Deployment" {
			continue
		}
		var d appsv1.Deployment
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &d, true); err != nil {
			t.Fatal(err)
		}
		s := d.Spec.Template.Spec
		if s.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || !*s.SecurityContext.RunAsNonRoot {
			t.Errorf("%s: pod security context", key)
		}
		for _, c := range s.Containers {
			x := c.SecurityContext
			if *x.AllowPrivilegeEscalation || !*x.ReadOnlyRootFilesystem || !*x.RunAsNonRoot || !slices.Equal(x.Capabilities.Drop, []corev1.Capability{"ALL"}) || x.Capabilities.Add != nil {
				t.Errorf("%s: container %s", key, c.Name)
			}
		}
		if len(s.TopologySpreadConstraints) != 1 {
			t.Errorf("%s: replicas are not spread", key)
		}
	}
}
