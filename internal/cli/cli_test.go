package cli

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tulle-mesh/tulle/internal/api"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tulle": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// status WANT COMMAND...: exits with exactly that status.
			"status": exits,
			// serving DIR: a control plane with that state has read its configuration.
			"serving": serving,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if e, ok := err.(interface{ ExitCode() int }); ok {
		got = string(rune('0' + e.ExitCode()))
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

func serving(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serving DIR")
	}
	c := api.NewClient(filepath.Join(ts.MkAbs(args[0]), api.Socket))
	defer c.Close()
	for end := time.Now().Add(time.Minute); ; {
		if info, err := c.Wait(context.Background(), ""); err == nil && info.Config != "" {
			return
		} else if time.Now().After(end) {
			ts.Fatalf("no configuration is served: %v", err)
		}
		time.Sleep(5 * time.Millisecond) // a socket that is not there has no other way to tell
	}
}
