package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// roots pairs each root of the table with its decoder.
var roots = map[protoreflect.FullName]func([]byte) (any, error){
	"envoy.config.listener.v3.Listener":                func(b []byte) (any, error) { return wire.DecodeListener(b) },
	"envoy.config.route.v3.RouteConfiguration":         func(b []byte) (any, error) { return wire.DecodeRouteConfiguration(b) },
	"envoy.config.cluster.v3.Cluster":                  func(b []byte) (any, error) { return wire.DecodeCluster(b) },
	"envoy.config.endpoint.v3.ClusterLoadAssignment":   func(b []byte) (any, error) { return wire.DecodeClusterLoadAssignment(b) },
	"envoy.extensions.transport_sockets.tls.v3.Secret": func(b []byte) (any, error) { return wire.DecodeSecret(b) },
}

func loadTable(t testing.TB) *table {
	t.Helper()
	_, here, _, _ := runtime.Caller(0) // a fuzzer runs elsewhere
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../proxy/conf/wire/fields.txt"))
	if err != nil {
		t.Fatal(err)
	}
	tab, err := parseTable(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// TestGeneratedIsCurrent keeps the checked-in decoders and the table together.
func TestGeneratedIsCurrent(t *testing.T) {
	code, err := generate(loadTable(t))
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../proxy/conf/wire/wire_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(code) != string(have) {
		t.Error("wire_gen.go is not what fields.txt says; run make gen")
	}
}

// maker makes random messages of acted (and harmless) fields.
type maker struct {
	*rand.Rand
	t        *table
	harmless bool
	set      int  // acted fields set so far
	strange  bool // extensions may be of types that are not known
}

func (m *maker) message(name protoreflect.FullName, depth int) protoreflect.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		panic(err)
	}
	msg := mt.New()
	m.fill(msg, depth)
	return msg
}

func (m *maker) fill(msg protoreflect.Message, depth int) {
	switch v := msg.Interface().(type) {
	case *durationpb.Duration:
		v.Seconds, v.Nanos = m.Int64N(1e6), m.Int32N(1e9)
		return
	case *structpb.Struct:
		v.Fields = map[string]*structpb.Value{"k": structpb.NewStringValue(m.word()), "n": structpb.NewNumberValue(1.5), "b": structpb.NewBoolValue(true), "z": structpb.NewNullValue()}
		if depth > 0 {
			l, _ := structpb.NewList([]any{"a", 1.0, map[string]any{"x": "y"}})
			v.Fields["l"] = structpb.NewListValue(l)
		}
		return
	}
	entry := m.t.messages[msg.Descriptor().FullName()]
	fs := msg.Descriptor().Fields()
	done := map[protoreflect.OneofDescriptor]bool{}
	for _, i := range m.Perm(fs.Len()) {
		fd := fs.Get(i)
		r := rule{verdict: act} // wrappers
		if entry != nil {
			r = entry.fields[string(fd.Name())]
		}
		if o := fd.ContainingOneof(); r.verdict == refuse || done[o] && o != nil || r.verdict == harmless && (!m.harmless || fd.Message() != nil) {
			continue
		}
		if m.IntN(3) == 0 || fd.Message() != nil && depth <= 0 && fd.ContainingOneof() == nil {
			continue
		}
		if depth < -4 && fd.Message() != nil && wellKnown[fd.Message().FullName()] == "" {
			continue
		}
		if o := fd.ContainingOneof(); o != nil {
			done[o] = true
		}
		m.set++
		m.field(msg, fd, r, depth-1)
	}
}

func (m *maker) field(msg protoreflect.Message, fd protoreflect.FieldDescriptor, r rule, depth int) {
	switch {
	case fd.IsMap():
		mp := msg.Mutable(fd).Map()
		for range 1 + m.IntN(2) {
			k := protoreflect.ValueOfString(m.word()).MapKey()
			if fd.MapValue().Message() == nil {
				mp.Set(k, m.scalar(fd.MapValue()))
				continue
			}
			mp.Set(k, protoreflect.ValueOfMessage(m.sub(fd.MapValue(), r, depth)))
		}
	case fd.IsList():
		l := msg.Mutable(fd).List()
		for range 1 + m.IntN(3) {
			if fd.Message() == nil {
				l.Append(m.scalar(fd))
			} else {
				l.Append(protoreflect.ValueOfMessage(m.sub(fd, r, depth)))
			}
		}
	case fd.Message() != nil:
		msg.Set(fd, protoreflect.ValueOfMessage(m.sub(fd, r, depth)))
	default:
		msg.Set(fd, m.scalar(fd))
	}
}

func (m *maker) sub(fd protoreflect.FieldDescriptor, r rule, depth int) protoreflect.Message {
	if r.set == "" {
		return m.message(fd.Message().FullName(), depth)
	}
	members := m.t.sets[r.set].members
	e := m.message(members[m.IntN(len(members))], depth)
	a, err := anypb.New(e.Interface())
	if err != nil {
		panic(err)
	}
	return a.ProtoReflect()
}

