package link

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Workloads lists all workloads, with the sidecars that those which are only
// described will have, by namespace and name. The workloads are shared: do not
// modify.
func (m *Mesh) Workloads() (out []*model.Workload) {
	m.book.Do(func() { out = m.withSidecars(m.facts.workloads.get(struct{}{})) })
	return out
}

// PortMTLS is the mode that a workload's sidecar has at one of its ports.
func (m *Mesh) PortMTLS(w *model.Workload, port uint16) (mode model.MTLSMode) {
	m.book.Do(func() { mode = m.server(w.Namespace, w.Labels).port(port) })
	return mode
}

// sidecar settles Injection: files hold pods as users write them, before an
// injector has seen them. This is the only place that knows; explain, auto mTLS
// and standalone read MTLS.
func (m *Mesh) sidecar(w *model.Workload) bool { return w.MTLS || !w.Gateway && m.injects(w) }

func (m *Mesh) withSidecars(list []*model.Workload) []*model.Workload {
	list = slices.Clone(list)
	for i, w := range list {
		if !w.MTLS && m.sidecar(w) {
			with := *w
			with.MTLS = true
			list[i] = &with
		}
	}
	return list
}

// never are the namespaces in which Istio's webhook does not inject.
var never = map[string]bool{"kube-system": true, "kube-public": true, "kube-node-lease": true, "local-path-storage": true}

// injects follows the selectors of Istio's webhooks: istio-injection beats a
// revision, and "disabled" beats what the workload asks for itself.
func (m *Mesh) injects(w *model.Workload) bool {
	if w.Injection == model.InjectNone || never[w.Namespace] {
		return false
	}
	var labels map[string]string
	if l := m.facts.namespaces.get(w.Namespace); len(l) > 0 {
		labels = l[len(l)-1].Labels
	}
	switch labels["istio-injection"] {
	case "enabled":
		return true
	case "":
		return labels["istio.io/rev"] != "" || w.Injection == model.InjectUnlessNot
	}
	return false
}
