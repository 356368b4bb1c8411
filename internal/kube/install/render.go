package install

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Labels of everything that is installed.
const (
	PartOf    = "app.kubernetes.io/part-of" // tulle
	ManagedBy = "app.kubernetes.io/managed-by"
	Name      = "tulle"
	RevLabel  = "istio.io/rev"
	// GatewayLabel is on what the control plane makes for the Gateway API.
	GatewayLabel = "gateway.istio.io/managed=tulle.dev-gateway-controller"
)

//go:embed manifests
var manifests embed.FS

// crds are Istio's custom resource definitions, from the module istio.io/api
// (Apache-2.0), as make gen takes them.
//
//go:embed crds.yaml.gz
var crds []byte

// ownCRDs defines our own kinds.
//
//go:embed traffic.yaml
var ownCRDs []byte

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"yaml": func(v any) (string, error) {
		b, err := yaml.Marshal(v)
		return strings.TrimSuffix(string(b), "\n"), err
	},
	"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	"indent": func(n int, s string) string {
		p := strings.Repeat(" ", n)
		return p + strings.ReplaceAll(s, "\n", "\n"+p)
	},
	"limited": func(g *Gateway, r corev1.ResourceName) bool { _, ok := g.Resources.Limits[r]; return ok },
}).ParseFS(manifests, "manifests/*.yaml"))

// Objects that are installed, in the order in which they are applied.
func (p *Plan) Objects() ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	if p.Base {
		z, err := gzip.NewReader(bytes.NewReader(crds))
		if err != nil {
			return nil, fmt.Errorf("BUG: embedded definitions: %w", err)
		}
		list, err := p.parse(io.MultiReader(z, strings.NewReader("\n---\n"), bytes.NewReader(ownCRDs)), true)
		if err != nil {
			return nil, fmt.Errorf("BUG: embedded definitions: %w", err)
		}
		out = append(out, list...)
	}
	add := func(name string, data any) error {
		var b bytes.Buffer
		if err := templates.ExecuteTemplate(&b, name, data); err != nil {
			return fmt.Errorf("manifest %s: %w", name, err)
		}
		list, err := p.parse(&b, false)
		if err != nil {
			return fmt.Errorf("manifest %s: %w", name, err)
		}
		out = append(out, list...)
		return nil
	}
	if p.Control {
		if err := add("control-plane.yaml", p); err != nil {
			return nil, err
		}
	}
	for _, g := range p.Gateways {
		if err := add("gateway.yaml", g); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Objects of one gateway, without an installation's labels.
func (g *Gateway) Objects() ([]*unstructured.Unstructured, error) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, "gateway.yaml", g); err != nil {
		return nil, fmt.Errorf("manifest gateway.yaml: %w", err)
	}
	list, err := documents(&b)
	if err != nil {
		return nil, fmt.Errorf("manifest gateway.yaml: %w", err)
	}
	return list, nil
}

// parse YAML documents and label them. Definitions are everybody's: they carry
// no revision.
func (p *Plan) parse(r io.Reader, shared bool) ([]*unstructured.Unstructured, error) {
	out, err := documents(r)
	for _, u := range out {
		l := u.GetLabels()
		if l == nil {
			l = map[string]string{}
		}
		l[PartOf], l[ManagedBy] = Name, Name
		if !shared && u.GetKind() != "Namespace" {
			l[RevLabel] = p.Rev()
		}
		u.SetLabels(l)
	}
	return out, err
}

func documents(r io.Reader) (out []*unstructured.Unstructured, err error) {
	docs := kyaml.NewYAMLReader(bufio.NewReader(r))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		var o map[string]any
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		out = append(out, &unstructured.Unstructured{Object: o})
	}
}

// MemoryLimit is what the control plane's runtime is to stay within, in bytes: a
// little less than the container's limit. 0: there is none.
func (p *Plan) MemoryLimit() int64 { return p.Pilot.Resources.Limits.Memory().Value() / 10 * 9 }

// Rev is the revision's name.
func (p *Plan) Rev() string { return cmp.Or(p.Revision, "default") }

// ProxyConfig is what the gateway reads of its own settings.
func (g *Gateway) ProxyConfig() map[string]any {
	out := map[string]any{"discoveryAddress": g.Discovery}
	for k, v := range g.MeshConfig {
		out[k] = v
	}
	return out
}

// Injector is one webhook of injection: which namespaces and pods it is asked
// about.
type Injector struct {
	Name                string
	Namespaces, Objects metav1.LabelSelector
}

// Injectors as Istio's: a namespace's label chooses; without one a pod's own
// does; istio-injection beats istio.io/rev.
func (p *Plan) Injectors() []Injector {
	is := func(k string, v ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: v}
	}
	not := func(k string, v ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpNotIn, Values: v}
	}
	no := func(k string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpDoesNotExist}
	}
	sel := func(r ...metav1.LabelSelectorRequirement) metav1.LabelSelector {
		return metav1.LabelSelector{MatchExpressions: r}
	}
	const legacy, rev, inject = "istio-injection", "istio.io/rev", "sidecar.istio.io/inject"
	// A name of the namespace is a label of it since Kubernetes 1.21. What runs
	// before a mesh can is never asked about.
	safe := not("kubernetes.io/metadata.name", "kube-system", "kube-public", "kube-node-lease", "local-path-storage")
	revs := append([]string{p.Rev()}, p.tags()...)
	out := []Injector{
		{"rev.namespace", sel(safe, is(rev, revs...), no(legacy)), sel(not(inject, "false"))},
		{"rev.object", sel(safe, no(rev), no(legacy)), sel(not(inject, "false"), is(rev, revs...))},
	}
	if p.Revision == "" {
		out = append(out,
			Injector{"namespace", sel(safe, is(legacy, "enabled")), sel(not(inject, "false"))},
			Injector{"object", sel(safe, no(legacy), no(rev)), sel(is(inject, "true"), no(rev))})
		if p.EveryNamespace() {
			out = append(out, Injector{"auto", sel(safe, no(legacy), no(rev)), sel(no(inject), no(rev))})
		}
	}
	return out
}

func (p *Plan) tags() (out []string) {
	list, _ := p.Values["revisionTags"].([]any)
	for _, t := range list {
		out = append(out, text(t))
	}
	return out
}

// YAML of objects, as documents.
func YAML(w io.Writer, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		b, err := yaml.Marshal(o.Object)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "---\n%s", b); err != nil {
			return err
		}
	}
	return nil
}
