// Package check tells whether a cluster can take the mesh, and whether the mesh
// that is on it is well.
//
// In: a cluster. Out: items, each with what is wrong, a hint, and its anchor in
// docs/check.md. Nothing is changed.
// What does not belong here: what is wrong with the user's objects (analyze).
package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/discovery"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// Level of an item.
type Level int

// The levels. Only Bad makes a check fail.
const (
	Good Level = iota
	Note
	Bad
)

// String is the mark in front of an item.
func (l Level) String() string { return [...]string{"ok", "note", "bad"}[l] }

// Item is one thing that was looked at.
type Item struct {
	Level  Level
	Anchor string // in docs/check.md
	Text   string
	Hint   string // what to do; empty when all is well
}

// The versions of Kubernetes on which the mesh is known to run.
var (
	oldest = version.MustParseGeneric("1.29.0")
	newest = version.MustParseGeneric("1.36.0")
)

// Cluster is what is looked at, by the API groups that are asked. All fields
// must be set.
type Cluster struct {
	Discovery discovery.DiscoveryInterface
	Core      coreclient.CoreV1Interface
	Apps      appsclient.AppsV1Interface
	Admission admissionclient.AdmissionregistrationV1Interface
	Auth      authorizationclient.AuthorizationV1Interface
}

// New looks at the cluster of a configuration.
func New(config *rest.Config) (*Cluster, error) {
	c := &Cluster{}
	var errs [5]error
	c.Discovery, errs[0] = discovery.NewDiscoveryClientForConfig(config)
	c.Core, errs[1] = coreclient.NewForConfig(config)
	c.Apps, errs[2] = appsclient.NewForConfig(config)
	c.Admission, errs[3] = admissionclient.NewForConfig(config)
	c.Auth, errs[4] = authorizationclient.NewForConfig(config)
	return c, errors.Join(errs[:]...)
}

// partOf selects what an installation made.
const partOf = "app.kubernetes.io/part-of=tulle"

// needed are what an installation makes, which its user must be allowed to.
var needed = []struct{ group, resource string }{
	{"", "namespaces"}, {"", "serviceaccounts"}, {"", "services"}, {"", "configmaps"},
	{"apps", "deployments"}, {"autoscaling", "horizontalpodautoscalers"}, {"policy", "poddisruptionbudgets"},
	{"rbac.authorization.k8s.io", "clusterroles"}, {"rbac.authorization.k8s.io", "clusterrolebindings"},
	{"rbac.authorization.k8s.io", "roles"}, {"rbac.authorization.k8s.io", "rolebindings"},
	{"apiextensions.k8s.io", "customresourcedefinitions"},
	{"admissionregistration.k8s.io", "mutatingwebhookconfigurations"}, {"admissionregistration.k8s.io", "validatingwebhookconfigurations"},
}

// Run looks at everything. The error says why the cluster cannot be asked.
// installed: there is a mesh, and it was looked at too.
func (c *Cluster) Run(ctx context.Context) (items []Item, installed bool, err error) {
	first, err := c.version()
	if err != nil {
		return nil, false, err
	}
	items = append(items, first)
	for _, f := range []func(context.Context) ([]Item, error){c.permissions, c.neighbours, c.control, c.webhooks, c.roots} {
		more, err := f(ctx)
		if err != nil {
			return items, installed, err
		}
		for _, i := range more {
			installed = installed || i.Anchor == "control-plane"
		}
		items = append(items, more...)
	}
	return items, installed, nil
}

func (c *Cluster) version() (Item, error) {
	info, err := c.Discovery.ServerVersion()
	if err != nil {
		return Item{}, fmt.Errorf("the cluster's API server: %w", err)
	}
	v, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return Item{Note, "version", "Kubernetes " + info.GitVersion, "a version that cannot be read: the mesh may run on it"}, nil
	}
	i := Item{Good, "version", "Kubernetes " + info.GitVersion, ""}
	switch {
	case v.LessThan(oldest):
		i.Level, i.Hint = Bad, fmt.Sprintf("it is too old: %d.%d is the oldest that is supported", oldest.Major(), oldest.Minor())
	case v.Major() > newest.Major() || v.Minor() > newest.Minor():
		i.Level, i.Hint = Note, fmt.Sprintf("it is newer than what was tried, %d.%d", newest.Major(), newest.Minor())
	}
	return i, nil
}

// permissions of who asks to make what an installation needs.
func (c *Cluster) permissions(ctx context.Context) ([]Item, error) {
	var lack []string
	for _, n := range needed {
		for _, verb := range []string{"create", "patch"} {
			r, err := c.Auth.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: n.group, Resource: n.resource}},
			}, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("ask what is allowed: %w", err)
			}
			if !r.Status.Allowed {
				lack = append(lack, verb+" "+strings.TrimSuffix(n.resource+"."+n.group, "."))
			}
		}
	}
	if len(lack) > 0 {
		return []Item{{Bad, "permissions", "you may not " + strings.Join(lack, ", "), "install as somebody with the role cluster-admin"}}, nil
	}
	return []Item{{Good, "permissions", "you may make all that an installation needs", ""}}, nil
}

