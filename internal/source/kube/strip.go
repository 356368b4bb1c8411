package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/source"
)

// strip takes out of an object what no reader reads. It changes u.
func (r *resource) stripped(u *unstructured.Unstructured) {
	if meta, ok := u.Object["metadata"].(map[string]any); ok {
		for _, f := range []string{"managedFields", "resourceVersion", "selfLink", "finalizers"} {
			delete(meta, f)
		}
		if a, ok := meta["annotations"].(map[string]any); ok {
			delete(a, "kubectl.kubernetes.io/last-applied-configuration")
			if len(a) == 0 {
				delete(meta, "annotations")
			}
		}
	}
	if r.strip != nil {
		r.strip(u.Object)
	}
}

// object is what a snapshot holds of u, which is changed.
func (r *resource) object(u *unstructured.Unstructured) (*source.Object, error) {
	r.stripped(u)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(u.Object); err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", r.kind, u.GetNamespace(), u.GetName(), err)
	}
	return &source.Object{
		APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(),
		Labels: u.GetLabels(), Annotations: u.GetAnnotations(), Created: u.GetCreationTimestamp().UTC(), Generation: u.GetGeneration(),
		JSON: bytes.Clone(bytes.TrimSuffix(b.Bytes(), []byte("\n"))),
	}, nil
}

func noStatus(o map[string]any) { delete(o, "status") }

// keep deletes all keys but these.
func keep(v any, keys ...string) {
	m, _ := v.(map[string]any)
	for k := range m {
		if !slices.Contains(keys, k) {
			delete(m, k)
		}
	}
}

func keepLoadBalancer(o map[string]any) { keep(o["status"], "loadBalancer") }

// stripNode: labels say where it is.
func stripNode(o map[string]any) {
	delete(o, "spec")
	keep(o["status"], "addresses")
}

// stripPod keeps who a pod is, where, which ports it has, and whether it is
// ready.
func stripPod(o map[string]any) {
	spec, _ := o["spec"].(map[string]any)
	keep(spec, "serviceAccountName", "serviceAccount", "nodeName", "hostNetwork", "containers", "initContainers")
	for _, list := range []string{"containers", "initContainers"} {
		all, _ := spec[list].([]any)
		for _, c := range all {
			keep(c, "name", "ports", "restartPolicy")
		}
	}
	status, _ := o["status"].(map[string]any)
	keep(status, "phase", "podIP", "podIPs", "hostIP", "conditions")
	all, ok := status["conditions"].([]any)
	if !ok {
		return
	}
	all = slices.DeleteFunc(all, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] != "Ready"
	})
	for _, c := range all {
		keep(c, "type", "status")
	}
	status["conditions"] = all
}

// What Secrets and ConfigMaps hold that a mesh reads: certificates and keys
// under the names of Kubernetes and of Istio, Istio's mesh settings, and what
// Gateways say of their Deployments (spec.infrastructure.parametersRef).
var (
	secretKeys    = []string{"tls.crt", "tls.key", "ca.crt", "ca.crl", "cert", "key", "cacert", "crl"}
	configMapKeys = []string{"ca.crt", "ca.crl", "mesh", "meshNetworks",
		"service", "serviceAccount", "deployment", "horizontalPodAutoscaler", "podDisruptionBudget"}
)

func stripSecret(o map[string]any) { keep(o["data"], secretKeys...) }

func stripConfigMap(o map[string]any) {
	delete(o, "binaryData")
	keep(o["data"], configMapKeys...)
}
