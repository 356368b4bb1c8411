package model

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The text of a View names every destination with its weight, and for each
// fact the object that caused it.
func TestTextView(t *testing.T) {
	svc := &Service{Name: "orders", Namespace: "shop", Host: "orders.shop.svc.cluster.local", Origin: Origin{Kind: "Service", Namespace: "shop", Name: "orders", File: "a.yaml", Line: 3}}
	rule := Origin{Kind: "VirtualService", Namespace: "shop", Name: "orders", Field: "spec.http[0]", File: "a.yaml", Line: 20}
	strict := Origin{Kind: "PeerAuthentication", Namespace: "shop", Name: "default"}
	timeout := 3 * time.Second
	v := &View{
		Client: Client{Namespace: "shop", Name: "users", Account: "users"},
		Clusters: []*Cluster{{
			Name: "outbound|80|v1|orders.shop.svc.cluster.local", Service: svc, TLS: ClientTLS{Mode: TLSAuto}, HTTP2: true,
			Endpoints: []ClusterEndpoint{{Address: "10.1.0.1", Port: 8080, Weight: 1, MTLS: true, Ready: true, Workload: "shop/orders-1"}, {Address: "fd00::1", Port: 8080, Weight: 5}},
			Origins:   []Origin{svc.Origin},
		}},
		HTTP: []*HTTPTable{{Name: "80", Hosts: []*VirtualHost{{
			Name: "orders.shop.svc.cluster.local:80", Domains: []string{"orders", "orders.shop"},
			Routes: []*Route{{
				Name: "canary", Match: HTTPMatch{Path: &StringMatch{Prefix, "/v"}}, Timeout: timeout, Origin: rule,
				Backends: []RouteBackend{{Cluster: "outbound|80|v1|orders.shop.svc.cluster.local", Weight: 90}, {Cluster: "outbound|80|v2|orders.shop.svc.cluster.local", Weight: 10, Missing: true}},
				Mirrors:  []RouteMirror{{"outbound|80||shadow.shop.svc.cluster.local", 50}},
			}},
		}, {Name: "allow_any", Domains: []string{"*"}, AllowAny: true}}}},
		Outbound: []*Outbound{
			{Name: "0.0.0.0_80", Protocol: HTTP, Table: "80"},
			{Name: "127.0.0.2_16000", Protocol: TCP, Bind: true, Address: netip.MustParseAddr("127.0.0.2"), Port: 16000, TCP: []*TCPRoute{{Backends: []RouteBackend{{Cluster: "outbound|5432||db", Weight: 100}}}}},
		},
		Inbound: []*Inbound{{Port: 8080, Protocol: HTTP, Service: svc, ServicePort: 80, Policy: InboundPolicy{MTLS: MTLSStrict, MTLSOrigin: strict, Authz: []*AuthzPolicy{{Namespace: "shop", Name: "only-web", Action: Deny}}}}},
		Servers: []*GatewayPort{{Name: "0.0.0.0_443", External: 443, Policy: InboundPolicy{MTLS: MTLSDisable}, Servers: []*GatewayServer{{
			Hosts: []string{"shop.example.com"}, Protocol: HTTPS, TLS: &ServerTLS{Mode: ServerSimple}, Secrets: []string{"kubernetes://cert"}, Table: "https.443",
		}}}},
		Broken:         []*BrokenServer{{Port: 444, Hosts: []string{"x"}, Why: "Secret shop/none is not there"}},
		Secrets:        []*Secret{{Namespace: "shop", Name: "cert", Data: map[string]Sensitive{"tls.key": Sensitive("do not print")}}},
		InboundDefault: InboundPolicy{MTLS: MTLSPermissive},
	}
	got := TextView(v)
	for _, want := range []string{
		"client shop/users sidecar account=users\n",
		"listener 0.0.0.0_80 http table=80\n",
		"listener 127.0.0.2_16000 tcp bound=127.0.0.2:16000\n  tcp\n    -> 100 outbound|5432||db\n",
		"inbound 8080 http for=orders.shop.svc.cluster.local:80 mtls=strict deny=shop/only-web  # peerauthentication/shop/default\n",
		"inbound * mtls=permissive\n",
		"listener 0.0.0.0_443 external=443 mtls=disable\n  server https shop.example.com tls=simple secrets=kubernetes://cert table=https.443\n",
		"broken server 444 x: Secret shop/none is not there\n",
		"table 80\n  host orders.shop.svc.cluster.local:80 orders,orders.shop\n    route canary timeout=3s",
		"path=prefix:/v",
		"-> 90 outbound|80|v1|orders.shop.svc.cluster.local\n      -> 10 outbound|80|v2|orders.shop.svc.cluster.local missing\n      => 50% outbound|80||shadow.shop.svc.cluster.local\n",
		"  host allow_any * allow-any\n",
		"cluster outbound|80|v1|orders.shop.svc.cluster.local tls=auto http2  # service/shop/orders a.yaml:3\n  endpoint 10.1.0.1:8080 mtls workload=shop/orders-1\n  endpoint fd00::1:8080 weight=5 unready\n",
		"secret shop/cert\n",
		"VirtualService shop/orders spec.http[0] a.yaml:20",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("without %q", want)
		}
	}
	if strings.Contains(got, "do not print") {
		t.Error("key material is in the text")
	}
	if t.Failed() {
		t.Log(got)
	}
}
