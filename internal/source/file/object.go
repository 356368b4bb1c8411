package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// clusterScoped kinds by group; their objects have no namespace. Kinds that
// are not listed are namespaced.
var clusterScoped = map[string][]string{
	"":                             {"Namespace", "Node", "PersistentVolume", "ComponentStatus"},
	"rbac.authorization.k8s.io":    {"ClusterRole", "ClusterRoleBinding"},
	"apiextensions.k8s.io":         {"CustomResourceDefinition"},
	"admissionregistration.k8s.io": {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"},
	"storage.k8s.io":               {"StorageClass", "VolumeAttachment", "CSIDriver", "CSINode", "VolumeAttributesClass"},
	"scheduling.k8s.io":            {"PriorityClass"},
	"node.k8s.io":                  {"RuntimeClass"},
	"networking.k8s.io":            {"IngressClass", "IPAddress", "ServiceCIDR"},
	"gateway.networking.k8s.io":    {"GatewayClass"},
	"apiregistration.k8s.io":       {"APIService"},
	"certificates.k8s.io":          {"CertificateSigningRequest", "ClusterTrustBundle"},
	"policy":                       {"PodSecurityPolicy"},
	"cert-manager.io":              {"ClusterIssuer"},
}

// flat kinds keep their fields at the top level and have no spec.
var flatGroups = map[string]bool{
	"rbac.authorization.k8s.io": true, "admissionregistration.k8s.io": true, "discovery.k8s.io": true,
	"storage.k8s.io": true, "scheduling.k8s.io": true, "node.k8s.io": true, "events.k8s.io": true,
	"kustomize.config.k8s.io": true,
}
var specKinds = map[string]bool{"Service": true, "Pod": true, "Deployment": true, "StatefulSet": true, "DaemonSet": true, "ReplicaSet": true, "Job": true, "CronJob": true, "Ingress": true}

const maxListDepth = 3

// dnsName is what Kubernetes takes as a name (RFC 1123 subdomain).
var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

const saysName = "%q cannot be a name: it takes lower-case letters, digits, dashes and, but for namespaces, dots"

// object makes source objects of one mapping: one, or the items of a List.
func (p *parser) object(d doc, top map[string]any, at *place, depth int) {
	apiVersion, _ := top["apiVersion"].(string)
	kind, _ := top["kind"].(string)
	if apiVersion == "" || kind == "" {
		p.noObject(d, top, at, depth)
		return
	}
	if items, ok := top["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		if depth >= maxListDepth {
			p.refuse(at.Line(""), model.Unreadable, "lists nested more than %d levels deep", maxListDepth)
			return
		}
		_, places := at.child("items")
		for i, it := range items {
			m, ok := it.(map[string]any)
			if !ok {
				p.refuse(places.kids[i].Line(""), model.Unreadable, "items[%d] of the %s is %s, not an object", i, kind, source.Describe(it))
				continue
			}
			p.object(d, m, &places.kids[i], depth+1)
		}
		return
	}
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		group = ""
	}
	o := &source.Object{APIVersion: apiVersion, Kind: kind, File: p.name, Line: at.Line(""), Lines: at}
	if text := strayFields(group, kind, top); text != "" {
		meta, _ := top["metadata"].(map[string]any)
		o.Name, _ = meta["name"].(string)
		o.Namespace, _ = meta["namespace"].(string)
		if len(meta) == 0 {
			o.Name, _ = top["name"].(string)
			o.Namespace, _ = top["namespace"].(string)
		}
		p.about(o, "", model.Pasted, "%s", text)
		return
	}
	meta, ok := top["metadata"].(map[string]any)
	if !ok {
		p.about(o, "metadata", model.Invalid, "metadata with a name is missing")
		return
	}
	if !p.metadata(o, meta, !slices.Contains(clusterScoped[group], kind)) {
		return
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(top); err != nil {
		p.about(o, "", model.Unreadable, "cannot be written as JSON: %v", err)
		return
	}
	o.JSON = bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	p.objects = append(p.objects, o)
}

// noObject tells of a mapping without apiVersion or kind.
func (p *parser) noObject(d doc, top map[string]any, at *place, depth int) {
	_, version := top["apiVersion"]
	_, kind := top["kind"]
	switch {
	case !version && !kind && depth == 0:
		if p.pasted(d) {
			return
		}
		p.notices = append(p.notices, model.Notice{
			Severity: model.Warning, Reason: model.Unreadable,
			Origin: model.Origin{File: p.name, Line: at.Line("")},
			Text:   "not an object (neither apiVersion nor kind; perhaps Helm values or a fragment): ignored",
		})
	case !kind:
		p.refuse(at.Line(""), model.Unreadable, "object without kind")
	case !version:
		p.refuse(at.Line(""), model.Unreadable, "object without apiVersion")
	default:
		field := "apiVersion"
		if s, ok := top["apiVersion"].(string); ok && s != "" {
			field = "kind"
		}
		if top[field] == nil && p.pasted(d) {
			return
		}
		p.refuse(at.Line(field), model.Unreadable, "%s must be text, not %s", field, source.Describe(top[field]))
	}
}

