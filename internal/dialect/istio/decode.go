package istio

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

// decode fills m from the object's spec. It walks the JSON against the message
// first, so that every unknown field, wrong type, deprecated and unsupported
// field is told with its own path, and only what fits reaches m. It returns
// false when something has a wrong type or the spec is missing: then the
// object is not in effect (and m holds what did fit).
func (r *reading) decode(m proto.Message) bool {
	dec := json.NewDecoder(bytes.NewReader(r.Object.JSON))
	dec.UseNumber()
	var top map[string]any
	if err := dec.Decode(&top); err != nil {
		r.Invalid("", "not a JSON object: %v", err)
		return false
	}
	desc := m.ProtoReflect().Descriptor()
	ok := r.strays(top, desc)
	spec, given := top["spec"]
	if !given || spec == nil {
		r.hurt("spec")
		r.Invalid("spec", "spec is missing or empty")
		return false
	}
	w := walker{r: r}
	clean, good := w.message(desc, spec, "spec")
	if !good {
		r.hurt("spec")
		return false
	}
	text, err := json.Marshal(clean)
	if err == nil {
		err = protojson.Unmarshal(text, m)
	}
	if err != nil {
		r.hurt("spec")
		r.Invalid("spec", "does not fit the API: %v", err)
		return false
	}
	return ok && !w.bad
}

// strays tells of fields beside spec. One that belongs into spec makes the
// object invalid: its rules would silently be missing.
func (r *reading) strays(top map[string]any, desc protoreflect.MessageDescriptor) bool {
	ok := true
	for _, k := range slices.Sorted(maps.Keys(top)) {
		switch k {
		case "apiVersion", "kind", "metadata", "spec", "status":
			continue
		}
		if desc.Fields().ByJSONName(k) != nil {
			r.hurt("spec." + k)
			r.Add(model.Error, model.UnknownField, k, "%s belongs into spec: indent it by two spaces more than spec", k)
			ok = false
			continue
		}
		r.Unknown(model.Warning, k, dialect.Nearest(k, []string{"spec", "metadata"}))
	}
	return ok
}

// walker checks decoded JSON against message descriptors and returns what is
// good in the form that protojson reads.
type walker struct {
	r     *reading
	bad   bool // something had a wrong type
	quiet int  // depth inside fields that are not acted on at all
}

func (w *walker) wrong(path, format string, args ...any) (any, bool) {
	w.bad = true
	w.r.hurt(path)
	w.r.Invalid(path, format, args...)
	return nil, false
}

// message gives false when the value cannot be used at all.
func (w *walker) message(desc protoreflect.MessageDescriptor, v any, path string) (any, bool) {
	if strings.HasPrefix(string(desc.FullName()), "google.protobuf.") {
		return w.wellKnown(desc, v, path)
	}
	in, ok := v.(map[string]any)
	if !ok {
		return w.wrong(path, "must be an object, not %s", describe(v))
	}
	out := make(map[string]any, len(in))
	chosen := make(map[protoreflect.FullName]string)
	for _, key := range slices.Sorted(maps.Keys(in)) {
		val, at := in[key], path+"."+key
		fd := desc.Fields().ByJSONName(key)
		if fd == nil {
			w.r.hurt(at)
			sev, part := unknownSeverity(desc)
			if part {
				w.r.partial++
			}
			w.r.Unknown(sev, at, hint(desc, key))
			continue
		}
		if val == nil { // an API server drops null
			continue
		}
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other, twice := chosen[one.FullName()]; twice {
				w.wrong(at, "%s and %s exclude each other", other, key)
				continue
			}
			chosen[one.FullName()] = key
		}
		acts := supported(fd)
		if !acts {
			if w.quiet == 0 {
				w.r.Unsupported(at, "%s is not acted on yet%s", key, consequence(fd))
			}
			w.quiet++
		}
		if opts, _ := fd.Options().(*descriptorpb.FieldOptions); opts.GetDeprecated() && w.quiet == 0 {
			w.r.Add(model.Warning, model.Deprecated, at, "%s is an old spelling%s", key, instead(fd))
		}
		if good, ok := w.field(fd, val, at); ok {
			out[key] = good
		}
		if !acts {
			w.quiet--
		}
	}
	return out, true
}

