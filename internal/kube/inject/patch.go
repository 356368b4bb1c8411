package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"gomodules.xyz/jsonpatch/v2"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Patch is the JSON patch (RFC 6902) that gives a pod its sidecar. It names
// only what changes, so fields that this program does not know stay. namespace
// is that of the request: a pod under creation may not say it.
func (c *Config) Patch(raw []byte, namespace, owner string) ([]byte, error) {
	var pod corev1.Pod
	if err := json.Unmarshal(raw, &pod); err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	before, err := json.Marshal(&pod)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	if err := c.Pod(namespace, owner, &pod.ObjectMeta, &pod.Spec); err != nil {
		return nil, err
	}
	after, err := json.Marshal(&pod)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	return difference(raw, before, after, pod)
}

// difference is the patch of raw by what changed between two forms of the type
// of schema. It goes by way of a strategic merge: fields and list items that
// the type does not know stay where they are.
func difference(raw, before, after []byte, schema any) ([]byte, error) {
	change, err := strategicpatch.CreateTwoWayMergePatch(before, after, schema)
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	changed, err := strategicpatch.StrategicMergePatch(raw, change, schema)
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	ops, err := jsonpatch.CreatePatch(raw, changed)
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	return json.Marshal(ops)
}

// ErrNoPods is Object's answer for kinds without a pod template.
var ErrNoPods = errors.New("the object has no pods")

// Object is the JSON patch for an object of a file: a Pod, or a kind with a pod
// template. It decides for itself; an empty patch comes with the reason.
func (c *Config) Object(kind string, raw []byte, namespace string, nsLabels map[string]string) ([]byte, Decision, error) {
	var obj any
	var meta *metav1.ObjectMeta
	var spec *corev1.PodSpec
	owner := ""
	template := func(o any, t *corev1.PodTemplateSpec) { obj, meta, spec = o, &t.ObjectMeta, &t.Spec }
	switch kind {
	case "Pod":
		var o corev1.Pod
		obj, meta, spec = &o, &o.ObjectMeta, &o.Spec
	case "Deployment":
		var o appsv1.Deployment
		template(&o, &o.Spec.Template)
	case "StatefulSet":
		var o appsv1.StatefulSet
		template(&o, &o.Spec.Template)
	case "DaemonSet":
		var o appsv1.DaemonSet
		template(&o, &o.Spec.Template)
	case "ReplicaSet":
		var o appsv1.ReplicaSet
		template(&o, &o.Spec.Template)
	case "Job":
		var o batchv1.Job
		template(&o, &o.Spec.Template)
	case "CronJob":
		var o batchv1.CronJob
		template(&o, &o.Spec.JobTemplate.Spec.Template)
	default:
		return nil, Decision{}, ErrNoPods
	}
	if err := json.Unmarshal(raw, obj); err != nil {
		return nil, Decision{}, fmt.Errorf("%s: %w", kind, err)
	}
	if o, ok := obj.(metav1.Object); ok && kind != "Pod" {
		owner = o.GetName()
	}
	before, err := json.Marshal(obj)
	if err != nil {
		return nil, Decision{}, err
	}
	look := meta.DeepCopy()
	if kind == "Job" || kind == "CronJob" {
		look.OwnerReferences = append(look.OwnerReferences, metav1.OwnerReference{APIVersion: "batch/v1", Kind: "Job"})
	}
	d := c.Decide(namespace, nsLabels, look, spec)
	if !d.Inject {
		return nil, d, nil
	}
	if err := c.Pod(namespace, owner, meta, spec); err != nil {
		return nil, d, err
	}
	after, err := json.Marshal(obj)
	if err != nil {
		return nil, d, err
	}
	patch, err := difference(raw, before, after, obj)
	return patch, d, err
}

// merged lays what the user wrote of a container istio-proxy over ours, by the
// rules of a strategic merge. Its image auto means ours.
func merged(ours corev1.Container, spec *corev1.PodSpec) (corev1.Container, error) {
	all := slices.Concat(spec.Containers, spec.InitContainers)
	i := slices.IndexFunc(all, isProxy)
	if i < 0 {
		return ours, nil
	}
	theirs := all[i]
	if theirs.Image == "auto" {
		theirs.Image = ""
	}
	base, err := json.Marshal(ours)
	if err != nil {
		return ours, err
	}
	over, err := json.Marshal(theirs)
	if err != nil {
		return ours, err
	}
	both, err := strategicpatch.StrategicMergePatch(base, over, corev1.Container{})
	if err != nil {
		return ours, fmt.Errorf("container %s: %w", Container, err)
	}
	var out corev1.Container
	if err := json.Unmarshal(both, &out); err != nil {
		return ours, err
	}
	return out, nil
}
