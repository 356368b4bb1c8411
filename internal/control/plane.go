package control

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Options of a Plane. Dir and Source must be set.
type Options struct {
	Dir    string        // state that survives a restart: the root of the CA; made when absent
	CA     *ca.Authority // nil: one whose root is kept in Dir
	Source source.Source
	// Socket is the path of the unix socket for xDS and the CA; empty: Dir/xds.sock.
	Socket string
	// Address is where xDS and the CA are served over TLS; empty: 127.0.0.1:0.
	Address  string
	Settings *model.Settings // nil: link's defaults
	// Registry is the file in which registered workloads are kept, so that a
	// restart finds them; empty: they are not.
	Registry string
	// Names under which the control plane is dialled, besides its usual ones.
	Names []string
	// Token says whose bearer token it is. With it the control plane serves a
	// cluster: the source's pods are clients, and nothing else can Register.
	// Errors that wrap identity.ErrRefused are the token's fault, others may pass.
	// Called concurrently.
	Token func(ctx context.Context, token string) (*identity.Caller, error)
	Pool  netip.Prefix // addresses of standalone workloads; zero: a 127.x.y.0/20 made from Dir that nobody else has
	// Version of this program, told to clients.
	Version string
	// Log takes one message; nil: they are dropped. Called by several goroutines.
	Log func(format string, args ...any)
}

// Plane is a running control plane. Safe for concurrent use.
type Plane struct {
	o        Options
	settings model.Settings
	ca       *ca.Authority
	registry *registry
	pods     *pods // nil: standalone
	callers  *callers
	cert     *serverCertificate
	xds      *xds.Server
	unix     net.Listener
	tcp      net.Listener
	log      func(string, ...any)
	release  func() // of the pool of addresses

	generation watch.Value[*generation] // nil until the first snapshot was compiled
	dirty      chan struct{}            // capacity 1: the registry changed

	reader *dialect.Memory  // of follow alone
	seen   *source.Snapshot // what was read last; of follow alone

	memoMu   sync.Mutex
	memo     *memo // nil until the first snapshot was compiled
	sessions map[*session]struct{}
}

// New opens the state and the sockets; Run serves them. The caller must Run or
// Close the Plane.
func New(o Options) (*Plane, error) {
	p := &Plane{o: o, settings: link.Defaults(), log: o.Log, dirty: make(chan struct{}, 1), sessions: map[*session]struct{}{}, release: func() {}, reader: dialect.NewMemory(Dialects)}
	if o.Settings != nil {
		p.settings = *o.Settings
	}
	if p.log == nil {
		p.log = func(string, ...any) {}
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("state directory %s: %w", o.Dir, err)
	}
	if p.ca = o.CA; p.ca == nil {
		if p.ca, err = ca.Open(filepath.Join(o.Dir, "ca"), p.settings.TrustDomain, ca.Options{}); err != nil {
			return nil, err
		}
	}
	p.cert = newServerCertificate(p)
	if o.Token != nil {
		p.pods = newPods(p.settings.TrustDomain)
	}
	kept, err := readKept(o.Registry)
	if err != nil {
		p.log("%v; they have to join anew", err)
	}
	if !o.Pool.IsValid() {
		o.Pool, p.release = claimPool(abs, kept.address())
	}
	p.registry = newRegistry(o.Pool, p.settings.TrustDomain, p.poke)
	p.registry.file = o.Registry
	p.registry.restore(kept)
	p.callers = &callers{
		registry: p.registry, pods: p.pods, token: o.Token,
		domains: identity.Domains{Own: p.settings.TrustDomain, Aliases: p.settings.TrustDomainAliases},
	}
	p.xds = xds.New(xds.Config{
		Name:         "tulle " + o.Version,
		Encoded:      true,
		Authenticate: p.callers.authenticate,
		Panicked:     func(v any, stack []byte) { p.log("BUG: xds stream: %v\n%s", v, stack) },
		Open: func(ctx context.Context, c *identity.Caller, n *xds.Node) (*xds.Feed, error) {
			x, err := p.callers.workload(ctx, c, n)
			if err != nil {
				return nil, err
			}
			return p.open(x, n)
		},
	})
	if p.unix, err = ListenUnix(cmp.Or(o.Socket, filepath.Join(o.Dir, "xds.sock"))); err != nil {
		p.release()
		return nil, err
	}
	if p.tcp, err = net.Listen("tcp", cmp.Or(o.Address, "127.0.0.1:0")); err != nil {
		p.release()
		p.unix.Close()
		return nil, fmt.Errorf("listen for proxies: %w", err)
	}
	return p, nil
}

