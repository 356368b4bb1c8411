package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// verdict on a field.
type verdict uint8

const (
	refuse verdict = iota + 1
	harmless
	act
)

// rule is the table's word on one field.
type rule struct {
	verdict verdict
	set     string // act on an Any: which extensions it may hold
}

// message is the table's entry for one message type.
type message struct {
	name   protoreflect.FullName
	goName string // "as NAME"; empty: derived
	line   int
	fields map[string]rule
	desc   protoreflect.MessageDescriptor
}

// anySet is a named list of extension messages.
type anySet struct {
	name     string
	optional bool // an unknown type URL is left to the builder
	members  []protoreflect.FullName
}

// table is the parsed field table.
//
// Lines: "root MESSAGE", "any SET [optional]: MESSAGE...", "message MESSAGE
// [as GoName]", and within a message "act FIELD[:SET]...", "harmless FIELD...:
// reason", "refuse FIELD...". "#" begins a comment.
type table struct {
	roots    []protoreflect.FullName
	sets     map[string]*anySet
	setOrder []string
	messages map[protoreflect.FullName]*message
}

func parseTable(text string) (*table, error) {
	t := &table{sets: map[string]*anySet{}, messages: map[protoreflect.FullName]*message{}}
	var m *message
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		var err error
		switch word {
		case "":
		case "root":
			t.roots = append(t.roots, protoreflect.FullName(rest))
		case "any":
			err = t.parseSet(rest)
		case "message":
			name, as, _ := strings.Cut(rest, " as ")
			m = &message{name: protoreflect.FullName(name), goName: as, line: i + 1, fields: map[string]rule{}}
			if t.messages[m.name] != nil {
				err = errors.New("second entry")
			}
			t.messages[m.name] = m
		case "act", "harmless", "refuse":
			if m == nil {
				err = errors.New("field before any message")
			} else {
				err = m.parseFields(word, rest)
			}
		default:
			err = fmt.Errorf("unknown word %q", word)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return t, t.resolve()
}

func (t *table) parseSet(rest string) error {
	head, list, ok := strings.Cut(rest, ":")
	if !ok {
		return errors.New("want any SET [optional]: followed by messages")
	}
	w := strings.Fields(head)
	if len(w) == 0 || len(w) > 2 || len(w) == 2 && w[1] != "optional" {
		return errors.New("want any SET [optional]: followed by messages")
	}
	s := t.sets[w[0]]
	if s == nil {
		s = &anySet{name: w[0], optional: len(w) == 2}
		t.sets[s.name] = s
		t.setOrder = append(t.setOrder, s.name)
	}
	for _, n := range strings.Fields(list) {
		s.members = append(s.members, protoreflect.FullName(n))
	}
	return nil
}

func (m *message) parseFields(word, rest string) error {
	r := rule{}
	switch word {
	case "act":
		r.verdict = act
	case "refuse":
		r.verdict = refuse
	case "harmless":
		r.verdict = harmless
		var reason string
		rest, reason, _ = strings.Cut(rest, ":")
		if len(strings.TrimSpace(reason)) < 8 {
			return errors.New("harmless needs a reason")
		}
	}
	for _, f := range strings.Fields(rest) {
		f, set, _ := strings.Cut(f, ":")
		if set != "" && r.verdict != act {
			return fmt.Errorf("%s: only acted fields have a set", f)
		}
		if _, dup := m.fields[f]; dup {
			return fmt.Errorf("%s: mentioned twice", f)
		}
		m.fields[f] = rule{r.verdict, set}
	}
	return nil
}

// resolve finds the descriptors and rejects names that do not exist.
func (t *table) resolve() error {
	var errs []error
	for _, m := range t.messages {
		var err error
		if m.desc, err = findMessage(m.name); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", m.line, err))
			continue
		}
		for f, r := range m.fields {
			fd := m.desc.Fields().ByName(protoreflect.Name(f))
			if fd == nil {
				errs = append(errs, fmt.Errorf("line %d: %s has no field %s", m.line, m.name, f))
			} else if r.verdict == act && (r.set != "") != (valueName(fd) == "google.protobuf.Any") {
				errs = append(errs, fmt.Errorf("line %d: %s.%s: an extension set belongs to a field of type Any", m.line, m.name, f))
			} else if r.set != "" && t.sets[r.set] == nil {
				errs = append(errs, fmt.Errorf("line %d: %s.%s: no set %s", m.line, m.name, f, r.set))
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func findMessage(name protoreflect.FullName) (protoreflect.MessageDescriptor, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: not in the linked descriptors", name)
	}
	m, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a message", name)
	}
	return m, nil
}

// valueName is the message type of a field or of a map's value, if any.
func valueName(fd protoreflect.FieldDescriptor) protoreflect.FullName {
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	if fd.Message() == nil {
		return ""
	}
	return fd.Message().FullName()
}

// wellKnown messages are decoded by hand-written code and never in the table.
var wellKnown = map[protoreflect.FullName]string{
	"google.protobuf.Any":         "Any",
	"google.protobuf.Duration":    "time.Duration",
	"google.protobuf.Struct":      "map[string]any",
	"google.protobuf.Value":       "any",
	"google.protobuf.BoolValue":   "bool",
	"google.protobuf.UInt32Value": "uint32",
	"google.protobuf.Int32Value":  "int32",
	"google.protobuf.UInt64Value": "uint64",
	"google.protobuf.Int64Value":  "int64",
	"google.protobuf.DoubleValue": "float64",
	"google.protobuf.FloatValue":  "float32",
	"google.protobuf.StringValue": "string",
	"google.protobuf.Empty":       "struct{}",
}

// reach walks from the roots through acted fields and returns the messages in
// that order. missing is called for messages without an entry.
func (t *table) reach(missing func(protoreflect.MessageDescriptor)) []*message {
	var order []*message
	seen := map[protoreflect.FullName]bool{}
	var visit func(protoreflect.FullName)
	visit = func(name protoreflect.FullName) {
		if wellKnown[name] != "" || seen[name] {
			return
		}
		seen[name] = true
		m := t.messages[name]
		if m == nil {
			if d, err := findMessage(name); err == nil {
				missing(d)
			}
			return
		}
		order = append(order, m)
		for i := range m.desc.Fields().Len() {
			fd := m.desc.Fields().Get(i)
			r := m.fields[string(fd.Name())]
			if r.verdict != act {
				continue
			}
			if r.set != "" {
				for _, e := range t.sets[r.set].members {
					visit(e)
				}
			} else if n := valueName(fd); n != "" {
				visit(n)
			}
		}
	}
	for _, r := range t.roots {
		visit(r)
	}
	return order
}

// check reports fields that the table does not mention, messages within reach
// that it lacks, and entries out of reach.
func (t *table) check() ([]*message, error) {
	var errs []error
	order := t.reach(func(d protoreflect.MessageDescriptor) {
		errs = append(errs, fmt.Errorf("%s is within reach but has no entry", d.FullName()))
	})
	in := map[*message]bool{}
	for _, m := range order {
		in[m] = true
		for _, f := range m.unmentioned() {
			errs = append(errs, fmt.Errorf("%s.%s is not mentioned", m.name, f))
		}
	}
	for _, m := range t.messages {
		if !in[m] {
			errs = append(errs, fmt.Errorf("line %d: %s is out of reach", m.line, m.name))
		}
	}
	return order, errors.Join(errs...)
}

func (m *message) unmentioned() []string {
	var out []string
	for i := range m.desc.Fields().Len() {
		n := string(m.desc.Fields().Get(i).Name())
		if _, ok := m.fields[n]; !ok {
			out = append(out, n)
		}
	}
	return out
}

// fill returns text with everything unmentioned added as refused.
func (t *table) fill(text string) (string, error) {
	var b strings.Builder
	var m *message
	var flush = func() {
		if m != nil {
			writeRefused(&b, m.unmentioned())
		}
	}
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "message" || word == "" {
			flush()
			m = nil
		}
		if word == "message" {
			name, _, _ := strings.Cut(strings.TrimSpace(rest), " as ")
			m = t.messages[protoreflect.FullName(name)]
		}
		b.WriteString(line)
	}
	flush()
	t.reach(func(d protoreflect.MessageDescriptor) {
		fmt.Fprintf(&b, "\nmessage %s\n", d.FullName())
		var names []string
		for i := range d.Fields().Len() {
			names = append(names, string(d.Fields().Get(i).Name()))
		}
		writeRefused(&b, names)
	})
	return b.String(), nil
}

func writeRefused(b *strings.Builder, names []string) {
	for len(names) > 0 {
		n := min(6, len(names))
		fmt.Fprintf(b, "refuse %s\n", strings.Join(names[:n], " "))
		names = names[n:]
	}
}
