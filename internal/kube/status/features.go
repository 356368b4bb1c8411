package status

import "slices"

// features of the Gateway API that a GatewayClass of ours says it has, by the
// API's own names.
var features = []string{
	"Gateway", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "ReferenceGrant", "BackendTLSPolicy", "ListenerSet",
	"BackendTLSPolicySANValidation", "GRPCRouteNamedRouteRule", "TLSRouteModeMixed", "TLSRouteModeTerminate",
	"GatewayPort8080", "GatewayHTTPListenerIsolation", "GatewayInfrastructure",
	"HTTPRouteBackendProtocolH2C", "HTTPRouteBackendRequestHeaderModification", "HTTPRouteBackendTimeout",
	"HTTPRouteDestinationPortMatching", "HTTPRouteHostRewrite", "HTTPRouteMethodMatching", "HTTPRouteNamedRouteRule",
	"HTTPRouteParentRefPort", "HTTPRoutePathRedirect", "HTTPRoutePathRewrite", "HTTPRoutePortRedirect", "HTTPRouteQueryParamMatching",
	"HTTPRouteRequestMirror", "HTTPRouteRequestMultipleMirrors", "HTTPRouteRequestPercentageMirror", "HTTPRouteRequestTimeout",
	"HTTPRouteResponseHeaderModification", "HTTPRouteSchemeRedirect",
}

// supported is status.supportedFeatures: sorted by name.
func supported() []any {
	out := []any{}
	for _, f := range slices.Sorted(slices.Values(features)) {
		out = append(out, map[string]any{"name": f})
	}
	return out
}
