// Command budget runs go test and tells what it cost.
//
// In: arguments for go test. Out: what go test prints for packages and
// failures, then the CPU time of the run, the ten most expensive tests, and
// one line that counts. It fails when a test fails, when none ran, or, under
// CI, when one was skipped.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// tally of a run.
type tally struct {
	passed, failed, skipped int
	packages                int // that failed without a failing test: build, panic
	tests                   []event
	output                  map[string][]string // of tests that still run
	why                     []string            // what skipped tests said
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "budget:", err)
		return 2
	}
	t := &tally{output: map[string][]string{}}
	in := bufio.NewScanner(out)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text())
			continue
		}
		t.take(e)
	}
	err = cmd.Wait()
	s := cmd.ProcessState
	t.report(s.UserTime() + s.SystemTime())
	switch {
	case err != nil || t.failed+t.packages > 0, t.passed == 0:
		return 1
	case os.Getenv("CI") != "" && t.skipped > 0:
		fmt.Fprintln(os.Stderr, "budget: a skip is not a pass under CI")
		return 1
	}
	return 0
}

func (t *tally) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if e.Test != "" {
			t.output[key] = append(t.output[key], e.Output)
		} else if !strings.HasPrefix(e.Output, "?") && strings.TrimSpace(e.Output) != "PASS" {
			fmt.Print(e.Output)
		}
	case "pass", "skip", "fail":
		t.end(e, key)
	}
}

func (t *tally) end(e event, key string) {
	if e.Test == "" {
		if e.Action == "fail" && !slices.ContainsFunc(t.tests, func(o event) bool { return o.Package == e.Package && o.Action == "fail" }) {
			t.packages++
		}
		if e.Action == "fail" { // what tests said that never ended: a crash, a time-out
			for k, said := range t.output {
				if strings.HasPrefix(k, e.Package+" ") {
					fmt.Print(strings.Join(said, ""))
					delete(t.output, k)
				}
			}
		}
		return
	}
	said := t.output[key]
	delete(t.output, key)
	t.tests = append(t.tests, e)
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
		fmt.Print(strings.Join(said, ""))
	case "skip":
		t.skipped++
		t.why = append(t.why, fmt.Sprintf("%s %s: %s", e.Package, e.Test, strings.TrimSpace(strings.Join(said, ""))))
	}
}

func (t *tally) report(cpu time.Duration) {
	slices.SortFunc(t.tests, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	fmt.Printf("\nCPU time %s; the most expensive tests by the clock:\n", cpu.Round(time.Second))
	n := 0
	for _, e := range t.tests {
		if strings.Contains(e.Test, "/") {
			continue // counted in its parent
		}
		if n++; n > 10 {
			break
		}
		fmt.Printf("  %7.2fs  %s %s\n", e.Elapsed, strings.TrimPrefix(e.Package, "github.com/tulle-mesh/tulle/"), e.Test)
	}
	for _, w := range t.why {
		fmt.Println("SKIPPED", w)
	}
	if t.packages > 0 {
		fmt.Printf("%d packages failed outside their tests\n", t.packages)
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", t.passed, t.failed+t.packages, t.skipped)
}
