package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Version of this build; set by the linker.
var Version = "dev"

// errNo is returned when the answer is no and has been printed.
var errNo = errors.New("no")

// usageError is wrong use: its text is followed by a hint at the help.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus is the exit status of a program that ran in our place.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// terminal is where a command reads and prints.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// say prints a message for the person at the terminal.
func (t *terminal) say(format string, args ...any) {
	fmt.Fprintf(t.err, "tulle: "+format+"\n", args...)
}

// commands is every subcommand, in the order of the help.
func commands(t *terminal) []*cobra.Command {
	all := []*cobra.Command{
		translateCommand(t),
		validateCommand(t),
		analyzeCommand(t),
		injectCommand(t),
		explainCommand(t),
	}
	all = append(all, standaloneCommands(t)...)
	return append(all, installCommand(t), uninstallCommand(t), manifestCommand(t), operatorCommand(t), checkCommand(t), checkInjectCommand(t), controlPlaneCommand(t), proxyStatusCommand(t), versionCommand(t))
}

// Main runs one command and returns the exit status. It ends early, by the
// command's own ways, on SIGINT and SIGTERM.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	t := &terminal{in: in, out: out, err: errOut}
	root := &cobra.Command{
		Use:           "tulle",
		Short:         "a service mesh that reads what you already have and explains itself",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", args[0])
			}
			return c.Help()
		},
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(commands(t)...)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ran, err := root.ExecuteContextC(ctx)
	return status(t, ran, err)
}

// status prints err and turns it into the exit status.
func status(t *terminal, ran *cobra.Command, err error) int {
	var wrong usageError
	var exit exitStatus
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errNo):
		return 1
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &wrong):
		t.say("%v", err)
		t.say("see %s --help", ran.CommandPath())
	case errors.Is(err, context.Canceled):
		return 0 // ended by a signal, in order
	default:
		t.say("%v", err)
	}
	return 2
}

// needArgs wraps cobra's argument checks, so that breaking them is wrong use.
func needArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// oneOf checks the value of a flag that takes one of a few words.
func oneOf(flag, value string, words ...string) error {
	for _, w := range words {
		if value == w {
			return nil
		}
	}
	return usagef("--%s %s: want %s", flag, value, strings.Join(words, " or "))
}

// stateHome is where a program of this user keeps state between starts; empty:
// the user has no home. (A known name in /tmp might be another user's.)
func stateHome() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "tulle")
	}
	if h, err := os.UserHomeDir(); err == nil {
		return filepath.Join(h, ".local", "state", "tulle")
	}
	return ""
}
