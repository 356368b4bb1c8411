package install

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// manager is the name under which fields are owned.
const manager = "tulle-install"

// kind that is installed.
type kind struct {
	schema.GroupVersionResource
	kind   string
	global bool // in no namespace
	shared bool // belongs to all revisions: never pruned
}

// kinds in the order of removal.
var kinds = []kind{
	{at("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"), "MutatingWebhookConfiguration", true, false},
	{at("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"), "ValidatingWebhookConfiguration", true, false},
	{at("autoscaling", "v2", "horizontalpodautoscalers"), "HorizontalPodAutoscaler", false, false},
	{at("policy", "v1", "poddisruptionbudgets"), "PodDisruptionBudget", false, false},
	{at("apps", "v1", "deployments"), "Deployment", false, false},
	{at("", "v1", "services"), "Service", false, false},
	{at("", "v1", "configmaps"), "ConfigMap", false, false},
	{at("rbac.authorization.k8s.io", "v1", "rolebindings"), "RoleBinding", false, false},
	{at("rbac.authorization.k8s.io", "v1", "roles"), "Role", false, false},
	{at("rbac.authorization.k8s.io", "v1", "clusterrolebindings"), "ClusterRoleBinding", true, false},
	{at("rbac.authorization.k8s.io", "v1", "clusterroles"), "ClusterRole", true, false},
	{at("", "v1", "serviceaccounts"), "ServiceAccount", false, false},
	{at("apiextensions.k8s.io", "v1", "customresourcedefinitions"), "CustomResourceDefinition", true, true},
	{at("", "v1", "namespaces"), "Namespace", true, true},
}

func at(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// Cluster is where it is installed. Tell hears of every object that changes.
type Cluster struct {
	Client dynamic.Interface
	Tell   func(format string, args ...any)
}

func (c *Cluster) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.kind == o.GetKind() && k.GroupVersion().String() == o.GetAPIVersion() })
	if i < 0 {
		return nil, fmt.Errorf("BUG: no kind for %s %s", o.GetAPIVersion(), o.GetKind())
	}
	r := c.Client.Resource(kinds[i].GroupVersionResource)
	if kinds[i].global {
		return r, nil
	}
	return r.Namespace(o.GetNamespace()), nil
}

// full name of an object.
func full(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return o.GetKind() + " " + ns + "/" + o.GetName()
	}
	return o.GetKind() + " " + o.GetName()
}

// Apply objects, in their order; definitions are waited for. Fields that others
// own keep their values only where the objects do not say them.
func (c *Cluster) Apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	var definitions []string
	for _, o := range objects {
		r, err := c.resource(o)
		if err != nil {
			return err
		}
		if len(definitions) > 0 && o.GetKind() != "CustomResourceDefinition" {
			if err := c.established(ctx, definitions); err != nil {
				return err
			}
			definitions = nil
		}
		before, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read %s: %w", full(o), err)
		}
		was := ""
		if err == nil {
			was = before.GetResourceVersion()
			if o, err = kept(o, before); err != nil {
				return err
			}
		}
		body, err := json.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("apply %s: %w", full(o), err)
		}
		force := true
		now, err := r.Patch(ctx, o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force})
		if err != nil {
			return fmt.Errorf("apply %s: %w", full(o), err)
		}
		switch {
		case was == "":
			c.Tell("made %s", full(o))
		case was != now.GetResourceVersion():
			c.Tell("changed %s", full(o))
		}
		if o.GetKind() == "CustomResourceDefinition" {
			definitions = append(definitions, o.GetName())
		}
	}
	return c.established(ctx, definitions)
}

// kept leaves to the leader what it has written: a validating webhook that is
// closed stays closed.
func kept(o, before *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if o.GetKind() != "ValidatingWebhookConfiguration" {
		return o, nil
	}
	old, _, err := unstructured.NestedSlice(before.Object, "webhooks")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full(before), err)
	}
	o = o.DeepCopy()
	now, _, err := unstructured.NestedSlice(o.Object, "webhooks")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full(o), err)
	}
	for _, n := range now {
		for _, w := range old {
			n, w := n.(map[string]any), w.(map[string]any)
			if n["name"] == w["name"] {
				n["failurePolicy"] = w["failurePolicy"]
			}
		}
	}
	return o, unstructured.SetNestedSlice(o.Object, now, "webhooks")
}

