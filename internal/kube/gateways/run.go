package gateways

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/kube/inject"
)

const (
	gather = 100 * time.Millisecond // changes are gathered that long
	again  = 2 * time.Second        // after a failure
	// anew is how often all is applied again, and what nobody wants is removed:
	// what others did to the objects is undone.
	anew    = time.Minute
	manager = "tulle-gateways"
)

// Kinds are the kinds of what is made here.
var Kinds = map[string]schema.GroupVersionResource{
	"Service":                 {Version: "v1", Resource: "services"},
	"ServiceAccount":          {Version: "v1", Resource: "serviceaccounts"},
	"Deployment":              {Group: "apps", Version: "v1", Resource: "deployments"},
	"HorizontalPodAutoscaler": {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
	"PodDisruptionBudget":     {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
}

// classes that are made when there is none of the name, so that users need not.
var classes = []string{"tulle", "istio"}

// Runner keeps what Gateways need. All fields must be set.
type Runner struct {
	Client     dynamic.Interface
	Controller string // of GatewayClasses
	// Read is the newest state, nil before the first, and a channel that is
	// closed when there is a newer one.
	Read   func() (*control.Reading, <-chan struct{})
	Config func() (*inject.Config, error)
	Tell   func(format string, args ...any)

	applied map[string][32]byte
	kept    string            // what there was to stay when the rest was removed last
	told    map[string]string // by what it is about
}

// Run until ctx ends.
func (x *Runner) Run(ctx context.Context) error {
	x.told = map[string]string{}
	var whole time.Time
	for {
		if time.Since(whole) >= anew {
			whole, x.applied, x.kept = time.Now(), map[string][32]byte{}, "?"
			x.classes(ctx)
		}
		next := time.After(time.Until(whole.Add(anew)))
		r, newer := x.Read()
		conf, err := x.Config()
		if r == nil || err != nil || !x.step(ctx, plan(r, conf)) {
			next = time.After(again)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		case <-newer:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(gather):
			}
		}
	}
}

// tell once what keeps being wrong.
func (x *Runner) tell(what string, err error) {
	if err == nil {
		delete(x.told, what)
		return
	}
	if text := err.Error(); x.told[what] != text {
		x.told[what] = text
		x.Tell("%s: %s", what, text)
	}
}

// classes are made where the cluster has the Gateway API.
func (x *Runner) classes(ctx context.Context) {
	r := x.Client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gatewayclasses"})
	for _, name := range classes {
		_, err := r.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = r.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": group + "/v1", "kind": "GatewayClass", "metadata": map[string]any{"name": name, "labels": map[string]any{Managed: controller}},
				"spec": map[string]any{"controllerName": x.Controller, "description": "gateways of the mesh: a Deployment and a Service for each"},
			}}, metav1.CreateOptions{FieldManager: manager})
		}
		if ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) { // not found: no Gateway API
			x.tell("GatewayClass "+name, err)
		}
	}
}

// step applies what changed, and removes what no Gateway wants; false: it is to
// be tried again.
func (x *Runner) step(ctx context.Context, all []planned) bool {
	good := true
	keep := map[string]bool{}
	owned := map[string]bool{} // Gateways of which everything stays
	for _, p := range all {
		who := "Gateway " + p.ref.Namespace + "/" + p.ref.Name
		err := p.err
		for _, o := range p.objects {
			keep[id(o)] = true
			if err == nil {
				err = x.apply(ctx, o)
				good = good && err == nil
			}
		}
		if p.err != nil {
			owned[p.ref.Namespace+"/"+p.ref.Name] = true
			if errors.Is(p.err, errRefused) { // its status says why
				err = nil
			}
		}
		if ctx.Err() != nil {
			return false
		}
		x.tell(who, err)
	}
	now := strings.Join(slices.Sorted(maps.Keys(keep)), ",") + ";" + strings.Join(slices.Sorted(maps.Keys(owned)), ",")
	if now == x.kept {
		return good
	}
	err := x.prune(ctx, keep, owned)
	if ctx.Err() == nil {
		x.tell("Gateways that are gone", err)
	}
	if err == nil {
		x.kept = now
	}
	return good && err == nil
}

func id(o *unstructured.Unstructured) string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// apply one object unless it was, as it is.
func (x *Runner) apply(ctx context.Context, o *unstructured.Unstructured) error {
	body, err := json.Marshal(o.Object)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	if x.applied[id(o)] == sum {
		return nil
	}
	force := true
	_, err = x.Client.Resource(Kinds[o.GetKind()]).Namespace(o.GetNamespace()).Patch(ctx, o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force})
	switch {
	case err == nil:
		x.applied[id(o)] = sum
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause): // the namespace goes
	default:
		return fmt.Errorf("apply %s: %w", id(o), err)
	}
	return nil
}

// prune removes what was made for Gateways that do not want it any more. Those
// that are deleted take theirs with them.
func (x *Runner) prune(ctx context.Context, keep, owned map[string]bool) error {
	for kind, at := range Kinds {
		list, err := x.Client.Resource(at).List(ctx, metav1.ListOptions{LabelSelector: Managed + "=" + controller})
		if err != nil {
			return fmt.Errorf("read %s: %w", at.Resource, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			o.SetKind(kind)
			if keep[id(o)] || owned[o.GetNamespace()+"/"+o.GetLabels()[nameLabel]] {
				continue
			}
			later := metav1.DeletePropagationBackground
			err := x.Client.Resource(at).Namespace(o.GetNamespace()).Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &later})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("remove %s: %w", id(o), err)
			}
		}
	}
	return nil
}
