package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Names of the workload's own secrets, which are made here.
const (
	ownPair  = "default"
	ownRoots = "ROOTCA"
)

// Config of a Feed. Address and Publish must be set.
type Config struct {
	Address   string // unix:///path, or host:port for TLS
	TokenFile string // join token, read at every connect; empty: none is shown
	CAFile    string // PEM roots of the control plane's TLS; empty: the system's
	Node      Node
	// Identity says whose configuration is kept: files of another identity are
	// not loaded.
	Identity  string
	StateDir  string // last good configuration; empty: none is kept
	SecretDir string // certificate, key, secrets, 0600; should be backed by memory; empty: none are kept

	StateOfTheWorld bool          // instead of delta
	NoCertificate   bool          // ask for no certificate
	Names           bool          // ask for the names of the mesh, on demand for those that are used; not with StateOfTheWorld
	CertificateTTL  time.Duration // to ask for; 0: the CA's choice
	Demand          *Demand       // what a sidecar on demand needs; nil: everything is asked for; not with StateOfTheWorld

	// Publish is called with every new snapshot by the feed's goroutine, one
	// call at a time. It should not block for long. The first one is whole: all
	// that the control plane told, or else an earlier run.
	Publish func(*conf.Snapshot)
	// Gate runs CPU work beside the event loops, in pieces of about a
	// millisecond where that can be; an error is the context's. nil: it is just
	// run.
	Gate func(context.Context, func()) error
	Log  *slog.Logger // nil: slog.Default

	transport transport // tests
}

// Feed keeps the configuration. Make it with New, run it once with Run.
type Feed struct {
	c        Config
	t        transport
	events   chan func()
	done     chan struct{} // closed when Run ends
	pair     atomic.Pointer[tls.Certificate]
	back     chan struct{} // a stream was opened
	clockSet chan struct{} // see ClockSet

	// What follows is owned by Run's goroutine.

	stores [kinds]*store
	warm   *warmer
	local  map[string]*conf.Secret // secrets of our own
	noCA   bool                    // the control plane signs nothing: ask for our pair by SDS
	link   *link                   // the open stream; nil: none
	resub  bool                    // what listeners and clusters name has changed
	disk   *disk
	wake   time.Time
	fresh  int       // bytes of resources decoded since memory was given back
	tidyAt time.Time // when that is due; zero: not
	tidied time.Time // when it was done last
	// unpublished is the newest snapshot if it was not yet published.
	unpublished *conf.Snapshot
	published   bool      // there was a first one
	begin       time.Time // when the first one could have been
	status      Status
	refused     map[ref]string
	demand      *demand // nil: everything is asked for
}

// New makes a Feed. Nothing is connected or read before Run, except CAFile.
func New(c Config) (*Feed, error) {
	if c.Publish == nil {
		return nil, errors.New("feed: nobody to publish to")
	}
	if c.Gate == nil {
		c.Gate = func(_ context.Context, work func()) error { work(); return nil }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	f := &Feed{c: c, events: make(chan func(), 16), done: make(chan struct{}), back: make(chan struct{}, 1), clockSet: make(chan struct{}, 1), warm: newWarmer(),
		local: map[string]*conf.Secret{}, refused: map[ref]string{}}
	for k := range kinds {
		f.stores[k] = newStore(k)
	}
	if c.Demand != nil {
		if c.StateOfTheWorld {
			return nil, errors.New("feed: on demand needs the delta protocol")
		}
		f.demand = newDemand(f, c.Demand)
		f.stores[idx].asked[ext.IndexName] = true
		f.stores[eds].asked, f.stores[rds].asked = nil, nil
	}
	f.disk = &disk{}
	if c.StateDir != "" {
		f.disk.plain = newStateFile(filepath.Join(c.StateDir, "config.state"), c.Identity, f.heavy)
		if f.demand != nil {
			f.disk.plain.lookups = f.demand.save
		}
	}
	if c.SecretDir != "" {
		f.disk.secret = newStateFile(filepath.Join(c.SecretDir, "secrets.state"), c.Identity, f.heavy)
	}
	if f.t = c.transport; f.t == nil {
		t, err := dial(&c, f.pair.Load)
		if err != nil {
			return nil, err
		}
		f.t = t
	}
	return f, nil
}

// Run feeds until ctx ends, then writes what was not yet kept.
func (f *Feed) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	f.checkSecretDir()
	if !f.c.NoCertificate {
		f.loadIdentity() // first, so that what an earlier run left is complete
		wg.Go(func() { f.keepIdentity(ctx) })
	}
	f.load(ctx)
	wg.Go(func() { f.stream(ctx) })
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(f.next())
		select {
		case <-ctx.Done():
		case e := <-f.events:
			e()
			f.drain()
		case q := <-f.lookups():
			f.demand.look(q)
			f.drain()
		case <-timer.C:
		}
		if ctx.Err() == nil {
			f.advance()
		}
	}
	cancel()
	close(f.done)
	err := f.t.close()
	wg.Wait()
	return errors.Join(err, f.disk.close())
}

