package gateways

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/kube/inject"
	"github.com/tulle-mesh/tulle/internal/kube/install"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

const (
	group      = "gateway.networking.k8s.io"
	nameLabel  = group + "/gateway-name"
	classLabel = group + "/gateway-class-name"
	// Managed is on all that is made here, with Controller as its value.
	Managed    = "gateway.istio.io/managed"
	controller = "tulle.dev-gateway-controller"
	// serviceType is the annotation that says which Service a Gateway gets:
	// LoadBalancer unless it says another.
	serviceType = "networking.istio.io/service-type"
)

// parts are what a Gateway's parameters may change, by their key in the
// ConfigMap, as strategic merge patches.
var parts = []struct {
	key, kind string
	like      any
}{
	{"service", "Service", corev1.Service{}},
	{"serviceAccount", "ServiceAccount", corev1.ServiceAccount{}},
	{"deployment", "Deployment", appsv1.Deployment{}},
	{"horizontalPodAutoscaler", "HorizontalPodAutoscaler", autoscalingv2.HorizontalPodAutoscaler{}},
	{"podDisruptionBudget", "PodDisruptionBudget", policyv1.PodDisruptionBudget{}},
}

// planned is what one Gateway is to have; err: why it cannot be said, what is
// there stays.
type planned struct {
	ref     model.Ref
	objects []*unstructured.Unstructured
	err     error
}

// plan for all Gateways of ours.
func plan(r *control.Reading, conf *inject.Config) []planned {
	accepted := map[model.Ref]bool{} // all of ours are in it
	for _, s := range r.Statuses {
		if s.Origin.Kind == "Gateway" && strings.HasPrefix(s.APIVersion, group+"/") {
			accepted[model.Ref{Namespace: s.Origin.Namespace, Name: s.Origin.Name}] = slices.ContainsFunc(s.Conditions, func(c model.Condition) bool {
				return c.Type == "Accepted" && c.Holds
			})
		}
	}
	if len(accepted) == 0 {
		return nil
	}
	ports := map[model.Ref][]uint16{}
	for _, g := range r.Gateways {
		for _, s := range g.Servers {
			if at := (model.Ref{Namespace: g.Namespace, Name: g.Name}); g.Closed && !slices.Contains(ports[at], s.Port.Number) {
				ports[at] = append(ports[at], s.Port.Number)
			}
		}
	}
	var out []planned
	for _, o := range r.Objects {
		at := model.Ref{Namespace: o.Namespace, Name: o.Name}
		good, mine := accepted[at]
		if !mine || o.Kind != "Gateway" || !strings.HasPrefix(o.APIVersion, group+"/") {
			continue
		}
		p := planned{ref: at, err: errRefused}
		if good {
			p.objects, p.err = of(o, ports[at], r.Objects, conf)
		}
		out = append(out, p)
	}
	return out
}

// errRefused says that the Gateway itself is not accepted, which its status tells.
var errRefused = errors.New("the Gateway is not accepted")

// of one Gateway; none when its user runs it.
func of(o *source.Object, ports []uint16, all []*source.Object, conf *inject.Config) ([]*unstructured.Unstructured, error) {
	var g gatewayv1.Gateway
	if err := json.Unmarshal(o.JSON, &g); err != nil {
		return nil, err
	}
	if g.DeletionTimestamp != nil || slices.ContainsFunc(g.Spec.Addresses, func(a gatewayv1.GatewaySpecAddress) bool {
		return a.Type != nil && *a.Type == gatewayv1.HostnameAddressType
	}) { // an address by name is a Service of the user's
		return nil, nil
	}
	class := string(g.Spec.GatewayClassName)
	name := short(g.Name + "-" + class)
	x := &install.Gateway{
		Name: name, Namespace: g.Namespace, Account: name, LowPorts: true,
		Labels:    map[string]string{nameLabel: g.Name},
		Discovery: conf.Discovery, Image: conf.Image, Pull: string(conf.PullPolicy), Trust: conf.TrustDomain, Revision: conf.Revision,
	}
	x.Replicas, x.Resources = 1, conf.Resources
	x.Service.Type = cmp.Or(corev1.ServiceType(g.Annotations[serviceType]), corev1.ServiceTypeLoadBalancer)
	x.Service.Ports = servicePorts(ports)
	for _, a := range g.Spec.Addresses {
		x.Service.LoadBalancerIP = cmp.Or(x.Service.LoadBalancerIP, a.Value)
	}
	changes, err := parameters(&g, all)
	if err != nil {
		return nil, err
	}
	if changes["horizontalPodAutoscaler"] != nil {
		x.Scale, x.Min, x.Max, x.CPU = true, 1, 5, 80
	}
	objects, err := x.Objects()
	if err != nil {
		return nil, err
	}
	owner := metav1.OwnerReference{APIVersion: o.APIVersion, Kind: "Gateway", Name: g.Name, UID: g.UID}
	for i, u := range objects {
		if u.GetKind() == "Deployment" { // how many is its user's, or the autoscaler's
			unstructured.RemoveNestedField(u.Object, "spec", "replicas")
		}
		if objects[i], err = changed(u, changes); err != nil {
			return nil, err
		}
		finish(objects[i], u, &g, class, owner)
	}
	return objects, nil
}

