package judge

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// The Views below use every construct that lower knows, so that Envoy sees
// each of them at least once.

func ptr[T any](v T) *T { return &v }

func origin(kind, name, field string) model.Origin {
	return model.Origin{Kind: kind, Namespace: "shop", Name: name, Field: field, File: "x.yaml", Line: 7}
}

func settings() model.Settings {
	return model.Settings{
		TrustDomain: "cluster.local", TrustDomainAliases: []string{"old.example"}, RootNamespace: "istio-system",
		ClusterDomain: "cluster.local", AllowAny: true, AutoMTLS: true,
		AccessLog: model.AccessLog{Enabled: true}, ConnectTimeout: 10 * time.Second,
	}
}

func service(name string) *model.Service {
	return &model.Service{Name: name, Namespace: "shop", Host: name + ".shop.svc.cluster.local", Kubernetes: true}
}

func endpoints() []model.ClusterEndpoint {
	east := model.Locality{Region: "east", Zone: "a", Subzone: "1"}
	return []model.ClusterEndpoint{
		{Address: "10.0.0.1", Port: 8080, Locality: east, MTLS: true, Ready: true, Workload: "shop/orders-1", Owner: "orders", Labels: map[string]string{"app": "orders", "version": "v1"}},
		{Address: "10.0.0.2", Port: 8080, Weight: 3, Ready: true, Workload: "shop/orders-2"},
		{Address: "fd00::3", Port: 8080, Ready: true},
		{Address: "unix:///tmp/orders.sock", Ready: true},
		{Address: "10.0.0.9", Port: 8080, Ready: false},
	}
}

func dnsEndpoints() []model.ClusterEndpoint {
	return []model.ClusterEndpoint{{Address: "api.example.com", Port: 443, Ready: true}, {Address: "192.0.2.7", Port: 443, Ready: true}}
}

func clusterOf(name string, edit func(*model.Cluster)) *model.Cluster {
	c := &model.Cluster{
		Name: "outbound|80||" + name, Service: service(name), Port: model.Port{Number: 80, Protocol: model.HTTP},
		SNI: "outbound_.80_._." + name, SANs: []string{"spiffe://cluster.local/ns/shop/sa/orders"},
		Endpoints: endpoints(), Origins: []model.Origin{origin("Service", name, ""), origin("DestinationRule", name, "")},
	}
	if edit != nil {
		edit(c)
	}
	return c
}