// neighbours are the Gateway API, which users bring, and another mesh.
func (c *Cluster) neighbours(ctx context.Context) ([]Item, error) {
	var out []Item
	if _, err := c.Discovery.ServerResourcesForGroupVersion("gateway.networking.k8s.io/v1"); err == nil {
		out = append(out, Item{Good, "gateway-api", "the cluster has the Gateway API", ""})
	} else if apierrors.IsNotFound(err) {
		out = append(out, Item{Note, "gateway-api", "the cluster has no Gateway API", "apply its definitions if you use Gateway or HTTPRoute of gateway.networking.k8s.io"})
	} else {
		return nil, fmt.Errorf("the cluster's API groups: %w", err)
	}
	list, err := c.Apps.Deployments("").List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return nil, fmt.Errorf("read deployments: %w", err)
	}
	for _, d := range list.Items {
		if d.Labels["app.kubernetes.io/part-of"] != "tulle" {
			out = append(out, Item{Note, "other-mesh", fmt.Sprintf("Deployment %s/%s is another mesh's control plane", d.Namespace, d.Name),
				"install with --revision so that namespaces can move one by one, or remove it first"})
		}
	}
	return out, nil
}

// control planes that are installed.
func (c *Cluster) control(ctx context.Context) ([]Item, error) {
	list, err := c.Apps.Deployments("").List(ctx, metav1.ListOptions{LabelSelector: partOf + ",app=istiod"})
	if err != nil {
		return nil, fmt.Errorf("read deployments: %w", err)
	}
	var out []Item
	for _, d := range list.Items {
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		i := Item{Good, "control-plane", fmt.Sprintf("control plane %s/%s: %d of %d replicas are ready", d.Namespace, d.Name, d.Status.ReadyReplicas, want), ""}
		if d.Status.ReadyReplicas < want || want == 0 {
			i.Level, i.Hint = Bad, fmt.Sprintf("see kubectl -n %s describe pods -l app=istiod, and their logs", d.Namespace)
		}
		out = append(out, i)
	}
	return out, nil
}

// webhooks of the installation: they trust the mesh's roots, and refuse.
func (c *Cluster) webhooks(ctx context.Context) ([]Item, error) {
	var out []Item
	mutating, err := c.Admission.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: partOf})
	if err != nil {
		return nil, fmt.Errorf("read webhook configurations: %w", err)
	}
	const wait = "the leader of the control plane writes the roots there: see its log"
	for _, m := range mutating.Items {
		i := Item{Good, "injection", "injection " + m.Name + " trusts the mesh's roots", ""}
		for _, w := range m.Webhooks {
			if len(w.ClientConfig.CABundle) == 0 {
				i = Item{Bad, "injection", "injection " + m.Name + " does not know the mesh's roots: pods that ask for a sidecar are refused", wait}
			}
		}
		out = append(out, i)
	}
	validating, err := c.Admission.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: partOf})
	if err != nil {
		return nil, fmt.Errorf("read webhook configurations: %w", err)
	}
	for _, v := range validating.Items {
		i := Item{Good, "validation", "validation " + v.Name + " refuses invalid objects", ""}
		for _, w := range v.Webhooks {
			switch {
			case len(w.ClientConfig.CABundle) == 0:
				i = Item{Bad, "validation", "validation " + v.Name + " does not know the mesh's roots", wait}
			case w.FailurePolicy == nil || *w.FailurePolicy != admissionregv1.Fail:
				i = Item{Note, "validation", "validation " + v.Name + " is open: invalid objects may be taken", "the leader closes it once it has seen an invalid object refused: see its log"}
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// roots are in every namespace whose pods may be injected.
func (c *Cluster) roots(ctx context.Context) ([]Item, error) {
	all, err := c.Core.Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("read namespaces: %w", err)
	}
	maps, err := c.Core.ConfigMaps("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=istio-ca-root-cert"})
	if err != nil {
		return nil, fmt.Errorf("read configmaps: %w", err)
	}
	have := map[string]bool{}
	for _, m := range maps.Items {
		have[m.Namespace] = have[m.Namespace] || m.Name == "istio-ca-root-cert"
	}
	var lack []string
	asks := 0
	for _, ns := range all.Items {
		if ns.Labels["istio-injection"] != "enabled" && ns.Labels["istio.io/rev"] == "" || ns.DeletionTimestamp != nil {
			continue
		}
		asks++
		if !have[ns.Name] {
			lack = append(lack, ns.Name)
		}
	}
	switch {
	case len(lack) > 0:
		return []Item{{Bad, "roots", "namespaces without the mesh's roots: " + strings.Join(lack, ", "), "the leader of the control plane writes ConfigMap istio-ca-root-cert there: see its log"}}, nil
	case asks > 0:
		return []Item{{Good, "roots", fmt.Sprintf("%d namespaces are in the mesh and have its roots", asks), ""}}, nil
	}
	return nil, nil
}
