// Package wire decodes the Envoy v3 messages that the proxy acts on.
//
// In: one resource's bytes. Out: plain Go structs with only the fields acted
// on, or an *Error with the path of what is not understood: an unknown field,
// enum value, oneof member or extension, a field that fields.txt refuses, or a
// malformed encoding. Fields that fields.txt calls harmless are skipped.
//
// wire_gen.go is written by internal/gen/xdswire. This file holds what all
// decoders share. Decoded values do not alias the input.
//
// What does not belong here: meaning, defaults, validation (see conf).
package wire

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds on one resource.
const (
	MaxBytes    = 16 << 20 // encoded size
	maxDepth    = 64       // nested messages
	maxMessages = 1 << 19  // messages, map entries and struct values altogether
)

// Error says what in a resource is not understood, and where.
type Error struct {
	Path string // as in "filter_chains[0].filters[1].typed_config"; empty: the resource
	Text string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Text
	}
	return e.Path + ": " + e.Text
}

// in puts a field before the path.
func (e *Error) in(name string) *Error {
	switch {
	case e.Path == "":
		e.Path = name
	case e.Path[0] == '[':
		e.Path = name + e.Path
	default:
		e.Path = name + "." + e.Path
	}
	return e
}

func (e *Error) index(name string, i int) *Error {
	if i < 0 {
		return e.in(name)
	}
	if e.Path == name { // a scalar's reader has named it already
		e.Path = ""
	}
	return e.in(name + "[" + strconv.Itoa(i) + "]")
}

func (e *Error) key(k string) *Error {
	e.Path += "[" + strconv.Quote(k) + "]"
	return e
}

func malformed(n int) *Error { return &Error{Text: "malformed: " + protowire.ParseError(n).Error()} }

func twice(name string) *Error {
	return &Error{name, "set twice"}
}

func unknownField(num protowire.Number) *Error {
	return &Error{Text: fmt.Sprintf("field number %d is not known", num)}
}

func unknownValue(v uint64) *Error {
	return &Error{Text: fmt.Sprintf("enum value %d is not known", int32(v))}
}

func wrongType(typ protowire.Type) *Error {
	return &Error{Text: fmt.Sprintf("malformed: wire type %d does not fit", typ)}
}

// Any is a decoded extension. Msg is a pointer to one of this package's
// messages; nil where the type is not known and its place allows that.
type Any struct {
	URL string
	Msg any
}

type message interface {
	decode(d *decoder, b []byte) *Error
}

// decoder carries the bounds of one resource.
type decoder struct{ depth, left int }

func decodeRoot(m message, b []byte) error {
	if len(b) > MaxBytes {
		return &Error{Text: fmt.Sprintf("larger than %d bytes", MaxBytes)}
	}
	d := &decoder{left: maxMessages}
	if err := m.decode(d, b); err != nil {
		return err
	}
	return nil
}

// enter and leave bracket one nested message.
func (d *decoder) enter() *Error {
	if d.depth++; d.depth > maxDepth {
		return &Error{Text: fmt.Sprintf("nested deeper than %d messages", maxDepth)}
	}
	if d.left--; d.left < 0 {
		return &Error{Text: fmt.Sprintf("more than %d messages", maxMessages)}
	}
	return nil
}

func (d *decoder) leave() { d.depth-- }

// raw reads a length-delimited field without copying.
func raw(typ protowire.Type, b []byte) ([]byte, int, *Error) {
	if typ != protowire.BytesType {
		return nil, 0, wrongType(typ)
	}
	v, n := protowire.ConsumeBytes(b)
	if n < 0 {
		return nil, 0, malformed(n)
	}
	return v, n, nil
}

// message decodes v into m and names it in errors.
func (d *decoder) message(m message, v []byte, at string) *Error {
	err := d.enter()
	if err == nil {
		err = m.decode(d, v)
	}
	d.leave()
	if err != nil {
		return err.in(at)
	}
	return nil
}

// sub decodes a message field; i is its index in a list, or -1.
func (d *decoder) sub(m message, typ protowire.Type, b []byte, name string, i int) (int, *Error) {
	v, n, err := raw(typ, b)
	if err == nil {
		if err = d.enter(); err == nil {
			err = m.decode(d, v)
		}
		d.leave()
	}
	if err != nil {
		return 0, err.index(name, i)
	}
	return n, nil
}