func clusters() []*model.Cluster {
	return []*model.Cluster{
		clusterOf("plain", nil),
		clusterOf("all-limits", func(c *model.Cluster) {
			c.Pool = model.ConnectionPool{
				MaxConnections: 1, ConnectTimeout: time.Second, Keepalive: &model.Keepalive{Probes: 3, Time: time.Minute, Interval: time.Second},
				MaxConnectionDuration: time.Hour, TCPIdleTimeout: time.Minute, MaxPendingRequests: 1, MaxRequests: 2,
				MaxRequestsPerConn: 3, MaxRetries: 4, HTTPIdleTimeout: time.Minute, MaxConcurrentStreams: 7,
			}
			c.HTTP2 = true
			c.Outlier = &model.Outlier{
				Consecutive5xx: ptr(uint32(7)), ConsecutiveGateway: ptr(uint32(0)), SplitLocalErrors: true, ConsecutiveLocal: ptr(uint32(3)),
				Interval: time.Second, BaseEjection: time.Minute, MaxEjectionPercent: ptr(uint32(50)), MinHealthPercent: 20,
			}
		}),
		clusterOf("round-robin", func(c *model.Cluster) {
			c.Balance = model.LoadBalancer{Algorithm: model.RoundRobin, Warmup: &model.Warmup{Duration: time.Minute}}
		}),
		clusterOf("least", func(c *model.Cluster) { c.Balance = model.LoadBalancer{Warmup: &model.Warmup{Duration: time.Minute}} }),
		clusterOf("random", func(c *model.Cluster) { c.Balance.Algorithm = model.Random }),
		clusterOf("ring", func(c *model.Cluster) {
			c.Balance = model.LoadBalancer{Algorithm: model.RingHash, Hash: &model.HashKey{SourceIP: true}}
		}),
		clusterOf("maglev", func(c *model.Cluster) {
			c.Balance = model.LoadBalancer{Algorithm: model.Maglev, TableSize: 65537, Hash: &model.HashKey{Header: "x-user"}}
		}),
		clusterOf("client-protocol", func(c *model.Cluster) { c.Pool.UseClientProtocol = true }),
		clusterOf("sniffed", func(c *model.Cluster) { c.Port.Protocol = model.Sniff }),
		clusterOf("tcp", func(c *model.Cluster) {
			c.Port.Protocol = model.TCP
			c.Pool.TCPIdleTimeout, c.Pool.MaxConnectionDuration = time.Minute, time.Hour
			c.Balance.Hash = &model.HashKey{SourceIP: true}
		}),
		clusterOf("dns", func(c *model.Cluster) {
			c.Resolution, c.External, c.Endpoints = model.DNS, true, dnsEndpoints()
			c.TLS = model.ClientTLS{Mode: model.TLSSimple}
		}),
		clusterOf("logical", func(c *model.Cluster) {
			c.Resolution, c.External, c.Endpoints = model.DNSRoundRobin, true, dnsEndpoints()
			c.TLS = model.ClientTLS{Mode: model.TLSSimple, SNI: "x.example.com", SANs: []string{"x.example.com"}, InsecureSkipVerify: true}
		}),
		clusterOf("logical-empty", func(c *model.Cluster) { c.Resolution, c.Endpoints = model.DNSRoundRobin, nil }),
		clusterOf("dialled", func(c *model.Cluster) { c.Resolution, c.TLS.Mode = model.Passthrough, model.TLSDisable }),
		clusterOf("mutual", func(c *model.Cluster) {
			c.TLS = model.ClientTLS{Mode: model.TLSMutual, CredentialName: "client", SANs: []string{"spiffe://x/y", "a@b.example", "192.0.2.1", "x.example"}}
		}),
		clusterOf("istio-mutual", func(c *model.Cluster) { c.TLS = model.ClientTLS{Mode: model.TLSIstioMutual} }),
		clusterOf("plain-text", func(c *model.Cluster) { c.TLS = model.ClientTLS{Mode: model.TLSDisable} }),
		clusterOf("h2", func(c *model.Cluster) { c.HTTP2 = true; c.Port.Protocol = model.GRPC }),
	}
}

