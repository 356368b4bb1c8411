package main

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// decoderOf writes the decode method of a message.
func (w *writer) decoderOf(m *message) {
	n := w.names[m.name]
	w.line("func (m *%s) decode(d *decoder, b []byte) *Error {", n)
	if m.desc.Fields().Len() == 0 {
		w.line("return noFields(b)\n}\n")
		return
	}
	ones := map[protoreflect.OneofDescriptor]string{}
	for i := range m.desc.Oneofs().Len() {
		if o := m.desc.Oneofs().Get(i); !o.IsSynthetic() && w.acts(m, o) {
			ones[o] = fmt.Sprintf("one%d", i)
			w.line("var one%d protowire.Number", i)
		}
	}
	w.line("for len(b) > 0 {\nnum, typ, n := protowire.ConsumeTag(b)\nif n < 0 { return malformed(n) }\nb = b[n:]\nvar err *Error\nswitch num {")
	for _, fd := range m.of(act) {
		w.line("case %d:", fd.Number())
		if v, ok := ones[fd.ContainingOneof()]; ok {
			w.line("if %s != 0 { return twice(%q) }\n%s = num", v, fd.ContainingOneof().Name(), v)
		}
		w.actOn(m, fd)
	}
	w.refuse(m)
	w.skip(m)
	w.line("default:\nreturn unknownField(num)\n}\nif err != nil { return err }\nb = b[n:]\n}\nreturn nil\n}\n")
}

func (w *writer) acts(m *message, o protoreflect.OneofDescriptor) bool {
	for i := range o.Fields().Len() {
		if m.fields[string(o.Fields().Get(i).Name())].verdict == act {
			return true
		}
	}
	return false
}

// refuse writes the cases of refused fields. A scalar without presence that
// holds its default is the same as unset.
func (w *writer) refuse(m *message) {
	for _, fd := range m.of(refuse) {
		plain := !fd.HasPresence() && !fd.IsList() && !fd.IsMap()
		w.line("case %d:\nn, err = refuse(num, typ, b, %q, %t)", fd.Number(), fd.Name(), plain)
	}
}

// skip writes the cases of harmless fields, grouped by wire type.
func (w *writer) skip(m *message) {
	groups := map[string][]string{}
	for _, fd := range m.of(harmless) {
		k := wireType(fd)
		groups[k] = append(groups[k], fmt.Sprint(fd.Number()))
	}
	for _, k := range []string{"protowire.VarintType", "protowire.BytesType", "protowire.Fixed64Type", "protowire.Fixed32Type"} {
		if g := groups[k]; len(g) > 0 {
			w.line("case %s: // harmless\nn, err = skip(num, typ, b, %s)", strings.Join(g, ", "), k)
		}
	}
}

func wireType(fd protoreflect.FieldDescriptor) string {
	if fd.IsList() {
		return "protowire.BytesType" // messages, strings, or packed
	}
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.StringKind, protoreflect.BytesKind:
		return "protowire.BytesType"
	case protoreflect.DoubleKind, protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
		return "protowire.Fixed64Type"
	case protoreflect.FloatKind, protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		return "protowire.Fixed32Type"
	}
	return "protowire.VarintType"
}

// wrappers maps the wrapper messages to their reader's name. A reader that no
// field needs is not in wire.go; the first such field asks for it there.
var wrappers = map[protoreflect.FullName]string{
	"google.protobuf.BoolValue":   "boolValue",
	"google.protobuf.UInt32Value": "uint32Value",
	"google.protobuf.UInt64Value": "uint64Value",
	"google.protobuf.Int32Value":  "int32Value",
	"google.protobuf.Int64Value":  "int64Value",
	"google.protobuf.DoubleValue": "doubleValue",
	"google.protobuf.FloatValue":  "floatValue",
	"google.protobuf.StringValue": "stringValue",
	"google.protobuf.Duration":    "duration",
	"google.protobuf.Empty":       "empty",
}

// actOn writes the body of an acted field's case.
func (w *writer) actOn(m *message, fd protoreflect.FieldDescriptor) {
	f, name := "m."+goField(fd), string(fd.Name())
	set := m.fields[name].set
	switch {
	case fd.IsMap():
		w.actOnMap(fd, f, set)
	case fd.IsList():
		w.actOnList(fd, f, set)
	case fd.Message() == nil:
		w.scalar(fd, f)
	default:
		w.line("if %s != nil { return twice(%q) }", f, name)
		switch t := fd.Message().FullName(); {
		case t == "google.protobuf.Any":
			w.line("%s, n, err = d.any(typ, b, %q, -1, %s, %t)", f, name, setFunc(set), w.sets[set].optional)
		case t == "google.protobuf.Struct":
			w.line("%s, n, err = d.structure(typ, b, %q)", f, name)
		case t == "google.protobuf.Value":
			w.line("%s, n, err = d.value(typ, b, %q)", f, name)
		case wrappers[t] != "":
			w.line("%s, n, err = d.%s(typ, b, %q)", f, wrappers[t], name)
		case wellKnown[t] != "":
			w.fail("%s: %s is not supported here", fd.FullName(), t)
		default:
			w.line("%s = new(%s)\nn, err = d.sub(%s, typ, b, %q, -1)", f, w.names[t], f, name)
		}
	}
}