// finish sets what parameters cannot change.
func finish(u, was *unstructured.Unstructured, g *gatewayv1.Gateway, class string, owner metav1.OwnerReference) {
	labels := map[string]string{}
	annotations := map[string]string{}
	if i := g.Spec.Infrastructure; i != nil {
		for k, v := range i.Labels {
			labels[string(k)] = string(v)
		}
		for k, v := range i.Annotations {
			annotations[string(k)] = string(v)
		}
	}
	labels[nameLabel], labels[classLabel], labels[Managed], labels[install.PartOf] = g.Name, class, controller, install.Name
	u.SetNamespace(was.GetNamespace())
	u.SetName(was.GetName())
	u.SetOwnerReferences([]metav1.OwnerReference{owner})
	add(u.Object, labels, "metadata", "labels")
	add(u.Object, annotations, "metadata", "annotations")
	if u.GetKind() == "Deployment" {
		selector, _, _ := unstructured.NestedMap(was.Object, "spec", "selector")
		_ = unstructured.SetNestedMap(u.Object, selector, "spec", "selector") // the template has one
		add(u.Object, labels, "spec", "template", "metadata", "labels")
		add(u.Object, annotations, "spec", "template", "metadata", "annotations")
	}
}

func add(o map[string]any, more map[string]string, path ...string) {
	have, _, _ := unstructured.NestedStringMap(o, path...)
	if have == nil {
		have = map[string]string{}
	}
	for k, v := range more {
		have[k] = v
	}
	if len(have) > 0 {
		_ = unstructured.SetNestedStringMap(o, have, path...) // the path is the template's own
	}
}

func servicePorts(ports []uint16) []corev1.ServicePort {
	port := func(name string, number uint16) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Port: int32(number), TargetPort: intstr.FromInt32(int32(number)), Protocol: corev1.ProtocolTCP}
	}
	out := []corev1.ServicePort{port("status-port", inject.HealthPort)}
	slices.Sort(ports)
	for _, p := range ports {
		if p != inject.HealthPort {
			out = append(out, port(fmt.Sprintf("port-%d", p), p))
		}
	}
	return out
}

// short is a name that fits a DNS label.
func short(name string) string {
	const most = 63
	if len(name) <= most {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimRight(name[:most-9], "-.") + "-" + hex.EncodeToString(sum[:4])
}

// parameters of a Gateway, by key.
func parameters(g *gatewayv1.Gateway, all []*source.Object) (map[string][]byte, error) {
	if g.Spec.Infrastructure == nil || g.Spec.Infrastructure.ParametersRef == nil {
		return nil, nil
	}
	ref := g.Spec.Infrastructure.ParametersRef
	for _, o := range all {
		if o.APIVersion != "v1" || o.Kind != "ConfigMap" || o.Namespace != g.Namespace || o.Name != ref.Name {
			continue
		}
		var c corev1.ConfigMap
		if err := json.Unmarshal(o.JSON, &c); err != nil {
			return nil, err
		}
		out := map[string][]byte{}
		for _, p := range parts {
			text, ok := c.Data[p.key]
			if !ok {
				continue
			}
			b, err := yaml.YAMLToJSON([]byte(text))
			if err != nil {
				return nil, fmt.Errorf("ConfigMap %s/%s data.%s: %w", c.Namespace, c.Name, p.key, err)
			}
			out[p.key] = b
		}
		return out, nil
	}
	return nil, fmt.Errorf("ConfigMap %s/%s is not there", g.Namespace, ref.Name)
}

// changed is an object with what the parameters say of it.
func changed(u *unstructured.Unstructured, changes map[string][]byte) (*unstructured.Unstructured, error) {
	for _, p := range parts {
		patch := changes[p.key]
		if p.kind != u.GetKind() || patch == nil || string(patch) == "null" {
			continue
		}
		b, err := u.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if b, err = strategicpatch.StrategicMergePatch(b, patch, p.like); err != nil {
			return nil, fmt.Errorf("parameters, %s: %w", p.key, err)
		}
		out := &unstructured.Unstructured{}
		return out, out.UnmarshalJSON(b)
	}
	return u.DeepCopy(), nil
}