func routes() []*model.Route {
	to := func(name string) model.RouteBackend {
		return model.RouteBackend{Cluster: "outbound|80||" + name, Weight: 100, Origin: origin("VirtualService", "orders", "spec.http[0].route[0]")}
	}
	match := func(kind model.MatchKind, v string) model.HTTPMatch {
		return model.HTTPMatch{Path: &model.StringMatch{Kind: kind, Value: v}}
	}
	all := []*model.Route{
		{Name: "matches", Match: model.HTTPMatch{
			Path: &model.StringMatch{Kind: model.Exact, Value: "/exact"}, IgnorePathCase: true,
			Method: &model.StringMatch{Kind: model.Exact, Value: "GET"}, Scheme: &model.StringMatch{Kind: model.Exact, Value: "http"},
			Authority: &model.StringMatch{Kind: model.Prefix, Value: "orders"},
			Headers: []model.NamedMatch{
				{Name: "a", StringMatch: model.StringMatch{Kind: model.Regex, Value: "^(.*?;)?(user=jason)(;.*)?$"}}, {Name: "b", StringMatch: model.StringMatch{Kind: model.Present}},
				{Name: "c", StringMatch: model.StringMatch{Kind: model.Suffix, Value: "x"}}, {Name: "d", StringMatch: model.StringMatch{Kind: model.Prefix}},
			},
			WithoutHeaders: []model.NamedMatch{{Name: "e", StringMatch: model.StringMatch{Kind: model.Exact, Value: "no"}}, {Name: "f", StringMatch: model.StringMatch{Kind: model.Present}}},
			Query:          []model.NamedMatch{{Name: "q", StringMatch: model.StringMatch{Kind: model.Exact}}, {Name: "r", StringMatch: model.StringMatch{Kind: model.Present}}},
			StatPrefix:     "stat",
		}, Backends: []model.RouteBackend{to("plain")}},
		{Name: "regex", Match: match(model.Regex, "/v[0-9]+/.*"), Backends: []model.RouteBackend{to("plain")}, Rewrite: &model.Rewrite{Path: "/x"}},
		{Name: "suffix", Match: match(model.Suffix, ".css"), Direct: &model.DirectResponse{Status: 204}},
		{Name: "segments", Match: match(model.PathPrefix, "/seg/"), Backends: []model.RouteBackend{to("plain")}, Rewrite: &model.Rewrite{Path: "/"}},
		{Name: "rewrite", Match: match(model.Prefix, "/re"), Backends: []model.RouteBackend{to("plain")}, Rewrite: &model.Rewrite{Regex: "^/a/(.*)$", Replace: `/b/\1`, Authority: "b.example"}},
		{Name: "redirect", Match: match(model.Prefix, "/old"), Redirect: &model.Redirect{PathPrefix: "/new", Authority: "n.example", Scheme: "https", Port: 8443, Code: 308}},
		{Name: "redirect-path", Match: match(model.Prefix, "/go"), Redirect: &model.Redirect{Path: "/gone"}},
		{Name: "direct", Match: match(model.Prefix, "/direct"), Direct: &model.DirectResponse{Status: 200, Body: []byte("hello")}},
		{Name: "fault", Match: match(model.Prefix, "/fault"), Backends: []model.RouteBackend{to("plain")},
			Fault: &model.Fault{DelayPercent: 0.1, Delay: time.Second, HasAbort: true, AbortPercent: 100, AbortStatus: 418, AbortGRPC: -1}},
		{Name: "fault-grpc", Match: match(model.Prefix, "/fault"), Backends: []model.RouteBackend{to("plain")},
			Fault: &model.Fault{HasAbort: true, AbortPercent: 100, AbortGRPC: 14}},
		{Name: "cors", Match: match(model.Prefix, "/cors"), Backends: []model.RouteBackend{to("plain")}, CORS: &model.CORS{
			AllowOrigins: []model.StringMatch{{Kind: model.Exact, Value: "https://a.example"}, {Kind: model.Regex, Value: "https://.*"}, {Kind: model.Prefix, Value: "http"}},
			AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"x-a"}, ExposeHeaders: []string{"x-b"}, MaxAge: ptr(24 * time.Hour), AllowCredentials: ptr(true), IgnoreUnmatched: true,
		}},
		{Name: "weights", Match: match(model.Prefix, "/w"), Timeout: time.Second, Backends: []model.RouteBackend{
			{Cluster: "outbound|80||plain", Weight: 90, Headers: &model.HeaderOps{Request: model.HeaderEdit{Set: []model.Header{{Name: "x-v", Value: "1"}}}}},
			{Cluster: "outbound|80||missing", Weight: 10, Missing: true, Authority: "m.example"},
		}, Retry: &model.Retry{
			Attempts: 3, PerTryTimeout: time.Second, On: []string{"5xx", "reset"}, Codes: []int{409}, RemoteLocality: ptr(true), IgnorePrevious: ptr(false), BackoffBase: 10 * time.Millisecond,
		}, Headers: &model.HeaderOps{
			Request:  model.HeaderEdit{Set: []model.Header{{Name: "x-p", Value: "50% of %REQ(x-id)% at %NOPE%, %%"}}, Add: []model.Header{{Name: "x-empty"}}, Remove: []string{"x-gone", ":path"}},
			Response: model.HeaderEdit{Set: []model.Header{{Name: "x-r", Value: "%PROTOCOL%"}}, Add: []model.Header{{Name: "x-s", Value: "2"}}, Remove: []string{"server"}},
		}, Mirrors: []model.RouteMirror{{Cluster: "outbound|80||least", Percent: 12.5}}},
		{Name: "hash", Match: match(model.Prefix, "/h"), Backends: []model.RouteBackend{to("ring")}, Hash: &model.HashKey{Cookie: &model.HashCookie{Name: "c", Path: "/", TTL: ptr(time.Hour)}},
			Retry: &model.Retry{Attempts: 2, On: []string{"connect-failure"}, FromMeshDefault: true}},
		{Name: "hash-query", Match: match(model.Prefix, "/q"), Backends: []model.RouteBackend{to("ring")}, Hash: &model.HashKey{Query: "id"}},
		{Name: "hash-ip", Match: match(model.Prefix, "/i"), Backends: []model.RouteBackend{to("ring")}, Hash: &model.HashKey{SourceIP: true}},
		{Name: "default", Match: match(model.Prefix, "/"), Backends: []model.RouteBackend{to("plain")}, Operation: "plain.shop.svc.cluster.local:80/*"},
	}
	for _, r := range all {
		r.Origin = origin("VirtualService", "orders", "spec.http["+r.Name+"]")
	}
	return all
}

