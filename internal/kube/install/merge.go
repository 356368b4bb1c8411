package install

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	kyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// File of input.
type File struct {
	Name string
	Text []byte
}

// Finding is about the input: a conflict, or something that is ignored. It
// stops nothing.
type Finding struct {
	File  string // empty: --set, or several
	Field string // from spec on, as spec.values.pilot.env.X
	Text  string
}

// String is one line.
func (f Finding) String() string {
	if f.File == "" {
		return f.Field + ": " + f.Text
	}
	return f.File + ": " + f.Field + ": " + f.Text
}

// tree is the merged spec of IstioOperators, with who said what and what was
// read of it.
type tree struct {
	spec     map[string]any
	by       map[string]string // leaf path to the file that said it; profiles do not count
	read     map[string]bool
	findings []Finding
}

// merge reads the files, later ones over earlier ones, then the --set words.
// The profile of the last that names one is the ground.
func merge(files []File, sets []string) (*tree, error) {
	t := &tree{spec: map[string]any{}, by: map[string]string{}, read: map[string]bool{}}
	for _, f := range files {
		docs := kyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(f.Text)))
		for n := 1; ; n++ {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = t.document(f.Name, doc)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: document %d: %w", f.Name, n, err)
			}
		}
	}
	for _, s := range sets {
		if err := t.set(s); err != nil {
			return nil, fmt.Errorf("--set %s: %w", s, err)
		}
	}
	name := "default"
	if v, ok := t.get("profile").(string); ok && v != "" {
		name = v
	}
	text, ok := profiles[name]
	if !ok {
		return nil, fmt.Errorf("there is no profile %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(profiles)), ", "))
	}
	var ground map[string]any
	if err := yaml.Unmarshal([]byte(text), &ground); err != nil {
		return nil, fmt.Errorf("BUG: profile %s: %w", name, err)
	}
	over := t.spec
	t.spec = ground
	t.lay(t.spec, over, "spec", "", false)
	return t, nil
}

func (t *tree) document(file string, doc []byte) error {
	js, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	if bytes.Equal(bytes.TrimSpace(js), []byte("null")) {
		return nil
	}
	var o struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Spec       map[string]any `json:"spec"`
	}
	if err := json.Unmarshal(js, &o); err != nil {
		return err
	}
	if o.Kind != "IstioOperator" || o.APIVersion != "install.istio.io/v1alpha1" {
		return fmt.Errorf("it is a %s of %q; want IstioOperator of install.istio.io/v1alpha1", o.Kind, o.APIVersion)
	}
	t.lay(t.spec, o.Spec, "spec", file, true)
	return nil
}

// lay over on under, which is changed. With tell, values that contradict what
// another file said are told.
func (t *tree) lay(under, over map[string]any, path, file string, tell bool) {
	for _, k := range slices.Sorted(maps.Keys(over)) {
		v, at := over[k], path+"."+k
		old, there := under[k]
		switch {
		case isMap(v) && isMap(old):
			t.lay(old.(map[string]any), v.(map[string]any), at, file, tell)
			continue
		case k == "ingressGateways" || k == "egressGateways":
			if a, ok := old.([]any); ok {
				if b, ok := v.([]any); ok {
					under[k] = t.layGateways(a, b, at, file, tell)
					continue
				}
			}
		}
		if tell {
			if there && t.by[at] != "" && !reflect.DeepEqual(old, v) {
				t.findings = append(t.findings, Finding{Field: at, Text: fmt.Sprintf("%s says %s, %s says %s: the latter holds", t.by[at], short(old), file, short(v))})
			}
			t.say(at, v, file)
		}
		under[k] = clone(v)
	}
}

// say who said every leaf of v.
func (t *tree) say(path string, v any, file string) {
	t.by[path] = file
	if m, ok := v.(map[string]any); ok {
		for k, x := range m {
			t.say(path+"."+k, x, file)
		}
	}
}