// Close releases the sockets of a Plane that was not Run.
func (p *Plane) Close() {
	p.unix.Close()
	p.tcp.Close()
	p.release()
}

// ListenUnix makes a unix socket (0600) in the place of one that nobody serves
// any more.
func ListenUnix(path string) (net.Listener, error) {
	const longest = 107 // sun_path of Linux without its end; macOS has 103
	if len(path) > longest {
		return nil, fmt.Errorf("socket %s: the path has %d bytes, and a unix socket takes %d; choose a shorter state directory", path, len(path), longest)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: another control plane is serving it", path)
	} else if st, serr := os.Lstat(path); serr == nil {
		if st.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("socket %s: the file there is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Socket is the path of the unix socket for proxies.
func (p *Plane) Socket() string { return p.unix.Addr().String() }

// Address of the TLS listener for proxies.
func (p *Plane) Address() string { return p.tcp.Addr().String() }

// Roots is the trust bundle, in PEM.
func (p *Plane) Roots() []byte { return p.ca.Bundle() }

// Certificate is the control plane's own, for its other servers: a
// tls.Config's GetCertificate.
func (p *Plane) Certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return p.cert.get(h) }

// Rekeyed is to be called when the authority has got another key: proxies are
// told of its roots.
func (p *Plane) Rekeyed() { p.poke() }

// frugal is how much of what is used may be garbage, in percent. Most of a control
// plane's memory is the mesh, which stays: to collect earlier costs little, and
// saves a quarter of the memory.
const frugal = 50

// Run serves until ctx ends or the source fails. Everything it started has
// ended when it returns.
func (p *Plane) Run(ctx context.Context) error {
	defer p.release()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(frugal)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conf, err := p.serverTLS()
	if err != nil {
		p.Close()
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	start := func(f func() error) {
		wg.Go(func() { errs <- f(); cancel() })
	}
	stop := []*grpc.Server{p.server(unixCredentials{}), p.server(credentials.NewTLS(conf))}
	start(func() error { return p.serve(stop[0], p.unix) })
	start(func() error { return p.serve(stop[1], p.tcp) })
	var snaps watch.Value[*source.Snapshot]
	start(func() error {
		return p.o.Source.Watch(ctx, func(s source.Snapshot) { snaps.Set(&s) })
	})
	wg.Go(func() { p.await(ctx) })
	p.follow(ctx, &snaps)
	for _, s := range stop {
		s.Stop()
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		if e != nil && !errors.Is(e, context.Canceled) {
			return e
		}
	}
	return nil
}

// serve runs one gRPC server; being stopped is no error.
func (p *Plane) serve(s *grpc.Server, l net.Listener) error {
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve proxies on %s: %w", l.Addr(), err)
	}
	return nil
}

// A client of whom nothing is heard that long is pinged, and given up when it does
// not answer: one whose packets vanish holds its place for 20 s.
const (
	quiet      = 12 * time.Second
	pongWithin = 8 * time.Second
)

func (p *Plane) server(c credentials.TransportCredentials) *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(c),
		grpc.ForceServerCodecV2(xds.NewCodec()),
		grpc.MaxRecvMsgSize(xds.MaxMessage),
		grpc.MaxConcurrentStreams(64),
		grpc.MaxHeaderListSize(16<<10),
		grpc.SharedWriteBuffer(true), // most streams are idle most of the time
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: quiet, Timeout: pongWithin}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	p.xds.Register(s)
	ca.NewService(p.ca, p.callers.authenticate).Register(s)
	return s
}

