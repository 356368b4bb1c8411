package kubernetes

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

const (
	tlsModeLabel      = "security.istio.io/tlsMode"
	statusAnnotation  = "sidecar.istio.io/status"
	injectKey         = "sidecar.istio.io/inject" // label; formerly an annotation
	revisionLabel     = "istio.io/rev"
	networkLabel      = "topology.istio.io/network"
	localityLabel     = "istio-locality"
	sidecarContainer  = "istio-proxy"
	templateAnnotated = "inject.istio.io/templates"
	defaultAccount    = "default"
)

func (in *input) pod(r *dialect.Report) {
	var p corev1.Pod
	if !dialect.Decode(r, &p) {
		return
	}
	w := in.workload(r, "spec", p.Labels, p.Annotations, &p.Spec)
	w.Owner = owner(&p)
	w.Host = p.Spec.NodeName
	if p.Status.PodIP != "" {
		a, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || a.Zone() != "" {
			r.Invalid("status.podIP", "%q is not an IP address", p.Status.PodIP)
			return
		}
		w.Address = a.Unmap().String()
	}
	for i, x := range p.Status.PodIPs {
		a, err := netip.ParseAddr(x.IP)
		if err != nil || a.Zone() != "" {
			r.Invalid(fmt.Sprintf("status.podIPs[%d].ip", i), "%q is not an IP address", x.IP)
			return
		}
		if s := a.Unmap().String(); s != w.Address && !slices.Contains(w.More, s) {
			w.More = append(w.More, s)
		}
	}
	w.Ready = ready(&p)
	if byHand(r) {
		// Written by hand: no API server has seen it, hence no injector either.
		w.Injection = in.injection(w, p.Annotations, &p.Spec, model.InjectIfAsked)
		w.Ready = w.Ready || p.Status.Phase == "" && len(p.Status.Conditions) == 0
	}
	in.out.Workloads = append(in.out.Workloads, w)
}

// ready as the endpoints controller sees it: running, with the condition.
func ready(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return p.Status.Phase == corev1.PodRunning && len(p.Status.Conditions) == 0
}

// owner is the Deployment behind a ReplicaSet, or the pod's own controller.
func owner(p *corev1.Pod) string {
	for _, o := range p.OwnerReferences {
		if o.Controller == nil || !*o.Controller {
			continue
		}
		if hash := p.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; o.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(o.Name, "-"+hash)
		}
		return o.Name
	}
	return ""
}

// template reads the pods that a controller would make.
func (in *input) template(r *dialect.Report, t *corev1.PodTemplateSpec) {
	w := in.workload(r, "spec.template.spec", t.Labels, t.Annotations, &t.Spec)
	w.Template, w.Owner, w.Ready = true, r.Object.Name, true
	w.Probe = probe(&t.Spec)
	w.Injection = in.injection(w, t.Annotations, &t.Spec, model.InjectUnlessNot)
	in.out.Workloads = append(in.out.Workloads, w)
}

// byHand reports whether the object was never created by an API server.
func byHand(r *dialect.Report) bool { return r.Object.Created.IsZero() }

// injection is what a description says itself about the sidecar that the
// workload will have; otherwise is what holds when it says nothing.
func (in *input) injection(w *model.Workload, annotations map[string]string, s *corev1.PodSpec, otherwise model.Injection) model.Injection {
	asked := w.Labels[injectKey]
	if asked == "" {
		asked = annotations[injectKey] // the old place
	}
	_, told := w.Labels[tlsModeLabel]
	switch {
	case w.MTLS, w.Gateway, told, s.HostNetwork, asked == "false":
		return model.InjectNone
	case asked == "true", w.Labels[revisionLabel] != "":
		return model.InjectUnlessNot
	}
	return otherwise
}

// workload is what pods and templates share.
func (in *input) workload(r *dialect.Report, path string, labels, annotations map[string]string, s *corev1.PodSpec) *model.Workload {
	w := &model.Workload{
		Name: r.Object.Name, Namespace: r.Object.Namespace, Labels: labels,
		Account: s.ServiceAccountName, Network: labels[networkLabel], Origin: r.Object.Origin(""),
	}
	if w.Account == "" {
		w.Account = s.DeprecatedServiceAccount
	}
	if w.Account == "" {
		w.Account = defaultAccount
	}
	if l := labels[localityLabel]; l != "" {
		// Slashes cannot stand in labels; Istio writes dots.
		parts := strings.SplitN(strings.ReplaceAll(l, ".", "/"), "/", 3)
		for i, dst := range []*string{&w.Locality.Region, &w.Locality.Zone, &w.Locality.Subzone} {
			if i < len(parts) {
				*dst = parts[i]
			}
		}
	}
	_, injected := annotations[statusAnnotation]
	w.MTLS = injected
	for i, c := range append(s.InitContainers[:len(s.InitContainers):len(s.InitContainers)], s.Containers...) {
		if c.Name == sidecarContainer {
			w.MTLS = true
		}
		if i < len(s.InitContainers) && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
			continue
		}
		for _, p := range c.Ports {
			if p.Name == "" || p.Protocol == corev1.ProtocolUDP {
				continue
			}
			if p.ContainerPort < 1 || p.ContainerPort > math.MaxUint16 {
				r.Doubtful(path+".containers", "container %s: port %d is not within 1 and 65535: left out", c.Name, p.ContainerPort)
				continue
			}
			if w.Ports == nil {
				w.Ports = make(map[string]uint16)
			}
			if _, there := w.Ports[p.Name]; !there {
				w.Ports[p.Name] = uint16(p.ContainerPort)
			}
		}
	}
	if w.Gateway = gateway(annotations, s); w.Gateway {
		w.MTLS = false // its servers say what their ports speak
	}
	if mode, ok := labels[tlsModeLabel]; ok {
		w.MTLS = mode == "istio"
	}
	return w
}

// gateway reports whether the pod's proxy stands alone, as Istio's gateway
// template makes it: its only container is the proxy.
func gateway(annotations map[string]string, s *corev1.PodSpec) bool {
	if strings.Contains(annotations[templateAnnotated], "gateway") {
		return true
	}
	return len(s.Containers) == 1 && s.Containers[0].Name == sidecarContainer
}
