package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench control:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	out, self, profile string
	rounds             int
	swell              bool
}

func command(ctx context.Context) error {
	set := flag.NewFlagSet("control", flag.ContinueOnError)
	var b bench
	role := set.String("role", "", "for its own use")
	dir := set.String("dir", "", "for its own use")
	services := set.Int("services", 0, "with proxies: one size alone")
	proxies := set.Int("proxies", 0, "with services: one size alone")
	wildcard := set.Bool("wildcard", false, "with services: clients that hold everything")
	saved := set.String("show", "", "a control.json that was written before, to be shown again")
	only := set.String("only", "", "sizes, first or certificates: nothing else")
	quick := set.Bool("quick", false, "few sizes, under two minutes")
	set.StringVar(&b.out, "out", "bin/bench", "directory for control.json and control.svg")
	set.StringVar(&b.profile, "profile", "", "with services: a file for the control plane's CPU profile from the first proxy on")
	set.IntVar(&b.rounds, "rounds", 10, "changes of each kind")
	set.BoolVar(&b.swell, "grow", true, "a service grows to 10,000 endpoints, at 1,000 services and 1,000 proxies")
	if err := set.Parse(os.Args[1:]); err != nil {
		return err
	}
	if *role == "plane" {
		return plane(ctx, *dir, *services, *proxies, os.Stdin, os.Stdout)
	}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	sizes := everySize
	switch {
	case *services > 0 && *proxies > 0:
		sizes = []size{{*services, *proxies, *wildcard, true}}
	case *quick:
		sizes = quickSizes
	}
	if *only == "first" || *only == "certificates" {
		sizes = nil
	}
	if *saved != "" {
		return b.again(*saved)
	}
	var all run
	for _, s := range sizes {
		r, err := b.measure(ctx, s)
		if err != nil && ctx.Err() == nil {
			// Others on the machine may be in its way, and all that was measured
			// before would be lost.
			fmt.Fprintf(os.Stderr, "%d services, %d proxies, %s: %v; once more\n", s.Services, s.Proxies, s.how(), err)
			r, err = b.measure(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("%d services, %d proxies: %w", s.Services, s.Proxies, err)
		}
		all.Sizes = append(all.Sizes, r)
		if err := table(os.Stdout, []result{r}, len(all.Sizes) == 1); err != nil {
			return err
		}
	}
	if *services == 0 && (*only == "" || *only == "first") {
		if all.FirstUse, err = b.firstUse(ctx); err != nil {
			return fmt.Errorf("first use: %w", err)
		}
	}
	if *services == 0 && (*only == "" || *only == "certificates") {
		if all.Certificates, err = b.certificates(ctx); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	return b.write(&all)
}

// again reads a run that was written and judges and draws it anew.
func (b *bench) again(path string) error {
	var all run
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return err
	}
	for i := range all.Sizes {
		if err := table(os.Stdout, all.Sizes[i:i+1], i == 0); err != nil {
			return err
		}
	}
	return b.write(&all)
}

// size is a mesh and who is served.
type size struct {
	Services, Proxies int
	Wildcard          bool // else each proxy asks for ten services
	Main              bool // of the table that is compared with others; else of growth
}

var (
	everySize = []size{
		{100, 1000, false, true}, {1000, 500, false, true}, {1000, 1000, false, true}, {5000, 100, false, true},
		{100, 1000, true, true}, {1000, 500, true, true}, {5000, 100, true, true},
		{100, 1, false, false}, {1000, 1, false, false}, {5000, 1, false, false}, {10000, 1, false, false},
		{100, 100, false, false}, {1000, 100, false, false}, {10000, 100, false, false},
		{5000, 1000, false, false}, {10000, 1000, false, false},
	}
	quickSizes = []size{{1000, 500, false, true}, {5000, 100, false, true}, {1000, 100, true, true}, {100, 100, false, false}, {10000, 100, false, false}}
)

// result is what one size costs.
type result struct {
	size
	ReadyS     float64 `json:"readySeconds"`
	ReadyCPU   float64 `json:"readyCPUSeconds"`
	PeakMB     float64 `json:"peakMiB"`
	LiveMB     float64 `json:"heapMiB"`
	EmptyMB    float64 `json:"heapBeforeProxiesMiB"`
	PerProxy   int     `json:"bytesPerProxy"`
	Endpoint   change  `json:"endpointChange"`
	Route      change  `json:"routeChange"`
	Unheld     change  `json:"unheldChange"`
	BytesOther int     `json:"bytesOfUnheldChange"`
	Grow       *growth `json:"growth,omitempty"`
}

// change of one object, over some rounds.
type change struct {
	P50   float64 `json:"p50Milliseconds"` // from the source to a holder
	P99   float64 `json:"p99Milliseconds"`
	CPU   float64 `json:"cpuMilliseconds"` // of the control plane, each
	Bytes int     `json:"bytesPerHolder"`
}

// growth of one service to 10,000 endpoints in ten seconds.
type growth struct {
	AfterMS  float64 `json:"convergedAfterLastMilliseconds"`
	CPU      float64 `json:"cpuSeconds"`
	PerProxy int     `json:"bytesPerProxy"`
}

// child is the control plane's process.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
	hello hello
}