func (p *parser) about(o *source.Object, field string, reason model.Reason, format string, args ...any) {
	or := o.Origin(field)
	if or.Name == "" {
		or.Name = "(no name)"
	}
	p.notices = append(p.notices, model.Notice{Severity: model.Error, Reason: reason, Origin: or, Text: fmt.Sprintf(format, args...)})
}

// strayFields says that the fields of metadata or spec stand at the top level,
// which is how an object looks that lost its indentation and still parses.
func strayFields(group, kind string, top map[string]any) string {
	var stray []string
	for k := range top {
		switch k {
		case "apiVersion", "kind", "metadata", "spec", "status":
		default:
			stray = append(stray, k)
		}
	}
	if len(stray) == 0 {
		return ""
	}
	slices.Sort(stray)
	const what = "the indentation was lost, probably by pasting: indent the lines below %s by two spaces more than it (found at the top level: %s)"
	meta, hasMeta := top["metadata"]
	spec, hasSpec := top["spec"]
	m, _ := meta.(map[string]any)
	if len(m) == 0 && (slices.Contains(stray, "name") || slices.Contains(stray, "namespace") || slices.Contains(stray, "labels")) {
		return fmt.Sprintf(what, "metadata and spec", strings.Join(stray, ", "))
	}
	if !hasMeta {
		return ""
	}
	if hasSpec {
		s, _ := spec.(map[string]any)
		if spec == nil || s != nil && len(s) == 0 {
			return fmt.Sprintf(what, "spec", strings.Join(stray, ", "))
		}
		return ""
	}
	if flatGroups[group] || !strings.Contains(group, ".") && !specKinds[kind] {
		return ""
	}
	if !strings.HasSuffix(group, ".istio.io") && !specKinds[kind] && group != "gateway.networking.k8s.io" {
		return ""
	}
	return fmt.Sprintf("spec is missing, and its fields may stand at the top level instead (found there: %s)", strings.Join(stray, ", "))
}

// metadata fills in the object's name and labels; false when it is not usable.
func (p *parser) metadata(o *source.Object, meta map[string]any, namespaced bool) bool {
	text := func(field string) (string, bool) {
		switch v := meta[field].(type) {
		case nil:
			return "", true
		case string:
			return v, true
		default:
			p.about(o, "metadata."+field, model.Invalid, "must be text, not %s; put it in quotes", source.Describe(v))
			return "", false
		}
	}
	var okName, okNS bool
	o.Name, okName = text("name")
	o.Namespace, okNS = text("namespace")
	if !okName || !okNS {
		return false
	}
	switch {
	case o.Name == "" && meta["generateName"] != nil:
		p.about(o, "metadata.generateName", model.Invalid, "a name that a server would make up cannot be used in a file; give metadata.name")
		return false
	case o.Name == "":
		p.about(o, "metadata", model.Invalid, "metadata.name is missing")
		return false
	case !dnsName.MatchString(o.Name) && !strings.HasPrefix(o.APIVersion, "rbac.") || len(o.Name) > 253 || strings.ContainsAny(o.Name, "/%"):
		p.about(o, "metadata.name", model.Invalid, saysName, clip(o.Name))
		return false
	case o.Namespace != "" && (!dnsName.MatchString(o.Namespace) || strings.Contains(o.Namespace, ".") || len(o.Namespace) > 63):
		p.about(o, "metadata.namespace", model.Invalid, saysName, clip(o.Namespace))
		return false
	}
	if !namespaced {
		o.Namespace = ""
		delete(meta, "namespace")
	} else {
		if o.Namespace == "" {
			o.Namespace = "default"
		}
		meta["namespace"] = o.Namespace
	}
	var okL, okA bool
	o.Labels, okL = p.stringMap(o, meta, "labels")
	o.Annotations, okA = p.stringMap(o, meta, "annotations")
	if !okL || !okA {
		return false
	}
	if created, ok := text("creationTimestamp"); !ok {
		return false
	} else if created != "" {
		t, err := time.Parse(time.RFC3339, created)
		if err != nil {
			p.about(o, "metadata.creationTimestamp", model.Invalid, "%q is not a time as 2006-01-02T15:04:05Z", clip(created))
			return false
		}
		o.Created = t.UTC()
	}
	return true
}

func (p *parser) stringMap(o *source.Object, meta map[string]any, field string) (map[string]string, bool) {
	v, ok := meta[field]
	if !ok || v == nil {
		return nil, true
	}
	m, ok := v.(map[string]any)
	if !ok {
		p.about(o, "metadata."+field, model.Invalid, "must be an object of texts, not %s", source.Describe(v))
		return nil, false
	}
	out := make(map[string]string, len(m))
	good := true
	for k, v := range m {
		s, ok := v.(string)
		if !ok && v != nil {
			p.about(o, "metadata."+field+"."+k, model.Invalid, "must be text, not %s; put it in quotes", source.Describe(v))
			good = false
		}
		out[k] = s
	}
	return out, good
}

// child is the key's line and what is inside its value.
func (p *place) child(key string) (bool, *place) {
	for i, k := range p.keys {
		if k == key {
			return true, &p.kids[i]
		}
	}
	return false, &place{line: p.line}
}