// light is work that is over sooner than a turn at the gate is had: bytes to be
// decoded, or as many as stand for a name (perName). What a lookup brings is, so
// that it does not wait behind handshakes, nor on a thread that steps back.
const (
	light   = 16 << 10
	perName = 256
)

// work runs fn, of a size in bytes, through the gate if it is not light; the gate
// serves it whatever else there is.
func (f *Feed) work(size int, fn func()) {
	if size <= light {
		fn()
		return
	}
	_ = f.c.Gate(context.Background(), fn)
}

// heavy is work for whoever does not know its size.
func (f *Feed) heavy(fn func()) { f.work(light+1, fn) }

// drain runs what waits already, so that one snapshot tells of all of it.
func (f *Feed) drain() {
	for range 64 {
		select {
		case e := <-f.events:
			e()
		case q := <-f.lookups():
			f.demand.look(q)
		default:
			return
		}
	}
}

// post hands e to Run's goroutine. It reports false after Run's end.
func (f *Feed) post(ctx context.Context, e func()) bool {
	select {
	case f.events <- e:
		return true
	case <-f.done:
	case <-ctx.Done():
	}
	return false
}

// next is how long Run may sleep.
func (f *Feed) next() time.Duration {
	d := time.Hour
	if !f.wake.IsZero() {
		d = min(d, time.Until(f.wake))
	}
	for _, t := range []time.Time{f.disk.due(), f.tidyAt, f.warm.ahead, f.demand.due()} {
		if !t.IsZero() {
			d = min(d, time.Until(t))
		}
	}
	return max(d, 0)
}

// advance publishes what is ready, asks for what is newly named, and keeps
// what is new.
func (f *Feed) advance() {
	if !f.ahead(time.Now()) {
		f.reach()
	}
	f.demand.pump(time.Now())
	if err := f.disk.flush(time.Now()); err != nil {
		f.c.Log.Warn("last good configuration is not kept", "error", err)
	}
	f.tidy(time.Now())
}

// reach publishes what is ready and asks for what that names.
func (f *Feed) reach() {
	for {
		var s *conf.Snapshot
		f.work(perName*f.warm.todo(), func() { s, f.wake = f.compute(time.Now()) })
		if s != nil {
			f.unpublished = s
		}
		if f.unpublished != nil && f.presentable(time.Now()) {
			f.demand.precede(f.unpublished)
			f.c.Publish(f.unpublished)
			f.unpublished, f.published = nil, true
		}
		if f.unpublished == nil && f.published {
			f.demand.settle()
		}
		if !f.resub {
			return
		}
		f.resub = false
		forgot := false
		if f.work(perName*(len(f.stores[lds].entries)+len(f.stores[cds].entries))/16, func() { forgot = f.subscribe() }); !forgot {
			return
		}
	}
}