func (d *decoder) str(typ protowire.Type, b []byte, name string) (string, int, *Error) {
	v, n, err := raw(typ, b)
	if err == nil && !utf8.Valid(v) {
		err = &Error{Text: "not valid UTF-8"}
	}
	if err != nil {
		return "", 0, err.in(name)
	}
	return string(v), n, nil
}

func (d *decoder) bytes(typ protowire.Type, b []byte, name string) ([]byte, int, *Error) {
	v, n, err := raw(typ, b)
	if err != nil {
		return nil, 0, err.in(name)
	}
	return append(make([]byte, 0, len(v)), v...), n, nil
}

func (d *decoder) varint(typ protowire.Type, b []byte, name string) (uint64, int, *Error) {
	if typ != protowire.VarintType {
		return 0, 0, wrongType(typ).in(name)
	}
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, 0, malformed(n).in(name)
	}
	return v, n, nil
}

func (d *decoder) boolean(typ protowire.Type, b []byte, name string) (bool, int, *Error) {
	v, n, err := d.varint(typ, b, name)
	return v != 0, n, err
}

func (d *decoder) enum(typ protowire.Type, b []byte, name string, known func(int32) bool) (int32, int, *Error) {
	v, n, err := d.varint(typ, b, name)
	if err == nil && !known(int32(v)) {
		err = unknownValue(v).in(name)
	}
	return int32(v), n, err
}

func (d *decoder) double(typ protowire.Type, b []byte, name string) (float64, int, *Error) {
	if typ != protowire.Fixed64Type {
		return 0, 0, wrongType(typ).in(name)
	}
	v, n := protowire.ConsumeFixed64(b)
	if n < 0 {
		return 0, 0, malformed(n).in(name)
	}
	return math.Float64frombits(v), n, nil
}

// varints reads a repeated varint field, packed or single.
func (d *decoder) varints(typ protowire.Type, b []byte, name string, add func(uint64) *Error) (int, *Error) {
	if typ == protowire.VarintType {
		v, n, err := d.varint(typ, b, name)
		if err == nil {
			err = add(v)
		}
		return n, err
	}
	p, n, err := raw(typ, b)
	if err != nil {
		return 0, err.in(name)
	}
	for len(p) > 0 {
		v, k := protowire.ConsumeVarint(p)
		if k < 0 {
			return 0, malformed(k).in(name)
		}
		if err := add(v); err != nil {
			return 0, err
		}
		p = p[k:]
	}
	return n, nil
}

// entry reads one entry of a map from string to a length-delimited value.
func (d *decoder) entry(typ protowire.Type, b []byte, name string) (key string, val []byte, n int, err *Error) {
	p, n, err := raw(typ, b)
	if err != nil {
		return "", nil, 0, err.in(name)
	}
	if d.left--; d.left < 0 {
		return "", nil, 0, &Error{name, fmt.Sprintf("more than %d messages", maxMessages)}
	}
	var seen [3]bool
	for len(p) > 0 {
		num, t, k := protowire.ConsumeTag(p)
		if k < 0 {
			return "", nil, 0, malformed(k).in(name)
		}
		v, l, err := raw(t, p[k:])
		if err == nil && (num < 1 || num > 2) {
			err = unknownField(num)
		} else if err == nil && seen[num] {
			err = &Error{Text: "malformed: map entry"}
		} else if err == nil && num == 1 && !utf8.Valid(v) {
			err = &Error{Text: "not valid UTF-8"}
		}
		if err != nil {
			return "", nil, 0, err.in(name)
		}
		if seen[num] = true; num == 1 {
			key = string(v)
		} else {
			val = v
		}
		p = p[k+l:]
	}
	return key, val, n, nil
}

// refuse reports a field that the proxy does not honour. plain: a default
// value is the same as an absent one.
func refuse(num protowire.Number, typ protowire.Type, b []byte, name string, plain bool) (int, *Error) {
	n := protowire.ConsumeFieldValue(num, typ, b)
	if n < 0 {
		return 0, malformed(n).in(name)
	}
	if plain && (typ == protowire.BytesType && n == 1 || typ != protowire.BytesType && zero(b[:n])) {
		return n, nil
	}
	return 0, &Error{name, "not supported"}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 && c != 0x80 {
			return false
		}
	}
	return true
}

