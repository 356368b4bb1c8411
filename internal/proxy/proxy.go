package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
	"github.com/tulle-mesh/tulle/internal/proxy/dns"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/feed"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/ratelimit"
	"github.com/tulle-mesh/tulle/internal/proxy/listen"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
	"github.com/tulle-mesh/tulle/internal/proxy/overload"
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
	limits    ratelimit.Registry
	secrets   *mtls.Store
	tls       *mtls.Engine
	telemetry *telemetry.Set
	memory    *overload.Watch
	tidy      *time.Timer // runs tidyUp
	snapshot  atomic.Pointer[conf.Snapshot]
	ready     atomic.Bool
	started   time.Time
	sockets   *listen.Set
	waiting   atomic.Value              // string: what readiness waits for
	opening   sync.Mutex                // held while a snapshot's listeners are opened
	unopened  atomic.Pointer[string]    // which listeners cannot be opened, and why
	served    chan struct{}             // closed when requests can be served
	first     sync.Once                 // of served
	unfed     chan struct{}             // closed when the feed has ended
	source    atomic.Pointer[feed.Feed] // nil: the configuration comes from the caller
	leaving   atomic.Bool               // draining, to end
	shutting  atomic.Bool               // its listeners are being closed, or are
	failing   atomic.Bool               // POST /healthcheck/fail
	handed    atomic.Bool               // a successor has taken over
	goodbye   chan struct{}             // closed when it was told so
	stop      context.CancelFunc
	hostPorts []hostPort
	names     *dns.Server   // nil: the program asks others
	board     *demand.Board // nil: all of the mesh is asked for
	counts    *feed.Counts  // of board's lookups
	inside    *inside       // the program's own namespace; nil: it lives in ours

	mu          sync.Mutex // of what retire ends
	admin       *door
	podDoors    []*door
	restart     *net.UnixListener
	nameSockets map[string]nameSocket

	unscraped atomic.Uint64 // scrapes of the program that failed
}

