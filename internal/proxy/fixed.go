package proxy

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/dns"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Fixed is a proxy that is handed its configuration, by tests and tools,
// instead of asking a control plane. Its methods may be called from anywhere.
type Fixed struct {
	p     *Proxy
	ctx   context.Context
	stop  context.CancelFunc
	ended chan error
	fed   chan error // nil: nothing is asked
}

// NewFixed starts a proxy; Close ends it. What a Bootstrap says about the
// control plane is not looked at.
func NewFixed(boot *Bootstrap, log *slog.Logger) (*Fixed, error) {
	return startFixed(boot, log, nil)
}

// Place is where a proxy runs: how it opens sockets, what the kernel knows of a
// captured connection, and how it dials, as listen.Options and pool.Options say;
// nil: as everywhere.
type Place struct {
	Open     func(netip.AddrPort) (fd int, err error)
	Original func(fd int, local netip.AddrPort) netip.AddrPort
	Dial     func(*loop.Loop, *conf.Cluster, *cluster.Endpoint, loop.DialOptions) (*loop.Conn, error)
	// Names is where the program's questions for names arrive, in packets; no
	// other resolvers are asked. nil: there are none.
	Names net.PacketConn
}

// NewFed starts a proxy in a place of the caller's that asks its control plane.
func NewFed(boot *Bootstrap, log *slog.Logger, at *Place) (*Fixed, error) {
	f, err := startFixed(boot, log, at)
	if err != nil {
		return nil, err
	}
	if at.Names != nil {
		f.p.names = dns.New(dns.Options{Namespace: boot.Workload.Namespace, Resolvers: func() []netip.AddrPort { return nil }, Demand: f.p.board, Log: log})
		go f.p.names.Packets(at.Names)
	}
	f.fed = make(chan error, 1)
	go func() { f.fed <- f.p.feed(f.ctx) }()
	return f, nil
}

func startFixed(boot *Bootstrap, log *slog.Logger, at *Place) (*Fixed, error) {
	p, err := newProxy(boot, log, at)
	if err != nil {
		return nil, err
	}
	f := &Fixed{p: p, ended: make(chan error, 1)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	p.stop = f.stop
	go func() { f.ended <- p.group.Run(f.ctx) }()
	go p.tick(f.ctx)
	go p.watchMemory(f.ctx)
	return f, nil
}

// Publish puts a snapshot in force. One caller at a time.
func (f *Fixed) Publish(s *conf.Snapshot) { f.p.publish(f.ctx, s) }

// Addresses lists where it listens.
func (f *Fixed) Addresses() []string { return f.p.sockets.Addresses() }

// Cluster finds a cluster's handle; nil: there is none.
func (f *Fixed) Cluster(name string) *cluster.Handle { return f.p.clusters.Get(name) }

// Metrics are what a scrape would show.
func (f *Fixed) Metrics() string {
	var b bytes.Buffer
	_ = f.p.telemetry.Expose(&b, loop.Nanotime()) // a buffer takes everything
	return b.String()
}

// Connections counts what is open on all loops, of clients and to endpoints.
func (f *Fixed) Connections() int {
	n := 0
	for _, l := range f.p.group.Loops() {
		n += l.Conns()
	}
	return n
}

// Snapshot is the configuration in force.
func (f *Fixed) Snapshot() *conf.Snapshot { return f.p.snapshot.Load() }

// Learnt is what was looked up; nil: nothing is on demand.
func (f *Fixed) Learnt() *conf.Learnt { return f.p.board.Learnt() }

// Panics counts internal errors.
func (f *Fixed) Panics() uint64 { return f.p.group.Panics() }

// Drain lets requests end as at the end of a process.
func (f *Fixed) Drain() {
	f.p.drain(f.p.boot.Drain.or(defaultDrain), time.Duration(f.p.boot.DrainAccept), nil)
}

// Close ends it at once.
func (f *Fixed) Close() error {
	f.p.sockets.Close()
	f.stop()
	err := <-f.ended
	if f.fed != nil {
		err = errors.Join(err, <-f.fed)
	}
	f.p.clusters.Close()
	f.p.telemetry.Close()
	return err
}