// maxEntries of one list or map, far above what an API server would hold.
const maxEntries = 10_000

// emptyList holds messages in which an empty list and a missing one look alike
// but are hardly meant to be: "principals: []" is not "anyone".
var emptyList = map[protoreflect.FullName]bool{
	"istio.security.v1beta1.Rule": true, "istio.security.v1beta1.Source": true,
	"istio.security.v1beta1.Operation": true, "istio.security.v1beta1.Condition": true,
}

func (w *walker) field(fd protoreflect.FieldDescriptor, v any, path string) (any, bool) {
	switch {
	case fd.IsMap():
		in, ok := v.(map[string]any)
		if !ok {
			return w.wrong(path, "must be an object, not %s", describe(v))
		}
		if len(in) > maxEntries {
			return w.wrong(path, "has more than %d entries", maxEntries)
		}
		out := make(map[string]any, len(in))
		for _, k := range slices.Sorted(maps.Keys(in)) {
			at := path + "." + k
			if fd.MapKey().Kind() != protoreflect.StringKind {
				if _, err := strconv.ParseUint(k, 10, 32); err != nil {
					w.wrong(at, "%q must be a number", k)
					continue
				}
			}
			if in[k] == nil {
				if fd.MapValue().Kind() == protoreflect.MessageKind {
					out[k] = map[string]any{} // a header that must be present
				} else {
					w.wrong(at, "has no value")
				}
				continue
			}
			if good, ok := w.single(fd.MapValue(), in[k], at); ok {
				out[k] = good
			}
		}
		return out, true
	case fd.IsList():
		in, ok := v.([]any)
		if !ok {
			return w.wrong(path, "must be a list, not %s", describe(v))
		}
		if len(in) > maxEntries {
			return w.wrong(path, "has more than %d entries", maxEntries)
		}
		if len(in) == 0 && emptyList[fd.ContainingMessage().FullName()] {
			return w.wrong(path, "is an empty list; leave it out, or list what is meant")
		}
		out := make([]any, 0, len(in))
		for i, e := range in {
			good, ok := w.single(fd, e, fmt.Sprintf("%s[%d]", path, i))
			if !ok {
				// A scalar that is left out would change what the list means; a
				// message keeps its place so that the others keep their index.
				if fd.Kind() != protoreflect.MessageKind {
					return nil, false
				}
				good = map[string]any{}
			}
			out = append(out, good)
		}
		return out, true
	}
	return w.single(fd, v, path)
}

func (w *walker) single(fd protoreflect.FieldDescriptor, v any, path string) (any, bool) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if v == nil {
			v = map[string]any{}
		}
		return w.message(fd.Message(), v, path)
	case protoreflect.StringKind:
		if s, ok := v.(string); ok {
			return s, true
		}
		return w.wrong(path, "must be text, not %s%s", describe(v), quoteHint(v))
	case protoreflect.BoolKind:
		if b, ok := v.(bool); ok {
			return b, true
		}
		return w.wrong(path, "must be true or false, not %s", describe(v))
	case protoreflect.EnumKind:
		return w.enum(fd.Enum(), v, path)
	case protoreflect.BytesKind:
		if s, ok := v.(string); ok {
			if _, err := base64.StdEncoding.DecodeString(s); err == nil {
				return s, true
			}
		}
		return w.wrong(path, "must be base64")
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		if n, ok := v.(json.Number); ok {
			if f, err := n.Float64(); err == nil {
				return f, true
			}
		}
		return w.wrong(path, "must be a number, not %s", describe(v))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return w.integer(v, path, math.MinInt32, math.MaxInt32)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return w.integer(v, path, 0, math.MaxUint32)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return w.integer(v, path, 0, math.MaxInt64)
	}
	return w.integer(v, path, math.MinInt64, math.MaxInt64)
}

