package proxy

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/agent"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/dns"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// Proxy is a running data plane.
type Proxy struct {
	boot      *Bootstrap
	log       *slog.Logger
	group     *loop.Group
	workers   []*worker
	clusters  *cluster.Registry
	secrets   *mtls.Store
	tls       *mtls.Engine
	telemetry *telemetry.Set
	snapshot  atomic.Pointer[conf.Snapshot]
	ready     atomic.Bool
	started   time.Time
	sockets   *listen.Set
	waiting   atomic.Value           // string: what readiness waits for
	opening   sync.Mutex             // held while a snapshot's listeners are opened
	unopened  atomic.Pointer[string] // which listeners cannot be opened, and why
	admin     *admin
	stop      context.CancelFunc
	hostPorts []hostPort
	names     *dns.Server // nil: the program asks others
	inside    *inside     // the program's own namespace; nil: it lives in ours
}

// Main is the program: it reads flags and the bootstrap, runs until a signal,
// drains, and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "agent" {
		return agent.Main(args[1:], stderr)
	}
	fs := flag.NewFlagSet("tulle-proxy", flag.ContinueOnError)
	fs.SetOutput(stderr)
	file := fs.String("bootstrap", "", "bootstrap file (JSON)")
	level := fs.String("log-level", "info", "debug, info, warn or error; messages go to standard error")
	fs.Usage = func() {
		fmt.Fprintln(stderr, "tulle-proxy is Tulle's data plane; tulle run, tulle up and the injector start it.\n\nusage: tulle-proxy --bootstrap FILE")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *file == "" || fs.NArg() > 0 {
		fs.Usage()
		return 2
	}
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(*level)); err != nil {
		fmt.Fprintf(stderr, "tulle-proxy: --log-level %s: want debug, info, warn or error\n", *level)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: lv}))
	boot, err := ReadBootstrap(*file)
	if err != nil {
		fmt.Fprintln(stderr, "tulle-proxy:", err)
		return 2
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := Run(ctx, boot, log); err != nil {
		fmt.Fprintln(stderr, "tulle-proxy:", err)
		return 1
	}
	return 0
}

