package analyze

import "github.com/tulle-mesh/tulle/internal/model"

// Code of a kind of finding.
type Code struct {
	ID          string // IST0101: istioctl has it; TUL0101: only Tulle
	Name        string // in CamelCase, as istioctl names it
	Level       model.Severity
	Description string
}

// Codes are all that Analyze may give, in order.
var Codes = []Code{
	{"IST0002", "Deprecated", model.Warning, "an old spelling that still acts"},
	{"IST0101", "ReferencedResourceNotFound", model.Error, "something that is referred to does not exist"},
	{"IST0102", "NamespaceNotInjected", model.Info, "a namespace says nothing about sidecars"},
	{"IST0103", "PodMissingProxy", model.Warning, "a running pod has no sidecar and should have one"},
	{"IST0106", "SchemaValidationError", model.Error, "an object breaks the rules of its API"},
	{"IST0107", "MisplacedAnnotation", model.Warning, "an annotation stands on a kind that does not know it"},
	{"IST0108", "UnknownAnnotation", model.Warning, "no kind knows the annotation"},
	{"IST0109", "ConflictingMeshGatewayVirtualServiceHosts", model.Error, "several VirtualServices of one host at sidecars: only the first acts"},
	{"IST0110", "ConflictingSidecarWorkloadSelectors", model.Error, "two Sidecars select the same workload"},
	{"IST0111", "MultipleSidecarsWithoutWorkloadSelectors", model.Error, "two Sidecars without a selector in one namespace"},
	{"IST0112", "VirtualServiceDestinationPortSelectorRequired", model.Error, "a destination has several ports and none is chosen"},
	{"IST0113", "MTLSPolicyConflict", model.Error, "a DestinationRule's TLS does not fit what the servers ask for"},
	{"IST0116", "DeploymentAssociatedToMultipleServices", model.Warning, "services of one workload and port disagree on the protocol"},
	{"IST0118", "PortNameIsNotUnderNamingConvention", model.Info, "a port's name does not say its protocol"},
	{"IST0123", "NamespaceMultipleInjectionLabels", model.Warning, "a namespace has two kinds of injection labels"},
	{"IST0127", "NoMatchingWorkloadsFound", model.Warning, "a selector selects no workload"},
	{"IST0128", "NoServerCertificateVerificationDestinationLevel", model.Warning, "TLS to a host does not check the server's certificate"},
	{"IST0129", "NoServerCertificateVerificationPortLevel", model.Warning, "TLS to a port does not check the server's certificate"},
	{"IST0130", "VirtualServiceUnreachableRule", model.Warning, "a rule that an earlier one hides"},
	{"IST0131", "VirtualServiceIneffectiveMatch", model.Info, "a match that an earlier one hides"},
	{"IST0132", "VirtualServiceHostNotFoundInGateway", model.Warning, "no server of the Gateway carries the host"},
	{"IST0133", "SchemaWarning", model.Warning, "a value acts, but perhaps not as meant"},
	{"IST0134", "ServiceEntryAddressesRequired", model.Warning, "TCP ports of a ServiceEntry are told apart by address only"},
	{"IST0135", "DeprecatedAnnotation", model.Info, "an annotation that may go"},
	{"IST0136", "AlphaAnnotation", model.Info, "an annotation of an unfinished feature"},
	{"IST0137", "DeploymentConflictingPorts", model.Warning, "services of one workload map different ports to one target port"},
	{"IST0138", "GatewayDuplicateCertificate", model.Warning, "one certificate in several Gateways: clients reuse HTTP/2 connections and get 404"},
	{"IST0140", "IngressRouteRulesNotAffected", model.Warning, "subsets chosen at sidecars are bypassed by requests through a gateway"},
	{"IST0144", "InvalidApplicationUID", model.Warning, "a program runs as the sidecar's user, so its traffic is not captured"},
	{"IST0145", "ConflictingGateways", model.Error, "two servers want the same port and host of the same gateway"},
	{"IST0146", "ImageAutoWithoutInjectionWarning", model.Warning, "a template has image: auto and will not be injected"},
	{"IST0147", "ImageAutoWithoutInjectionError", model.Error, "a pod has image: auto and will not be injected"},
	{"IST0149", "JwtClaimBasedRoutingWithoutRequestAuthN", model.Error, "routing by token claims at a gateway that checks no tokens"},
	{"IST0150", "ExternalNameServiceTypeInvalidPortName", model.Warning, "a port of an ExternalName Service is TCP and catches connections of others"},
	{"IST0151", "EnvoyFilterUsesRelativeOperation", model.Warning, "the result depends on the order of EnvoyFilters, and no priority is set"},
	{"IST0152", "EnvoyFilterUsesReplaceOperationIncorrectly", model.Error, "REPLACE acts on HTTP_FILTER and NETWORK_FILTER only"},
	{"IST0153", "EnvoyFilterUsesAddOperationIncorrectly", model.Error, "ADD does nothing on ROUTE_CONFIGURATION and HTTP_ROUTE"},
	{"IST0154", "EnvoyFilterUsesRemoveOperationIncorrectly", model.Error, "REMOVE does nothing on ROUTE_CONFIGURATION and HTTP_ROUTE"},
	{"IST0155", "EnvoyFilterUsesRelativeOperationWithProxyVersion", model.Warning, "a relative patch without priority that is bound to a proxy version"},
	{"IST0157", "InvalidTelemetryProvider", model.Warning, "a Telemetry with an empty list of providers"},
	{"IST0159", "ConflictingTelemetryWorkloadSelectors", model.Error, "two Telemetries select the same workload"},
	{"IST0160", "MultipleTelemetriesWithoutWorkloadSelectors", model.Error, "two Telemetries without a selector in one namespace"},
	{"IST0161", "InvalidGatewayCredential", model.Error, "a Gateway's certificate is missing where the gateway runs, or broken"},
	{"IST0162", "GatewayPortNotDefinedOnService", model.Warning, "the Service of the gateway does not carry the Gateway's port"},
	{"IST0167", "IneffectivePolicy", model.Warning, "a policy that has no effect"},
	{"IST0173", "DestinationRuleSubsetNotSelectPods", model.Error, "a subset selects no workload"},
	{"IST0174", "UnknownDestinationRuleHost", model.Warning, "a DestinationRule for a host that is not in the mesh"},
	{"TUL0001", "NotActedOn", model.Warning, "the API has it and Tulle does not act on it"},
	{"TUL0002", "Duplicate", model.Error, "the same object is written several times: only one acts"},
	{"TUL0003", "Unreadable", model.Error, "the text is not YAML, or lost its form when it was pasted"},
	{"TUL0004", "UnknownKind", model.Warning, "nothing reads objects of this kind"},
	{"TUL0101", "SharedHostOrAddress", model.Warning, "two objects give the same host or address"},
	{"TUL0102", "TargetPortNotFound", model.Warning, "a named target port that no workload has"},
	{"TUL0103", "VirtualServiceHostNotInMesh", model.Warning, "a VirtualService for a host without a service"},
	{"TUL0104", "RulesForOtherProtocol", model.Warning, "HTTP rules for a service whose ports are not HTTP"},
	{"TUL0105", "NoWeightLeft", model.Error, "all weights are 0"},
	{"TUL0106", "SNIOutsideHosts", model.Error, "a server name outside of the VirtualService's hosts"},
	{"TUL0107", "DelegateDropped", model.Error, "a delegate that cannot be used"},
	{"TUL0108", "DestinationRuleMergeConflict", model.Warning, "two DestinationRules of a host say different things"},
	{"TUL0109", "UnusedServer", model.Warning, "a server of a Gateway to which no VirtualService is bound"},
	{"TUL0110", "EmptyServer", model.Error, "a server of a Gateway without hosts"},
	{"TUL0112", "DuplicateService", model.Error, "two Services of one host"},
	{"TUL0113", "RejectedByProxy", model.Error, "a proxy refused what was made of the object"},
	{"TUL0201", "MirrorCopiesAll", model.Info, "a mirror without a percentage copies every request"},
	{"TUL0202", "LoneWeight", model.Info, "the weight of a single destination says nothing"},
	{"TUL0203", "NoDefaultRoute", model.Info, "no rule for the rest of the requests: they get 404"},
	{"TUL0204", "FaultHidesRoute", model.Warning, "a rule that aborts every request has destinations that get none"},
	{"TUL0205", "DenyShadowsAllow", model.Warning, "a DENY policy for every request makes ALLOW policies useless"},
	{"TUL0206", "PrincipalWithoutWorkload", model.Warning, "a policy names a service account as which no workload runs"},
	{"TUL0207", "MeshHostBoundToGateway", model.Warning, "rules for a service of the mesh that are bound to gateways only do not act between services"},
	{"TUL0208", "FilterOfOtherType", model.Warning, "an EnvoyFilter's filter name and configuration type do not belong together"},
	{"TUL0209", "RemovedAPI", model.Warning, "an API version that Kubernetes no longer serves"},
}

var byID = func() map[string]*Code {
	m := make(map[string]*Code, len(Codes))
	for i := range Codes {
		m[Codes[i].ID] = &Codes[i]
	}
	return m
}()