func (w *writer) actOnMap(fd protoreflect.FieldDescriptor, f, set string) {
	name := string(fd.Name())
	if fd.MapKey().Kind() != protoreflect.StringKind || fd.MapValue().Message() == nil && fd.MapValue().Kind() != protoreflect.StringKind {
		w.fail("%s: only maps from string to string or message are supported", fd.FullName())
		return
	}
	w.line("var k string\nvar v []byte\nk, v, n, err = d.entry(typ, b, %q)\nif err != nil { return err }", name)
	w.line("if %s == nil { %s = map[string]%s{} }", f, f, w.elemType(fd.MapValue()))
	w.line("if _, dup := %s[k]; dup { return twice(%q).key(k) }", f, name)
	w.line("at := %q + strconv.Quote(k) + \"]\"", name+"[")
	switch t := valueName(fd); {
	case t == "":
		w.line("%s[k], err = d.text(v, at)", f)
	case t == "google.protobuf.Any":
		w.line("%s[k], err = d.anyValue(v, at, %s, %t)", f, setFunc(set), w.sets[set].optional)
	case t == "google.protobuf.Struct":
		w.line("%s[k], err = d.structValue(v, at)", f)
	case wellKnown[t] != "":
		w.fail("%s: a map of %s is not supported", fd.FullName(), t)
	default:
		w.line("e := new(%s)\n%s[k] = e\nerr = d.message(e, v, at)", w.names[t], f)
	}
}

func (w *writer) actOnList(fd protoreflect.FieldDescriptor, f, set string) {
	name := string(fd.Name())
	switch t := valueName(fd); {
	case t == "google.protobuf.Any":
		w.line("var e *Any\ne, n, err = d.any(typ, b, %q, len(%s), %s, %t)\n%s = append(%s, e)", name, f, setFunc(set), w.sets[set].optional, f, f)
	case t == "" && slices.Contains([]protoreflect.Kind{protoreflect.StringKind, protoreflect.BytesKind}, fd.Kind()):
		fn := map[bool]string{true: "str", false: "bytes"}[fd.Kind() == protoreflect.StringKind]
		w.line("var e %s\ne, n, err = d.%s(typ, b, %q)\nif err != nil { return err.index(%q, len(%s)) }\n%s = append(%s, e)", w.elemType(fd), fn, name, name, f, f, f)
	case t == "":
		w.packed(fd, f)
	case wellKnown[t] != "":
		w.fail("%s: a list of %s is not supported", fd.FullName(), t)
	default:
		w.line("e := new(%s)\nn, err = d.sub(e, typ, b, %q, len(%s))\n%s = append(%s, e)", w.names[t], name, f, f, f)
	}
}

// packed writes a repeated varint, packed or not.
func (w *writer) packed(fd protoreflect.FieldDescriptor, f string) {
	check := ""
	switch fd.Kind() {
	case protoreflect.EnumKind:
		check = fmt.Sprintf("if !known%s(int32(v)) { return unknownValue(v).index(%q, len(%s)) }\n", w.names[fd.Enum().FullName()], fd.Name(), f)
	case protoreflect.BoolKind:
		w.fail("%s: repeated bool is not supported", fd.FullName())
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		w.fail("%s: repeated floats are not supported", fd.FullName())
	}
	w.line("n, err = d.varints(typ, b, %q, func(v uint64) *Error {\n%s%s = append(%s, %s(v))\nreturn nil\n})", fd.Name(), check, f, f, w.elemType(fd))
}

// scalar writes a singular scalar; members of oneofs and optional fields
// become pointers.
func (w *writer) scalar(fd protoreflect.FieldDescriptor, f string) {
	name := string(fd.Name())
	ptr := strings.HasPrefix(w.fieldType(fd), "*")
	var call, conv string
	switch fd.Kind() {
	case protoreflect.StringKind:
		call = "str"
	case protoreflect.BytesKind:
		call = "bytes"
	case protoreflect.BoolKind:
		call = "boolean"
	case protoreflect.DoubleKind:
		call = "double"
	case protoreflect.FloatKind:
		call = "float"
	case protoreflect.EnumKind:
		call, conv = "enum", w.names[fd.Enum().FullName()]
	default:
		call, conv = "varint", w.elemType(fd)
	}
	args := fmt.Sprintf("typ, b, %q", name)
	if call == "enum" {
		args += ", known" + conv
	}
	if conv == "" && !ptr {
		w.line("%s, n, err = d.%s(%s)", f, call, args)
		return
	}
	raw := map[string]string{"enum": "int32", "varint": "uint64", "str": "string", "boolean": "bool", "double": "float64", "float": "float32"}[call]
	w.line("var v %s\nv, n, err = d.%s(%s)", raw, call, args)
	val := "v"
	if conv != "" && conv != raw {
		val = conv + "(v)"
	}
	if ptr {
		w.line("p := %s\n%s = &p", val, f)
	} else {
		w.line("%s = %s", f, val)
	}
}