// Run runs a proxy until ctx ends and its requests have ended too.
func Run(ctx context.Context, boot *Bootstrap, log *slog.Logger) error {
	p, err := newProxy(boot, log)
	if err != nil {
		return err
	}
	defer p.telemetry.Close()
	defer p.clusters.Close()
	defer p.inside.close()
	if p.inside != nil {
		if err := p.serveNames(); err != nil {
			return err
		}
	}
	loops, stopLoops := context.WithCancel(context.Background())
	defer stopLoops()
	running, stop := context.WithCancel(ctx)
	defer stop()
	p.stop = stop
	p.group.OnSick = func(err error) {
		log.Error("too many internal errors; draining", "error", err)
		stop()
	}
	ended := make(chan error, 1)
	go func() { ended <- p.group.Run(loops) }()
	if boot.Admin != "" {
		if p.admin, err = p.serveAdmin(boot.Admin); err != nil {
			return err
		}
		defer p.admin.close()
	}
	go p.tick(running)
	fed := make(chan error, 1)
	go func() { fed <- p.feed(running) }()
	select {
	case <-running.Done():
	case err = <-ended:
		return fmt.Errorf("event loops: %w", err)
	case err = <-fed:
		if err != nil && running.Err() == nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	p.drain()
	stopLoops()
	return <-ended
}

func newProxy(boot *Bootstrap, log *slog.Logger) (*Proxy, error) {
	n := boot.Concurrency
	if n <= 0 {
		n = defaultLoops()
	}
	runtime.GOMAXPROCS(n + 1)
	limitMemory()
	p := &Proxy{boot: boot, log: log, started: time.Now()}
	p.snapshot.Store(conf.NewSnapshot())
	var err error
	if boot.Agent != "" {
		if p.inside, err = openInside(boot.Agent); err != nil {
			return nil, err
		}
		p.hostPorts = hostPortsOf(boot.HostPorts)
	}
	if p.group, err = loop.New(n); err != nil {
		return nil, err
	}
	p.group.Log = log
	p.clusters = cluster.New(cluster.Options{Loops: n})
	p.secrets = mtls.NewStore()
	p.tls = mtls.New(mtls.Options{Gate: p.group.Gate(), Source: p.secrets})
	p.telemetry = telemetry.New(n)
	w := boot.Workload
	local := telemetry.Workload{Name: w.Name, Namespace: w.Namespace, Canonical: w.Canonical, Revision: w.Revision,
		App: w.App, Version: w.Version, Cluster: w.Cluster}
	for _, l := range p.group.Loops() {
		k := &worker{p: p, loop: l, pool: pool.New(l, pool.Options{TLS: p.tls, NoBridge: boot.NoBridge, Dial: p.inside.dialer()})}
		k.http = exchange.Env{Loop: l, Pool: k.pool, Clusters: p.clusters, Snapshot: p.snapshot.Load, Reporter: k,
			Node: exchange.Node{Local: local, Tell: tell(&local)}}
		k.tcp = tcp.Env{Loop: l, Pool: k.pool, Clusters: p.clusters, Reporter: k, Local: local}
		p.workers = append(p.workers, k)
	}
	p.sockets = listen.New(p.group, listen.Options{Accepted: p.accepted, Refused: p.unmatched, Open: p.inside.opener(),
		Limit: connectionLimit()})
	p.waiting.Store("the control plane has not answered yet")
	p.gauges()
	return p, nil
}

// defaultLoops is the CPU limit rounded up, at most 2 where there is none.
func defaultLoops() int {
	n := runtime.GOMAXPROCS(0) // honours the cgroup's limit
	if n >= runtime.NumCPU() {
		n = min(n, 2)
	}
	return max(n, 1)
}

// tell is the workload in the form that peers are told, empty without a name.
func tell(w *telemetry.Workload) string {
	if w.Name == "" {
		return ""
	}
	return strings.Join([]string{w.Name, w.Namespace, w.Canonical, w.Revision, w.Cluster}, ";")
}

// connectionLimit is how many connections, of clients and to endpoints, may be
// open at once: what the descriptors allow, with some left for all else.
func connectionLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur > 1<<20 {
		return 1 << 20
	}
	return max(int(r.Cur)*3/4, 16)
}

// limitMemory makes the collector work harder near the cgroup's limit.
func limitMemory() {
	debug.SetGCPercent(50)
	b, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		return
	}
	if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
		debug.SetMemoryLimit(n / 10 * 8)
	}
}

// tick keeps clusters' clocks: ejections, DNS.
func (p *Proxy) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			p.clusters.Tick(loop.Nanotime())
		}
	}
}

// drain stops accepting, lets requests end, and cuts what takes too long.
func (p *Proxy) drain() {
	p.ready.Store(false)
	p.sockets.Close()
	limit := time.Duration(p.boot.Drain)
	if limit <= 0 {
		limit = 5 * time.Second
	}
	p.onLoops(func(w *worker) { w.http.Drain() })
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var open atomic.Int64
		p.onLoops(func(w *worker) { open.Add(int64(w.http.Count() + w.tcp.Count())) })
		if open.Load() == 0 {
			return
		}
	}
	p.onLoops(func(w *worker) { w.tcp.CloseAll() })
}

// onLoops runs fn on every loop and waits until all have done so, or ended.
func (p *Proxy) onLoops(fn func(w *worker)) {
	done := make(chan struct{}, len(p.workers))
	for _, w := range p.workers {
		if !w.loop.Post(func() { fn(w); done <- struct{}{} }) {
			done <- struct{}{}
		}
	}
	for range p.workers {
		<-done
	}
}

