package kubernetes

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Reader reads Kubernetes objects.
type Reader struct {
	// Domain of the cluster's DNS; empty is cluster.local.
	Domain string
}

var _ dialect.Joiner = Reader{}

// Name implements dialect.Reader.
func (Reader) Name() string { return "kubernetes" }

// kinds that are read or known to say nothing to a mesh.
var kinds = map[string][]string{
	"v1":                  {"Namespace", "Service", "Endpoints", "Pod", "Secret", "ServiceAccount", "Node"},
	"apps/v1":             {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"},
	"discovery.k8s.io/v1": {"EndpointSlice"},
}

// Claims implements dialect.Reader.
func (Reader) Claims(apiVersion, kind string) bool { return slices.Contains(kinds[apiVersion], kind) }

// Join implements dialect.Joiner: endpoints belong to their Service, everything
// else stands for itself.
func (Reader) Join(o *source.Object) dialect.Join {
	switch o.Kind {
	case "Service", "Endpoints":
		return dialect.Join{Namespace: o.Namespace, Name: o.Name}
	case "EndpointSlice":
		if s := o.Labels[discoveryv1.LabelServiceName]; s != "" {
			return dialect.Join{Namespace: o.Namespace, Name: s}
		}
	}
	return dialect.Join{Alone: o}
}

// Read implements dialect.Reader.
func (k Reader) Read(objects []*source.Object) (model.Fragment, []model.Notice) {
	in := input{domain: k.Domain}
	if in.domain == "" {
		in.domain = "cluster.local"
	}
	var reports []*dialect.Report
	for _, o := range objects {
		r := &dialect.Report{Object: o}
		in.object(r)
		reports = append(reports, r)
	}
	in.attachSlices()
	in.attachEndpoints()
	var notices []model.Notice
	for _, r := range reports {
		notices = append(notices, r.Notices...)
	}
	return in.out, notices
}

// input collects what one call of Read understands.
type input struct {
	domain    string
	out       model.Fragment
	slices    []slice
	endpoints []oldEndpoints
}

func (in *input) object(r *dialect.Report) {
	switch r.Object.Kind {
	case "Namespace":
		in.namespace(r)
	case "Service":
		in.service(r)
	case "EndpointSlice":
		in.endpointSlice(r)
	case "Endpoints":
		var e corev1.Endpoints //nolint:staticcheck // old, and still in people's files
		if dialect.Decode(r, &e) {
			in.endpoints = append(in.endpoints, oldEndpoints{r, e})
		}
	case "Pod":
		in.pod(r)
	case "Deployment":
		var d appsv1.Deployment
		if dialect.Decode(r, &d) {
			in.template(r, &d.Spec.Template)
		}
	case "StatefulSet":
		var d appsv1.StatefulSet
		if dialect.Decode(r, &d) {
			in.template(r, &d.Spec.Template)
		}
	case "DaemonSet":
		var d appsv1.DaemonSet
		if dialect.Decode(r, &d) {
			in.template(r, &d.Spec.Template)
		}
	case "ReplicaSet":
		// Those that a Deployment made say nothing that it does not say itself.
		var d appsv1.ReplicaSet
		if dialect.Decode(r, &d) && len(d.OwnerReferences) == 0 {
			in.template(r, &d.Spec.Template)
		}
	case "Secret":
		in.secret(r)
	case "ServiceAccount":
		var s corev1.ServiceAccount
		dialect.Decode(r, &s)
	}
}

func (in *input) namespace(r *dialect.Report) {
	var n corev1.Namespace
	if !dialect.Decode(r, &n) {
		return
	}
	in.out.Namespaces = append(in.out.Namespaces, &model.Namespace{Name: n.Name, Labels: n.Labels, Origin: r.Object.Origin("")})
}

func (in *input) secret(r *dialect.Report) {
	var s corev1.Secret
	if !dialect.Decode(r, &s) {
		return
	}
	out := &model.Secret{
		Name: s.Name, Namespace: r.Object.Namespace, Type: string(s.Type),
		Data: make(map[string]model.Sensitive, len(s.Data)+len(s.StringData)), Origin: r.Object.Origin(""),
	}
	if out.Type == "" {
		out.Type = string(corev1.SecretTypeOpaque)
	}
	size := 0
	for k, v := range s.Data {
		out.Data[k] = v
		size += len(v)
	}
	for k, v := range s.StringData { // wins over data, as at an API server
		out.Data[k] = model.Sensitive(v)
		size += len(v)
	}
	if size > corev1.MaxSecretSize {
		r.Invalid("data", "%d bytes are more than the %d that a Secret may hold", size, corev1.MaxSecretSize)
		return
	}
	in.out.Secrets = append(in.out.Secrets, out)
}

// slice is a read EndpointSlice that waits for its Service.
type slice struct {
	report  *dialect.Report
	service string
	content discoveryv1.EndpointSlice
}

// oldEndpoints is a read Endpoints object that waits for its Service.
type oldEndpoints struct {
	report  *dialect.Report
	content corev1.Endpoints //nolint:staticcheck // as above
}
