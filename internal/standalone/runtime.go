package standalone

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ext"
)

// Runtime holds Envoy's runtime keys that limit a proxy's connections of clients.
// It is a flag that may be repeated.
type Runtime map[string]string

// String is what Set would read.
func (r *Runtime) String() string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(*r)) {
		out = append(out, k+"="+(*r)[k])
	}
	return strings.Join(out, " ")
}

// Set reads KEY=VALUE. Here a key that means nothing is a mistake.
func (r *Runtime) Set(text string) error {
	k, v, ok := strings.Cut(text, "=")
	if !ok {
		return errors.New("want KEY=VALUE")
	}
	_, unknown, err := ext.ParseRuntime(map[string]string{k: v})
	switch {
	case err != nil:
		return err
	case len(unknown) > 0:
		return errors.New(k + " means nothing here; " + ext.LimitAll + " does")
	}
	if *r == nil {
		*r = Runtime{}
	}
	(*r)[k] = v
	return nil
}

// Type names the flag's kind.
func (r *Runtime) Type() string { return "KEY=VALUE" }
