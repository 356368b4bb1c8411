package status

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

const us = "tulle.dev/gateway-controller"

// object of YAML's JSON.
func object(t *testing.T, text string) *source.Object {
	t.Helper()
	var u unstructured.Unstructured
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return &source.Object{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(),
		Labels: u.GetLabels(), Generation: u.GetGeneration(), JSON: []byte(text)}
}

// reading of objects, with what the Gateway API's reader makes of them.
func reading(t *testing.T, texts ...string) *control.Reading {
	r := &control.Reading{}
	var snap source.Snapshot
	for _, text := range texts {
		snap.Objects = append(snap.Objects, object(t, text))
	}
	f, notices := control.Read(snap)
	r.Objects, r.Statuses, r.Gateways = snap.Objects, f.Statuses, f.Gateways
	r.Notices = func() []model.Notice { return notices }
	return r
}

// written is what an object's status becomes; empty: nothing is written.
func written(t *testing.T, list []want, kind, name, before string) string {
	t.Helper()
	for i := range list {
		if w := &list[i]; w.object.Kind == kind && w.object.Name == name {
			o := &unstructured.Unstructured{Object: map[string]any{}}
			if before != "" {
				var s map[string]any
				if err := json.Unmarshal([]byte(before), &s); err != nil {
					t.Fatal(err)
				}
				o.Object["status"] = s
			}
			if !merge(o, w, us, time.Unix(1e9, 0)) {
				return ""
			}
			b, err := json.Marshal(o.Object["status"])
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	t.Fatalf("nothing is wanted of %s %s", kind, name)
	return ""
}

const (
	theGateway = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"edge","namespace":"shop","generation":3},
		"spec":{"gatewayClassName":"tulle","listeners":[{"name":"web","port":80,"protocol":"HTTP"}]}}`
	theRoute = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r","namespace":"shop","generation":7},
		"spec":{"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"},{"name":"theirs"}],"rules":[{"backendRefs":[{"name":"gone","port":80}]}]}}`
)

// TestGateway: it is programmed when it has an address and a ready pod.
func TestGateway(t *testing.T) {
	service := func(status string) string {
		return `{"apiVersion":"v1","kind":"Service","metadata":{"name":"edge-tulle","namespace":"shop","labels":{"gateway.networking.k8s.io/gateway-name":"edge"}},"spec":{"type":"LoadBalancer"},"status":` + status + `}`
	}
	pod := func(ready string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"shop","labels":{"gateway.networking.k8s.io/gateway-name":"edge"}},"status":{"conditions":[{"type":"Ready","status":"` + ready + `"}]}}`
	}
	given := `{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}`
	for _, c := range []struct {
		what    string
		objects []string
		want    string
	}{
		{"no Service", nil, `"AddressNotAssigned"`},
		{"no address", []string{service("{}")}, `"the load balancer has given Service edge-tulle no address yet"`},
		{"no ready pod", []string{service(given), pod("False")}, `"reason":"Pending","status":"False","type":"Programmed"`},
		{"all", []string{service(given), pod("True")}, `"reason":"Programmed","status":"True","type":"Programmed"`},
		{"address", []string{service(given), pod("True")}, `"addresses":[{"type":"IPAddress","value":"192.0.2.1"}]`},
		{"listener", nil, `"attachedRoutes":1`},
		{"kinds", nil, `"supportedKinds":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute"},{"group":"gateway.networking.k8s.io","kind":"GRPCRoute"}]`},
		{"generation", nil, `"observedGeneration":3`},
	} {
		list := wanted(reading(t, append(c.objects, theGateway, theRoute)...), us)
		got := written(t, list, "Gateway", "edge", "")
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s is not in\n%s", c.what, c.want, got)
		}
		if again := written(t, list, "Gateway", "edge", got); again != "" {
			t.Errorf("%s: it is written again, as\n%s\nafter\n%s", c.what, again, got)
		}
	}
}

