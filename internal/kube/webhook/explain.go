package webhook

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsv1client "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/kube/inject"
)

// Verdict of one control plane about a pod.
type Verdict struct {
	Webhook  string `json:"webhook"`
	Revision string `json:"revision"`
	Injected bool   `json:"injected"`
	Reason   string `json:"reason"`
}

// Explain says for every control plane installed in root what it did, or would
// do, about a pod: "NAME", or "deployment/NAME" for the pods that it makes.
func Explain(ctx context.Context, config *rest.Config, root, namespace, what string) ([]Verdict, error) {
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the cluster's API: %w", err)
	}
	ns, err := core.Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, err)
	}
	pod := &corev1.Pod{}
	if kind, name, ok := strings.Cut(what, "/"); !ok {
		if pod, err = core.Pods(namespace).Get(ctx, what, metav1.GetOptions{}); err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", namespace, what, err)
		}
	} else {
		if kind != "deployment" && kind != "deploy" {
			return nil, fmt.Errorf("%s: want POD or deployment/NAME", what)
		}
		apps, err := appsv1client.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("the cluster's API: %w", err)
		}
		d, err := apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("deployment %s/%s: %w", namespace, name, err)
		}
		pod.ObjectMeta, pod.Spec = d.Spec.Template.ObjectMeta, d.Spec.Template.Spec
	}
	maps, err := core.ConfigMaps(root).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("the control planes in %s: %w", root, err)
	}
	var out []Verdict
	for i := range maps.Items {
		m := &maps.Items[i]
		rev, ok := strings.CutPrefix(m.Name, InjectorMap)
		if !ok || rev != "" && rev[0] != '-' {
			continue
		}
		v := Verdict{Webhook: m.Name, Revision: "default"}
		if rev != "" {
			v.Revision = rev[1:]
		}
		var mesh []byte
		switch x, err := core.ConfigMaps(root).Get(ctx, MeshMap+rev, metav1.GetOptions{}); {
		case err == nil:
			mesh = []byte(x.Data[MeshKey])
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("ConfigMap %s/%s: %w", root, MeshMap+rev, err)
		}
		conf, err := Settings([]byte(m.Data[ValuesKey]), mesh, true)
		if err != nil {
			v.Reason = fmt.Sprintf("ConfigMap %s/%s: %v", root, m.Name, err)
		} else {
			v.judge(conf, ns, pod)
		}
		out = append(out, v)
	}
	return out, nil
}

// judge what a control plane decides, or has decided.
func (v *Verdict) judge(conf *inject.Config, ns *corev1.Namespace, pod *corev1.Pod) {
	of := pod.Annotations["istio.io/rev"]
	if _, has := pod.Annotations["sidecar.istio.io/status"]; has {
		v.Injected = of == v.Revision
		if v.Reason = "it has a sidecar of this revision"; !v.Injected {
			v.Reason = "it has a sidecar of revision " + of
		}
		return
	}
	d := conf.Decide(ns.Name, ns.Labels, &pod.ObjectMeta, &pod.Spec)
	v.Injected, v.Reason = d.Inject, d.Why
	if d.Inject && pod.UID != "" { // it runs, unlike a template
		v.Injected = false
		v.Reason = fmt.Sprintf("it started without a sidecar, and would get one now (%s): delete it, so that it starts again", d.Why)
	}
}
