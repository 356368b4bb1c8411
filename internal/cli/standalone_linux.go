package cli

import "github.com/spf13/cobra"

// standaloneCommands run a mesh on this machine.
func standaloneCommands(t *terminal) []*cobra.Command {
	return []*cobra.Command{upCommand(t), runCommand(t), demoCommand(t), demoAppCommand(t)}
}
