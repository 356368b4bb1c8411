package model

import (
	"fmt"
	"strings"
	"time"
)

// Origin says which user object, and which place in it, caused a fact.
type Origin struct {
	Group     string // of the API, of a kind whose name another API has too; else empty
	Kind      string // VirtualService, Service, ...
	Namespace string // empty for cluster-scoped objects
	Name      string
	Field     string    // path inside the object, as spec.http[0].route[1]; empty: the object itself
	File      string    // as the user gave it; empty when the object did not come from a file
	Line      int       // 1-based line of Field (or of the object) in File; 0: unknown
	Created   time.Time // creation time of the object; the zero time where there is none
}

// Object is "Kind ns/name", or "Kind name" without a namespace.
func (o Origin) Object() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Place is "file:line", "file", or "" when the origin is no file.
func (o Origin) Place() string {
	if o.File == "" || o.Line == 0 {
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, o.Line)
}

// ID is the stable name of this origin in xDS resources: kind/ns/name, with
// "#field" when a field is set. It holds no line, so that moving an object
// within its file changes no resource.
func (o Origin) ID() string {
	id := strings.ToLower(o.Kind) + "/" + o.Namespace + "/" + o.Name
	if o.Field != "" {
		id += "#" + o.Field
	}
	return id
}

// At returns the origin narrowed to a field at a line.
func (o Origin) At(field string, line int) Origin {
	o.Field = field
	if line > 0 {
		o.Line = line
	}
	return o
}

// Severity orders notices.
type Severity uint8

// Severities. An Error means that the object (or the named part of it) is not
// in effect; a Warning that it is, but perhaps not as meant.
const (
	Info Severity = iota
	Warning
	Error
)

// String is the lower-case word printed in front of a notice.
func (s Severity) String() string { return [...]string{"info", "warning", "error"}[s] }

// Reason is the closed list of causes of a notice.
type Reason string

// The reasons. Add one here before using it.
const (
	Unreadable   Reason = "Unreadable"   // the text is not YAML, or not an object
	Pasted       Reason = "Pasted"       // the text was pasted from a page and lost its form
	UnknownKind  Reason = "UnknownKind"  // no reader for apiVersion/kind
	UnknownField Reason = "UnknownField" // a field that the API does not have
	Unsupported  Reason = "Unsupported"  // a field the API has and Tulle does not act on (yet)
	Deprecated   Reason = "Deprecated"   // an old spelling that still acts
	Invalid      Reason = "Invalid"      // a value that breaks the API's rules
	Duplicate    Reason = "Duplicate"    // the same kind/namespace/name twice
	NotFound     Reason = "NotFound"     // a reference to something that is not there
	Conflict     Reason = "Conflict"     // two objects want the same thing; one lost
	Unreachable  Reason = "Unreachable"  // a rule that can never match
	Rejected     Reason = "Rejected"     // a proxy refused the resource made from this object
)

// Notice is about a user's object. It never stops anything else.
type Notice struct {
	Severity Severity
	Reason   Reason
	Origin   Origin
	Text     string
	// Code of a finding about relations between objects: istioctl's where it
	// has one (IST0101), else ours (TUL0103). Empty on notices about one object.
	Code string
	// Void: the object as a whole is not in effect.
	Void bool
}

// String is "file:line: Kind ns/name field: text", leaving out what is unknown.
func (n Notice) String() string {
	var b strings.Builder
	if p := n.Origin.Place(); p != "" {
		b.WriteString(p + ": ")
	}
	if n.Origin.Kind != "" {
		b.WriteString(n.Origin.Object())
		if n.Origin.Field != "" {
			b.WriteString(" " + n.Origin.Field)
		}
		b.WriteString(": ")
	}
	b.WriteString(n.Text)
	return b.String()
}