// Run runs a proxy until ctx ends and its requests have ended too.
func Run(ctx context.Context, boot *Bootstrap, log *slog.Logger) error {
	p, err := newProxy(boot, log, nil)
	if err != nil {
		return err
	}
	defer p.telemetry.Close()
	defer p.clusters.Close()
	defer p.inside.close()
	h, err := inherit(boot.RestartSocket)
	if err != nil {
		return err
	}
	defer h.close()
	if h.conn != nil {
		log.Info("has the sockets of the predecessor; taking over when ready", "pid", h.pid, "sockets", len(h.fds))
	}
	p.inheritListeners(h)
	defer p.retire(false)
	if p.inside != nil || boot.Pod != nil && boot.Pod.DNS {
		if err := p.serveNames(h); err != nil {
			return err
		}
	}
	if boot.Pod != nil && boot.Pod.Capture {
		if err := p.hold(); err != nil {
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
	if h.conn == nil {
		if err := p.assume(running, h); err != nil {
			return err
		}
	}
	go p.tick(running)
	go p.watchMemory(running)
	fed := make(chan error, 2)
	go func() { fed <- p.feed(running); close(p.unfed) }()
	if h.conn != nil {
		go func() {
			if err := p.assume(running, h); err != nil {
				fed <- err
			}
		}()
	}
	select {
	case <-running.Done():
	case err = <-ended:
		return fmt.Errorf("event loops: %w", err)
	case err = <-fed:
		if err != nil && running.Err() == nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	if p.handed.Load() {
		<-p.goodbye
		p.drain(boot.RestartDrain.or(defaultRestartDrain), 0, ctx.Done())
	} else {
		p.drain(boot.Drain.or(defaultDrain), time.Duration(boot.DrainAccept), nil)
	}
	stopLoops()
	return <-ended
}

// newProxy makes a proxy in the place where it runs; nil: what boot says.
func newProxy(boot *Bootstrap, log *slog.Logger, at *Place) (*Proxy, error) {
	clients, unknown, err := ext.ParseRuntime(boot.Runtime)
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if len(unknown) > 0 {
		log.Warn("runtime keys that mean nothing here", "keys", unknown)
	}
	n := boot.Concurrency
	if n <= 0 {
		n = defaultLoops()
	}
	runtime.GOMAXPROCS(n + 1)
	debug.SetGCPercent(50)
	loop.Prompt()
	p := &Proxy{boot: boot, log: log, memory: overload.New(overload.Limit(), overload.Used), started: time.Now(), served: make(chan struct{}), unfed: make(chan struct{}),
		goodbye: make(chan struct{}), nameSockets: map[string]nameSocket{}}
	p.snapshot.Store(conf.NewSnapshot())
	p.tidy = time.AfterFunc(tidyAfter, tidyUp)
	if boot.Agent != "" {
		if p.inside, err = openInside(boot.Agent); err != nil {
			return nil, err
		}
		p.hostPorts = hostPortsOf(boot.HostPorts)
	}
	if at == nil {
		at = &Place{Open: p.inside.opener(), Dial: p.inside.dialer()}
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
	if boot.OnDemand && !boot.Workload.Gateway {
		p.board, p.counts = demand.New(p.group.Loops()), &feed.Counts{}
	}
	for _, l := range p.group.Loops() {
		k := &worker{p: p, loop: l, pool: pool.New(l, pool.Options{TLS: p.tls, NoBridge: boot.NoBridge, Dial: at.Dial})}
		k.http = exchange.Env{Loop: l, Pool: k.pool, Clusters: p.clusters, Snapshot: p.snapshot.Load, Reporter: k,
			Memory: p.memory, Desk: p.board.Desk(l.ID()), Limits: &p.limits, Gate: p.group.Gate(), Node: exchange.Node{Local: local, Tell: tell(&local)}}
		k.tcp = tcp.Env{Loop: l, Pool: k.pool, Clusters: p.clusters, Reporter: k, Local: local, Desk: p.board.Desk(l.ID())}
		p.workers = append(p.workers, k)
	}
	p.sockets = listen.New(p.group, listen.Options{Accepted: p.accepted, Refused: p.unmatched, Unknown: p.unknown, Demand: p.board, Open: at.Open, Original: at.Original,
		Limit: connectionLimit(), Refuse: p.refuses, Limits: clients, Full: p.full})
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

// tick keeps clusters' clocks: ejections, DNS. Timers do not see it when the
// time of day is set or the machine has slept: then it is looked at anew whose
// certificate has expired.
func (p *Proxy) tick(ctx context.Context) {
	var c clock
	c.step(time.Now(), loop.Nanotime())
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			p.clusters.Tick(loop.Nanotime())
			if d := c.step(time.Now(), loop.Nanotime()); d != 0 {
				p.log.Warn("the time of day has jumped", "by", d.Round(time.Second))
				p.reverify(ctx)
				if f := p.source.Load(); f != nil {
					f.ClockSet()
				}
			}
		}
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
	p.telemetry.Gauge("tulle_proxy_memory_live_bytes", "Heap that the last collection has left.", func() float64 {
		s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(s)
		return float64(s[0].Value.Uint64())
	})
	p.telemetry.Gauge("tulle_proxy_goroutines", "Goroutines.", func() float64 { return float64(runtime.NumGoroutine()) })
	p.telemetry.CounterFunc("tulle_proxy_accept_starved_total", "Times that no descriptor was left for a new connection.", func() float64 {
		_, _, starved := p.sockets.Counts()
		return float64(starved)
	})
	p.telemetry.CounterFunc("go_gc_heap_allocs_objects_total", "Objects allocated on the heap.", func() float64 {
		m := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
		metrics.Read(m)
		return float64(m[0].Value.Uint64())
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
	rounds := make([]float64, len(loop.RoundBounds))
	for i, d := range loop.RoundBounds {
		rounds[i] = d.Seconds()
	}
	p.telemetry.Histogram("tulle_proxy_loop_round_seconds", "Time that the event loops work before they look again at what has come.", rounds, func() ([]uint64, float64) {
		busy, n := p.group.Spent()
		return n[:], busy.Seconds()
	})
	p.memoryGauges()
	p.listenerMetrics()
	p.demandGauges()
	p.telemetry.CounterFunc("tulle_proxy_panics_total", "Events that ended in an internal error.", func() float64 { return float64(p.group.Panics()) })
	p.telemetry.Gauge("tulle_proxy_uptime_seconds", "Time since the start.", func() float64 { return time.Since(p.started).Seconds() })
}
