package soak

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

const base = `
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec:
  selector: {app: orders}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81, targetPort: 8080}, {name: tcp, port: 9000}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: shop}
spec:
  hosts: [backend.shop]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 9000, name: tcp, protocol: TCP}]
  endpoints: [%s]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
%s---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - route: [{destination: {host: backend.shop, port: {number: 80}}}]
    timeout: %ds
    headers: {request: {set: {x-step: "%[4]d"}}}
  tcp: [{match: [{port: 9000}], route: [{destination: {host: backend.shop, port: {number: 9000}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http:
  - match: [{uri: {prefix: /never/%[4]d}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: orders}}]
  - route: [{destination: {host: orders}}]
`

// missing are the gateway's backends that a step leaves out.
func missing(step int) []int {
	if step%10 == 7 {
		return []int{step / 10 % 2}
	}
	return nil
}

// yaml is the configuration of a step. None of what changes may make a request
// fail: routes and policies, timeouts, a listener that comes and goes, an
// endpoint that comes and goes, pools that are made anew.
func (w *world) yaml(step int) string {
	var endpoints []string
	for i, b := range w.backends[:2] {
		if slices.Contains(missing(step), i) {
			continue
		}
		_, web, _ := net.SplitHostPort(b.web)
		_, tcp, _ := net.SplitHostPort(b.tcp)
		endpoints = append(endpoints, fmt.Sprintf("{address: 127.0.0.1, ports: {http: %s, tcp: %s}, weight: %d}", web, tcp, 1+step%3))
	}
	more := ""
	if step%4 < 2 {
		more = "  - {port: {number: 9100, name: tcp2, protocol: TCP}, hosts: [\"*\"]}\n"
	}
	text := fmt.Sprintf(base, strings.Join(endpoints, ", "), more, 30+step%5, step)
	if step%3 == 1 {
		text += fmt.Sprintf(`---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/never/%d"], ports: ["8080"]}}]}]
`, step)
	}
	if step%6 > 2 {
		text += fmt.Sprintf(`---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy: {connectionPool: {tcp: {connectTimeout: %ds}, http: {http1MaxPendingRequests: 1000}}, loadBalancer: {simple: RANDOM}}
`, 3+step%3)
	}
	return text
}
