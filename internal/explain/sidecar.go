package explain

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
)

// withSidecars is c with the sidecars that workloads would have once they run:
// files hold pods as users write them, before injection. A Pod gets one where
// it or its namespace asks for injection, a template (which standalone starts
// beside a sidecar) unless one of them forbids it.
func withSidecars(c *control.Compiled) *control.Compiled {
	namespaces := map[string]map[string]string{}
	for _, n := range c.Fragment.Namespaces {
		namespaces[n.Name] = n.Labels
	}
	f, changed := c.Fragment, false
	f.Workloads = slices.Clone(f.Workloads)
	for i, w := range f.Workloads {
		if w.MTLS || w.Gateway || !wantsSidecar(w, namespaces[w.Namespace]) {
			continue
		}
		with := *w
		with.MTLS = true
		f.Workloads[i], changed = &with, true
	}
	if !changed {
		return c
	}
	m, _ := link.Link(f, c.Mesh.Settings)
	return &control.Compiled{Fragment: f, Mesh: m}
}

func wantsSidecar(w *model.Workload, namespace map[string]string) bool {
	switch w.Labels["sidecar.istio.io/inject"] {
	case "false":
		return false
	case "true":
		return true
	}
	if namespace["istio-injection"] == "disabled" {
		return false
	}
	_, revision := namespace["istio.io/rev"]
	asked := revision || namespace["istio-injection"] == "enabled"
	return w.Template || asked && w.Origin.Kind == "Pod"
}
