package lower_test

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// examples: one feature each.
//
// Long because it is a table.
func examples() map[string]example {
	cds := []string{"CDS " + ordersName}
	rds := []string{"RDS 80"}
	routes := []string{"virtual_hosts"}
	inbound := []string{"LDS 127.0.0.9_8080"}
	outbound := func(o *model.Outbound) *model.View {
		return sidecar(func(v *model.View) { v.Outbound = []*model.Outbound{o} })
	}
	return map[string]example{
		"cluster-automtls": {
			why:  "A mesh service: EDS, LEAST_REQUEST, limits that limit nothing, and mTLS to the endpoints that have a sidecar.",
			view: withCluster(func(*model.Cluster) {}), show: []string{"CDS " + ordersName, "EDS " + ordersName},
		},
		"cluster-bridge": {
			why: "A client that can carry HTTP/1 as HTTP/2 streams offers tulle1 first; h2 is offered for HTTP/2 clusters only.",
			view: func() *model.View {
				v := withCluster(func(c *model.Cluster) { c.HTTP2 = true })
				v.Client.Features = []string{"tulle.bridge"}
				return v
			}(), show: cds, keys: []string{"transport_socket_matches"},
		},
		"cluster-limits": {
			why: "connectionPool and outlierDetection: Envoy's own defaults never show through, and a cluster that ejects does not panic.",
			view: withCluster(func(c *model.Cluster) {
				c.Pool = model.ConnectionPool{MaxConnections: 1, MaxPendingRequests: 1, MaxRequestsPerConn: 3, HTTPIdleTimeout: time.Minute, ConnectTimeout: time.Second}
				c.Outlier = &model.Outlier{Consecutive5xx: ptr(uint32(7)), ConsecutiveGateway: ptr(uint32(0)), Interval: time.Second, MaxEjectionPercent: ptr(uint32(100))}
			}), show: cds, keys: []string{"connect_timeout", "circuit_breakers", "outlier_detection", "common_lb_config", "typed_extension_protocol_options"},
		},
		"cluster-retry-budget": {
			why: "A retry budget stands beside the limits, and an idle timeout of never is 0s.",
			view: withCluster(func(c *model.Cluster) {
				c.Retries = &model.RetryBudget{Percent: ptr(12.5), Min: 7}
				c.Pool.HTTPIdleTimeout = model.Never
			}), show: cds, keys: []string{"circuit_breakers", "typed_extension_protocol_options"},
		},
		"cluster-hash": {
			why: "Consistent hashing is a ring of 1024 unless the user says more.",
			view: withCluster(func(c *model.Cluster) {
				c.Balance = model.LoadBalancer{Algorithm: model.RingHash, Hash: &model.HashKey{Header: "x"}}
			}),
			show: cds, keys: []string{"lb_policy", "ring_hash_lb_config"},
		},
		"cluster-dns-tls": {
			why: "An external host by DNS with TLS SIMPLE: verified with the system's certificates, SNI and name from the request.",
			view: withCluster(func(c *model.Cluster) {
				c.Resolution, c.External, c.TLS.Mode = model.DNS, true, model.TLSSimple
				c.Endpoints = []model.ClusterEndpoint{{Address: "api.example.com", Port: 443, Ready: true}}
			}), show: cds,
		},
		"cluster-mutual": {
			why: "TLS MUTUAL with a secret, and names of several kinds that the server may have.",
			view: withCluster(func(c *model.Cluster) {
				c.TLS = model.ClientTLS{Mode: model.TLSMutual, CredentialName: "client", SNI: "x", SANs: []string{"x.example", "spiffe://a/b"}}
			}),
			show: cds, keys: []string{"transport_socket"},
		},
		"endpoints": {
			why: "Endpoints stand by locality; those that are not ready, or have a name where an address must be, are left out.",
			view: withCluster(func(c *model.Cluster) {
				east, west := model.Locality{Region: "east", Zone: "a"}, model.Locality{Region: "west"}
				c.Endpoints = []model.ClusterEndpoint{
					{Address: "10.0.0.3", Port: 1, Ready: true, Locality: west, Weight: 4},
					{Address: "10.0.0.1", Port: 1, Ready: true, Locality: east, MTLS: true, Workload: "shop/orders-1", Owner: "orders", Labels: map[string]string{"app": "ord", "version": "v1"}},
					{Address: "fd00::2", Port: 2, Ready: true, Locality: east, Weight: 9},
					{Address: "10.0.0.4", Port: 1}, {Address: "db.example", Port: 1, Ready: true}, {Address: "unix:///run/x", Ready: true},
				}
			}), show: []string{"EDS " + ordersName},
		},
		"endpoints-priorities": {
			why: "Endpoints stand by priority and locality, a locality perhaps at two priorities; with shares a locality weighs what its share is.",
			view: withCluster(func(c *model.Cluster) {
				east := model.Locality{Region: "east"}
				c.Weighted, c.Shares = true, map[model.Locality]uint32{east: 80, {Region: "west"}: 20}
				c.Endpoints = []model.ClusterEndpoint{
					{Address: "10.0.0.1", Port: 1, Ready: true, Locality: east, Priority: 1},
					{Address: "10.0.0.2", Port: 1, Ready: true, Locality: model.Locality{Region: "west"}, Priority: 1},
					{Address: "10.0.0.3", Port: 1, Ready: true, Locality: east},
				}
			}), show: []string{"CDS " + ordersName, "EDS " + ordersName}, keys: []string{"common_lb_config", "endpoints"},
		},
		"route-match": {
			why: "Every condition; a missing header counts as empty for withoutHeaders, except where presence is asked.",
			view: withRoute(&model.Route{Match: model.HTTPMatch{
				Path: &model.StringMatch{Kind: model.Prefix, Value: "/a"}, IgnorePathCase: true, Method: &model.StringMatch{Value: "GET"},
				Authority:      &model.StringMatch{Kind: model.Regex, Value: "o.*"},
				Headers:        []model.NamedMatch{{Name: "x", StringMatch: model.StringMatch{Kind: model.Regex, Value: "*"}}, {Name: "y", StringMatch: model.StringMatch{Kind: model.Prefix, Value: "p"}}},
				WithoutHeaders: []model.NamedMatch{{Name: "n", StringMatch: model.StringMatch{Value: "v"}}, {Name: "m", StringMatch: model.StringMatch{Kind: model.Present}}},
				Query:          []model.NamedMatch{{Name: "q", StringMatch: model.StringMatch{Value: "1"}}},
			}, Backends: to(ordersName)}), show: rds, keys: routes,
		},
		"route-default": {
			why:  "The route of a service that no VirtualService names: no timeout, and Istio's retries.",
			view: withRoute(&model.Route{Name: "default", Match: path(model.Prefix, "/"), Backends: to(ordersName), Operation: "orders:80/*", Retry: &model.Retry{Attempts: 2, On: []string{"connect-failure", "refused-stream"}, FromMeshDefault: true}}),
			show: rds,
		},
		"route-weights": {
			why: "Weights with header operations per destination; a percent sign that is no substitution is a percent sign.",
			view: withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: []model.RouteBackend{
				{Cluster: "a", Weight: 90, Headers: &model.HeaderOps{Request: model.HeaderEdit{Set: []model.Header{{Name: "x", Value: "50% of %REQ(y)%"}}, Remove: []string{":path"}}}},
				{Cluster: "b", Weight: 10, Authority: "b.example"},
			}}), show: rds, keys: routes,
		},
		"route-retry": {
			why: "Retries as the user wrote them: status codes need their token, a hashed request may meet the same endpoint again.",
			view: withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: to(ordersName), Timeout: 3 * time.Second, Hash: &model.HashKey{Cookie: &model.HashCookie{Name: "u", TTL: ptr(time.Duration(0))}},
				Retry: &model.Retry{Attempts: 3, PerTryTimeout: time.Second, On: []string{"5xx"}, Codes: []int{409}, RemoteLocality: ptr(true), BackoffBase: 10 * time.Millisecond}}),
			show: rds, keys: routes,
		},
		"route-rewrite": {
			why:  "uri replaces the matched prefix, authority the host; with a segment prefix, \"/\" does not double the slash.",
			view: withRoute(&model.Route{Match: path(model.PathPrefix, "/v1/"), Backends: to(ordersName), Rewrite: &model.Rewrite{Path: "/", Authority: "x.example"}}),
			show: rds, keys: routes,
		},
		"route-redirect": {
			why:  "All options of a redirect.",
			view: withRoute(&model.Route{Match: path(model.Prefix, "/old"), Redirect: &model.Redirect{PathPrefix: "/new", Authority: "n.example", Scheme: "https", Port: 8443, Code: 307}}),
			show: rds, keys: routes,
		},
		"route-direct": {
			why:  "A direct response; a status that cannot be sent is told and becomes 500.",
			view: withRoute(&model.Route{Match: path(model.Exact, "/d"), Direct: &model.DirectResponse{Status: 99, Body: []byte("x")}}),
			show: rds,
		},
		"route-fault": {
			why:  "Delay and abort; 0.1 % is kept, and no percentage means never.",
			view: withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: to(ordersName), Fault: &model.Fault{Delay: time.Second, DelayPercent: 0.1, HasAbort: true, AbortPercent: 100, AbortGRPC: 14}}),
			show: rds, keys: routes,
		},
		"route-cors": {
			why:  "CORS: preflights of unknown origins go on to the service unless the user says otherwise.",
			view: withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: to(ordersName), CORS: &model.CORS{AllowOrigins: []model.StringMatch{{Value: "https://a"}}, AllowMethods: []string{"GET", "PUT"}, MaxAge: ptr(time.Hour), AllowCredentials: ptr(true)}}),
			show: rds, keys: routes,
		},
		"route-mirror": {
			why:  "Mirrors keep the host name and are not traced.",
			view: withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: to(ordersName), Mirrors: []model.RouteMirror{{Cluster: "m", Percent: 12.5}, {Cluster: "never"}}}),
			show: rds, keys: routes,
		},
		"route-domains": {
			why: "A domain belongs to the first virtual host that claims it; Envoy would refuse the table.",
			view: sidecar(func(v *model.View) {
				v.HTTP = []*model.HTTPTable{{Name: "80", Hosts: []*model.VirtualHost{
					{Name: "a:80", Domains: []string{"a", "shared"}}, {Name: "b:80", Domains: []string{"Shared"}}, {Name: "allow_any", Domains: []string{"*"}, AllowAny: true},
				}}}
			}), show: rds,
		},
		"route-ports-mode": {
			why: "The HTTP proxy of ports mode serves CONNECT, matches hosts with their port, and passes nothing on to hosts outside of the mesh: there is no original destination.",
			view: func() *model.View {
				v := withRoute(&model.Route{Match: path(model.Prefix, "/"), Backends: to(ordersName)})
				v.Client.Capture = model.PortsMode
				v.HTTP[0].WithPort = true
				v.HTTP[0].Hosts = append(v.HTTP[0].Hosts, &model.VirtualHost{Name: "allow_any", Domains: []string{"*"}, AllowAny: true})
				return v
			}(), show: rds,
		},
		"outbound-http": {
			why:  "An HTTP port of the mesh: not bound, reached by original destination, routes by RDS.",
			view: outbound(&model.Outbound{Name: "0.0.0.0_80", Address: netip.IPv4Unspecified(), Port: 80, Extra: []netip.Addr{netip.IPv6Unspecified()}, Protocol: model.HTTP, Table: "80", Origin: origin("Service", "orders", "")}),
			show: []string{"LDS 0.0.0.0_80"},
		},
		"outbound-sniff": {
			why: "A port without a protocol: HTTP in clear text by RDS, anything else as bytes.",
			view: outbound(&model.Outbound{Name: "10.1.0.1_8080", Address: netip.MustParseAddr("10.1.0.1"), Port: 8080, Protocol: model.Sniff, Table: "orders:8080",
				TCP: []*model.TCPRoute{{Backends: to(ordersName), Origin: origin("Service", "orders", "")}}}),
			show: []string{"LDS 10.1.0.1_8080"}, keys: []string{"listener_filters", "listener_filters_timeout", "continue_on_listener_filters_timeout", "default_filter_chain"},
		},
		"outbound-sni": {
			why: "TLS by SNI: the first rule keeps a name, and what no rule names passes.",
			view: outbound(&model.Outbound{Name: "0.0.0.0_443", Address: netip.IPv4Unspecified(), Port: 443, Protocol: model.TLS, TCP: []*model.TCPRoute{
				{SNI: []string{"a.example", "*.b"}, Backends: to("a"), Origin: origin("VirtualService", "t", "spec.tls[0]")},
				{SNI: []string{"A.example"}, Backends: to("b"), Origin: origin("VirtualService", "t", "spec.tls[1]")},
			}}), show: []string{"LDS 0.0.0.0_443"},
		},
		"outbound-registry-only": {
			why:  "With REGISTRY_ONLY what no listener has ends at the sidecar.",
			view: sidecar(func(v *model.View) { v.Settings.AllowAny = false }), show: []string{"LDS virtualOutbound"},
		},
		"inbound-http-permissive": {
			why:  "PERMISSIVE: peers of the mesh by their ALPN, and plain text; TLS of strangers is not HTTP.",
			view: withInbound(&model.Inbound{Port: 8080, Protocol: model.HTTP, Policy: model.InboundPolicy{MTLS: model.MTLSPermissive, MTLSOrigin: origin("PeerAuthentication", "default", "")}}),
			show: []string{"LDS 127.0.0.9_8080", "CDS inbound|8080||"},
		},
		"inbound-requests": {
			why: "RequestPolicies: of bounds the strictest, of compressions the last.",
			view: withInbound(&model.Inbound{Port: 8080, Protocol: model.HTTP, Policy: model.InboundPolicy{MTLS: model.MTLSDisable, Requests: []*model.RequestPolicy{
				{Name: "mesh", Namespace: "istio-system", Bounds: model.RequestBounds{HeaderBytes: 70000, Headers: 50, BodyBytes: 5000, IdleTime: time.Minute, StreamTime: time.Hour},
					Compress: &model.Compression{Algorithms: []string{"gzip"}, MinBytes: 30}},
				{Name: "own", Namespace: "shop", Bounds: model.RequestBounds{HeaderBytes: 90000, BodyBytes: 4000, HeaderTime: time.Second, RequestTime: 2 * time.Second},
					Limits:   []model.RateLimit{{Requests: 1, Burst: 1, Per: time.Second}},
					Compress: &model.Compression{Algorithms: []string{"brotli", "gzip"}, ContentTypes: []string{"text/x"}, MinBytes: 256}},
			}}}),
			show: inbound,
		},
		"inbound-sniff-strict": {
			why:  "STRICT on a port without a protocol: nothing in plain text.",
			view: withInbound(&model.Inbound{Port: 8080, Protocol: model.Sniff, Policy: model.InboundPolicy{MTLS: model.MTLSStrict}}),
			show: inbound, keys: []string{"listener_filters"},
		},
		"inbound-captured": {
			why: "Captured inbound: chains by destination port, inspectors off where the server may speak first, no default chain to fall into.",
			view: sidecar(func(v *model.View) {
				v.InboundDefault.MTLS = model.MTLSStrict
				v.Inbound = []*model.Inbound{{Port: 3306, Protocol: model.TCP, Policy: model.InboundPolicy{MTLS: model.MTLSDisable}}}
			}), show: []string{"LDS virtualInbound", "CDS InboundPassthroughCluster"},
		},
		"authz-http": {
			why: "Authorization of requests: DENY before ALLOW, names by rule, the trust domain's own names.",
			view: withInbound(&model.Inbound{Port: 8080, Protocol: model.HTTP, Policy: model.InboundPolicy{MTLS: model.MTLSDisable, Authz: append(allow(
				model.AuthzRule{Origin: origin("AuthorizationPolicy", "p", "spec.rules[0]"), From: []model.AuthzSource{{Principals: []string{"cluster.local/ns/shop/sa/web"}}, {Namespaces: []string{"ops"}}},
					To: []model.AuthzOperation{{Methods: []string{"GET"}, Paths: []string{"/a/*", "/v/{*}/x/{**}"}, NotHosts: []string{"*.bad"}, Ports: []string{"8080"}}}}),
				&model.AuthzPolicy{Name: "d", Namespace: "shop", Action: model.Deny, Origin: origin("AuthorizationPolicy", "d", ""), Rules: []model.AuthzRule{{When: []model.AuthzCondition{{Key: "request.headers[x]", Values: []string{"*"}}}}}})}}),
			show: inbound,
		},
		"authz-tcp": {
			why: "Authorization of connections: an HTTP field makes an ALLOW rule match nothing, and widens a DENY rule.",
			view: withInbound(&model.Inbound{Port: 8080, Protocol: model.TCP, Policy: model.InboundPolicy{MTLS: model.MTLSDisable, Authz: append(allow(
				model.AuthzRule{Origin: origin("AuthorizationPolicy", "p", "spec.rules[0]"), To: []model.AuthzOperation{{Methods: []string{"GET"}, Ports: []string{"8080"}}}},
				model.AuthzRule{Origin: origin("AuthorizationPolicy", "p", "spec.rules[1]"), From: []model.AuthzSource{{IPBlocks: []string{"10.0.0.0/8"}}}}),
				&model.AuthzPolicy{Name: "d", Namespace: "shop", Action: model.Deny, Origin: origin("AuthorizationPolicy", "d", ""), Rules: []model.AuthzRule{{To: []model.AuthzOperation{{Methods: []string{"GET"}, Ports: []string{"8080"}}}}}})}}),
			show: inbound,
		},
		"authz-closed": {
			why: "An ALLOW policy without rules allows nothing; CUSTOM, which is not supported yet, denies what it would ask about.",
			view: withInbound(&model.Inbound{Port: 8080, Protocol: model.HTTP, Policy: model.InboundPolicy{MTLS: model.MTLSDisable, Authz: append(allow(),
				&model.AuthzPolicy{Name: "c", Namespace: "shop", Action: model.Custom, Origin: origin("AuthorizationPolicy", "c", ""), Rules: []model.AuthzRule{{To: []model.AuthzOperation{{Paths: []string{"/x"}}}}}},
				&model.AuthzPolicy{Name: "dry", Namespace: "shop", Action: model.Deny, DryRun: true, Origin: origin("AuthorizationPolicy", "dry", ""), Rules: []model.AuthzRule{{}}})}}),
			show: inbound,
		},
		"gateway-http": {
			why: "A gateway's plain port: the client's word about itself is not believed.",
			view: gateway(func(v *model.View) {
				v.Servers = []*model.GatewayPort{{Name: "0.0.0.0_8080", Bind: netip.IPv4Unspecified(), Port: 8080, Table: "http.8080", Origin: origin("Gateway", "gw", "spec.servers[0]")}}
			}),
			show: []string{"LDS 0.0.0.0_8080"},
		},
		"gateway-tls": {
			why: "A gateway's TLS port: a chain per server by SNI, the first server keeps a name, client certificates for MUTUAL.",
			view: gateway(func(v *model.View) {
				tls := func(m model.ServerTLSMode) *model.ServerTLS {
					return &model.ServerTLS{Mode: m, MinVersion: "1.3", SANs: []string{"c.example"}}
				}
				v.Servers = []*model.GatewayPort{{Name: "0.0.0.0_8443", Bind: netip.IPv4Unspecified(), Port: 8443, Listen: netip.MustParseAddrPort("127.0.0.1:20443"), Servers: []*model.GatewayServer{
					{Hosts: []string{"a.example"}, Protocol: model.HTTPS, TLS: tls(model.ServerMutual), Secrets: []string{"kubernetes://a"}, Table: "https.443.a.gw.shop"},
					{Hosts: []string{"a.example"}, Protocol: model.HTTPS, TLS: tls(model.ServerSimple), Secrets: []string{"kubernetes://b"}, Table: "https.443.b.gw.shop", Origin: origin("Gateway", "late", "spec.servers[0]")},
					{Hosts: []string{"p.example"}, Protocol: model.TLS, TLS: tls(model.ServerPassthrough), TCP: []*model.TCPRoute{{SNI: []string{"p.example"}, Backends: to("p")}}},
				}}}
			}), show: []string{"LDS 0.0.0.0_8443"},
		},
		"accesslog-json": {
			why:  "The access log in JSON has Istio's keys.",
			view: sidecar(func(v *model.View) { v.Settings.AccessLog = model.AccessLog{Enabled: true, JSON: true} }), show: []string{"LDS virtualOutbound"}, keys: []string{"default_filter_chain"},
		},
	}
}
