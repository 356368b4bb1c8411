package model

import "strconv"

// Status is what a user is to be told of an object at the API server, in the
// words of the object's own API. It is data: who writes it compares it with
// what stands there. What only a running mesh knows (addresses, whether proxies
// took it) is not in it.
type Status struct {
	APIVersion string
	Conditions []Condition
	Parts      []StatusPart
	Origin     Origin // the object
}

// StatusPart is the status towards one parent, or of one listener.
type StatusPart struct {
	Listener   string // name; empty: a parent
	Group      string // of the parent, as the user wrote it; empty fields were not written
	Kind       string
	Namespace  string
	Name       string
	Section    string
	Port       uint16
	Attached   int      // routes of a listener
	Kinds      []string // that a listener takes, as group/Kind
	Conditions []Condition
}

// Condition of an object: its type, whether it holds, and why.
type Condition struct {
	Type   string
	Holds  bool
	Reason string
	Text   string
}

func textStatus(f *form, x *Status) {
	f.note(&x.Origin)
	f.need(&x.APIVersion)
	each(f, "is", &x.Conditions, textCondition)
	each(f, "part", &x.Parts, func(f *form, x *StatusPart) {
		f.str("listener", &x.Listener)
		f.str("group", &x.Group)
		f.str("kind", &x.Kind)
		f.str("namespace", &x.Namespace)
		f.str("name", &x.Name)
		f.str("section", &x.Section)
		uintAttr(f, "port", &x.Port)
		f.int("attached", &x.Attached)
		f.strs("kinds", &x.Kinds)
		each(f, "is", &x.Conditions, textCondition)
	})
}

func textCondition(f *form, x *Condition) {
	f.need(&x.Type)
	holds := strconv.FormatBool(x.Holds)
	f.need(&holds)
	if f.reading {
		var err error
		if x.Holds, err = strconv.ParseBool(holds); err != nil {
			f.fail("%v", err)
		}
	}
	f.str("reason", &x.Reason)
	f.str("text", &x.Text)
}
