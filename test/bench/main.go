// Command bench measures tulle-proxy beside its peers: CPU per request,
// requests per second, added latency and memory, in one interleaved run on the
// same cores.
//
// In: the contenders' programs. Out: tables (loads; latencies in scenarios beside
// those of quiet times; targets with verdicts), and in files bench.json,
// samples.json, bench.txt and bench.svg. Every contender is given the same route table (20 hosts with 10
// prefixes each), keeps connections alive on both sides and writes no access
// log. Before anything is measured the work of all is compared, and unequal
// work is refused. The main figure is the CPU time of the contender's own
// processes per request, from the kernel's accounting, which stays true on a
// busy machine.
//
// What does not belong here: load on anything but loopback, and figures that
// depend on who else uses the machine, except latencies, which say so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/xds"
)

// bench is one run.
type bench struct {
	out, tulle      string
	save, compare   string
	quick           bool
	only            []string // contenders; direct is always there
	shapes          []shape
	rounds, seconds int
	rate            int  // of latencies, requests per second
	polite, hurry   bool // whether priorities stay as they are, whether they are raised
	keep            bool

	dir, self string
	backend   backends
	pki       *pki
	samples   samples
	failed    []string       // measurements that failed twice
	many      []xds.Resource // clusters that arrive
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "backend":
			return backendMain(args[1:])
		case "load":
			return loadMain(args[1:])
		case "hold":
			return holdMain(args[1:])
		case "place":
			return placeMain()
		}
	}
	b := &bench{}
	var names, only string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&b.out, "out", "", "directory for bench.json, samples.json and bench.svg (default: none is written)")
	f.StringVar(&b.tulle, "tulle", "bin/tulle", "the tulle program; tulle-proxy is beside it")
	f.BoolVar(&b.quick, "quick", false, "tulle, nginx, haproxy and envoy-istio on three shapes, in under five minutes")
	f.StringVar(&names, "shapes", "", "shapes, by commas (default: all)")
	f.StringVar(&only, "only", "", "contenders, by commas (default: all)")
	f.IntVar(&b.rounds, "rounds", 0, "rounds; medians count (default: 3)")
	f.IntVar(&b.seconds, "seconds", 0, "seconds per contender and round, at most 10 (default: 2); shapes without a target take half")
	f.IntVar(&b.rate, "rate", 2000, "requests per second at which latencies are taken; 0: not at all")
	f.StringVar(&b.save, "save", "", "keep the samples as a baseline in this file")
	f.StringVar(&b.compare, "compare", "", "tell what moved beyond noise since the baseline in this file")
	f.BoolVar(&b.polite, "polite", false, "leave priorities as they are; without it all else on the machine waits, where we may do so")
	f.BoolVar(&b.keep, "keep", false, "leave configurations and logs in the scratch directory")
	list := f.Bool("list", false, "print shapes and contenders, and what is missing")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *list {
		return printList()
	}
	var err error
	if b.shapes, err = choose(split(names), b.quick); err != nil {
		return err
	}
	b.only = split(only)
	if b.quick && only == "" {
		b.only = []string{"tulle", "nginx", "haproxy", "envoy-istio"}
	}
	if b.rounds <= 0 {
		b.rounds = 3
	}
	if b.seconds <= 0 {
		b.seconds = 2
	}
	b.seconds = min(b.seconds, 10)
	return b.run(ctx)
}

func split(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(x string) bool { return x == "" })
}

func printList() error {
	for _, s := range shapes {
		fmt.Printf("shape      %-17s %s\n", s.name, s.stage)
	}
	for _, c := range contenders {
		fmt.Printf("contender  %-17s %s\n", c.name, strings.Join(c.columns, ", "))
		if err := c.missing(); err != nil {
			fmt.Println("  " + strings.ReplaceAll(err.Error(), "\n", "\n  "))
		}
	}
	return nil
}

// tools are needed by every run.
var tools = []need{{"taskset", "util-linux"}, {"wrk", "wrk"}, {"h2load", "nghttp2-client"}}

