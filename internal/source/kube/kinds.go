package kube

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resource is a kind of object that is read.
type resource struct {
	group, plural, kind string
	versions            []string // those we can read, the best first
	custom              bool     // comes with a CRD
	fields              string   // field selector
	strip               func(object map[string]any)
}

func (r *resource) at(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.group, Version: version, Resource: r.plural}
}

// String is as kubectl get takes it.
func (r *resource) String() string {
	if r.group == "" {
		return r.plural
	}
	return r.plural + "." + r.group
}

var (
	istioNetworking = []string{"v1", "v1beta1", "v1alpha3"}
	istioSecurity   = []string{"v1", "v1beta1"}
	gatewayVersions = []string{"v1", "v1beta1", "v1alpha3", "v1alpha2"}
	first           = []string{"v1"}
)

// resources are all that is read, in the order of a snapshot.
var resources = slices.Concat(
	[]*resource{
		{plural: "namespaces", kind: "Namespace", versions: first, strip: noStatus},
		{plural: "nodes", kind: "Node", versions: first, strip: stripNode},
		{plural: "services", kind: "Service", versions: first, strip: keepLoadBalancer},
		{group: "discovery.k8s.io", plural: "endpointslices", kind: "EndpointSlice", versions: first},
		{plural: "pods", kind: "Pod", versions: first, strip: stripPod, fields: "status.phase!=Succeeded,status.phase!=Failed"},
		{plural: "configmaps", kind: "ConfigMap", versions: first, strip: stripConfigMap,
			fields: "metadata.name!=kube-root-ca.crt,metadata.name!=istio-ca-root-cert"},
		{plural: "secrets", kind: "Secret", versions: first, strip: stripSecret,
			fields: "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockercfg," +
				"type!=kubernetes.io/dockerconfigjson,type!=bootstrap.kubernetes.io/token"},
		{group: "networking.k8s.io", plural: "ingressclasses", kind: "IngressClass", versions: first},
		{group: "networking.k8s.io", plural: "ingresses", kind: "Ingress", versions: first, strip: keepLoadBalancer},
	},
	crds("networking.istio.io", istioNetworking, "VirtualService", "DestinationRule", "Gateway", "ServiceEntry",
		"WorkloadEntry", "WorkloadGroup", "Sidecar", "EnvoyFilter", "ProxyConfig"),
	crds("security.istio.io", istioSecurity, "PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy"),
	crds("telemetry.istio.io", []string{"v1", "v1alpha1"}, "Telemetry"),
	crds("extensions.istio.io", []string{"v1alpha1"}, "WasmPlugin", "TrafficExtension"),
	crds("traffic.tulle.dev", []string{"v1alpha1"}, "RequestPolicy"),
	crds("gateway.networking.k8s.io", gatewayVersions, "GatewayClass", "Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute",
		"TLSRoute", "TCPRoute", "UDPRoute", "ReferenceGrant", "BackendTLSPolicy"),
)

// crds of one group.
func crds(group string, versions []string, kinds ...string) []*resource {
	var out []*resource
	for _, k := range kinds {
		out = append(out, &resource{group: group, plural: plural(k), kind: k, versions: versions, custom: true, strip: noStatus})
	}
	return out
}

// Resource is where the API server has the objects of a kind that is read; false
// when it is not.
func Resource(apiVersion, kind string) (schema.GroupVersionResource, bool) {
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		group, version = "", apiVersion
	}
	for _, r := range resources {
		if r.group == group && r.kind == kind {
			return r.at(version), true
		}
	}
	return schema.GroupVersionResource{}, false
}

// plural of a kind, as the authors of these CRDs form it.
func plural(kind string) string {
	k := strings.ToLower(kind)
	switch {
	case strings.HasSuffix(k, "cy"), strings.HasSuffix(k, "ry"):
		return strings.TrimSuffix(k, "y") + "ies"
	case strings.HasSuffix(k, "ss"):
		return k + "es"
	}
	return k + "s"
}
