package analyze

import (
	"encoding/json"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/source"
)

// raw is what the checks read of kinds that the model does not carry. A field
// of an unexpected type leaves the object out: the dialects complain about it.
type raw struct {
	Spec struct {
		Type             string            `json:"type"`
		Ports            []rawPort         `json:"ports"`
		Selector         json.RawMessage   `json:"selector"` // labels, or {matchLabels}
		WorkloadSelector *rawSelector      `json:"workloadSelector"`
		TargetRefs       []json.RawMessage `json:"targetRefs"`
		TargetRef        json.RawMessage   `json:"targetRef"`
		Template         *struct {
			Metadata rawMeta `json:"metadata"`
			Spec     rawPod  `json:"spec"`
		} `json:"template"`
		rawPod
		Priority      json.Number       `json:"priority"`
		ConfigPatches []rawPatch        `json:"configPatches"`
		Tracing       []rawProviders    `json:"tracing"`
		Metrics       []rawProviders    `json:"metrics"`
		AccessLogging []rawProviders    `json:"accessLogging"`
		JWTRules      []json.RawMessage `json:"jwtRules"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

type rawMeta struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type rawPort struct {
	Name        string          `json:"name"`
	Port        int             `json:"port"`
	TargetPort  json.RawMessage `json:"targetPort"`
	Protocol    string          `json:"protocol"`
	AppProtocol *string         `json:"appProtocol"`
}

type rawSelector struct {
	Labels      map[string]string `json:"labels"`
	MatchLabels map[string]string `json:"matchLabels"`
}

type rawPod struct {
	HostNetwork     bool           `json:"hostNetwork"`
	SecurityContext *rawSecurity   `json:"securityContext"`
	Containers      []rawContainer `json:"containers"`
	InitContainers  []rawContainer `json:"initContainers"`
}

type rawSecurity struct {
	RunAsUser *int64 `json:"runAsUser"`
}

type rawContainer struct {
	Name            string       `json:"name"`
	Image           string       `json:"image"`
	SecurityContext *rawSecurity `json:"securityContext"`
}

type rawPatch struct {
	ApplyTo string `json:"applyTo"`
	Match   struct {
		Proxy struct {
			ProxyVersion string `json:"proxyVersion"`
		} `json:"proxy"`
	} `json:"match"`
	Patch struct {
		Operation string `json:"operation"`
		Value     struct {
			Name  string `json:"name"`
			Typed struct {
				Type string `json:"@type"`
			} `json:"typed_config"`
		} `json:"value"`
	} `json:"patch"`
}

type rawProviders struct {
	Providers *[]json.RawMessage `json:"providers"`
}

// read an object; false when its JSON does not fit.
func read(o *source.Object) (*raw, bool) {
	var r raw
	if err := json.Unmarshal(o.JSON, &r); err != nil {
		return nil, false
	}
	return &r, true
}

// each calls f for every object of a group (empty: the core group) and kind.
func (a *analysis) each(group, kind string, f func(*source.Object, *raw)) {
	for _, o := range a.Objects {
		if o.Kind != kind || dialect.Group(o.APIVersion) != group {
			continue
		}
		if r, ok := read(o); ok {
			f(o, r)
		}
	}
}

// selector of a policy-like object: its labels, and whether it has one.
func (r *raw) selector() (map[string]string, bool) {
	s := r.Spec.WorkloadSelector
	if s == nil && len(r.Spec.Selector) > 0 {
		s = new(rawSelector)
		if json.Unmarshal(r.Spec.Selector, s) != nil {
			return nil, false
		}
	}
	if s == nil || len(s.Labels)+len(s.MatchLabels) == 0 {
		return nil, false
	}
	if len(s.Labels) > 0 {
		return s.Labels, true
	}
	return s.MatchLabels, true
}

// pods are templates and Pods: what will run or runs.
func (a *analysis) pods(f func(o *source.Object, m rawMeta, p *rawPod, path string)) {
	for _, k := range []struct{ group, kind string }{
		{"apps", "Deployment"}, {"apps", "StatefulSet"}, {"apps", "DaemonSet"}, {"", "Pod"},
	} {
		a.each(k.group, k.kind, func(o *source.Object, r *raw) {
			switch {
			case k.kind == "Pod":
				f(o, rawMeta{o.Labels, o.Annotations}, &r.Spec.rawPod, "spec")
			case r.Spec.Template != nil:
				f(o, r.Spec.Template.Metadata, &r.Spec.Template.Spec, "spec.template.spec")
			}
		})
	}
}

// selects reports whether any workload of the namespace (of any, if it is the
// root namespace) has the labels.
func (a *analysis) selects(ns string, want map[string]string) bool {
	for _, w := range a.Fragment.Workloads {
		if (w.Namespace == ns || ns == a.Root) && within(want, w.Labels) {
			return true
		}
	}
	return false
}