func policies() []*model.AuthzPolicy {
	rule := func(i string, r model.AuthzRule) model.AuthzRule {
		r.Origin = origin("AuthorizationPolicy", "x", "spec.rules["+i+"]")
		return r
	}
	return []*model.AuthzPolicy{
		{Name: "x", Namespace: "shop", Action: model.Allow, Origin: origin("AuthorizationPolicy", "x", ""), Rules: []model.AuthzRule{
			rule("0", model.AuthzRule{
				From: []model.AuthzSource{
					{Principals: []string{"cluster.local/ns/shop/sa/web", "*/sa/x", "other/ns/*", "*"}, NotPrincipals: []string{"cluster.local/ns/bad/sa/*"}},
					{Namespaces: []string{"shop", "team-*"}, NotNamespaces: []string{"bad"}, Accounts: []string{"shop/web"}, IPBlocks: []string{"10.0.0.0/8", "fd00::/8", "192.0.2.1"}, NotRemoteIPBlocks: []string{"192.0.2.0/24"}},
				},
				To: []model.AuthzOperation{{
					Hosts: []string{"orders.example", "*.example", "o*", "*"}, NotHosts: []string{"x"}, Ports: []string{"8080"}, NotPorts: []string{"9090"},
					Methods: []string{"GET", "P*"}, Paths: []string{"/a", "/a/*", "*.png", "*", "/v/{*}/x/{**}"}, NotPaths: []string{"/admin"},
				}},
				When: []model.AuthzCondition{
					{Key: "request.headers[x-token]", Values: []string{"abc", "*"}, NotValues: []string{"no"}}, {Key: "source.ip", Values: []string{"10.1.1.1"}},
					{Key: "source.namespace", Values: []string{"shop"}}, {Key: "source.principal", NotValues: []string{"cluster.local/ns/x/sa/y"}},
					{Key: "source.serviceAccount", Values: []string{"web"}}, {Key: "source.trustDomain", Values: []string{"cluster.local", "*"}},
					{Key: "destination.ip", Values: []string{"10.0.0.0/8"}}, {Key: "destination.port", Values: []string{"8080"}},
					{Key: "connection.sni", Values: []string{"a.example", "*.b"}}, {Key: "remote.ip", Values: []string{"1.2.3.4"}},
				},
			}),
			rule("1", model.AuthzRule{}),
		}},
		{Name: "none", Namespace: "shop", Action: model.Allow, Origin: origin("AuthorizationPolicy", "none", "")},
		{Name: "deny", Namespace: "shop", Action: model.Deny, Origin: origin("AuthorizationPolicy", "deny", ""), Rules: []model.AuthzRule{
			{To: []model.AuthzOperation{{Methods: []string{"DELETE"}, Ports: []string{"8080"}}}},
		}},
		{Name: "dry", Namespace: "shop", Action: model.Deny, DryRun: true, Origin: origin("AuthorizationPolicy", "dry", ""), Rules: []model.AuthzRule{{}}},
	}
}