// skip passes over a harmless field. Repeated scalars may come unpacked.
func skip(num protowire.Number, typ protowire.Type, b []byte, want protowire.Type) (int, *Error) {
	if typ != want && want != protowire.BytesType {
		return 0, wrongType(typ)
	}
	n := protowire.ConsumeFieldValue(num, typ, b)
	if n < 0 {
		return 0, malformed(n)
	}
	return n, nil
}

// typePrefix is the only one that xDS uses in type URLs.
const typePrefix = "type.googleapis.com/"

// any decodes a google.protobuf.Any field through its set's constructor.
func (d *decoder) any(typ protowire.Type, b []byte, name string, i int, known func(string) message, optional bool) (*Any, int, *Error) {
	v, n, err := raw(typ, b)
	if err != nil {
		return nil, 0, err.index(name, i)
	}
	a, err := d.anyMessage(v, known, optional)
	if err != nil {
		return nil, 0, err.index(name, i)
	}
	return a, n, nil
}

func (d *decoder) anyValue(v []byte, at string, known func(string) message, optional bool) (*Any, *Error) {
	a, err := d.anyMessage(v, known, optional)
	if err != nil {
		return nil, err.in(at)
	}
	return a, nil
}

func (d *decoder) anyMessage(b []byte, known func(string) message, optional bool) (*Any, *Error) {
	a := new(Any)
	var val []byte
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, malformed(n)
		}
		b = b[n:]
		var err *Error
		switch num {
		case 1:
			a.URL, n, err = d.str(typ, b, "type_url")
		case 2:
			val, n, err = raw(typ, b)
		default:
			return nil, unknownField(num)
		}
		if err != nil {
			return nil, err
		}
		b = b[n:]
	}
	name, ok := strings.CutPrefix(a.URL, typePrefix)
	var m message
	if ok {
		m = known(name)
	}
	if m == nil {
		if optional {
			return a, nil
		}
		return nil, &Error{Text: fmt.Sprintf("extension %q is not known here", a.URL)}
	}
	err := d.enter()
	if err == nil {
		err = m.decode(d, val)
	}
	d.leave()
	if err != nil {
		return nil, err
	}
	a.Msg = m
	return a, nil
}

// maxSeconds keeps a duration within time.Duration.
const maxSeconds = 9_000_000_000

func (d *decoder) duration(typ protowire.Type, b []byte, name string) (*time.Duration, int, *Error) {
	p, n, err := raw(typ, b)
	if err != nil {
		return nil, 0, err.in(name)
	}
	var sec, nanos int64
	err = fields(p, func(num protowire.Number, typ protowire.Type, b []byte) (k int, err *Error) {
		var v uint64
		switch num {
		case 1:
			v, k, err = d.varint(typ, b, "seconds")
			sec = int64(v)
		case 2:
			v, k, err = d.varint(typ, b, "nanos")
			nanos = int64(int32(v))
		default:
			err = unknownField(num)
		}
		return k, err
	})
	if err == nil && (sec > maxSeconds || sec < -maxSeconds || nanos <= -1e9 || nanos >= 1e9 || sec > 0 && nanos < 0 || sec < 0 && nanos > 0) {
		err = &Error{Text: "duration out of range"}
	}
	if err != nil {
		return nil, 0, err.in(name)
	}
	v := time.Duration(sec)*time.Second + time.Duration(nanos)
	return &v, n, nil
}

// fields calls f for each field of a small message.
func fields(b []byte, f func(protowire.Number, protowire.Type, []byte) (int, *Error)) *Error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(n)
		}
		k, err := f(num, typ, b[n:])
		if err != nil {
			return err
		}
		b = b[n+k:]
	}
	return nil
}

// noFields checks a message that has none.
func noFields(b []byte) *Error {
	return fields(b, func(num protowire.Number, _ protowire.Type, _ []byte) (int, *Error) {
		return 0, unknownField(num)
	})
}

