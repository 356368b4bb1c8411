package analyze

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Suppression leaves out findings of one code about objects that a pattern
// names.
type Suppression struct {
	Code    string
	Pattern string // "Kind name.namespace" with * for any text
}

// ParseSuppression reads "IST0102=Namespace shop" or "IST0103=Pod *.shop".
func ParseSuppression(s string) (Suppression, error) {
	code, pattern, ok := strings.Cut(s, "=")
	if !ok || code == "" || pattern == "" {
		return Suppression{}, fmt.Errorf("%q is not CODE=KIND NAME.NAMESPACE", s)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return Suppression{}, fmt.Errorf("%q: %w", pattern, err)
	}
	return Suppression{strings.ToUpper(code), pattern}, nil
}

// Suppress leaves out what the list names, and what objects ask to leave out
// about themselves by the annotation galley.istio.io/analyze-suppress ("*" or
// codes with commas between).
func Suppress(found []Finding, list []Suppression, in Input) []Finding {
	own := map[string]string{}
	for _, o := range in.Objects {
		if v := o.Annotations["galley.istio.io/analyze-suppress"]; v != "" {
			own[o.Origin("").Object()] = v
		}
	}
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool {
		name := f.Origin.Kind + " " + f.Origin.Name
		if f.Origin.Namespace != "" {
			name += "." + f.Origin.Namespace
		}
		for _, s := range list {
			if ok, _ := path.Match(s.Pattern, name); ok && s.Code == f.ID {
				return true
			}
		}
		v := own[f.Origin.Object()]
		if v == "*" {
			return true
		}
		return v != "" && slices.ContainsFunc(strings.Split(v, ","), func(c string) bool { return strings.TrimSpace(c) == f.ID })
	})
}
