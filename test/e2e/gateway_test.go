//go:build linux && e2e

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// gateways: a Gateway of the Gateway API gets its Deployment and Service, and
// once these have an address and a pod its routes lead into the mesh; every
// object's status says what became of it.
func (m mesh) gateways(t *testing.T) {
	const ns = "e2e-pods" // whose echo takes mTLS only
	in := func(args ...string) string {
		t.Helper()
		return m.kubectl(t, append([]string{"-n", ns}, args...)...)
	}
	m.kubectl(t, "wait", "gatewayclass/tulle", "--for=condition=Accepted", "--timeout=1m")
	in("apply", "-f", filepath.Join("testdata", "gateway.yaml"))
	in("wait", "gateway/edge", "--for=condition=Accepted", "--timeout=1m")
	reason := func() string {
		return in("get", "gateway", "edge", "-o", `jsonpath={.status.conditions[?(@.type=="Programmed")].reason}`)
	}
	eventually(m.ctx, t, func() error {
		if _, err := kube.Kubectl(m.ctx, "-n", ns, "get", "service", "edge-tulle"); err != nil {
			return err
		}
		if got := reason(); got != "AddressNotAssigned" {
			return fmt.Errorf("without an address it is programmed: %s", got)
		}
		return nil
	})
	ip := in("get", "service", "edge-tulle", "-o", "jsonpath={.spec.clusterIP}")
	in("patch", "service", "edge-tulle", "--subresource=status", "--type=merge", "-p", `{"status":{"loadBalancer":{"ingress":[{"ip":"`+ip+`"}]}}}`)
	in("wait", "gateway/edge", "--for=condition=Programmed", "--timeout=2m")
	if got := in("get", "gateway", "edge", "-o", "jsonpath={.status.addresses[*].value} {.status.listeners[*].attachedRoutes}"); got != ip+" 2" {
		t.Errorf("addresses and attached routes: %s", got)
	}
	if got := in("get", "deployment", "edge-tulle", "-o", "jsonpath={.metadata.labels.team} {.metadata.ownerReferences[0].name} {.spec.template.spec.terminationGracePeriodSeconds}"); got != "e2e edge 2" {
		t.Errorf("label, owner and grace of the Deployment: %s", got)
	}
	eventually(m.ctx, t, func() error { // the route arrives a moment after the pod is ready
		text, err := plain(m.ctx, net.JoinHostPort(ip, "80"), "/")
		if err == nil && (!strings.Contains(text, " 200 ") || bySidecar(text) != 1) {
			err = fmt.Errorf("through the gateway:\n%s", text)
		}
		return err
	})
	text, err := plain(m.ctx, net.JoinHostPort(ip, "80"), "/lost")
	if err != nil || !strings.Contains(text, " 500 ") {
		t.Errorf("a route that leads nowhere: %v\n%s", err, text)
	}
	const condition = `jsonpath={.status.parents[0].conditions[?(@.type=="ResolvedRefs")].reason}`
	for route, want := range map[string]string{"echo": "ResolvedRefs", "lost": "BackendNotFound"} {
		if got := in("get", "httproute", route, "-o", condition); got != want {
			t.Errorf("route %s resolved: %s", route, got)
		}
	}
	in("wait", "destinationrule/echo", "--for=condition=Accepted", "--timeout=1m")

	// What stands there is not written again.
	version := func() string {
		return in("get", "gateway/edge", "httproute/echo", "destinationrule/echo", "gatewayclass/tulle", "service/edge-tulle", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.resourceVersion}{"\n"}{end}`)
	}
	before := version()
	in("patch", "httproute", "lost", "--type=merge", "-p", `{"spec":{"rules":[{"backendRefs":[{"name":"echo","port":80}]}]}}`)
	eventually(m.ctx, t, func() error { // the control plane has looked at all of it again
		if got := in("get", "httproute", "lost", "-o", condition); got != "ResolvedRefs" {
			return fmt.Errorf("mended, and resolved: %s", got)
		}
		return nil
	})
	if after := version(); after != before {
		t.Errorf("nothing changed, and it was written:\n%s\nbefore\n%s", after, before)
	}

	in("delete", "gateway", "edge")
	eventually(m.ctx, t, func() error {
		if left := in("get", "deployment,service,serviceaccount,poddisruptionbudget", "-l", "gateway.networking.k8s.io/gateway-name=edge", "-o", "name"); left != "" {
			return fmt.Errorf("the Gateway is gone, and there is %s", left)
		}
		return nil
	})
}
