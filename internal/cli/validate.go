package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
)

// validateCommand checks each object by itself. What objects say of each other
// is not its business: parts of a configuration may be validated alone.
func validateCommand(t *terminal) *cobra.Command {
	var p paths
	var output string
	c := &cobra.Command{
		Use:   "validate -f PATH...",
		Short: "check objects against their API: schema and field rules",
		Long: `Check each object against its API's schema and field rules.

Prints one line per finding, "file:line: Kind namespace/name field: message",
and exits with 1 if there is any. A finding is an error (the object, or the
part named, would not take effect) or a warning (it would, but perhaps not as
meant). What is merely worth knowing goes to stderr.`,
		Example: "  tulle validate -f mesh/\n  tulle validate -f orders.yaml -o json",
		RunE: func(_ *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json", "yaml"); err != nil {
				return err
			}
			snap, err := p.load(args)
			if err != nil {
				return err
			}
			_, notices := control.Read(snap)
			var found []model.Notice
			for _, n := range notices {
				if n.Severity == model.Info {
					t.say("%s: %s", n.Severity, n)
				} else {
					found = append(found, n)
				}
			}
			if err := t.findings(found, output); err != nil {
				return err
			}
			if len(found) > 0 {
				return errNo
			}
			t.say("%d objects, nothing to find fault with", len(snap.Objects))
			return nil
		},
	}
	p.register(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text, json or yaml")
	return c
}

// finding is the JSON form of a notice.
type finding struct {
	Severity  string       `json:"severity"`
	Reason    model.Reason `json:"reason"`
	Kind      string       `json:"kind,omitempty"`
	Namespace string       `json:"namespace,omitempty"`
	Name      string       `json:"name,omitempty"`
	Field     string       `json:"field,omitempty"`
	File      string       `json:"file,omitempty"`
	Line      int          `json:"line,omitempty"`
	Message   string       `json:"message"`
}

// findings prints notices as an answer.
func (t *terminal) findings(notices []model.Notice, output string) error {
	if output == "text" {
		for _, n := range notices {
			fmt.Fprintln(t.out, n)
		}
		return nil
	}
	list := make([]finding, 0, len(notices))
	for _, n := range notices {
		o := n.Origin
		list = append(list, finding{n.Severity.String(), n.Reason, o.Kind, o.Namespace, o.Name, o.Field, o.File, o.Line, n.Text})
	}
	return t.print(list, output)
}

// print prints an answer as indented JSON, or as YAML of the same shape.
func (t *terminal) print(v any, output string) error {
	if output == "yaml" {
		b, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = t.out.Write(b)
		return err
	}
	e := json.NewEncoder(t.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