// wrapper reads a message whose field 1 is the value.
func wrapper(typ protowire.Type, b []byte, name string, f func(protowire.Type, []byte) (int, *Error)) (int, *Error) {
	p, n, err := raw(typ, b)
	if err == nil {
		err = fields(p, func(num protowire.Number, typ protowire.Type, b []byte) (int, *Error) {
			if num != 1 {
				return 0, unknownField(num)
			}
			return f(typ, b)
		})
	}
	if err != nil {
		return 0, err.in(name)
	}
	return n, nil
}

func (d *decoder) boolValue(typ protowire.Type, b []byte, name string) (*bool, int, *Error) {
	v := new(bool)
	n, err := wrapper(typ, b, name, func(t protowire.Type, b []byte) (n int, err *Error) {
		*v, n, err = d.boolean(t, b, "value")
		return n, err
	})
	return v, n, err
}

func (d *decoder) uint64Value(typ protowire.Type, b []byte, name string) (*uint64, int, *Error) {
	v := new(uint64)
	n, err := wrapper(typ, b, name, func(t protowire.Type, b []byte) (n int, err *Error) {
		*v, n, err = d.varint(t, b, "value")
		return n, err
	})
	return v, n, err
}

func (d *decoder) uint32Value(typ protowire.Type, b []byte, name string) (*uint32, int, *Error) {
	v, n, err := d.uint64Value(typ, b, name)
	u := uint32(*v)
	return &u, n, err
}

// structure reads a google.protobuf.Struct field.
func (d *decoder) structure(typ protowire.Type, b []byte, name string) (map[string]any, int, *Error) {
	v, n, err := raw(typ, b)
	if err != nil {
		return nil, 0, err.in(name)
	}
	s, err := d.structValue(v, name)
	return s, n, err
}

func (d *decoder) structValue(b []byte, at string) (map[string]any, *Error) {
	s := map[string]any{}
	err := d.enter()
	if err == nil {
		err = fields(b, func(num protowire.Number, typ protowire.Type, b []byte) (int, *Error) {
			if num != 1 {
				return 0, unknownField(num)
			}
			k, v, n, err := d.entry(typ, b, "fields")
			if err != nil {
				return 0, err
			}
			if _, dup := s[k]; dup {
				return 0, twice("fields").key(k)
			}
			s[k], err = d.anyJSON(v)
			if err != nil {
				return 0, err.in(k)
			}
			return n, nil
		})
	}
	d.leave()
	if err != nil {
		return nil, err.in(at)
	}
	return s, nil
}

// value reads a google.protobuf.Value field.
func (d *decoder) value(typ protowire.Type, b []byte, name string) (any, int, *Error) {
	v, n, err := raw(typ, b)
	if err == nil {
		var j any
		if j, err = d.anyJSON(v); err == nil {
			return j, n, nil
		}
	}
	return nil, 0, err.in(name)
}

// anyJSON decodes a google.protobuf.Value: nil, float64, string, bool,
// map[string]any or []any.
func (d *decoder) anyJSON(b []byte) (v any, err *Error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	set := false
	err = fields(b, func(num protowire.Number, typ protowire.Type, b []byte) (n int, err *Error) {
		if set {
			return 0, twice("kind")
		}
		set = true
		switch num {
		case 1:
			_, n, err = d.varint(typ, b, "null_value")
		case 2:
			v, n, err = d.double(typ, b, "number_value")
		case 3:
			v, n, err = d.str(typ, b, "string_value")
		case 4:
			v, n, err = d.boolean(typ, b, "bool_value")
		case 5:
			v, n, err = d.structure(typ, b, "struct_value")
		case 6:
			v, n, err = d.list(typ, b)
		default:
			err = unknownField(num)
		}
		return n, err
	})
	return v, err
}

func (d *decoder) list(typ protowire.Type, b []byte) ([]any, int, *Error) {
	p, n, err := raw(typ, b)
	if err != nil {
		return nil, 0, err
	}
	l := []any{}
	err = fields(p, func(num protowire.Number, typ protowire.Type, b []byte) (int, *Error) {
		if num != 1 {
			return 0, unknownField(num)
		}
		v, n, err := d.value(typ, b, "values")
		l = append(l, v)
		return n, err
	})
	return l, n, err
}
