package dialect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Decode fills into (a pointer to an API type) from the object. It walks the
// JSON against the type first, so that unknown fields and wrong types are told
// each with its own path. False: something has a wrong type, and the object is
// not in effect.
func Decode(r *Report, into any) bool {
	first := len(r.Notices)
	if decode(r, into) {
		return true
	}
	for i := range r.Notices[first:] {
		r.Notices[first+i].Void = true
	}
	return false
}

func decode(r *Report, into any) bool {
	dec := json.NewDecoder(bytes.NewReader(r.Object.JSON))
	dec.UseNumber()
	var top any
	if err := dec.Decode(&top); err != nil {
		r.Invalid("", "not a JSON object: %v", err)
		return false
	}
	before := r.Errors()
	w := walker{r}
	w.value(reflect.TypeOf(into).Elem(), top, "")
	if r.Errors() > before {
		return false
	}
	if err := json.Unmarshal(r.Object.JSON, into); err != nil {
		r.Invalid("", "does not fit the API: %v", err)
		return false
	}
	return true
}

// walker compares decoded JSON with Go types that follow the conventions of
// the Kubernetes API.
type walker struct{ r *Report }

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func (w walker) value(t reflect.Type, v any, path string) {
	if v == nil {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		w.custom(t, v, path)
		return
	}
	wrong := func(want string) {
		w.r.Invalid(path, "must be %s, not %s%s", want, source.Describe(v), quoteHint(want, v))
	}
	switch t.Kind() {
	case reflect.Struct:
		if m, ok := v.(map[string]any); ok {
			w.object(t, m, path)
		} else {
			wrong("an object")
		}
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			wrong("an object")
			return
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			w.value(t.Elem(), m[k], join(path, k))
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			s, ok := v.(string)
			if !ok {
				wrong("base64 text")
			} else if _, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(s)); err != nil {
				w.r.Invalid(path, "is not base64 (write plain text under stringData)")
			}
			return
		}
		l, ok := v.([]any)
		if !ok {
			wrong("a list")
			return
		}
		for i, e := range l {
			w.value(t.Elem(), e, fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			wrong("text")
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			wrong("true or false")
		}
	case reflect.Int32, reflect.Int64, reflect.Int:
		w.integer(t, v, path)
	case reflect.Float32, reflect.Float64:
		if _, ok := v.(json.Number); !ok {
			wrong("a number")
		}
	}
}

func (w walker) integer(t reflect.Type, v any, path string) {
	n, ok := v.(json.Number)
	if !ok {
		w.r.Invalid(path, "must be a number, not %s", source.Describe(v))
		return
	}
	i, err := n.Int64()
	switch {
	case err != nil:
		w.r.Invalid(path, "must be a whole number")
	case t.Kind() == reflect.Int32 && (i < math.MinInt32 || i > math.MaxInt32):
		w.r.Invalid(path, "%d is too large", i)
	}
}

// custom types read themselves (quantities, times, IntOrString).
func (w walker) custom(t reflect.Type, v any, path string) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, reflect.New(t).Interface())
	}
	if err != nil {
		w.r.Invalid(path, "%s does not fit (%s)", source.Describe(v), t.Name())
	}
}

func (w walker) object(t reflect.Type, m map[string]any, path string) {
	fields := fieldsOf(t)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		ft, ok := fields[k]
		if !ok {
			if path == "" && (k == "apiVersion" || k == "kind") {
				continue
			}
			names := make([]string, 0, len(fields))
			for n := range fields {
				names = append(names, n)
			}
			slices.Sort(names)
			w.r.Unknown(model.Warning, join(path, k), Nearest(k, names))
			continue
		}
		w.value(ft, m[k], join(path, k))
	}
}

// known remembers fieldsOf by type.
var known sync.Map // reflect.Type -> map[string]reflect.Type

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if m, ok := known.Load(t); ok {
		return m.(map[string]reflect.Type)
	}
	m := make(map[string]reflect.Type)
	collect(t, m)
	known.Store(t, m)
	return m
}

// collect gives the JSON fields of a struct, embedded ones included.
func collect(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			collect(f.Type, into)
		case name == "":
			into[f.Name] = f.Type
		default:
			into[name] = f.Type
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func quoteHint(want string, v any) string {
	if want == "text" {
		switch v.(type) {
		case json.Number, bool:
			return "; put it in quotes"
		}
	}
	return ""
}
