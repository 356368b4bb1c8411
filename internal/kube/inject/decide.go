package inject

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Decision says whether a pod gets a sidecar.
type Decision struct {
	Inject bool
	Why    string // one sentence, naming the label or rule that decided
}

// never are namespaces whose pods run before a mesh can.
var never = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, "local-path-storage"}

// Decide follows Istio: the namespace's label istio-injection, else
// istio.io/rev, chooses; the pod's label sidecar.istio.io/inject overrides.
// What the webhook would not be asked about is answered as it would be.
func (c *Config) Decide(namespace string, nsLabels map[string]string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) Decision {
	no := func(format string, args ...any) Decision { return Decision{false, fmt.Sprintf(format, args...)} }
	yes := func(format string, args ...any) Decision { return Decision{true, fmt.Sprintf(format, args...)} }
	if slices.Contains(never, namespace) {
		return no("namespace %s is never injected", namespace)
	}
	if spec.HostNetwork {
		return no("the pod uses the host's network: capturing its traffic would capture the node's")
	}
	if slices.ContainsFunc(slices.Concat(spec.Containers, spec.InitContainers), done) {
		return no("the pod has a sidecar already")
	}
	ask := meta.Labels["sidecar.istio.io/inject"]
	from := "label"
	if ask == "" {
		if ask = meta.Annotations["sidecar.istio.io/inject"]; ask != "" {
			from = "annotation"
		}
	}
	if ask != "" && ask != "true" && ask != "false" {
		return no("%s sidecar.istio.io/inject is %q; it must be true or false", from, ask)
	}
	if ask == "false" {
		return no("%s sidecar.istio.io/inject=false of the pod", from)
	}
	if !c.mine(nsLabels, meta.Labels) {
		return no("label istio.io/rev asks for revision %s, and this is %s", revision(nsLabels, meta.Labels), c.revision())
	}
	ns := nsLabels["istio-injection"]
	switch {
	case ns == "disabled":
		return no("label istio-injection=disabled of namespace %s", namespace)
	case ask == "true":
		return yes("%s sidecar.istio.io/inject=true of the pod", from)
	case ns == "enabled":
	case nsLabels["istio.io/rev"] != "", ns == "" && meta.Labels["istio.io/rev"] != "":
	case c.EveryNamespace && ns == "":
	default:
		return no("neither namespace %s (istio-injection=enabled or istio.io/rev) nor the pod (sidecar.istio.io/inject=true) asks for a sidecar", namespace)
	}
	if job(meta) && !c.NativeSidecars {
		return no("the pod belongs to a Job, which would never end beside an ordinary sidecar: this cluster has no native ones; label it sidecar.istio.io/inject=true to have it all the same")
	}
	for _, s := range c.NeverInject {
		if matches(&s, meta.Labels) {
			return no("neverInjectSelector %s", metav1.FormatLabelSelector(&s))
		}
	}
	for _, s := range c.AlwaysInject {
		if matches(&s, meta.Labels) {
			return yes("alwaysInjectSelector %s", metav1.FormatLabelSelector(&s))
		}
	}
	if ns == "enabled" {
		return yes("label istio-injection=enabled of namespace %s", namespace)
	}
	if r := revision(nsLabels, meta.Labels); r != "" {
		return yes("label istio.io/rev=%s", r)
	}
	return yes("every namespace is injected (enableNamespacesByDefault)")
}

// done reports a sidecar that is complete. A container istio-proxy with image
// auto is the user's wish how it shall look.
func done(c corev1.Container) bool { return c.Name == Container && c.Image != "auto" && c.Image != "" }

func job(meta *metav1.ObjectMeta) bool {
	return slices.ContainsFunc(meta.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "Job" && o.APIVersion == "batch/v1" })
}

// revision that is asked for: istio-injection on the namespace means any.
func revision(ns, pod map[string]string) string {
	if ns["istio-injection"] != "" {
		return ""
	}
	if r := pod["istio.io/rev"]; r != "" {
		return r
	}
	return ns["istio.io/rev"]
}

func (c *Config) mine(ns, pod map[string]string) bool {
	r := revision(ns, pod)
	return r == "" || r == c.revision() || slices.Contains(c.Tags, r)
}

func (c *Config) revision() string {
	if c.Revision == "" {
		return "default"
	}
	return c.Revision
}

func matches(s *metav1.LabelSelector, l map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && !sel.Empty() && sel.Matches(labels.Set(l))
}