func sidecarView() *model.View {
	inbound := func(port uint16, p model.Protocol, m model.MTLSMode) *model.Inbound {
		return &model.Inbound{Port: port, Protocol: p, Service: service("orders"), ServicePort: 80, Origin: origin("Service", "orders", ""),
			Policy: model.InboundPolicy{MTLS: m, Authz: policies(), MTLSOrigin: origin("PeerAuthentication", "default", "")}}
	}
	v := &model.View{
		Client: model.Client{Namespace: "shop", Name: "web-1", Account: "web",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}},
		Settings: settings(), Clusters: clusters(),
		HTTP: []*model.HTTPTable{{Name: "80", Hosts: []*model.VirtualHost{
			{Name: "orders.shop.svc.cluster.local:80", Domains: []string{"orders", "orders.shop", "orders.shop.svc.cluster.local", "10.1.0.1", "[fd00::1]", "*.wild.example"}, Routes: routes(), IncludeAttempt: true},
			{Name: "dup:80", Domains: []string{"Orders"}},
			{Name: "allow_any", Domains: []string{"*"}, AllowAny: true},
		}}, {Name: "orders:8080", Hosts: []*model.VirtualHost{{Name: "block_all", Domains: []string{"*"}, BlackHole: true}}}},
		Outbound: []*model.Outbound{
			{Name: "0.0.0.0_80", Address: netip.IPv4Unspecified(), Port: 80, Extra: []netip.Addr{netip.IPv6Unspecified()}, Protocol: model.HTTP, Table: "80"},
			{Name: "10.1.0.1_8080", Address: netip.MustParseAddr("10.1.0.1"), Port: 8080, Protocol: model.Sniff, Table: "orders:8080",
				TCP: []*model.TCPRoute{{Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}}}, Origin: origin("Service", "orders", "")},
			{Name: "fd00::1_3306", Address: netip.MustParseAddr("fd00::1"), Port: 3306, Protocol: model.TCP, TCP: []*model.TCPRoute{
				{Subnets: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}, Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}},
				{Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp", Weight: 1}, {Cluster: "outbound|80||plain", Weight: 99}}},
				{Backends: []model.RouteBackend{{Cluster: "outbound|80||plain"}}}}},
			{Name: "0.0.0.0_443", Address: netip.IPv4Unspecified(), Port: 443, Protocol: model.TLS, TCP: []*model.TCPRoute{
				{SNI: []string{"a.example", "*.b.example"}, Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}, Origin: origin("VirtualService", "tls", "spec.tls[0]")},
				{SNI: []string{"A.example", "c.example"}, Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}}}},
			{Name: "0.0.0.0_9999", Address: netip.IPv4Unspecified(), Port: 9999, Protocol: model.TCP},
			{Name: "10.1.0.2_9999", Address: netip.MustParseAddr("10.1.0.2"), Port: 9999, Protocol: model.TCP},
		},
		InboundDefault: model.InboundPolicy{MTLS: model.MTLSPermissive, Authz: policies()},
	}
	port := uint16(8000)
	for _, p := range []model.Protocol{model.HTTP, model.GRPC, model.TCP, model.HTTPS, model.Sniff} {
		for _, m := range []model.MTLSMode{model.MTLSDisable, model.MTLSPermissive, model.MTLSStrict} {
			port++
			v.Inbound = append(v.Inbound, inbound(port, p, m))
		}
	}
	v.Inbound[0].App = netip.MustParseAddrPort("127.0.0.1:9000")
	v.Inbound[1].Pool = model.ConnectionPool{MaxConnections: 5, HTTPIdleTimeout: time.Minute, Keepalive: &model.Keepalive{Time: time.Minute}}
	return v
}

func portsView() *model.View {
	v := sidecarView()
	v.Client.Capture = model.PortsMode
	v.Settings.AccessLog.JSON = true
	v.HTTP[0].WithPort = true
	v.Outbound = []*model.Outbound{
		{Name: "127.0.0.1_20080", Address: netip.MustParseAddr("127.0.0.1"), Port: 20080, Bind: true, Protocol: model.HTTP, Table: "80"},
		{Name: "http_proxy", Address: netip.MustParseAddr("::1"), Port: 20081, Bind: true, HTTPProxy: true, Table: "80"},
	}
	for i, in := range v.Inbound {
		in.Listen = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), uint16(21000+i))
		in.App = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), in.Port)
	}
	return v
}

