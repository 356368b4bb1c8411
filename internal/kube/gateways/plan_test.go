package gateways

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/kube/inject"
	"github.com/tulle-mesh/tulle/internal/source"
)

// planOf objects, as JSON.
func planOf(t *testing.T, texts ...string) []planned {
	t.Helper()
	var snap source.Snapshot
	for _, text := range texts {
		var u unstructured.Unstructured
		if err := json.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		snap.Objects = append(snap.Objects, &source.Object{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(), JSON: []byte(text)})
	}
	f, _ := control.Read(snap)
	conf := inject.Defaults()
	conf.Image = "tulle.test/proxy:1"
	return plan(&control.Reading{Objects: snap.Objects, Gateways: f.Gateways, Statuses: f.Statuses}, &conf)
}

func gateway(spec string) string {
	return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"edge","namespace":"shop","uid":"u-1"},"spec":{"gatewayClassName":"tulle",` + spec + `}}`
}

const listeners = `"listeners":[{"name":"web","port":80,"protocol":"HTTP"},{"name":"web2","port":80,"protocol":"HTTP","hostname":"a.example"},{"name":"bytes","port":9000,"protocol":"TCP"}]`

// find the one object of a kind, as JSON.
func find(t *testing.T, p planned, kind string) string {
	t.Helper()
	if p.err != nil {
		t.Fatal(p.err)
	}
	for _, o := range p.objects {
		if o.GetKind() == kind {
			b, err := json.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	return ""
}

// TestPlan: what a Gateway runs on.
func TestPlan(t *testing.T) {
	parameters := func(data string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"p","namespace":"shop"},"data":` + data + `}`
	}
	withParameters := listeners + `,"infrastructure":{"labels":{"team":"x"},"annotations":{"cloud":"internal"},"parametersRef":{"group":"","kind":"ConfigMap","name":"p"}}`
	for _, c := range []struct {
		what, kind string
		objects    []string
		want       []string
	}{
		{"ports", "Service", []string{gateway(listeners)}, []string{
			`{"name":"status-port","port":15021,"protocol":"TCP","targetPort":15021},{"name":"port-80","port":80,"protocol":"TCP","targetPort":80},{"name":"port-9000","port":9000,"protocol":"TCP","targetPort":9000}]`,
			`"type":"LoadBalancer"`, `"selector":{"gateway.networking.k8s.io/gateway-name":"edge"}`, `"name":"edge-tulle"`,
			`"ownerReferences":[{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","name":"edge","uid":"u-1"}]`}},
		{"pods", "Deployment", []string{gateway(listeners)}, []string{`"image":"tulle.test/proxy:1"`, `"name":"net.ipv4.ip_unprivileged_port_start","value":"0"`, `"serviceAccountName":"edge-tulle"`, `"gateway.networking.k8s.io/gateway-class-name":"tulle"`}},
		{"account", "ServiceAccount", []string{gateway(listeners)}, []string{`"name":"edge-tulle"`}},
		{"budget", "PodDisruptionBudget", []string{gateway(listeners)}, []string{`"maxUnavailable":1`}},
		{"infrastructure", "Deployment", []string{gateway(withParameters), parameters(`{}`)}, []string{`"team":"x"`, `"cloud":"internal"`, `"selector":{"matchLabels":{"gateway.networking.k8s.io/gateway-name":"edge"}}`}},
		{"parameters", "Service", []string{gateway(withParameters), parameters(`{"service":"metadata: {name: other}\nspec: {type: ClusterIP}"}`)}, []string{`"type":"ClusterIP"`, `"name":"edge-tulle"`}},
		{"autoscaler", "HorizontalPodAutoscaler", []string{gateway(withParameters), parameters(`{"horizontalPodAutoscaler":"spec: {maxReplicas: 9}"}`)}, []string{`"maxReplicas":9,"metrics"`, `"minReplicas":1`}},
		{"replicas", "Deployment", []string{gateway(withParameters), parameters(`{"deployment":"spec: {replicas: 4, template: {spec: {containers: [{name: istio-proxy, env: [{name: A, value: b}]}]}}}"}`)}, []string{`"replicas":4`, `{"name":"A","value":"b"}`, `"image":"tulle.test/proxy:1"`}},
	} {
		list := planOf(t, c.objects...)
		if len(list) != 1 {
			t.Fatalf("%s: %d Gateways are planned", c.what, len(list))
		}
		got := find(t, list[0], c.kind)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s is not in\n%s", c.what, want, got)
			}
		}
	}
	p := planOf(t, gateway(listeners))[0]
	if got := find(t, p, "Deployment"); strings.Contains(got, `"replicas"`) {
		t.Errorf("the number of replicas is its user's: %s", got)
	}
	if got := find(t, p, "HorizontalPodAutoscaler"); got != "" {
		t.Errorf("nobody asked for %s", got)
	}
}

// TestNotOurs: other classes are nobody's business, addresses by name are the
// user's own Service, and what is refused changes nothing.
func TestNotOurs(t *testing.T) {
	if list := planOf(t, strings.ReplaceAll(gateway(listeners), `"tulle"`, `"other"`)); len(list) != 0 {
		t.Errorf("planned: %v", list)
	}
	if list := planOf(t, gateway(listeners+`,"addresses":[{"type":"Hostname","value":"mine.shop.svc.cluster.local"}]`)); len(list) != 1 || list[0].err != nil || len(list[0].objects) != 0 {
		t.Errorf("planned: %v", list)
	}
	for _, spec := range []string{
		`"listeners":[{"name":"u","port":53,"protocol":"UDP"}]`,
		listeners + `,"infrastructure":{"parametersRef":{"group":"","kind":"ConfigMap","name":"none"}}`,
	} {
		if list := planOf(t, gateway(spec)); len(list) != 1 || list[0].err == nil {
			t.Errorf("%s is planned: %v", spec, list)
		}
	}
}

// TestShort: names fit a label, and do not meet.
func TestShort(t *testing.T) {
	long := strings.Repeat("a", 70)
	a, b := short(long+"x"), short(long+"y")
	if len(a) > 63 || a == b || short("edge-tulle") != "edge-tulle" {
		t.Error(fmt.Sprint(a, b))
	}
}
