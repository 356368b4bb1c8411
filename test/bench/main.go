// Command bench measures tulle-proxy beside its peers: CPU per request in one
// interleaved run on the same cores.
//
// Every contender gets the same route table (20 hosts with 10 prefixes each),
// adds the same headers, keeps connections alive on both sides and writes no
// access log. Before anything is measured the answers of all are compared; a
// contender that does other work is refused. The figure is CPU time of the
// contender's own processes per request, from the kernel's accounting, which
// stays true on a busy machine.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// contender is one proxy under test.
type contender interface {
	Name() string
	// Start brings it up in front of the backend and returns the address it
	// listens on and the processes whose CPU counts.
	Start(ctx context.Context, dir string, backend string) (addr string, pids []int, err error)
	Stop()
}

// result is a row of bench.json; a figure that was not measured is left out.
type result struct {
	Shape     string  `json:"shape"`
	Column    string  `json:"column"`
	Contender string  `json:"contender"`
	CPU       float64 `json:"cpu_us_per_request"`
	RPS       float64 `json:"rps"`
	RSSIdle   int     `json:"rss_idle_kb,omitempty"`
	RSSLoad   int     `json:"rss_load_kb,omitempty"`
}

type options struct {
	out     string
	tulle   string
	rounds  int
	seconds int
	conns   int
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", "", "directory for bench.json (default: none is written)")
	flag.StringVar(&o.tulle, "tulle", "bin/tulle", "the tulle program; tulle-proxy is beside it")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; the median counts")
	flag.IntVar(&o.seconds, "seconds", 3, "seconds per contender and round (at most 10)")
	flag.IntVar(&o.conns, "conns", 64, "connections")
	flag.Parse()
	o.seconds = min(max(o.seconds, 1), 10)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	for tool, pkg := range map[string]string{"nginx": "nginx", "wrk": "wrk", "taskset": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: apt-get install %s", tool, pkg)
		}
	}
	dir, err := os.MkdirTemp("", "tulle-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	back := &backend{}
	addr, err := back.Start(ctx, dir)
	if err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	defer back.Stop()
	all := []contender{&nginx{}, &tulle{program: o.tulle}}
	running := make([]*subject, 0, len(all))
	for _, c := range all {
		s := &subject{contender: c}
		defer c.Stop()
		sub := filepath.Join(dir, c.Name())
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		if s.addr, s.pids, err = c.Start(ctx, sub, addr); err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		s.rssIdle = rss(s.pids)
		running = append(running, s)
	}
	if err := sameWork(running); err != nil {
		return err
	}
	shape := fmt.Sprintf("h1-%d", o.conns)
	for round := range o.rounds {
		for _, s := range running {
			if err := s.measure(ctx, dir, o); err != nil {
				return fmt.Errorf("%s: %w", s.contender.Name(), err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, o.rounds)
	}
	return report(o, shape, running)
}

// subject is a contender with its measurements.
type subject struct {
	contender contender
	addr      string
	pids      []int
	rssIdle   int
	rssLoad   int
	cpu, rps  []float64
}

func report(o *options, shape string, all []*subject) error {
	var rows []result
	base := median(all[0].cpu)
	fmt.Printf("%-10s %-8s %14s %10s %10s %8s %8s %8s\n", "shape", "proxy", "CPU us/req", "spread", "rps", "x nginx", "idle KB", "load KB")
	for _, s := range all {
		c := median(s.cpu)
		fmt.Printf("%-10s %-8s %14.2f %4.1f-%-5.1f %10.0f %8.2f %8d %8d\n", shape, s.contender.Name(), c,
			slices.Min(s.cpu), slices.Max(s.cpu), median(s.rps), c/base, s.rssIdle, s.rssLoad)
		rows = append(rows, result{shape, "equal", s.contender.Name(), c, median(s.rps), s.rssIdle, s.rssLoad})
	}
	if o.out == "" {
		return nil
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.out, "bench.json"), b, 0o644)
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}

// stopGroup ends a process group.
func stopGroup(c *exec.Cmd) {
	if c == nil || c.Process == nil {
		return
	}
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		<-done
	}
}