// poke tells the follower that the registry changed.
func (p *Plane) poke() {
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

// follow compiles what changed and brings every session up to date, the first
// change at once and then at most ten times a second.
func (p *Plane) follow(ctx context.Context, snaps *watch.Value[*source.Snapshot]) {
	const hold = 100 * time.Millisecond
	var last time.Time
	var fragment model.Fragment
	var read []model.Notice
	unkept := false
	for n := 1; ; n++ {
		snap, changed := snaps.Get()
		if snap != nil {
			if snap != p.seen {
				fragment, read = p.read(*snap, fragment, read)
				p.seen = snap
			}
			p.compile(n, fragment, read)
		}
		if err := p.registry.keep(); err != nil && !unkept {
			unkept = true
			p.log("%v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-p.dirty:
		}
		if !pause(ctx, hold-time.Since(last)) {
			return
		}
		last = time.Now()
		select { // what came in the pause is in the state that is read next
		case <-p.dirty:
		default:
		}
	}
}

// pause waits; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// read runs the dialects. A panic there is our bug: the last good fragment
// stays.
func (p *Plane) read(s source.Snapshot, old model.Fragment, oldNotices []model.Notice) (f model.Fragment, n []model.Notice) {
	defer func() {
		if r := recover(); r != nil {
			p.log("BUG: read configuration: %v; the last good one stays", r)
			p.reader.Reset()
			f, n = old, oldNotices
		}
	}()
	return p.reader.Read(s)
}

// Reading is the user's objects at one moment and what was understood of them.
// Immutable.
type Reading struct {
	Objects  []*source.Object
	Gateways []*model.Gateway
	Statuses []*model.Status
	// Notices about the objects and their relations. They are worked out when
	// somebody asks, which costs as much as the mesh is large.
	Notices func() []model.Notice
}

// Reading is the newest; nil before the first. The channel is closed when there
// is a newer one.
func (p *Plane) Reading() (r *Reading, newer <-chan struct{}) {
	g, newer := p.generation.Get()
	if g == nil {
		return nil, newer
	}
	return g.reading, newer
}

// ErrNotReady is returned until the first configuration was read.
var ErrNotReady = errors.New("the configuration has not been read yet")

// Register gives a standalone workload a place in the mesh, until Deregister.
// uid is the user that asked for it, when known: its processes may then show
// that as credential. Errors wrap ErrBadSpec, ErrTaken, ErrFull, ErrNotReady.
func (p *Plane) Register(spec WorkloadSpec, uid *uint32) (*Registration, error) {
	g, _ := p.generation.Get()
	if g == nil {
		return nil, ErrNotReady
	}
	if p.pods != nil {
		return nil, fmt.Errorf("%w: this control plane serves a cluster's pods", ErrBadSpec)
	}
	return p.registry.register(spec, &g.fragment, uid)
}

// Deregister takes a workload out of the mesh; its proxy's streams end. It
// reports whether there was one.
func (p *Plane) Deregister(id string) bool { return p.registry.drop(id, nil) }

// SetReady says whether a workload is to get traffic. It reports whether there
// is one.
func (p *Plane) SetReady(id string, ready bool) bool { return p.registry.setReady(id, ready) }

// Local are the sockets of a workload's dependencies by "host:port".
func (p *Plane) Local(id string) (map[string]netip.AddrPort, bool) {
	c, ok := p.registry.clientOf(id)
	return c.Local, ok
}

// Workloads are the registered ones, by id.
func (p *Plane) Workloads() []*model.Workload { return slices.Clone(p.registry.workloads()) }

// Compiled is the mesh that is being served; nil before the first.
func (p *Plane) Compiled() *Compiled {
	g, _ := p.generation.Get()
	if g == nil {
		return nil
	}
	c, _ := g.worked()
	return c
}

// Changed is the version of the mesh that is being served and since when, and
// a channel that is closed when there is a newer one. The version is empty
// before the first.
func (p *Plane) Changed() (version string, since time.Time, newer <-chan struct{}) {
	g, newer := p.generation.Get()
	if g == nil {
		return "", time.Time{}, newer
	}
	return g.version, g.when, newer
}

// Notices about the user's objects: from reading them, from their relations,
// from writing them down for connected proxies, and what these refused.
// Without repetitions, in the order of the files.
func (p *Plane) Notices() []model.Notice {
	g, _ := p.generation.Get()
	if g == nil {
		return nil
	}
	_, notices := g.worked()
	all := slices.Clone(notices)
	p.memoMu.Lock()
	sessions := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		sessions = append(sessions, s)
	}
	defer p.memoMu.Unlock()
	slices.SortFunc(sessions, func(a, b *session) int { return cmp.Compare(a.at.key, b.at.key) })
	for _, s := range sessions {
		all = append(all, s.allNotices()...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(n model.Notice) bool {
		k := n.String()
		if seen[k] {
			return true
		}
		seen[k] = true
		return false
	})
}

// Streams is where every proxy's stream stands.
func (p *Plane) Streams() []xds.Status { return p.xds.Status() }

// Sent is how many proxies' streams are open, and what all were sent, by type.
func (p *Plane) Sent() (streams int, types []xds.TypeStatus) { return p.xds.Totals() }