func (m *maker) word() string {
	return []string{"a", "b.c", "x-y", "é", "*.z", "0", ""}[m.IntN(7)] + fmt.Sprint(m.IntN(1000))
}

func (m *maker) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(m.word())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(m.word() + "\xff"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(m.IntN(2) == 0)
	case protoreflect.EnumKind:
		vs := fd.Enum().Values()
		return protoreflect.ValueOfEnum(vs.Get(m.IntN(vs.Len())).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(m.Uint32()))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(m.Uint64()))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(m.Uint32())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(m.Uint64())
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(m.NormFloat64())
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(m.NormFloat64()))
	}
	panic(fd.Kind())
}

// compare reports the first difference between a message and its decoding.
func (m *maker) compare(msg protoreflect.Message, got reflect.Value) error {
	entry := m.t.messages[msg.Descriptor().FullName()]
	got = reflect.Indirect(got)
	for i := range msg.Descriptor().Fields().Len() {
		fd := msg.Descriptor().Fields().Get(i)
		r := entry.fields[string(fd.Name())]
		if r.verdict != act {
			continue
		}
		g := got.FieldByName(goField(fd))
		if err := m.compareField(msg, fd, r, g); err != nil {
			return fmt.Errorf("%s: %w", fd.Name(), err)
		}
	}
	return nil
}

func (m *maker) compareField(msg protoreflect.Message, fd protoreflect.FieldDescriptor, r rule, g reflect.Value) error {
	v := msg.Get(fd)
	switch {
	case fd.IsMap():
		if g.Len() != v.Map().Len() {
			return fmt.Errorf("%d entries, want %d", g.Len(), v.Map().Len())
		}
		var err error
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			err = m.compareValue(fd.MapValue(), e, g.MapIndex(reflect.ValueOf(k.String())))
			return err == nil
		})
		return err
	case fd.IsList():
		if g.Len() != v.List().Len() {
			return fmt.Errorf("%d elements, want %d", g.Len(), v.List().Len())
		}
		for i := range g.Len() {
			if err := m.compareValue(fd, v.List().Get(i), g.Index(i)); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return nil
	case fd.HasPresence() && !msg.Has(fd):
		if !g.IsNil() {
			return fmt.Errorf("set, want unset")
		}
		return nil
	}
	return m.compareValue(fd, v, g)
}

// same compares scalars as Go writes them, so that not-a-number is the same as
// itself.
func same(a, b any) bool { return fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b) }

func (m *maker) compareValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, g reflect.Value) error {
	if !g.IsValid() || (g.Kind() == reflect.Pointer && g.IsNil()) {
		return fmt.Errorf("absent")
	}
	if g.Kind() == reflect.Pointer && fd.Message() == nil {
		g = g.Elem()
	}
	if fd.Message() == nil {
		want := v.Interface()
		if fd.Kind() == protoreflect.EnumKind {
			want = int32(v.Enum())
			g = g.Convert(reflect.TypeFor[int32]())
		}
		if !same(g.Interface(), want) {
			return fmt.Errorf("%v, want %v", g, want)
		}
		return nil
	}
	switch w := v.Message().Interface().(type) {
	case *durationpb.Duration:
		if d := reflect.Indirect(g).Interface().(time.Duration); d != w.AsDuration() {
			return fmt.Errorf("%v, want %v", d, w.AsDuration())
		}
		return nil
	case *structpb.Struct:
		got, err := structpb.NewStruct(g.Interface().(map[string]any))
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(got.AsMap(), w.AsMap()) { // as AsMap writes numbers that JSON has not
			return fmt.Errorf("%v, want %v", g, w.AsMap())
		}
		return nil
	case *anypb.Any:
		if m.strange && g.Interface().(*wire.Any).Msg == nil {
			return nil // the builder refuses it, or passes over what is optional
		}
		inner, err := w.UnmarshalNew()
		if err != nil {
			return err
		}
		return m.compare(inner.ProtoReflect(), reflect.ValueOf(g.Interface().(*wire.Any).Msg))
	}
	if n := v.Message().Descriptor().FullName(); wellKnown[n] != "" {
		if n == "google.protobuf.Empty" {
			return nil
		}
		f := v.Message().Descriptor().Fields().ByNumber(1)
		return m.compareValue(f, v.Message().Get(f), reflect.Indirect(g))
	}
	return m.compare(v.Message(), g)
}

// TestSameAsGoControlPlane decodes random messages of acted and harmless
// fields and compares each acted value with what the Go protos hold.
func TestSameAsGoControlPlane(t *testing.T) {
	tab := loadTable(t)
	for _, root := range tab.roots {
		t.Run(string(root.Name()), func(t *testing.T) {
			m := &maker{Rand: rand.New(rand.NewPCG(1, 2)), t: tab, harmless: true}
			for i := range 400 {
				msg := m.message(root, 1+i%8)
				b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg.Interface())
				if err != nil {
					t.Fatal(err)
				}
				got, err := roots[root](b)
				if err != nil {
					t.Fatalf("%v\n%v", err, msg)
				}
				if err := m.compare(msg, reflect.ValueOf(got)); err != nil {
					t.Fatalf("%v\n%v", err, msg)
				}
			}
			if root.Name() != "Secret" && m.set < 5000 {
				t.Errorf("only %d fields were set: too few to mean much", m.set)
			}
		})
	}
}

