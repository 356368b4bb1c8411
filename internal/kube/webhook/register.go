package webhook

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"

	"github.com/tulle-mesh/tulle/internal/kube/objects"
)

// RevisionLabel says which control plane a webhook configuration belongs to.
const RevisionLabel = "istio.io/rev"

// ours is the label of configurations that an installation of Tulle made.
const ours = "app.kubernetes.io/part-of=tulle"

// again is how long after a failure it is tried again.
const again = 2 * time.Second

// Registrar keeps the webhook configurations of one revision.
type Registrar struct {
	Client    admissionclient.AdmissionregistrationV1Interface
	Dynamic   dynamic.Interface // tries the validating webhook
	Namespace string            // of the control plane
	Revision  string            // empty: default
	Roots     func() []byte     // PEM
	Changed   objects.Flag      // is raised when Roots gives something else
	Tell      func(format string, args ...any)
}

// Run writes the roots into the configurations, and closes the validating one
// (failurePolicy Fail) once an invalid object was refused through it, until ctx
// ends.
func (g *Registrar) Run(ctx context.Context) error {
	client := g.Client.RESTClient()
	tell := func(err error) { g.Tell("%v", err) }
	told := ""
	mutating, err := objects.Follow(ctx, objects.Kind{Client: client, Resource: "mutatingwebhookconfigurations", Tell: tell}, &admissionregv1.MutatingWebhookConfiguration{}, nil, g.Changed.Raise)
	if err != nil {
		return err
	}
	validating, err := objects.Follow(ctx, objects.Kind{Client: client, Resource: "validatingwebhookconfigurations", Tell: tell}, &admissionregv1.ValidatingWebhookConfiguration{}, nil, g.Changed.Raise)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-g.Changed:
		}
		var failed error
		for _, c := range mutating.All() {
			if err := g.mutating(ctx, c); err != nil {
				failed = err
			}
		}
		for _, c := range validating.All() {
			if err := g.validating(ctx, c); err != nil {
				failed = err
			}
		}
		if failed != nil && ctx.Err() == nil {
			if told != failed.Error() {
				told = failed.Error()
				g.Tell("%v; it is tried again", failed)
			}
			time.AfterFunc(again, g.Changed.Raise)
		}
	}
}

// mine reports a configuration of ours, of this revision.
func (g *Registrar) mine(o metav1.Object) bool {
	l := o.GetLabels()
	key, value, _ := strings.Cut(ours, "=")
	rev, own := l[RevisionLabel], g.Revision
	if rev == "" {
		rev = "default"
	}
	if own == "" {
		own = "default"
	}
	return l[key] == value && rev == own
}

// bundle puts the roots where they are not, and reports whether it did.
func (g *Registrar) bundle(c *admissionregv1.WebhookClientConfig) bool {
	if roots := g.Roots(); !bytes.Equal(c.CABundle, roots) {
		c.CABundle = roots
		return true
	}
	return false
}

func (g *Registrar) mutating(ctx context.Context, c *admissionregv1.MutatingWebhookConfiguration) error {
	if !g.mine(c) {
		return nil
	}
	c = c.DeepCopy()
	differs := false
	for i := range c.Webhooks {
		differs = g.bundle(&c.Webhooks[i].ClientConfig) || differs
	}
	if !differs {
		return nil
	}
	_, err := g.Client.MutatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{})
	return expected(err, "webhook configuration "+c.Name)
}

func (g *Registrar) validating(ctx context.Context, c *admissionregv1.ValidatingWebhookConfiguration) error {
	if !g.mine(c) {
		return nil
	}
	c = c.DeepCopy()
	differs, open := false, false
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		differs = g.bundle(&w.ClientConfig) || differs
		open = open || w.FailurePolicy == nil || *w.FailurePolicy != admissionregv1.Fail
	}
	if differs { // what the API server makes of it we hear, and look again
		_, err := g.Client.ValidatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{})
		return expected(err, "webhook configuration "+c.Name)
	}
	if !open {
		return nil
	}
	if err := g.try(ctx); err != nil {
		return fmt.Errorf("webhook configuration %s stays open: %w", c.Name, err)
	}
	fail := admissionregv1.Fail
	for i := range c.Webhooks {
		c.Webhooks[i].FailurePolicy = &fail
	}
	if _, err := g.Client.ValidatingWebhookConfigurations().Update(ctx, c, metav1.UpdateOptions{}); err != nil {
		return expected(err, "webhook configuration "+c.Name)
	}
	g.Tell("objects are validated: what is wrong is refused")
	return nil
}

// expected lets pass what somebody else did at the same time.
func expected(err error, what string) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// trial is an object that its CRD's schema takes and we must refuse.
var trial = map[string]any{
	"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
	"metadata": map[string]any{"name": "tulle-webhook-trial"},
	"spec":     map[string]any{"hosts": []any{"not a host"}, "http": []any{map[string]any{"directResponse": map[string]any{"status": int64(503)}}}},
}

// try has the API server refuse an invalid object, through the webhook, without
// anything being written.
func (g *Registrar) try(ctx context.Context) error {
	o := &unstructured.Unstructured{Object: trial}
	at := schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}
	_, err := g.Dynamic.Resource(at).Namespace(g.Namespace).Create(ctx, o.DeepCopy(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		return fmt.Errorf("the API server does not ask yet: it took an invalid %s", trial["kind"])
	case strings.Contains(err.Error(), "admission webhook") && strings.Contains(err.Error(), "denied the request"):
		return nil
	}
	return fmt.Errorf("try it: %w", err)
}