func (b *bench) run(ctx context.Context) error {
	for _, n := range b.only {
		if !slices.ContainsFunc(contenders, func(c *contender) bool { return c.name == n }) {
			return fmt.Errorf("there is no contender %q", n)
		}
	}
	all := append([]*contender{{name: "the load", needs: tools}}, b.chosen()...)
	install(ctx, all)
	var errs []error
	for _, c := range all {
		errs = append(errs, c.missing())
	}
	if runtime.NumCPU() < 2 {
		errs = append(errs, errors.New("proxies and load need a core each"))
	}
	if _, err := os.Stat(b.tulle); err != nil {
		errs = append(errs, fmt.Errorf("%w: make build", err))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var base *samples
	var err error
	if b.compare != "" {
		if base, err = readSamples(b.compare); err != nil {
			return err
		}
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.tulle, err = filepath.Abs(b.tulle); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "tulle-bench-"); err != nil {
		return err
	}
	if b.keep {
		fmt.Fprintln(os.Stderr, "scratch:", b.dir)
	} else {
		defer os.RemoveAll(b.dir)
	}
	if b.pki, err = newPKI(b.dir); err != nil {
		return err
	}
	descriptors() // those of our children too
	if b.hurry = !b.polite && mayHurry(); b.hurry {
		defer hurryGroup()()
	}
	stop, err := b.startBackend(ctx)
	if err != nil {
		return err
	}
	defer stop()
	b.samples = newSamples()
	for _, g := range stages(b.shapes) {
		if err = b.runStage(ctx, g); err != nil {
			break // what was measured is told all the same
		}
	}
	if len(b.failed) > 0 {
		err = errors.Join(err, fmt.Errorf("not measured: %s", strings.Join(b.failed, ", ")))
	}
	return errors.Join(err, b.report(base))
}

// chosen are the contenders of this run, direct first.
func (b *bench) chosen() (out []*contender) {
	for _, c := range contenders {
		if c == direct || len(b.only) == 0 || slices.Contains(b.only, c.name) {
			out = append(out, c)
		}
	}
	return out
}

func (b *bench) startBackend(ctx context.Context) (stop func(), err error) {
	for _, a := range []*string{&b.backend.h1, &b.backend.h2, &b.backend.tcp} {
		if *a, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	j, err := spawn(b.dir, "backend", loadCPU, b.self, "backend", b.backend.h1, b.backend.h2, b.backend.tcp)
	if err != nil {
		return nil, err
	}
	if err := j.listening(ctx, b.backend.h1, b.backend.h2, b.backend.tcp); err != nil {
		j.stop()
		return nil, fmt.Errorf("backend: %w", err)
	}
	if b.hurry {
		renice([]int{j.pid()}, urgent)
	}
	return j.stop, nil
}

// runStage starts all who can be that, compares their work, and measures them
// by turns at each of its shapes.
func (b *bench) runStage(ctx context.Context, g stage) error {
	mine := slices.DeleteFunc(slices.Clone(b.shapes), func(s shape) bool { return s.stage != g })
	var all []*subject
	defer func() {
		for _, s := range all {
			s.stop()
		}
	}()
	for _, c := range b.chosen() {
		for _, column := range []string{equal, filters} {
			if !c.can(g.front, column) {
				continue
			}
			s := &subject{c: c, column: column, front: g.front, running: &running{}}
			dir := filepath.Join(b.dir, fmt.Sprintf("%s-%s-%s", g, c.name, column))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			r, err := c.start(ctx, &plan{stage: g, filters: column == filters, dir: dir, backend: b.backend, pki: b.pki, tulle: b.tulle, self: b.self})
			if r != nil {
				s.running = r
				all = append(all, s)
			}
			if err != nil && (c == direct || ctx.Err() != nil) {
				return fmt.Errorf("%s as %s: %w", c.name, g, err)
			}
			if err != nil { // the others can be measured
				fmt.Fprintf(os.Stderr, "%s (%s) as %s does not start: %v\n", c.name, column, g, err)
				b.failed = append(b.failed, fmt.Sprintf("%s (%s) as %s", c.name, column, g))
				if r != nil {
					all = all[:len(all)-1]
					r.stop()
				}
				continue
			}
			if b.hurry {
				renice(r.pids, urgent)
			}
		}
	}
	settled(ctx)
	for _, s := range all {
		s.rssIdle = rss(s.pids)
	}
	if err := sameWork(all); err != nil {
		return err
	}
	for i := range mine {
		if err := b.runShape(ctx, &mine[i], all); err != nil {
			return fmt.Errorf("%s: %w", mine[i].name, err)
		}
	}
	return nil
}

func (b *bench) runShape(ctx context.Context, sh *shape, all []*subject) error {
	rounds := b.rounds
	if sh.scene != nil && sh.scene.once {
		rounds = 1
	}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "%s: round %d of %d\n", sh.name, round+1, rounds)
		for _, s := range all {
			m, err := s.slot(ctx, b, sh)
			if err != nil && ctx.Err() == nil { // a busy machine: once more, and it is told
				fmt.Fprintf(os.Stderr, "%s (%s): %v; once more\n", s.c.name, s.column, err)
				m, err = s.slot(ctx, b, sh)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil { // an empty slot keeps the rounds together
				fmt.Fprintf(os.Stderr, "%s (%s): not measured: %v\n", s.c.name, s.column, err)
				b.failed, m = append(b.failed, fmt.Sprintf("%s of %s (%s) in round %d", sh.name, s.c.name, s.column, round+1)), slot{}
			}
			b.samples.add(sh.name, s, m)
		}
	}
	return nil
}

// slot measures the subject once: in the shape's scenario, or at saturation and
// at a fixed rate where the shape stands for its front.
func (s *subject) slot(ctx context.Context, b *bench, sh *shape) (slot, error) {
	if sh.scene != nil {
		return s.play(ctx, b, sh)
	}
	last := time.Duration(b.seconds) * time.Second
	if !sh.main || s.c == direct {
		last = max(last/2, time.Second).Truncate(time.Second)
	}
	m, err := s.saturate(ctx, b, sh, last)
	if err != nil || !sh.fixed || b.rate <= 0 {
		return m, err
	}
	at, err := s.pace(ctx, b, sh, b.window(2*time.Second))
	m.P50, m.P99, m.P999 = at.P50, at.P99, at.P999
	return m, err
}
