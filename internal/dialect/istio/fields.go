package istio

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// acted lists, by message, the fields that the model carries. Every other
// field of the API gives an Unsupported notice when it is set, so a field that
// a new version of the API brings is never passed over in silence.
var acted = table(`
networking.v1alpha3.VirtualService: hosts gateways http tls tcp exportTo
networking.v1alpha3.Destination: host subset port
networking.v1alpha3.PortSelector: number
networking.v1alpha3.HTTPRoute: name match route redirect directResponse delegate rewrite timeout retries fault mirror mirrors mirrorPercent mirrorPercentage corsPolicy headers
networking.v1alpha3.Delegate: name namespace
networking.v1alpha3.Headers: request response
networking.v1alpha3.Headers.HeaderOperations: set add remove
networking.v1alpha3.TLSRoute: match route
networking.v1alpha3.TCPRoute: match route
networking.v1alpha3.HTTPMatchRequest: name uri scheme method authority headers port sourceLabels gateways queryParams ignoreUriCase withoutHeaders sourceNamespace statPrefix
networking.v1alpha3.HTTPRouteDestination: destination weight headers
networking.v1alpha3.RouteDestination: destination weight
networking.v1alpha3.L4MatchAttributes: destinationSubnets port sourceLabels gateways sourceNamespace
networking.v1alpha3.TLSMatchAttributes: sniHosts destinationSubnets port sourceLabels gateways sourceNamespace
networking.v1alpha3.HTTPRedirect: uri authority port derivePort scheme redirectCode prefixRewrite
networking.v1alpha3.HTTPDirectResponse: status body
networking.v1alpha3.HTTPBody: string bytes
networking.v1alpha3.HTTPRewrite: uri authority uriRegexRewrite
networking.v1alpha3.RegexRewrite: match rewrite
networking.v1alpha3.StringMatch: exact prefix regex
networking.v1alpha3.HTTPRetry: attempts perTryTimeout retryOn retryRemoteLocalities retryIgnorePreviousHosts backoff
networking.v1alpha3.CorsPolicy: allowOrigin allowOrigins allowMethods allowHeaders exposeHeaders maxAge allowCredentials unmatchedPreflights
networking.v1alpha3.HTTPFaultInjection: delay abort
networking.v1alpha3.HTTPFaultInjection.Delay: percent fixedDelay percentage
networking.v1alpha3.HTTPFaultInjection.Abort: httpStatus grpcStatus percentage
networking.v1alpha3.HTTPMirrorPolicy: destination percentage
networking.v1alpha3.Percent: value

networking.v1alpha3.DestinationRule: host trafficPolicy subsets exportTo workloadSelector
networking.v1alpha3.TrafficPolicy: loadBalancer connectionPool outlierDetection tls portLevelSettings retryBudget
networking.v1alpha3.TrafficPolicy.RetryBudget: percent minRetryConcurrency
networking.v1alpha3.TrafficPolicy.PortTrafficPolicy: port loadBalancer connectionPool outlierDetection tls
networking.v1alpha3.Subset: name labels trafficPolicy
networking.v1alpha3.LoadBalancerSettings: simple consistentHash localityLbSetting warmupDurationSecs warmup
networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB: httpHeaderName httpCookie useSourceIp httpQueryParameterName ringHash maglev minimumRingSize
networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.RingHash: minimumRingSize
networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.MagLev: tableSize
networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie: name path ttl attributes
networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie.Attribute: name value
networking.v1alpha3.WarmupConfiguration: duration minimumPercent aggression
networking.v1alpha3.LocalityLoadBalancerSetting: enabled distribute failover failoverPriority
networking.v1alpha3.LocalityLoadBalancerSetting.Distribute: from to
networking.v1alpha3.LocalityLoadBalancerSetting.Failover: from to
networking.v1alpha3.ConnectionPoolSettings: tcp http
networking.v1alpha3.ConnectionPoolSettings.TCPSettings: maxConnections connectTimeout tcpKeepalive maxConnectionDuration idleTimeout
networking.v1alpha3.ConnectionPoolSettings.TCPSettings.TcpKeepalive: probes time interval
networking.v1alpha3.ConnectionPoolSettings.HTTPSettings: http1MaxPendingRequests http2MaxRequests maxRequestsPerConnection maxRetries idleTimeout h2UpgradePolicy useClientProtocol maxConcurrentStreams
networking.v1alpha3.OutlierDetection: consecutiveErrors splitExternalLocalOriginErrors consecutiveLocalOriginFailures consecutiveGatewayErrors consecutive5xxErrors interval baseEjectionTime maxEjectionPercent minHealthPercent
networking.v1alpha3.ClientTLSSettings: mode clientCertificate privateKey caCertificates caCrl credentialName subjectAltNames sni insecureSkipVerify

networking.v1alpha3.Gateway: servers selector
networking.v1alpha3.Server: port bind hosts tls name
networking.v1alpha3.Port: number protocol name
networking.v1alpha3.ServerTLSSettings: httpsRedirect mode serverCertificate privateKey caCertificates credentialName credentialNames subjectAltNames minProtocolVersion maxProtocolVersion cipherSuites insecureSkipVerify verifyCertificateHash verifyCertificateSpki caCrl caCertCredentialName tlsCertificates
networking.v1alpha3.ServerTLSSettings.TLSCertificate: serverCertificate privateKey caCertificates

networking.v1alpha3.ServiceEntry: hosts addresses ports location resolution endpoints workloadSelector exportTo subjectAltNames
networking.v1alpha3.ServicePort: number protocol name targetPort
networking.v1alpha3.WorkloadEntry: address ports labels network locality weight serviceAccount
networking.v1alpha3.WorkloadSelector: labels
networking.v1alpha3.WorkloadGroup: metadata template probe
networking.v1alpha3.WorkloadGroup.ObjectMeta: labels
networking.v1alpha3.ReadinessProbe: initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold httpGet tcpSocket exec grpc
networking.v1alpha3.HTTPHealthCheckConfig: path port host scheme httpHeaders
networking.v1alpha3.HTTPHeader: name value
networking.v1alpha3.TCPHealthCheckConfig: host port
networking.v1alpha3.ExecHealthCheckConfig: command
networking.v1alpha3.GrpcHealthCheckConfig: port

networking.v1alpha3.Sidecar: workloadSelector ingress egress inboundConnectionPool outboundTrafficPolicy
networking.v1alpha3.IstioIngressListener: port captureMode defaultEndpoint connectionPool
networking.v1alpha3.IstioEgressListener: port bind captureMode hosts
networking.v1alpha3.SidecarPort: number protocol name
networking.v1alpha3.OutboundTrafficPolicy: mode egressProxy

mesh.v1alpha1.MeshConfig: connectTimeout tcpKeepalive accessLogFile accessLogFormat accessLogEncoding outboundTrafficPolicy enableAutoMtls rootNamespace defaultServiceExportTo defaultVirtualServiceExportTo defaultDestinationRuleExportTo h2UpgradePolicy pathNormalization defaultHttpRetryPolicy defaultTrafficPolicy localityLbSetting
mesh.v1alpha1.MeshConfig.OutboundTrafficPolicy: mode
mesh.v1alpha1.MeshConfig.ProxyPathNormalization: normalization
mesh.v1alpha1.MeshConfig.DefaultTrafficPolicy: connectionPool outlierDetection

type.v1beta1.WorkloadSelector: matchLabels
type.v1beta1.PolicyTargetReference: group kind name namespace
security.v1beta1.PeerAuthentication: selector mtls portLevelMtls
security.v1beta1.PeerAuthentication.MutualTLS: mode
security.v1beta1.AuthorizationPolicy: selector targetRef targetRefs rules action provider
security.v1beta1.AuthorizationPolicy.ExtensionProvider: name
security.v1beta1.Rule: from to when
security.v1beta1.Rule.From: source
security.v1beta1.Rule.To: operation
security.v1beta1.Source: principals notPrincipals requestPrincipals notRequestPrincipals namespaces notNamespaces serviceAccounts notServiceAccounts ipBlocks notIpBlocks remoteIpBlocks notRemoteIpBlocks trustDomains notTrustDomains
security.v1beta1.Operation: hosts notHosts ports notPorts methods notMethods paths notPaths
security.v1beta1.Condition: key values notValues
`)

