package analyze

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/source"
)

// proxyUID is the user of the sidecar, whose traffic is not captured.
const proxyUID = 1337

// outside are namespaces that are never injected.
var outside = map[string]bool{"kube-system": true, "kube-public": true, "kube-node-lease": true, "local-path-storage": true}

// injection checks what decides whether a pod has a sidecar.
func (a *analysis) injection() {
	injected := map[string]bool{}
	a.each("", "Namespace", func(o *source.Object, _ *raw) {
		old, rev := o.Labels["istio-injection"], o.Labels["istio.io/rev"]
		injected[o.Name] = old == "enabled" || old == "" && rev != ""
		if outside[o.Name] || o.Name == a.Root || o.Labels["istio.io/dataplane-mode"] == "ambient" {
			return
		}
		at := o.Origin("metadata.labels")
		switch {
		case old != "" && rev != "":
			a.add("IST0123", at, "labels istio-injection=%s and istio.io/rev=%s: the first decides", old, rev)
		case old == "" && rev == "":
			a.add("IST0102", at, "no label says whether its pods get sidecars: istio-injection=enabled or =disabled")
		}
	})
	a.pods(func(o *source.Object, m rawMeta, p *rawPod, path string) {
		asked := m.Labels["sidecar.istio.io/inject"]
		if asked == "" {
			asked = m.Annotations["sidecar.istio.io/inject"]
		}
		will := asked == "true" || asked != "false" && injected[o.Namespace]
		proxy := false
		for i, c := range p.Containers {
			at := path + ".containers[" + itoa(i) + "]"
			if c.Name == "istio-proxy" {
				proxy = true
			} else if uid(c.SecurityContext, p.SecurityContext) == proxyUID {
				a.add("IST0144", o.Origin(at), "container %s runs as user %d, as the sidecar does: its connections are not captured", c.Name, proxyUID)
			}
			if c.Image == "auto" && !will {
				id := "IST0146"
				if o.Kind == "Pod" {
					id = "IST0147"
				}
				a.add(id, o.Origin(at+".image"), "image: auto stays as it is, for this pod is not injected")
			}
		}
		for _, c := range p.InitContainers {
			proxy = proxy || c.Name == "istio-proxy"
		}
		if o.Kind == "Pod" && will && !proxy && !p.HostNetwork && running(o) {
			a.add("IST0103", o.Origin(""), "the pod has no sidecar although its namespace or label asks for one: restart it")
		}
	})
}

func uid(own, pod *rawSecurity) int64 {
	for _, s := range []*rawSecurity{own, pod} {
		if s != nil && s.RunAsUser != nil {
			return *s.RunAsUser
		}
	}
	return -1
}

// running tells a pod of a cluster from one that a user wrote down.
func running(o *source.Object) bool {
	r, ok := read(o)
	return ok && strings.EqualFold(r.Status.Phase, "Running")
}