func gatewayView() *model.View {
	tls := func(mode model.ServerTLSMode) *model.ServerTLS {
		return &model.ServerTLS{Mode: mode, CredentialNames: []string{"shop"}, SANs: []string{"client.example"}, MinVersion: "1.2", MaxVersion: "1.3",
			CipherSuites: []string{"ECDHE-RSA-AES128-GCM-SHA256"}}
	}
	return &model.View{
		Client:   model.Client{Role: model.GatewayRole, Namespace: "shop", Name: "gw", Account: "gw"},
		Settings: settings(), Clusters: clusters(),
		HTTP: []*model.HTTPTable{
			{Name: "http.8080", Hosts: []*model.VirtualHost{
				{Name: "shop.example:80", Domains: []string{"shop.example"}, Routes: routes(), IncludeAttempt: true},
				{Name: "secure.example:80", Domains: []string{"secure.example"}, RequireTLS: true},
				{Name: "blackhole:80", Domains: []string{"*"}}}},
			{Name: "https.443.https.gw.shop", Hosts: []*model.VirtualHost{{Name: "shop.example:443", Domains: []string{"shop.example"}, Routes: routes()}}},
		},
		Servers: []*model.GatewayPort{
			{Name: "0.0.0.0_8080", Bind: netip.IPv4Unspecified(), Port: 8080, External: 80, Table: "http.8080", Policy: model.InboundPolicy{Authz: policies()}, Origin: origin("Gateway", "gw", "spec.servers[0]")},
			{Name: "0.0.0.0_8443", Bind: netip.IPv4Unspecified(), Port: 8443, External: 443, Policy: model.InboundPolicy{Authz: policies()}, Servers: []*model.GatewayServer{
				{Hosts: []string{"shop.example", "*.shop.example"}, Protocol: model.HTTPS, TLS: tls(model.ServerSimple), Secrets: []string{"kubernetes://shop"}, Table: "https.443.https.gw.shop"},
				{Hosts: []string{"mutual.example"}, Protocol: model.HTTPS, TLS: tls(model.ServerMutual), Secrets: []string{"kubernetes://shop"}, Table: "https.443.https.gw.shop"},
				{Hosts: []string{"optional.example"}, Protocol: model.HTTPS, TLS: tls(model.ServerOptionalMutual), Secrets: []string{"kubernetes://shop"}, Table: "https.443.https.gw.shop"},
				{Hosts: []string{"mesh.example"}, Protocol: model.TLS, TLS: tls(model.ServerIstioMutual), TCP: []*model.TCPRoute{{Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}}}},
				{Hosts: []string{"tcp.example"}, Protocol: model.TLS, TLS: tls(model.ServerSimple), Secrets: []string{"kubernetes://shop"}, TCP: []*model.TCPRoute{{Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}}}},
				{Hosts: []string{"pass.example"}, Protocol: model.TLS, TLS: tls(model.ServerPassthrough), TCP: []*model.TCPRoute{{SNI: []string{"pass.example"}, Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}}}},
				{Hosts: []string{"shop.example"}, Protocol: model.HTTPS, TLS: tls(model.ServerSimple), Secrets: []string{"kubernetes://shop"}, Table: "https.443.https.gw.shop"},
				{Hosts: []string{"*"}, Protocol: model.HTTPS, TLS: tls(model.ServerSimple), Secrets: []string{"kubernetes://shop"}, Table: "https.443.https.gw.shop"},
			}},
			{Name: "::_3306", Bind: netip.IPv6Unspecified(), Port: 3306, Servers: []*model.GatewayServer{
				{Hosts: []string{"*"}, Protocol: model.TCP, TCP: []*model.TCPRoute{{Backends: []model.RouteBackend{{Cluster: "outbound|80||tcp"}}}}}}, Policy: model.InboundPolicy{Authz: policies()}},
		},
	}
}
