//go:build !linux

package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// standaloneCommands say that a mesh runs on Linux; translate, explain and
// validate work everywhere.
func standaloneCommands(*terminal) []*cobra.Command {
	var out []*cobra.Command
	for _, name := range []string{"up", "run", "demo"} {
		out = append(out, &cobra.Command{Use: name, Short: "runs on Linux only", DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return errors.New("tulle " + name + " runs on Linux only; translate, explain and validate work here")
			}})
	}
	return out
}
