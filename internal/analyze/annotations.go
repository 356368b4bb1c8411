package analyze

import (
	"slices"
	"strings"

	"istio.io/api/annotation"

	"github.com/tulle-mesh/tulle/internal/source"
)

var istioAnnotations = func() map[string]*annotation.Instance {
	m := map[string]*annotation.Instance{}
	for _, a := range annotation.AllResourceAnnotations() {
		m[a.Name] = a
	}
	return m
}()

// annotations checks the names of Istio's annotations and where they stand. A
// pod's may stand on its template too.
func (a *analysis) annotations() {
	for _, o := range a.Objects {
		a.annotated(o, o.Kind, o.Annotations, "metadata.annotations")
	}
	a.pods(func(o *source.Object, m rawMeta, _ *rawPod, path string) {
		if o.Kind != "Pod" {
			a.annotated(o, "Pod", m.Annotations, strings.TrimSuffix(path, "spec")+"metadata.annotations")
		}
	})
}

func (a *analysis) annotated(o *source.Object, kind string, list map[string]string, path string) {
	for name := range list {
		if !strings.Contains(name, "istio.io/") {
			continue
		}
		at := o.Origin(path + "." + name)
		known := istioAnnotations[name]
		if known == nil {
			a.add("IST0108", at, "no kind knows the annotation %s", name)
			continue
		}
		if known.Deprecated {
			a.add("IST0135", at, "annotation %s is deprecated", name)
		} else if known.FeatureStatus == annotation.Alpha {
			a.add("IST0136", at, "annotation %s belongs to an unfinished feature", name)
		}
		var kinds []string
		for _, r := range known.Resources {
			kinds = append(kinds, r.String())
		}
		if len(kinds) > 0 && !slices.Contains(kinds, "Any") && !slices.Contains(kinds, kind) {
			a.add("IST0107", at, "annotation %s has no effect on a %s; it belongs on %s", name, kind, strings.Join(kinds, ", "))
		}
	}
}