func (b *bench) spawn(ctx context.Context, dir string, s size) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, b.self, "-role", "plane", "-dir", dir, "-services", strconv.Itoa(s.Services), "-proxies", strconv.Itoa(s.Proxies))}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(bufio.NewReader(out))
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	return c, c.out.Decode(&c.hello)
}

// tell gives the process a command and has what it used so far.
func (c *child) tell(format string, args ...any) (u usage, err error) {
	if _, err = fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		return u, err
	}
	return u, c.out.Decode(&u)
}

func (c *child) end() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

const usesEach = 10

// services that a proxy uses: the first, and others evenly.
func uses(id, services int) []int {
	out := []int{0}
	for k := 1; k < usesEach && k < services; k++ {
		if s := 1 + (id*(usesEach-1)+k*37)%max(1, services-2); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (b *bench) measure(ctx context.Context, s size) (r result, err error) {
	r.size = s
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute) // the largest takes one on a quiet machine
	defer cancel()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	c, err := b.spawn(ctx, dir, s)
	if err != nil {
		return r, err
	}
	defer c.end()
	if err := settle(c); err != nil {
		return r, err
	}
	before, err := c.tell("rest")
	if err != nil {
		return r, err
	}
	if b.profile != "" {
		if _, err := c.tell("profile %s", b.profile); err != nil {
			return r, err
		}
	}
	f := &fleet{demand: !s.Wildcard, hello: c.hello}
	for id := range s.Proxies {
		f.proxies = append(f.proxies, &proxy{f: f, id: id, uses: uses(id, s.Services)})
	}
	start := time.Now()
	if err := f.start(ctx); err != nil {
		return r, err
	}
	r.ReadyS = time.Since(start).Seconds()
	ready, err := c.tell("usage")
	if err != nil {
		return r, err
	}
	r.EmptyMB, r.ReadyCPU = before.LiveMB, ready.CPU-before.CPU
	for _, p := range f.proxies {
		r.PerProxy += int(p.bytes.Load()) / s.Proxies
	}
	if b.rounds == 0 {
		if b.profile != "" {
			_, _ = c.tell("profile")
		}
		after, err := c.tell("rest")
		r.PeakMB, r.LiveMB = after.PeakMB, after.LiveMB
		return r, err
	}
	if err := settle(c); err != nil {
		return r, err
	}
	route := "0.0.0.0_80/" + hostOf(0)
	if s.Wildcard {
		route = "80"
	}
	if r.Endpoint, err = b.change(ctx, c, f, endpointType+"outbound|80||"+hostOf(0), "endpoint 0 10"); err != nil {
		return r, err
	}
	if r.Route, err = b.change(ctx, c, f, routeType+route, "route 0"); err != nil {
		return r, err
	}
	if !s.Wildcard && s.Services > 1 {
		if r.Unheld, r.BytesOther, err = b.unheld(c, f, s.Services-1); err != nil {
			return r, err
		}
	}
	if !s.Wildcard && s.Main && s.Services == 1000 && s.Proxies != 500 && b.swell {
		if r.Grow, err = b.grow(ctx, c, f); err != nil {
			return r, err
		}
	}
	if b.profile != "" {
		if _, err := c.tell("profile"); err != nil {
			return r, err
		}
	}
	after, err := c.tell("rest")
	r.PeakMB, r.LiveMB = after.PeakMB, after.LiveMB
	return r, err
}

// settle waits until the process uses next to nothing, or not for ever: the
// runtime collects garbage now and then.
func settle(c *child) error {
	last := -1.0
	for range 60 {
		u, err := c.tell("usage")
		if err != nil {
			return err
		}
		if u.CPU-last < 0.004 {
			return nil
		}
		last = u.CPU
		time.Sleep(250 * time.Millisecond)
	}
	return nil
}

func (f *fleet) total() (n int64) {
	for _, p := range f.proxies {
		n += p.bytes.Load()
	}
	return n
}

// change does one thing some times, each when the one before is with all.
func (b *bench) change(ctx context.Context, c *child, f *fleet, name, what string) (out change, err error) {
	before, err := c.tell("usage")
	if err != nil {
		return out, err
	}
	bytes := f.total()
	var all []float64
	for range b.rounds {
		done := f.expect(name, len(f.proxies))
		start := time.Now()
		if _, err := c.tell("%s", what); err != nil {
			return out, err
		}
		if err := f.wait(ctx, done); err != nil {
			return out, err
		}
		for _, t := range f.at {
			all = append(all, t.Sub(start).Seconds()*1000)
		}
		time.Sleep(150 * time.Millisecond) // behind the time in which changes are gathered
	}
	if err := settle(c); err != nil {
		return out, err
	}
	after, err := c.tell("usage")
	slices.Sort(all)
	out.P50, out.P99 = all[len(all)/2], all[len(all)*99/100]
	out.CPU = 1000 * (after.CPU - before.CPU) / float64(b.rounds)
	out.Bytes = int(f.total()-bytes) / len(f.proxies) / b.rounds
	return out, err
}

// unheld changes what nobody holds.
func (b *bench) unheld(c *child, f *fleet, service int) (out change, bytes int, err error) {
	before, err := c.tell("usage")
	if err != nil {
		return out, 0, err
	}
	was := f.total()
	rounds := 4 * b.rounds // so that collections of garbage count as often as they come
	for range rounds {
		if _, err := c.tell("endpoint %d 10", service); err != nil {
			return out, 0, err
		}
		time.Sleep(110 * time.Millisecond)
	}
	if err := settle(c); err != nil {
		return out, 0, err
	}
	after, err := c.tell("usage")
	out.CPU = 1000 * (after.CPU - before.CPU) / float64(rounds)
	return out, int(f.total() - was), err
}

// grow gives a service 10,000 endpoints within ten seconds.
func (b *bench) grow(ctx context.Context, c *child, f *fleet) (*growth, error) {
	const n, step = 10_000, 100
	before, err := c.tell("usage")
	if err != nil {
		return nil, err
	}
	bytes := f.total()
	f.expect(endpointType+"outbound|80||"+hostOf(0), len(f.proxies))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for k := step; k <= n; k += step {
		<-tick.C
		if _, err := c.tell("endpoint 0 %d", k); err != nil {
			return nil, err
		}
	}
	last := time.Now()
	if err := f.quiet(ctx); err != nil {
		return nil, err
	}
	after, err := c.tell("usage")
	return &growth{AfterMS: time.Unix(0, f.lastByte.Load()).Sub(last).Seconds() * 1000, CPU: after.CPU - before.CPU, PerProxy: int(f.total()-bytes) / len(f.proxies)}, err
}

func (b *bench) write(all *run) error {
	if err := all.tell(os.Stdout); err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(b.out, "control.json"), append(text, '\n'), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(b.out, "control.svg"), picture(all.Sizes), 0o644)
	}
	if err == nil {
		fmt.Println("\nwritten:", strings.Join([]string{filepath.Join(b.out, "control.json"), filepath.Join(b.out, "control.svg")}, ", "))
	}
	return err
}