// effects says what happens without an unsupported field, where that is not
// plain.
var effects = map[string]string{
	"networking.v1alpha3.TrafficPolicy.tunnel":                      ": connections go to the destination directly",
	"networking.v1alpha3.TrafficPolicy.proxyProtocol":               ": the destination gets no PROXY header",
	"networking.v1alpha3.TrafficPolicy.RetryBudget.budgetInterval":  ": active and pending requests count, not those of a time",
	"networking.v1alpha3.LoadBalancerSettings.zoneAwareLbSetting":   ": endpoints are chosen without regard to zone",
	"networking.v1alpha3.HTTPFaultInjection.Delay.exponentialDelay": ": nothing is delayed (Istio does not implement it either)",
	"networking.v1alpha3.HTTPFaultInjection.Abort.http2Error":       ": nothing is aborted (Istio does not implement it either)",
	"networking.v1alpha3.L4MatchAttributes.sourceSubnet":            ": Istio ignores it too",
	"networking.v1alpha3.IstioIngressListener.bind":                 ": the port is taken at every address of the workload",
	"networking.v1alpha3.IstioIngressListener.tls":                  ": the port speaks what PeerAuthentication says",
	"networking.v1alpha3.SidecarPort.targetPort":                    ": Istio ignores it too",
	"networking.v1alpha3.Port.targetPort":                           ": the Service in front of the gateway chooses it, as with Istio",
}

// replacements of deprecated fields, and of enum values.
var (
	replacements = map[string]string{
		"networking.v1alpha3.HTTPRoute.mirrorPercent":                               "mirrorPercentage.value",
		"networking.v1alpha3.CorsPolicy.allowOrigin":                                "allowOrigins",
		"networking.v1alpha3.HTTPFaultInjection.Delay.percent":                      "percentage.value",
		"networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.minimumRingSize": "ringHash.minimumRingSize",
		"networking.v1alpha3.OutlierDetection.consecutiveErrors":                    "consecutiveGatewayErrors, as which it acts (502, 503 and 504 count)",
	}
	insteadOfValue = map[string]string{
		"LEAST_CONN": "; it acts as LEAST_REQUEST",
	}
)

func table(text string) map[string]bool {
	out := make(map[string]bool)
	for line := range strings.Lines(text) {
		message, fields, _ := strings.Cut(strings.TrimSpace(line), ":")
		for f := range strings.FieldsSeq(fields) {
			out[message+"."+f] = true
		}
	}
	return out
}

// fieldName is message.jsonName without "istio.".
func fieldName(fd protoreflect.FieldDescriptor) string {
	return strings.TrimPrefix(string(fd.ContainingMessage().FullName()), "istio.") + "." + fd.JSONName()
}

func supported(fd protoreflect.FieldDescriptor) bool { return acted[fieldName(fd)] }

func consequence(fd protoreflect.FieldDescriptor) string { return effects[fieldName(fd)] }

func instead(fd protoreflect.FieldDescriptor) string {
	if s := replacements[fieldName(fd)]; s != "" {
		return "; write " + s
	}
	return ""
}