// TestRoute: only our own parents are spoken of, others' words stay.
func TestRoute(t *testing.T) {
	list := wanted(reading(t, theGateway, theRoute), us)
	theirs := `{"conditions":[{"status":"True","type":"Accepted"}],"controllerName":"example.com/other","parentRef":{"name":"theirs"}}`
	got := written(t, list, "HTTPRoute", "r", `{"parents":[`+theirs+`,{"controllerName":"`+us+`","parentRef":{"name":"former"},"conditions":[]}]}`)
	for _, want := range []string{theirs, `"parentRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"}`, `"reason":"BackendNotFound","status":"False","type":"ResolvedRefs"`, `"observedGeneration":7`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "former") || strings.Count(got, "parentRef") != 2 {
		t.Errorf("parents\n%s", got)
	}

	// Without our Gateway only the others' is left, and nothing is written where
	// nothing was.
	list = wanted(reading(t, theRoute), us)
	if left := written(t, list, "HTTPRoute", "r", got); left != `{"parents":[`+theirs+`]}` {
		t.Errorf("left is %s", left)
	}
	if got := written(t, list, "HTTPRoute", "r", ""); got != "" {
		t.Errorf("written: %s", got)
	}
}

// TestTimes: a condition keeps the time since when it has its status.
func TestTimes(t *testing.T) {
	list := wanted(reading(t, theGateway), us)
	got := written(t, list, "Gateway", "edge", `{"conditions":[
		{"type":"Example","status":"True"},
		{"type":"InsecureFrontendValidationMode","status":"True"},
		{"type":"Accepted","status":"True","lastTransitionTime":"1999-01-01T00:00:00Z","reason":"Old"},
		{"type":"Programmed","status":"Unknown","lastTransitionTime":"1970-01-01T00:00:00Z"}]}`)
	for _, want := range []string{`{"status":"True","type":"Example"}`, `"lastTransitionTime":"1999-01-01T00:00:00Z","message":"","observedGeneration":3,"reason":"Accepted"`, `"lastTransitionTime":"2001-09-09T01:46:40Z","message":"no Service`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "InsecureFrontendValidationMode") {
		t.Errorf("what does not hold any more is still there: %s", got)
	}
}

// TestIngress: it is where the ingress gateway is.
func TestIngress(t *testing.T) {
	list := wanted(reading(t,
		`{"apiVersion":"v1","kind":"Service","metadata":{"name":"g","namespace":"istio-system","labels":{"istio":"ingressgateway"}},"status":{"loadBalancer":{"ingress":[{"hostname":"lb.example.com"}]}}}`,
		`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"i","namespace":"shop"},"spec":{"ingressClassName":"tulle","defaultBackend":{"service":{"name":"a","port":{"number":80}}}}}`,
		`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"other","namespace":"shop"},"spec":{"ingressClassName":"nginx"}}`), us)
	if got := written(t, list, "Ingress", "i", ""); got != `{"loadBalancer":{"ingress":[{"hostname":"lb.example.com"}]}}` {
		t.Errorf("status %s", got)
	}
	if len(list) != 1 {
		t.Errorf("%d objects are spoken of, want 1", len(list))
	}
}

// TestIstio: an object with an error is not accepted, and says where.
func TestIstio(t *testing.T) {
	vs := func(name, host string) string {
		return fmt.Sprintf(`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":%q,"namespace":"shop","generation":2},"spec":{"hosts":["a"],"http":[{"route":[{"destination":{"host":%q}}]}]}}`, name, host)
	}
	list := istio(reading(t, vs("good", "a"), vs("bad", "not a host")))
	if got := written(t, list, "VirtualService", "good", ""); !strings.Contains(got, `"reason":"Accepted","status":"True"`) {
		t.Errorf("a good one: %s", got)
	}
	got := written(t, list, "VirtualService", "bad", "")
	if !strings.Contains(got, `"reason":"Invalid","status":"False","type":"Accepted"`) || !strings.Contains(got, "spec.http[0].route[0].destination.host") {
		t.Errorf("a bad one: %s", got)
	}
	list = istio(reading(t,
		`{"apiVersion":"networking.istio.io/v1","kind":"Gateway","metadata":{"name":"edge","namespace":"shop"},"spec":{"selector":{"istio":"ingressgateway"},"servers":[{"port":{"number":80,"name":"http","protocol":"HTTP"},"hosts":["*"]}]}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"edge","namespace":"shop"},"spec":{"gatewayClassName":"tulle","listeners":[{"name":"u","port":53,"protocol":"UDP"}]}}`))
	if got := written(t, list, "Gateway", "edge", ""); len(list) != 1 || !strings.Contains(got, `"message":"","observedGeneration":0,"reason":"Accepted","status":"True"`) {
		t.Errorf("one whose namesake of the Gateway API is bad: %s", got)
	}
}
