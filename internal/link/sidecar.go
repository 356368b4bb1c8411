package link

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Workloads lists all workloads, with the sidecars that those which are only
// described will have. The slice and what it holds are shared: do not modify.
func (m *Mesh) Workloads() []*model.Workload { return m.workloads.list }

// PortMTLS is the mode that a workload's sidecar has at one of its ports.
func (m *Mesh) PortMTLS(w *model.Workload, port uint16) model.MTLSMode {
	return m.mtls.server(w.Namespace, w.Labels).port(port)
}

// withSidecars settles Injection: files hold pods as users write them, before
// an injector has seen them. This is the only place that knows; explain, auto
// mTLS and standalone read MTLS.
func (m *Mesh) withSidecars(list []*model.Workload) []*model.Workload {
	list = slices.Clone(list)
	for i, w := range list {
		if w.MTLS || w.Gateway || !m.injects(w) {
			continue
		}
		with := *w
		with.MTLS = true
		list[i] = &with
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
	if ns := m.namespaces[w.Namespace]; ns != nil {
		labels = ns.Labels
	}
	switch labels["istio-injection"] {
	case "enabled":
		return true
	case "":
		return labels["istio.io/rev"] != "" || w.Injection == model.InjectUnlessNot
	}
	return false
}