// TestRefusedFieldIsRefused sets every refused field once, wherever its
// message is first within reach, and wants its path in the error.
func TestRefusedFieldIsRefused(t *testing.T) {
	tab := loadTable(t)
	m := &maker{Rand: rand.New(rand.NewPCG(3, 4)), t: tab}
	refused := 0
	for _, root := range tab.roots {
		seen := map[protoreflect.FullName]bool{}
		walk(tab, root, nil, seen, func(path []step, fd protoreflect.FieldDescriptor) {
			top, want := m.along(root, path, fd)
			b, err := proto.Marshal(top.Interface())
			if err != nil {
				t.Fatal(err)
			}
			refused++
			if _, err := roots[root](b); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q refused", root, err, want)
			}
		})
	}
	if refused < 300 {
		t.Errorf("only %d refused fields were tried", refused)
	}
}

// step is one acted field on the way down, with the extension it holds.
type step struct {
	fd  protoreflect.FieldDescriptor
	ext protoreflect.FullName
}

func walk(t *table, name protoreflect.FullName, path []step, seen map[protoreflect.FullName]bool, f func([]step, protoreflect.FieldDescriptor)) {
	m := t.messages[name]
	if m == nil || seen[name] {
		return
	}
	seen[name] = true
	for _, fd := range m.of(refuse) {
		f(path, fd)
	}
	for _, fd := range m.of(act) {
		if set := m.fields[string(fd.Name())].set; set != "" {
			for _, e := range t.sets[set].members {
				walk(t, e, append(slices.Clip(path), step{fd, e}), seen, f)
			}
		} else if n := valueName(fd); n != "" {
			walk(t, n, append(slices.Clip(path), step{fd, ""}), seen, f)
		}
	}
}

// along builds root with only path set and fd at its end, and the end of the
// error's path.
func (m *maker) along(root protoreflect.FullName, path []step, fd protoreflect.FieldDescriptor) (protoreflect.Message, string) {
	mt, _ := protoregistry.GlobalTypes.FindMessageByName(root)
	top := mt.New()
	if len(path) == 0 {
		mu := &maker{Rand: m.Rand, t: m.t}
		switch {
		case fd.Message() != nil && !fd.IsList() && !fd.IsMap():
			top.Mutable(fd)
		case fd.IsMap():
			mp := top.Mutable(fd).Map()
			mp.Set(protoreflect.ValueOfString("k").MapKey(), mp.NewValue())
		case fd.IsList():
			l := top.Mutable(fd).List()
			l.Append(l.NewElement())
		default:
			v := mu.scalar(fd)
			for !fd.HasPresence() && v.Equal(fd.Default()) {
				v = mu.scalar(fd)
			}
			top.Set(fd, v)
		}
		return top, string(fd.Name()) + ": not supported"
	}
	s := path[0]
	next := s.ext
	if next == "" {
		next = valueName(s.fd)
	}
	sub, want := m.along(next, path[1:], fd)
	if s.ext != "" {
		a, _ := anypb.New(sub.Interface())
		sub = a.ProtoReflect()
	}
	switch {
	case s.fd.IsMap():
		top.Mutable(s.fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfMessage(sub))
		return top, string(s.fd.Name()) + `["k"].` + want
	case s.fd.IsList():
		top.Mutable(s.fd).List().Append(protoreflect.ValueOfMessage(sub))
		return top, string(s.fd.Name()) + "[0]." + want
	}
	top.Set(s.fd, protoreflect.ValueOfMessage(sub))
	return top, string(s.fd.Name()) + "." + want
}

// FuzzDecode wants no panic, and the same values as Go's protobuf from whatever
// both accept.
func FuzzDecode(f *testing.F) {
	tab := loadTable(f)
	m := &maker{Rand: rand.New(rand.NewPCG(5, 6)), t: tab, harmless: true, strange: true}
	for i := range 40 {
		root := tab.roots[i%len(tab.roots)]
		b, _ := proto.Marshal(m.message(root, 6).Interface())
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		root := tab.roots[int(which)%len(tab.roots)]
		got, err := roots[root](b)
		if err != nil {
			return
		}
		mt, _ := protoregistry.GlobalTypes.FindMessageByName(root)
		msg := mt.New()
		if err := proto.Unmarshal(b, msg.Interface()); err != nil {
			return // garbage within a harmless field is skipped unread
		}
		if err := m.compare(msg, reflect.ValueOf(got)); err != nil {
			t.Fatalf("%v\n%v", err, msg)
		}
	})
}