// layGateways merges lists of gateways by name.
func (t *tree) layGateways(under, over []any, path, file string, tell bool) []any {
	for _, g := range over {
		m, ok := g.(map[string]any)
		i := slices.IndexFunc(under, func(x any) bool {
			u, is := x.(map[string]any)
			return ok && is && u["name"] == m["name"] && namespaceOf(u) == namespaceOf(m)
		})
		if i < 0 {
			under = append(under, clone(g))
			continue
		}
		t.lay(under[i].(map[string]any), m, fmt.Sprintf("%s[%v]", path, m["name"]), file, tell)
	}
	return under
}

func namespaceOf(g map[string]any) string {
	if s, ok := g["namespace"].(string); ok && s != "" {
		return s
	}
	return "istio-system"
}

// set takes one --set word, path=value; the value is YAML.
func (t *tree) set(word string) error {
	path, text, ok := strings.Cut(word, "=")
	if !ok || path == "" {
		return errors.New("want PATH=VALUE")
	}
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	var at any = t.spec
	steps := steps(strings.TrimPrefix(path, "spec."))
	for i, s := range steps {
		last := i == len(steps)-1
		m, ok := at.(map[string]any)
		if !ok || s.key == "" {
			return fmt.Errorf("%s is not a field with fields", path)
		}
		if s.index < 0 {
			if last {
				m[s.key] = v
				break
			}
			if !isMap(m[s.key]) {
				m[s.key] = map[string]any{}
			}
			at = m[s.key]
			continue
		}
		list, _ := m[s.key].([]any)
		if s.index > len(list) {
			return fmt.Errorf("%s has %d items", s.key, len(list))
		}
		if s.index == len(list) {
			list = append(list, map[string]any{})
			m[s.key] = list
		}
		if last {
			list[s.index] = v
			break
		}
		at = list[s.index]
	}
	return nil
}

// step of a path: a key, or an item of the list there.
type step struct {
	key   string
	index int // -1: none
}

// steps of a.b[0].c; a dot of a key is written \.
func steps(path string) []step {
	var out []step
	for p := range strings.SplitSeq(strings.ReplaceAll(path, `\.`, "\x00"), ".") {
		s := step{strings.ReplaceAll(p, "\x00", "."), -1}
		if key, rest, ok := strings.Cut(s.key, "["); ok {
			if n, err := strconv.Atoi(strings.TrimSuffix(rest, "]")); err == nil && n >= 0 {
				s = step{key, n}
			}
		}
		out = append(out, s)
	}
	return out
}

// get a value, nil when there is none; all of it counts as read.
func (t *tree) get(path ...string) any {
	t.read["spec."+strings.Join(path, ".")] = true
	var at any = t.spec
	for _, p := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[p]
	}
	return at
}

// into decodes a value into something typed. What has no field there is not
// read.
func (t *tree) into(v any, path ...string) error {
	x := t.get(path...)
	if x == nil {
		return nil
	}
	b, err := json.Marshal(x)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("spec.%s: %w", strings.Join(path, "."), err)
	}
	return nil
}

// unread lists the leaves that nobody asked for.
func (t *tree) unread(v any, path string) {
	if t.read[path] {
		return
	}
	if m, ok := v.(map[string]any); ok && len(m) > 0 {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			t.unread(m[k], path+"."+k)
		}
		return
	}
	why := "ignored: Tulle has no use for it"
	if x, ok := known[path]; ok {
		why = "ignored: " + x
	}
	t.findings = append(t.findings, Finding{t.by[path], path, why})
}

// known are settings that people write, and why they are not needed.
var known = map[string]string{
	"spec.values.pilot.env.PILOT_PUSH_THROTTLE":  "only what changed is sent, so that pushes need no throttle",
	"spec.values.pilot.env.PILOT_TRACE_SAMPLING": "spans are not made yet",
	"spec.values.pilot.traceSampling":            "spans are not made yet",
}

func isMap(v any) bool { _, ok := v.(map[string]any); return ok }

func clone(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

func short(v any) string {
	b, err := json.Marshal(v)
	if err != nil || len(b) > 60 {
		return fmt.Sprintf("%.57s...", b)
	}
	return string(b)
}
