package check

import (
	"fmt"
	"strings"
	"testing"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// look at a cluster that holds objects; forbidden is a resource that may not be made.
func look(t *testing.T, kubernetes, forbidden string, objects ...runtime.Object) (string, bool) {
	t.Helper()
	c := fake.NewClientset(objects...)
	c.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: kubernetes}
	c.PrependReactor("create", "selfsubjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		r.Status.Allowed = r.Spec.ResourceAttributes.Resource != forbidden
		return true, r, nil
	})
	items, installed, err := (&Cluster{Discovery: c.Discovery(), Core: c.CoreV1(), Apps: c.AppsV1(), Admission: c.AdmissionregistrationV1(), Auth: c.AuthorizationV1()}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, i := range items {
		fmt.Fprintf(&b, "%s %s: %s; %s\n", i.Level, i.Anchor, i.Text, i.Hint)
	}
	return b.String(), installed
}

func meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "istio-system", Labels: labels}
}

// TestBefore: a cluster on which there is nothing yet.
func TestBefore(t *testing.T) {
	for _, c := range []struct{ version, forbidden, want string }{
		{"v1.35.4", "", "ok version: Kubernetes v1.35.4; \nok permissions"},
		{"v1.28.9", "", "bad version: Kubernetes v1.28.9; it is too old: 1.29"},
		{"v1.40.0", "", "note version: Kubernetes v1.40.0; it is newer than what was tried"},
		{"v1.35.4", "clusterroles", "bad permissions: you may not create clusterroles.rbac.authorization.k8s.io, patch clusterroles.rbac.authorization.k8s.io;"},
		{"v1.35.4", "", "note gateway-api: the cluster has no Gateway API"},
	} {
		got, installed := look(t, c.version, c.forbidden)
		if !strings.Contains(got, c.want) || installed {
			t.Errorf("%s is not in\n%s", c.want, got)
		}
	}
	other := &appsv1.Deployment{ObjectMeta: meta("istiod", map[string]string{"app": "istiod"})}
	if got, installed := look(t, "v1.35.4", "", other); installed || !strings.Contains(got, "note other-mesh: Deployment istio-system/istiod is another mesh's") {
		t.Errorf("beside another mesh:\n%s", got)
	}
}

// TestAfter: the mesh as it should be, and what can be wrong with it.
func TestAfter(t *testing.T) {
	ours := map[string]string{"app": "istiod", "app.kubernetes.io/part-of": "tulle"}
	mesh := func(ready int32, bundle string, policy admissionregv1.FailurePolicyType, roots string) []runtime.Object {
		two := int32(2)
		client := admissionregv1.WebhookClientConfig{CABundle: []byte(bundle)}
		return []runtime.Object{
			&appsv1.Deployment{ObjectMeta: meta("istiod", ours), Spec: appsv1.DeploymentSpec{Replicas: &two}, Status: appsv1.DeploymentStatus{ReadyReplicas: ready}},
			&admissionregv1.MutatingWebhookConfiguration{ObjectMeta: meta("in", ours), Webhooks: []admissionregv1.MutatingWebhook{{ClientConfig: client}}},
			&admissionregv1.ValidatingWebhookConfiguration{ObjectMeta: meta("val", ours), Webhooks: []admissionregv1.ValidatingWebhook{{ClientConfig: client, FailurePolicy: &policy}}},
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"istio-injection": "enabled"}}},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: roots, Namespace: "shop"}},
		}
	}
	const fail, ignore = admissionregv1.Fail, admissionregv1.Ignore
	for _, c := range []struct {
		objects []runtime.Object
		want    string
	}{
		{mesh(2, "x", fail, "istio-ca-root-cert"), "ok control-plane: control plane istio-system/istiod: 2 of 2 replicas are ready; \nok injection: injection in trusts the mesh's roots; \nok validation: validation val refuses invalid objects; \nok roots: 1 namespaces"},
		{mesh(1, "x", fail, "istio-ca-root-cert"), "bad control-plane: control plane istio-system/istiod: 1 of 2 replicas are ready; see kubectl"},
		{mesh(2, "", fail, "istio-ca-root-cert"), "bad injection: injection in does not know"},
		{mesh(2, "", fail, "istio-ca-root-cert"), "bad validation: validation val does not know"},
		{mesh(2, "x", ignore, "istio-ca-root-cert"), "note validation: validation val is open"},
		{mesh(2, "x", fail, "another"), "bad roots: namespaces without the mesh's roots: shop"},
	} {
		if got, installed := look(t, "v1.35.4", "", c.objects...); !strings.Contains(got, c.want) || !installed {
			t.Errorf("%s is not in\n%s", c.want, got)
		}
	}
}
