package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/kube/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// maxReview bounds an AdmissionReview: the object twice, as an API server takes
// it, and what is around it.
const maxReview = 8 << 20

// Handler serves both webhooks. All fields but Tell must be set.
type Handler struct {
	// Config is how pods are injected, now; an error until it is known.
	Config func() (*inject.Config, error)
	// Namespace is the labels of a namespace.
	Namespace func(r *http.Request, name string) (map[string]string, error)
	// Check is everything that is wrong with one object.
	Check func(*source.Object) []model.Notice
	Tell  func(format string, args ...any)

	counts Counts
}

// Counts of what was answered.
type Counts struct {
	Injected, Skipped, InjectFailed, Valid, Invalid atomic.Uint64
}

// Counts since the start.
func (h *Handler) Counts() *Counts { return &h.counts }

// ServeHTTP implements http.Handler. Below /inject come, as in Istio's
// addresses, words about the cluster that are not needed here.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var answer func(*http.Request, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
	switch {
	case r.URL.Path == "/inject" || strings.HasPrefix(r.URL.Path, "/inject/"):
		answer = h.inject
	case r.URL.Path == "/validate":
		answer = h.validate
	default:
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "want POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
	if err != nil {
		code := http.StatusBadRequest
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), code)
		return
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, "AdmissionReview: "+err.Error(), http.StatusBadRequest)
		return
	}
	if review.Request == nil || review.APIVersion != admissionv1.SchemeGroupVersion.String() {
		http.Error(w, "want an AdmissionReview of "+admissionv1.SchemeGroupVersion.String()+" with a request", http.StatusBadRequest)
		return
	}
	out := answer(r, review.Request)
	out.UID = review.Request.UID
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: out}) // the API server is gone, or reads it
}

func allow() *admissionv1.AdmissionResponse { return &admissionv1.AdmissionResponse{Allowed: true} }

func deny(code int32, reason metav1.StatusReason, text string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Message: text, Reason: reason, Code: code,
	}}
}

// inject answers for a pod. One that cannot be given what it asks for is
// refused: without its sidecar it would run outside of the mesh's policies.
func (h *Handler) inject(r *http.Request, q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	if q.Kind.Kind != "Pod" || q.Operation != admissionv1.Create {
		return allow()
	}
	failed := func(code int32, reason metav1.StatusReason, err error) *admissionv1.AdmissionResponse {
		h.counts.InjectFailed.Add(1)
		h.tell("pod %s/%s is refused: %v", q.Namespace, q.Name, err)
		return deny(code, reason, "sidecar: "+err.Error())
	}
	conf, err := h.Config()
	if err != nil {
		return failed(http.StatusInternalServerError, metav1.StatusReasonInternalError, err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(q.Object.Raw, &pod); err != nil {
		return failed(http.StatusBadRequest, metav1.StatusReasonBadRequest, err)
	}
	labels, err := h.Namespace(r, q.Namespace)
	if err != nil {
		return failed(http.StatusInternalServerError, metav1.StatusReasonInternalError, err)
	}
	if d := conf.Decide(q.Namespace, labels, &pod.ObjectMeta, &pod.Spec); !d.Inject {
		h.counts.Skipped.Add(1)
		out := allow()
		out.AuditAnnotations = map[string]string{"not-injected": d.Why}
		return out
	}
	patch, err := conf.Patch(q.Object.Raw, q.Namespace, owner(&pod))
	if err != nil {
		return failed(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, err)
	}
	h.counts.Injected.Add(1)
	out, kind := allow(), admissionv1.PatchTypeJSONPatch
	out.Patch, out.PatchType = patch, &kind
	return out
}

// owner is the Deployment behind a pod's ReplicaSet, or the pod's own
// controller.
func owner(p *corev1.Pod) string {
	c := metav1.GetControllerOf(p)
	if c == nil {
		return ""
	}
	if hash := p.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; c.Kind == "ReplicaSet" && hash != "" {
		return strings.TrimSuffix(c.Name, "-"+hash)
	}
	return c.Name
}

// validate answers for an object: an error refuses it, the rest is a warning.
// What is valid and not acted on is a warning too: manifests that others accept
// can be applied.
func (h *Handler) validate(_ *http.Request, q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	if q.Operation != admissionv1.Create && q.Operation != admissionv1.Update {
		return allow()
	}
	var head struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(q.Object.Raw, &head); err != nil {
		return deny(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	}
	if head.DeletionTimestamp != nil { // finalizers may have to be taken off what was never valid
		return allow()
	}
	notices := h.Check(&source.Object{
		APIVersion: head.APIVersion, Kind: head.Kind, Namespace: q.Namespace, Name: head.Name,
		Labels: head.Labels, Annotations: head.Annotations, Created: head.CreationTimestamp.UTC(), JSON: q.Object.Raw,
	})
	var wrong []string
	out := allow()
	for _, n := range notices {
		switch {
		case n.Severity == model.Error && n.Reason != model.Unsupported:
			wrong = append(wrong, n.String())
		case n.Severity != model.Info:
			out.Warnings = append(out.Warnings, n.String())
		}
	}
	if wrong == nil {
		h.counts.Valid.Add(1)
		return out
	}
	h.counts.Invalid.Add(1)
	no := deny(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, strings.Join(wrong, "; "))
	no.Warnings = out.Warnings
	return no
}

func (h *Handler) tell(format string, args ...any) {
	if h.Tell != nil {
		h.Tell(format, args...)
	}
}

// String is the counts in Prometheus' text form, with Istio's names.
func (c *Counts) String() string {
	var b strings.Builder
	for _, m := range []struct {
		name, help string
		value      *atomic.Uint64
	}{
		{"sidecar_injection_success_total", "Pods that got a sidecar.", &c.Injected},
		{"sidecar_injection_skip_total", "Pods that were asked about and got none.", &c.Skipped},
		{"sidecar_injection_failure_total", "Pods that were refused.", &c.InjectFailed},
		{"galley_validation_passed", "Objects that were found valid.", &c.Valid},
		{"galley_validation_failed", "Objects that were refused.", &c.Invalid},
	} {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s counter\n%s %d\n", m.name, m.help, m.name, m.name, m.value.Load())
	}
	return b.String()
}
