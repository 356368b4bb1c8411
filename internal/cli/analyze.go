package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/analyze"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
)

// analyzeOptions are the flags of analyze, spelled as istioctl does.
type analyzeOptions struct {
	paths
	namespace string
	all       bool
	output    string
	fail      string
	show      string
	suppress  []string
	list      bool
}

// analyzeCommand finds mistakes between objects, as istioctl analyze does.
func analyzeCommand(t *terminal) *cobra.Command {
	var o analyzeOptions
	c := &cobra.Command{
		Use:   "analyze [-f PATH | PATH]...",
		Short: "find mistakes in how objects fit together",
		Long: `Find mistakes in how objects fit together: references to what is not there,
hosts that two objects claim, rules that never act, certificates in the wrong
place, policies that say something else than they seem to.

Prints one line per finding, "Level [Code] (Kind namespace/name file:line)
message", with istioctl's codes where it has one. Exits with 1 if there is a
finding of at least --failure-threshold. An object leaves codes out about
itself by the annotation galley.istio.io/analyze-suppress.`,
		Example: "  tulle analyze mesh/\n  tulle analyze -f mesh/ --failure-threshold Warning -o json\n  tulle analyze mesh/ --suppress 'IST0102=Namespace shop'",
		RunE:    func(_ *cobra.Command, args []string) error { return t.analyze(&o, args) },
	}
	o.register(c)
	f := c.Flags()
	f.StringVarP(&o.namespace, "namespace", "n", "", "only findings about objects of this namespace")
	f.BoolVarP(&o.all, "all-namespaces", "A", false, "findings of all namespaces (the default)")
	f.StringVarP(&o.output, "output", "o", "log", "log, json or yaml")
	f.StringVar(&o.fail, "failure-threshold", "Error", "level from which on the exit code is 1: Info, Warning or Error")
	f.StringVar(&o.show, "output-threshold", "Info", "level from which on findings are shown: Info, Warning or Error")
	f.StringArrayVarP(&o.suppress, "suppress", "S", nil, `leave out a code about objects, as "IST0103=Pod *.shop"; may be given again`)
	f.BoolVarP(&o.list, "list-analyzers", "L", false, "list the codes and what they mean")
	f.BoolP("recursive", "R", true, "directories are always read with what is below them")
	f.Bool("use-kube", false, "only files are read")
	_ = f.MarkHidden("recursive")
	_ = f.MarkHidden("use-kube")
	return c
}

func (t *terminal) analyze(o *analyzeOptions, args []string) error {
	if o.list {
		for _, c := range analyze.Codes {
			fmt.Fprintf(t.out, "%-8s %-7s %-48s %s\n", c.ID, analyze.Level(c.Level), c.Name, c.Description)
		}
		return nil
	}
	if err := oneOf("output", o.output, "log", "json", "yaml"); err != nil {
		return err
	}
	fail, err := level("failure-threshold", o.fail)
	if err != nil {
		return err
	}
	show, err := level("output-threshold", o.show)
	if err != nil {
		return err
	}
	var skip []analyze.Suppression
	for _, s := range o.suppress {
		x, err := analyze.ParseSuppression(s)
		if err != nil {
			return usagef("--suppress %v", err)
		}
		skip = append(skip, x)
	}
	snap, err := o.load(args)
	if err != nil {
		return err
	}
	compiled, notices := control.Compile(snap)
	in := analyze.Input{Objects: snap.Objects, Fragment: compiled.Fragment, Mesh: compiled.Mesh, Notices: notices}
	found := analyze.Suppress(analyze.Analyze(in), skip, in)
	found = slices.DeleteFunc(found, func(f analyze.Finding) bool {
		return o.namespace != "" && !o.all && f.Origin.Namespace != o.namespace
	})
	bad := slices.ContainsFunc(found, func(f analyze.Finding) bool { return f.Level >= fail })
	found = slices.DeleteFunc(found, func(f analyze.Finding) bool { return f.Level < show })
	if err := t.analysis(found, o.output); err != nil {
		return err
	}
	if bad {
		return errNo
	}
	if len(found) == 0 {
		t.say("%d objects, nothing to find fault with", len(snap.Objects))
	}
	return nil
}

// analysed is istioctl's JSON form of a finding.
type analysed struct {
	Code      string `json:"code"`
	Docs      string `json:"documentationUrl,omitempty"`
	Level     string `json:"level"`
	Message   string `json:"message"`
	Name      string `json:"name"`
	Origin    string `json:"origin"`
	Field     string `json:"field,omitempty"`
	Reference string `json:"reference,omitempty"` // file:line
}

func (t *terminal) analysis(found []analyze.Finding, output string) error {
	if output == "log" {
		for _, f := range found {
			fmt.Fprintln(t.out, f)
		}
		return nil
	}
	list := make([]analysed, 0, len(found))
	for _, f := range found {
		a := analysed{Code: f.ID, Level: analyze.Level(f.Level), Message: f.Message, Name: f.Name, Origin: f.Origin.Object(), Field: f.Origin.Field, Reference: f.Origin.Place()}
		if strings.HasPrefix(f.ID, "IST") {
			a.Docs = "https://istio.io/latest/docs/reference/config/analysis/" + strings.ToLower(f.ID) + "/"
		}
		list = append(list, a)
	}
	return t.print(list, output)
}

func level(flag, word string) (model.Severity, error) {
	for _, s := range []model.Severity{model.Info, model.Warning, model.Error} {
		if strings.EqualFold(word, analyze.Level(s)) {
			return s, nil
		}
	}
	return 0, usagef("--%s is Info, Warning or Error, not %q", flag, word)
}