func (w *walker) integer(v any, path string, low, high int64) (any, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return w.wrong(path, "must be a number, not %s", describe(v))
	}
	i, err := n.Int64()
	if err != nil {
		f, ferr := n.Float64()
		if ferr != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return w.wrong(path, "must be a whole number, not %s", n)
		}
		i = int64(f)
	}
	if i < low || i > high {
		return w.wrong(path, "%d is not within %d and %d", i, low, high)
	}
	return json.Number(strconv.FormatInt(i, 10)), true
}

func (w *walker) enum(desc protoreflect.EnumDescriptor, v any, path string) (any, bool) {
	var names []string
	for i := range desc.Values().Len() {
		names = append(names, string(desc.Values().Get(i).Name()))
	}
	s, ok := v.(string)
	if !ok {
		return w.wrong(path, "must be one of %s, not %s", strings.Join(names, ", "), describe(v))
	}
	val := desc.Values().ByName(protoreflect.Name(s))
	if val == nil {
		if near := dialect.Nearest(s, names); near != "" {
			return w.wrong(path, "%q is not one of %s; is %s meant?", s, strings.Join(names, ", "), near)
		}
		return w.wrong(path, "%q is not one of %s", s, strings.Join(names, ", "))
	}
	if opts, _ := val.Options().(*descriptorpb.EnumValueOptions); opts.GetDeprecated() {
		w.r.Add(model.Warning, model.Deprecated, path, "%s is an old spelling%s", s, insteadOfValue[s])
	}
	return s, true
}

// wellKnown values have a JSON form of their own. Durations are read as Go
// writes them ("24h", "500ms"), as Istio does, not only in seconds.
func (w *walker) wellKnown(desc protoreflect.MessageDescriptor, v any, path string) (any, bool) {
	switch desc.FullName() {
	case "google.protobuf.Duration":
		s, ok := v.(string)
		if !ok {
			return w.wrong(path, "must be a duration as 5s or 1m30s, not %s", describe(v))
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return w.wrong(path, "%q is not a duration as 500ms, 5s or 1m30s", s)
		}
		sign := ""
		if d < 0 {
			sign, d = "-", -d
		}
		return fmt.Sprintf("%s%d.%09ds", sign, d/time.Second, d%time.Second), true
	case "google.protobuf.BoolValue", "google.protobuf.UInt32Value", "google.protobuf.DoubleValue",
		"google.protobuf.StringValue", "google.protobuf.Int32Value", "google.protobuf.UInt64Value", "google.protobuf.Int64Value":
		return w.single(desc.Fields().ByName("value"), v, path)
	}
	return w.wrong(path, "cannot be read (%s)", desc.FullName())
}

// unknownSeverity is Error where leaving a field out would widen what the part
// around it matches; part is set when only that part is then out of effect.
func unknownSeverity(desc protoreflect.MessageDescriptor) (sev model.Severity, part bool) {
	switch desc.Name() {
	case "HTTPMatchRequest", "TLSMatchAttributes", "L4MatchAttributes", "StringMatch":
		return model.Error, true
	case "WorkloadSelector":
		return model.Error, false
	}
	if desc.ParentFile().Package() == "istio.security.v1beta1" {
		return model.Error, false
	}
	return model.Warning, false
}

// hint names the field that was probably meant.
func hint(desc protoreflect.MessageDescriptor, key string) string {
	var names []string
	for i := range desc.Fields().Len() {
		names = append(names, desc.Fields().Get(i).JSONName())
	}
	slices.Sort(names)
	return dialect.Nearest(key, names)
}

func quoteHint(v any) string {
	switch v.(type) {
	case json.Number, bool:
		return "; put it in quotes"
	}
	return ""
}

// describe says what a JSON value is, in the user's words.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		if r := []rune(v); len(r) > 40 {
			return "the text " + strconv.Quote(string(r[:40])) + "…"
		}
		return "the text " + strconv.Quote(v)
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		return "the number " + v.String()
	}
	return "something else"
}