// What a large update needed on its way is given back to the system when it is
// over and written; small ones leave little.
const (
	largeUpdate = 128 << 10
	tidyAfter   = 2 * time.Second
	tidyEvery   = 10 * time.Second
)

// tidy gives memory back when that is due.
func (f *Feed) tidy(now time.Time) {
	switch {
	case f.tidyAt.IsZero():
		if f.fresh >= largeUpdate {
			f.tidyAt = now.Add(tidyAfter)
			if t := f.tidied.Add(tidyEvery); t.After(f.tidyAt) {
				f.tidyAt = t
			}
		}
	case !f.tidyAt.After(now):
		f.fresh, f.tidyAt, f.tidied = 0, time.Time{}, now
		f.heavy(debug.FreeOSMemory)
	}
}

// presentable reports whether snapshots may be published. The first one is
// whole: the control plane has told its clusters and listeners, or an earlier
// run has, and nothing waits; unless that takes too long.
func (f *Feed) presentable(now time.Time) bool {
	switch {
	case f.published:
		return true
	case !f.status.Synced && !f.status.FromDisk:
		return false
	case f.warm.waiting() == 0:
		return true
	}
	if f.begin.IsZero() {
		f.begin = now
	}
	until := f.begin.Add(patience + clusterPatience)
	if !until.After(now) {
		return true
	}
	if f.wake.IsZero() || until.Before(f.wake) {
		f.wake = until
	}
	return false
}

// Keep writes now what was not yet kept, for another process to read. It returns
// when that is done, or Run has ended, or ctx.
func (f *Feed) Keep(ctx context.Context) error {
	out := make(chan error, 1)
	if !f.post(ctx, func() { out <- f.disk.close() }) {
		return nil
	}
	select {
	case err := <-out:
		return err
	case <-f.done:
	case <-ctx.Done():
	}
	return nil
}

// touch notes that a resource changed.
func (f *Feed) touch(k kind, names ...string) {
	for _, n := range names {
		f.warm.dirty[k][n] = true
		if k == lds || k == cds {
			e := f.stores[k].entries[n]
			f.resub = f.resub || !e.has() || f.renamed(&nothing, e.needs)
		}
	}
}

// Status is what a Feed knows of itself.
type Status struct {
	Connected bool
	Since     time.Time // of Connected
	LastError string    // of the last stream that ended
	Version   uint64    // of the snapshot
	Waiting   int       // nodes that wait for what they name
	Synced    bool      // clusters and listeners were answered once, and nothing waits
	FromDisk  bool      // the configuration is that of an earlier run
	Resources map[string]int
	Refused   map[string]string // "Cluster name" -> reason
	// Certificate of the workload: its URI and times. Zero: none.
	Certificate         string
	NotBefore, NotAfter time.Time
}

// Status may be called by any goroutine; it is the zero Status when Run does
// not run.
func (f *Feed) Status(ctx context.Context) Status {
	out := make(chan Status, 1)
	if !f.post(ctx, func() { out <- f.snapshotStatus() }) {
		return Status{}
	}
	select {
	case s := <-out:
		return s
	case <-f.done:
	case <-ctx.Done():
	}
	return Status{}
}

func (f *Feed) snapshotStatus() Status {
	s := f.status
	s.Connected = f.link != nil
	s.Version = f.warm.snap.Version
	s.Waiting = f.warm.waiting()
	s.Synced = s.Synced && s.Waiting == 0
	s.Resources = map[string]int{}
	for k := range kinds {
		for _, e := range f.stores[k].entries {
			if e.node != nil {
				s.Resources[conf.ShortType(types[k].url)]++
			}
		}
	}
	s.Refused = map[string]string{}
	for r, why := range f.refused {
		s.Refused[conf.ShortType(types[r.kind].url)+" "+r.name] = why
	}
	return s
}
