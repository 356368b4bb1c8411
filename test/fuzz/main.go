// Command fuzz runs every fuzz target of the module for a given time, some at
// a time, each with one worker.
//
// In: the module's test files. Out: a line per target; for one that fails what
// it said, and the input. Nothing is written into the module unless -keep is
// given: then failing inputs are put where go test finds them.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// target is one fuzz function.
type target struct{ dir, name string }

func main() {
	each := flag.Duration("time", 30*time.Second, "how long each target runs")
	jobs := flag.Int("jobs", 2, "how many run at a time")
	keep := flag.Bool("keep", false, "put failing inputs into the packages' testdata")
	only := flag.String("only", "", "regular expression that dir and name (internal/proxy/http1 FuzzRequest) must match")
	flag.Parse()
	if flag.NArg() > 0 || *jobs < 1 || *each <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*each, *jobs, *keep, *only); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(each time.Duration, jobs int, keep bool, only string) error {
	re, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	all, err := find("internal", re)
	if err != nil || len(all) == 0 {
		return cmp.Or(err, fmt.Errorf("no targets"))
	}
	tmp, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	start := time.Now()
	if err := build(tmp, dirs(all), jobs); err != nil {
		return err
	}
	fmt.Printf("%d targets in %d packages, built in %s\n", len(all), len(dirs(all)), time.Since(start).Round(time.Second))
	queue, failed := make(chan target), 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for t := range queue {
				line, err := t.fuzz(tmp, each, keep)
				mu.Lock()
				if err != nil {
					failed++
					line = "FAIL " + err.Error() + "\n" + line
				}
				fmt.Printf("%s %s: %s\n", t.dir, t.name, line)
				mu.Unlock()
			}
		})
	}
	for _, t := range all {
		queue <- t
	}
	close(queue)
	wg.Wait()
	fmt.Printf("%d targets, %d failed, %s\n", len(all), failed, time.Since(start).Round(time.Second))
	if failed > 0 {
		return fmt.Errorf("%d targets failed", failed)
	}
	return nil
}

// instrument has our own packages and the YAML parser count what they execute,
// which go test -fuzz does to every package: what libraries do guides nobody to
// our mistakes, and looking at all their counters after each input can take a
// second.
var instrument = []string{"-gcflags=github.com/tulle-mesh/tulle/...=-d=libfuzzer", "-gcflags=go.yaml.in/yaml/v3=-d=libfuzzer"}

// build builds the test binaries, some at a time: a good part of it is linking.
// It is not counted as fuzzing.
func build(tmp string, dirs []string, jobs int) error {
	errs := make([]error, len(dirs))
	slots := make(chan struct{}, jobs)
	var wg sync.WaitGroup
	for i, dir := range dirs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			args := append([]string{"test", "-c", "-o", binary(tmp, dir)}, instrument...)
			if out, err := exec.Command("go", append(args, "./"+dir)...).CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("build %s: %w\n%s", dir, err, out)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// minimize bounds, in runs, how much smaller an input is made before it is kept
// or told. Go's default is a minute, in which nothing else is tried.
const minimize = "100x"

var funcRE = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// find lists the targets below root.
func find(root string, only *regexp.Regexp) (all []target, err error) {
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range funcRE.FindAllSubmatch(text, -1) {
			if t := (target{filepath.Dir(path), string(m[1])}); only.MatchString(t.dir + " " + t.name) {
				all = append(all, t)
			}
		}
		return err
	})
	return all, err
}

func dirs(all []target) (out []string) {
	for _, t := range all {
		if !slices.Contains(out, t.dir) {
			out = append(out, t.dir)
		}
	}
	return out
}

func binary(tmp, dir string) string {
	return filepath.Join(tmp, strings.ReplaceAll(dir, "/", "_")+".test")
}

// fuzz runs the target in a directory of its own, with a copy of the seeds.
func (t target) fuzz(tmp string, each time.Duration, keep bool) (string, error) {
	home := filepath.Join(tmp, strings.ReplaceAll(t.dir, "/", "_")+"_"+t.name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	seeds := filepath.Join(t.dir, "testdata")
	if _, err := os.Stat(seeds); err == nil {
		if err := os.CopyFS(filepath.Join(home, "testdata"), os.DirFS(seeds)); err != nil {
			return "", err
		}
	}
	cmd := exec.Command(binary(tmp, t.dir), "-test.run=^$", "-test.fuzz=^"+t.name+"$", "-test.fuzztime="+each.String(),
		"-test.parallel=1", "-test.fuzzminimizetime="+minimize, "-test.fuzzcachedir="+filepath.Join(home, "cache"), "-test.timeout="+(each+5*time.Minute).String())
	cmd.Dir = home
	out, err := cmd.CombinedOutput()
	if err == nil || ended(out) {
		return last(out), nil
	}
	found := filepath.Join(home, "testdata", "fuzz", t.name)
	_ = filepath.WalkDir(found, func(path string, d fs.DirEntry, werr error) error {
		rel, rerr := filepath.Rel(home, path)
		if werr != nil || rerr != nil || d.IsDir() {
			return nil
		}
		at := filepath.Join(t.dir, rel)
		if _, old := os.Stat(at); old == nil {
			return nil // a seed
		}
		input, _ := os.ReadFile(path)
		out = fmt.Appendf(out, "input %s:\n%s", at, input)
		if keep {
			_ = os.MkdirAll(filepath.Dir(at), 0o755)
			_ = os.WriteFile(at, input, 0o644)
		}
		return nil
	})
	return string(out), err
}

// ended reports that the time was up while the fuzzer was busy, which it calls a
// failure: nothing else is wrong, and no input failed.
func ended(out []byte) bool {
	return bytes.Contains(out, []byte("\n    context deadline exceeded\n")) && !bytes.Contains(out, []byte("Failing input")) &&
		!bytes.Contains(out, []byte("panic"))
}

// last is the last word on how much was tried.
func last(out []byte) string {
	word := "nothing was tried"
	for l := range bytes.Lines(out) {
		if bytes.Contains(l, []byte("execs: ")) {
			word = strings.TrimSpace(string(l[bytes.Index(l, []byte("execs: ")):]))
		}
	}
	return word
}
