package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/source"
)

// TestObject: what stays of an object, by kind.
func TestObject(t *testing.T) {
	for _, c := range []struct{ kind, in, want string }{
		{
			"Pod",
			`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"7","resourceVersion":"9","managedFields":[{"manager":"x"}],
			  "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"},"ownerReferences":[{"kind":"ReplicaSet","name":"r"}]},
			  "spec":{"nodeName":"node1","serviceAccountName":"s","volumes":[{"name":"v"}],
			   "containers":[{"name":"c","image":"i","env":[{"name":"PASSWORD","value":"secret"}],"ports":[{"containerPort":80,"name":"http"}]}],
			   "initContainers":[{"name":"istio-proxy","restartPolicy":"Always","command":["x"]}]},
			  "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],"startTime":"2026-01-01T00:00:00Z","containerStatuses":[{}],
			   "conditions":[{"type":"Initialized","status":"True"},{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`,
			`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n","ownerReferences":[{"kind":"ReplicaSet","name":"r"}],"uid":"7"},` +
				`"spec":{"containers":[{"name":"c","ports":[{"containerPort":80,"name":"http"}]}],"initContainers":[{"name":"istio-proxy","restartPolicy":"Always"}],"nodeName":"node1","serviceAccountName":"s"},` +
				`"status":{"conditions":[{"status":"True","type":"Ready"}],"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}]}}`,
		},
		{
			"Secret",
			`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"type":"Opaque","data":{"tls.crt":"YQ==","password":"YQ=="}}`,
			`{"apiVersion":"v1","data":{"tls.crt":"YQ=="},"kind":"Secret","metadata":{"name":"a"},"type":"Opaque"}`,
		},
		{
			"ConfigMap",
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"ca.crt":"x","application.yaml":"y"},"binaryData":{"b":"YQ=="}}`,
			`{"apiVersion":"v1","data":{"ca.crt":"x"},"kind":"ConfigMap","metadata":{"name":"a"}}`,
		},
		{
			"Service",
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"1.2.3.4"},"status":{"conditions":[],"loadBalancer":{"ingress":[{"ip":"1.1.1.1"}]}}}`,
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"1.2.3.4"},"status":{"loadBalancer":{"ingress":[{"ip":"1.1.1.1"}]}}}`,
		},
		{
			"Node",
			`{"apiVersion":"v1","kind":"Node","metadata":{"name":"a","labels":{"topology.kubernetes.io/zone":"z"}},"spec":{"podCIDR":"x"},"status":{"images":[{}],"addresses":[{"address":"1.1.1.1"}]}}`,
			`{"apiVersion":"v1","kind":"Node","metadata":{"labels":{"topology.kubernetes.io/zone":"z"},"name":"a"},"status":{"addresses":[{"address":"1.1.1.1"}]}}`,
		},
		{
			"VirtualService",
			`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"a","creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{"hosts":["<&>"]},"status":{"conditions":[{}]}}`,
			`{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"creationTimestamp":"2026-01-02T03:04:05Z","name":"a"},"spec":{"hosts":["<&>"]}}`,
		},
	} {
		o, err := kindOf(t, c.kind).object(parse(t, c.in))
		if err != nil {
			t.Fatal(err)
		}
		if string(o.JSON) != c.want {
			t.Errorf("%s:\nhave %s\nwant %s", c.kind, o.JSON, c.want)
		}
	}
}

// TestStore: a change that shows nowhere is no change, and a list keeps the
// pointers of what is the same.
func TestStore(t *testing.T) {
	changes := 0
	s := newStore(kindOf(t, "Service"), func() { changes++ })
	service := func(name, version, ip string) any {
		return parse(t, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"`+name+`","namespace":"n","resourceVersion":"`+version+`"},"spec":{"clusterIP":"`+ip+`"}}`)
	}
	expect := func(what string, err error, wantChanges int, want ...string) []*source.Object {
		t.Helper()
		objects, _, _ := s.state()
		names := []string{}
		for _, o := range objects {
			names = append(names, o.Name)
		}
		have, _ := json.Marshal(names)
		wish, _ := json.Marshal(append([]string{}, want...))
		if err != nil || changes != wantChanges || string(have) != string(wish) {
			t.Errorf("%s: %v, %d changes, objects %s; want %d and %s", what, err, changes, have, wantChanges, wish)
		}
		return objects
	}
	err := s.Replace([]any{service("b", "1", "1.1.1.1"), service("a", "1", "1.1.1.2")}, "1")
	before := expect("the first list", err, 1, "a", "b")
	expect("only the version differs", s.Update(service("a", "2", "1.1.1.2")), 1, "a", "b")
	err = s.Replace([]any{service("a", "3", "1.1.1.2"), service("c", "3", "1.1.1.3")}, "3")
	after := expect("another list", err, 2, "a", "c")
	if before[0] != after[0] {
		t.Error("an object that is the same has another pointer")
	}
	expect("deleted", s.Delete(service("a", "4", "1.1.1.2")), 3, "c")
	expect("deleted again", s.Delete(service("a", "4", "1.1.1.2")), 3, "c")
	err = s.Replace(nil, "5")
	expect("an empty list", err, 4)
	expect("a second one", s.Replace(nil, "6"), 4)
}

// TestFailures: kinds that fail for one reason are one notice, whatever verb
// was refused.
func TestFailures(t *testing.T) {
	refused := func(verb, group, resource string) error {
		return forbidden(fmt.Errorf(`%s.%s is forbidden: User "x" cannot %s resource %q in API group %q at the cluster scope`, resource, group, verb, resource, group))
	}
	var f failures
	f.add("pods", refused("list", "", "pods"))
	f.add("services", nil)
	f.add("ingresses.networking.k8s.io", refused("watch", "networking.k8s.io", "ingresses"))
	n := f.notices(errors.New("connection refused"), true)
	if len(n) != 2 || n[0].Text != "the cluster's API server cannot be reached (connection refused); what was last known stays in effect" ||
		n[1].Text != `cannot read pods, ingresses.networking.k8s.io from the cluster (forbidden: User "x" cannot list and watch them); what was last known stays in effect` {
		t.Errorf("notices %v", n)
	}
}

func kindOf(t *testing.T, kind string) *resource {
	for _, r := range resources {
		if r.kind == kind {
			return r
		}
	}
	t.Fatalf("no resource has the kind %s", kind)
	return nil
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return u
}