// gauges are the proxy's own metrics.
func (p *Proxy) gauges() {
	p.telemetry.Gauge("tulle_proxy_handshakes_pending", "TLS handshakes under way.", func() float64 { return float64(p.tls.Pending()) })
	p.telemetry.Gauge("tulle_proxy_gate_waiting", "Pieces of work that wait for a processor.", func() float64 { return float64(p.group.Gate().Waiting()) })
	p.telemetry.Gauge("tulle_proxy_memory_bytes", "Heap in use.", func() float64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse)
	})
	p.telemetry.CounterFunc("tulle_proxy_connections_refused_total", "Connections closed at once because too many were open.", func() float64 {
		_, over, _ := p.sockets.Counts()
		return float64(over)
	})
	p.telemetry.Gauge("tulle_proxy_connections", "Open connections, of clients and to endpoints.", func() float64 {
		n := 0
		for _, l := range p.group.Loops() {
			n += l.Conns()
		}
		return float64(n)
	})
	p.telemetry.CounterFunc("tulle_proxy_panics_total", "Events that ended in an internal error.", func() float64 { return float64(p.group.Panics()) })
	p.telemetry.Gauge("tulle_proxy_uptime_seconds", "Time since the start.", func() float64 { return time.Since(p.started).Seconds() })
}

// pages of the admin server.
func (p *Proxy) pages() map[string]page {
	return map[string]page{
		"GET /ready":            p.readyPage,
		"GET /healthz/ready":    p.readyPage,
		"GET /stats/prometheus": p.statsPage,
		"GET /clusters":         p.clustersPage,
		"GET /listeners":        p.listenersPage,
		"POST /quitquitquit":    p.quitPage,
	}
}

func (p *Proxy) readyPage(w *bytes.Buffer) (int, string) {
	unopened := p.unopened.Load()
	switch {
	case p.ready.Load() && *unopened == "":
		w.WriteString("ready\n")
	case p.ready.Load():
		w.WriteString("ready, but listeners cannot be opened: " + *unopened + "\n")
	case unopened != nil && *unopened != "":
		w.WriteString("listeners cannot be opened: " + *unopened + "\n")
		return 503, "text/plain"
	default:
		w.WriteString(p.waiting.Load().(string) + "\n")
		return 503, "text/plain"
	}
	return 200, "text/plain"
}

func (p *Proxy) statsPage(w *bytes.Buffer) (int, string) {
	if err := p.telemetry.Expose(w, loop.Nanotime()); err != nil {
		w.Reset()
		w.WriteString(err.Error() + "\n")
		return 500, "text/plain"
	}
	return 200, "text/plain; version=0.0.4; charset=utf-8"
}

func (p *Proxy) clustersPage(w *bytes.Buffer) (int, string) {
	p.clusters.Each(func(h *cluster.Handle) {
		fmt.Fprintf(w, "%s::active_requests::%d\n", h.Name, h.Used(cluster.Requests))
		fmt.Fprintf(w, "%s::connections::%d\n", h.Name, h.Used(cluster.Connections))
		for _, e := range h.Endpoints() {
			fmt.Fprintf(w, "%s::%s::weight::%d ejected=%t tls=%t %s\n", h.Name, e, e.Weight, e.Ejected(), e.TLS != nil, e.Workload)
		}
	})
	return 200, "text/plain"
}

func (p *Proxy) listenersPage(w *bytes.Buffer) (int, string) {
	open := p.sockets.Addresses()
	for name, l := range p.snapshot.Load().Listeners {
		for _, a := range l.Addresses {
			fmt.Fprintf(w, "%s::%s bound=%t open=%t\n", name, a, l.Bind, slices.Contains(open, a.String()))
		}
	}
	return 200, "text/plain"
}

func (p *Proxy) quitPage(w *bytes.Buffer) (int, string) {
	w.WriteString("draining\n")
	p.stop()
	return 200, "text/plain"
}
