package analyze

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Input of an analysis. It is only read.
type Input struct {
	Objects  []*source.Object
	Fragment model.Fragment
	Mesh     *link.Mesh
	Notices  []model.Notice // of the snapshot, the dialects and link
	Root     string         // root namespace; empty: istio-system
}

// Finding is one mistake, or something to know.
type Finding struct {
	*Code
	Level   model.Severity // the code's, or that of the notice behind it
	Origin  model.Origin
	Message string
}

// String is the line that istioctl prints: Level [Code] (Object place) message.
func (f Finding) String() string {
	return fmt.Sprintf("%s [%s] (%s) %s", Level(f.Level), f.ID, f.Object(), f.Message)
}

// Object is the finding's object with its place in the files, where there is one.
func (f Finding) Object() string {
	o := f.Origin.Place()
	if f.Origin.Kind == "" {
		return o
	}
	if o == "" {
		return f.Origin.Object()
	}
	return f.Origin.Object() + " " + o
}

// Level is istioctl's word for a severity: Info, Warning or Error.
func Level(s model.Severity) string { return [...]string{"Info", "Warning", "Error"}[s] }

// check is one group of rules over the input.
type check struct {
	name string
	run  func(*analysis)
}

var checks = []check{
	{"annotations", (*analysis).annotations},
	{"injection", (*analysis).injection},
	{"services", (*analysis).services},
	{"routes", (*analysis).routes},
	{"bypassed subsets", (*analysis).bypassed},
	{"destinations", (*analysis).destinations},
	{"gateways", (*analysis).gateways},
	{"authorization", (*analysis).authorization},
	{"sidecars and telemetry", (*analysis).selected},
	{"EnvoyFilters", (*analysis).envoyFilters},
	{"removed APIs", (*analysis).removedAPIs},
}

// analysis collects findings.
type analysis struct {
	Input
	found []Finding
}

// Analyze gives every finding once, by file, line, code and text.
func Analyze(in Input) []Finding {
	if in.Root == "" {
		in.Root = "istio-system"
	}
	a := &analysis{Input: in}
	for _, n := range in.Notices {
		a.notice(n)
	}
	for _, c := range checks {
		c.run(a)
	}
	order := func(x, y Finding) int {
		return cmp.Or(
			cmp.Compare(x.Origin.File, y.Origin.File),
			cmp.Compare(x.Origin.Line, y.Origin.Line),
			cmp.Compare(x.ID, y.ID),
			cmp.Compare(x.Origin.ID(), y.Origin.ID()),
			cmp.Compare(x.Message, y.Message),
		)
	}
	slices.SortStableFunc(a.found, order)
	return slices.CompactFunc(a.found, func(x, y Finding) bool { return order(x, y) == 0 })
}

// notice gives a notice its code.
func (a *analysis) notice(n model.Notice) {
	id := n.Code
	if id == "" {
		id = codeOf(n)
	}
	msg := n.Text
	if n.Origin.Field != "" {
		msg = n.Origin.Field + ": " + msg
	}
	c := byID[id]
	if c == nil {
		c = &Code{ID: id, Name: id, Level: n.Severity}
	}
	a.found = append(a.found, Finding{Code: c, Level: n.Severity, Origin: n.Origin, Message: msg})
}

// codeOf a notice about a single object.
func codeOf(n model.Notice) string {
	switch n.Reason {
	case model.Deprecated:
		return "IST0002"
	case model.Unsupported:
		return "TUL0001"
	case model.Duplicate:
		return "TUL0002"
	case model.Unreadable, model.Pasted:
		return "TUL0003"
	case model.UnknownKind:
		return "TUL0004"
	case model.Rejected:
		return "TUL0113"
	case model.NotFound:
		return "IST0101"
	}
	if n.Severity == model.Error {
		return "IST0106"
	}
	return "IST0133"
}

// add a finding with its code's level.
func (a *analysis) add(id string, o model.Origin, format string, args ...any) {
	c := byID[id]
	a.found = append(a.found, Finding{Code: c, Level: c.Level, Origin: o, Message: fmt.Sprintf(format, args...)})
}

// where names an object in the text of a finding about another one.
func where(o model.Origin) string {
	if p := o.Place(); p != "" {
		return o.Object() + " (" + p + ")"
	}
	return o.Object()
}

// within reports whether labels have all of want.
func within(want, labels map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