// established waits for definitions to be served.
func (c *Cluster) established(ctx context.Context, names []string) error {
	r := c.Client.Resource(at("apiextensions.k8s.io", "v1", "customresourcedefinitions"))
	for _, n := range names {
		if err := poll(ctx, "definition "+n, func() (string, error) {
			o, err := r.Get(ctx, n, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			if condition(o, "Established") != "True" {
				return "it is not established", nil
			}
			return "", nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func condition(o *unstructured.Unstructured, name string) string {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range list {
		if m, ok := c.(map[string]any); ok && m["type"] == name {
			s, _ := m["status"].(string)
			return s
		}
	}
	return ""
}

// poll until there is nothing to say against it.
func poll(ctx context.Context, what string, ask func() (string, error)) error {
	for {
		why, err := ask()
		if err == nil && why == "" {
			return nil
		}
		if err != nil {
			why = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %s", what, why)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Ready waits until every Deployment among the objects runs as it should. The
// error names each that does not.
func (c *Cluster) Ready(ctx context.Context, objects []*unstructured.Unstructured) error {
	var all error
	for _, o := range objects {
		if o.GetKind() != "Deployment" {
			continue
		}
		r, err := c.resource(o)
		if err != nil {
			return err
		}
		all = errors.Join(all, poll(ctx, full(o), func() (string, error) {
			now, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			return unready(now), nil
		}))
	}
	return all
}

// unready says what a Deployment lacks; empty: nothing.
func unready(o *unstructured.Unstructured) string {
	n := func(path ...string) int64 { v, _, _ := unstructured.NestedInt64(o.Object, path...); return v }
	switch want := n("spec", "replicas"); {
	case n("status", "observedGeneration") < o.GetGeneration():
		return "nobody has looked at it yet"
	case n("status", "updatedReplicas") < want:
		return fmt.Sprintf("%d of %d replicas are of this version", n("status", "updatedReplicas"), want)
	case n("status", "readyReplicas") < want:
		return fmt.Sprintf("%d of %d replicas are ready; see kubectl -n %s describe pods -l app=%s", n("status", "readyReplicas"), want, o.GetNamespace(), cmp.Or(o.GetLabels()["app"], o.GetName()))
	}
	return ""
}

// Verify says how the cluster differs from the objects: what is missing, and
// what does not run.
func (c *Cluster) Verify(ctx context.Context, objects []*unstructured.Unstructured) (faults []string, err error) {
	for _, o := range objects {
		r, err := c.resource(o)
		if err != nil {
			return nil, err
		}
		now, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			faults = append(faults, full(o)+": there is none")
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", full(o), err)
		case o.GetKind() == "Deployment":
			if why := unready(now); why != "" {
				faults = append(faults, full(o)+": "+why)
			}
		case o.GetKind() == "CustomResourceDefinition" && condition(now, "Established") != "True":
			faults = append(faults, full(o)+": it is not established")
		}
	}
	return faults, nil
}

// Prune removes what an earlier installation of the revision made and the
// objects do not have. An empty revision is every one. Definitions and
// namespaces stay: the user's objects are in them.
func (c *Cluster) Prune(ctx context.Context, revision string, objects []*unstructured.Unstructured) error {
	have := map[string]bool{}
	for _, o := range objects {
		have[full(o)] = true
	}
	selector := PartOf + "=" + Name + "," + ManagedBy + "=" + Name
	if revision != "" {
		selector += "," + RevLabel + "=" + revision
	}
	for _, k := range kinds {
		if k.shared {
			continue
		}
		r := c.Client.Resource(k.GroupVersionResource)
		list, err := r.List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return fmt.Errorf("read %s: %w", k.Resource, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			o.SetKind(k.kind)
			if have[full(o)] {
				continue
			}
			var in dynamic.ResourceInterface = r
			if !k.global {
				in = r.Namespace(o.GetNamespace())
			}
			later := metav1.DeletePropagationBackground
			if err := in.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &later}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("remove %s: %w", full(o), err)
			}
			c.Tell("removed %s", full(o))
		}
	}
	return nil
}

// Forget removes what the control plane itself has made: leases, the roots in
// every namespace, what Gateways run, its GatewayClasses. The authority's Secret stays unless withKey says so: who
// installs again keeps the mesh's root with it.
func (c *Cluster) Forget(ctx context.Context, withKey bool) error {
	type made struct {
		in       schema.GroupVersionResource
		mine     func(name string) bool
		selector string
	}
	all := []made{
		{at("coordination.k8s.io", "v1", "leases"), func(n string) bool { return n == "tulle-leader" || strings.HasPrefix(n, "tulle-leader-") }, ""},
		{at("", "v1", "configmaps"), func(n string) bool { return n == "istio-ca-root-cert" }, ""},
	}
	every := func(string) bool { return true }
	for _, k := range kinds {
		switch k.kind {
		case "Deployment", "Service", "ServiceAccount", "HorizontalPodAutoscaler", "PodDisruptionBudget":
			all = append(all, made{k.GroupVersionResource, every, GatewayLabel})
		}
	}
	all = append(all, made{at("gateway.networking.k8s.io", "v1", "gatewayclasses"), every, GatewayLabel})
	if withKey {
		all = append(all, made{at("", "v1", "secrets"), func(n string) bool { return n == "istio-ca-secret" }, ""})
	}
	for _, m := range all {
		list, err := c.Client.Resource(m.in).List(ctx, metav1.ListOptions{LabelSelector: m.selector})
		if apierrors.IsNotFound(err) {
			continue // the cluster has no Gateway API
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m.in.Resource, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if !m.mine(o.GetName()) {
				continue
			}
			later := metav1.DeletePropagationBackground
			if err := c.Client.Resource(m.in).Namespace(o.GetNamespace()).Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &later}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("remove %s: %w", full(o), err)
			}
			c.Tell("removed %s %s/%s", m.in.Resource, o.GetNamespace(), o.GetName())
		}
	}
	return nil
}
