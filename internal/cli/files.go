package cli

import (
	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// paths is the flag -f of every command that reads configuration.
type paths struct{ list []string }

func (p *paths) register(c *cobra.Command) {
	c.Flags().StringArrayVarP(&p.list, "file", "f", nil, "file or directory of YAML; may be given again, and arguments without a flag are more of them")
	_ = c.MarkFlagFilename("file", "yaml", "yml", "json")
}

// load reads the files of the flag and of the arguments.
func (p *paths) load(args []string) (source.Snapshot, error) {
	list := append(append([]string(nil), p.list...), args...)
	if len(list) == 0 {
		return source.Snapshot{}, usagef("which files? Give -f PATH")
	}
	return file.Load(list)
}

// tell prints notices as messages: those of at least the given severity.
func (t *terminal) tell(notices []model.Notice, least model.Severity) {
	for _, n := range notices {
		if n.Severity >= least {
			t.say("%s: %s", n.Severity, n)
		}
	}
}

// most warnings that stand before an answer which they may have nothing to do
// with.
const mostWarnings = 10

// tellSome prints every error, and the first warnings.
func (t *terminal) tellSome(notices []model.Notice) {
	t.tell(notices, model.Error)
	warnings := 0
	for _, n := range notices {
		if n.Severity != model.Warning {
			continue
		}
		if warnings++; warnings <= mostWarnings {
			t.say("%s: %s", n.Severity, n)
		}
	}
	if warnings > mostWarnings {
		t.say("and %d more warnings: tulle translate tells all", warnings-mostWarnings)
	}
}
