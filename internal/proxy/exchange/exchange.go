package exchange

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/compress"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/fault"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/ratelimit"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/overload"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// Upstreams gives streams to endpoints: a pool.Pool, or a test. The ticket's
// owner is told inside Get or later, on the loop.
type Upstreams interface{ Get(t *pool.Ticket) }

// Env is what the exchanges of one loop share. Owned by that loop.
type Env struct {
	Loop      *loop.Loop
	Pool      Upstreams
	Clusters  *cluster.Registry
	Snapshot  func() *conf.Snapshot // the present configuration; never nil
	Reporter  Reporter
	Node      Node
	Memory    *overload.Watch     // nil: never short
	Desk      *demand.Desk        // nil: nothing is looked up
	Limits    *ratelimit.Registry // of what listeners limit; nil: none does
	Gate      *loop.Gate          // for work that takes long
	squeezes  compress.Pool
	codecs    codecs
	conns     map[*Conn]struct{}
	latest    *conf.Snapshot // as last seen, and how many were seen
	epoch     uint64
	leaving   Leaving
	quiet     time.Duration // of idle connections while all leave; 0: none leaves
	dateAt    int64
	dateText  []byte
	free      []*Exchange
	retired   []*Exchange // finished in the round that began at retiredAt
	retiredAt int64
}

// Node is what this proxy knows of its own workload.
type Node struct {
	Local telemetry.Workload
	// Told to peers of our own kind, in Istio's form; empty: nothing.
	Tell string
}

// Reporter is told of every finished exchange, on the loop. The record is only
// valid during the call.
type Reporter interface {
	Finished(l *loop.Loop, r *telemetry.Record, logs []*conf.AccessLog)
}

// Exchange is one request and its answer. It is the stream.Peer of the
// downstream codec; its attempt is the Peer of the upstream one.
//
// Invariant: done is set exactly once; afterwards no timer is armed, no ticket
// is pending and neither codec knows it any more.
type Exchange struct {
	env     *Env
	req     stream.Head
	resp    stream.Head
	a       attempt
	shadows []*shadow

	// Made once.
	onTotal func()
	onIdle  func()
	onLife  func()
	onFault func()
	onRetry func()

	life
}

// life is what of an exchange begins at zero with each request.
type life struct {
	conn   *Conn
	down   stream.Stream
	remote netip.Addr // where the request came from, after x-forwarded-for

	path   route.Path // what was chosen: table, virtual host, route, cluster
	rq     route.Request
	times  route.Timeouts
	vhost  *conf.VirtualHost
	route  *conf.Route
	fwd    *conf.Forward
	target *conf.WeightedCluster
	handle *cluster.Handle
	hash   uint64
	hashed bool
	cookie cluster.Cookie // to be set by the answer

	// Request direction. kept holds the body as long as it may be sent again
	// or has nowhere to go yet; keeping says that it still holds all of it.
	kept     kept
	keeping  bool
	reqEnd   bool // the request is complete here
	trailers *stream.Head
	paused   bool // the client is not being read

	// Response direction.
	started    bool // a final head was sent down
	answered   bool // the response is complete; only a tunnel lives on
	tunnel     bool // 101, or CONNECT that was accepted: each way ends for itself
	at         int  // the filter that is next
	abort      fault.Decision
	corsHit    bool
	limit      *ratelimit.Verdict // what the answer tells of; nil: nothing
	squeeze    *squeeze           // nil: the answer leaves as it is
	accept     []byte             // accept-encoding, when the compressors stood in its way
	grpc       bool
	upgrade    bool  // asks for another protocol
	connect    bool  // a CONNECT without one
	head       bool  // a HEAD
	body       int64 // of the request, that may still come
	bounded    bool  // body counts
	toCompress bool  // the request passed the compressors
	done       bool
	asked      bool         // its host was looked up
	wait       *demand.Wait // for that; nil: it does not wait
	idleFor    time.Duration

	attempts int
	retries  retries

	rec   telemetry.Record
	total loop.Timer // request timeout until the request is complete, then the route's
	idle  loop.Timer // stream idle timeout
	whole loop.Timer // maximum duration of the stream
	pause loop.Timer // fault delay, retry back-off
}

// get takes an exchange that no caller up the stack can still hold: one that
// was retired in an earlier round, or a new one.
func (e *Env) get() *Exchange {
	if len(e.retired) > 0 && e.retiredAt != e.Loop.Now() {
		e.free = append(e.free, e.retired...)
		clear(e.retired)
		e.retired = e.retired[:0]
	}
	if n := len(e.free); n > 0 {
		x := e.free[n-1]
		e.free = e.free[:n-1]
		x.done = false
		return x
	}
	x := &Exchange{env: e}
	x.a.x = x
	x.a.onTry, x.a.onIdle = x.a.timedOut, x.a.idled
	x.onTotal, x.onIdle, x.onFault, x.onRetry, x.onLife = x.timedOut, x.idled, x.faultDelayed, x.startAttempt, x.expired
	return x
}

func (e *Env) put(x *Exchange) {
	x.kept.drop(e.Loop)
	kept := x.kept
	x.req.Reset()
	x.resp.Reset()
	clear(x.shadows)
	x.shadows = x.shadows[:0]
	x.a.reset()
	x.life = life{}
	x.kept, x.done = kept, true
	e.retiredAt = e.Loop.Now()
	if len(e.free)+len(e.retired) < 1024 {
		e.retired = append(e.retired, x)
	}
}

// begin starts the life of a request whose head has just been read.
func (x *Exchange) begin(end bool) {
	c := x.conn
	for _, t := range [...]*loop.Timer{&x.total, &x.idle, &x.whole, &x.pause, &x.a.try, &x.a.idle} {
		t.Owner = c.wire
	}
	x.reqEnd = end
	x.grpc = route.IsGRPC(&x.req)
	x.upgrade = len(x.req.Protocol) > 0
	x.connect = !x.upgrade && string(x.req.Method) == "CONNECT"
	x.head = string(x.req.Method) == "HEAD"
	x.keeping = true
	x.startRecord()
	x.breakAt("head")
	if x.env.Memory.Level() >= overload.Full {
		x.env.Memory.Shed(overload.Full)
		x.reply(telemetry.OutOfMemory, "")
		return
	}
	if !x.acceptable() {
		return
	}
	c.prepare(x)
	if x.idleFor = c.http.StreamIdle; x.idleFor == 0 {
		x.idleFor = defaultStreamIdle
	}
	x.touch()
	if c.http.MaxStream > 0 {
		x.env.Loop.Arm(&x.whole, c.http.MaxStream, x.onLife)
	}
	if c.http.RequestTimeout > 0 && !end {
		x.env.Loop.Arm(&x.total, c.http.RequestTimeout, x.onTotal)
	}
	if x.match() {
		x.routed()
	}
}

// routed goes on when the route is known, or that there is none.
func (x *Exchange) routed() {
	if (x.upgrade || x.connect && x.route != nil) && !x.upgradeAllowed() {
		x.reply(telemetry.UpgradeFailed, "")
		return
	}
	x.filter()
}

// defaultStreamIdle is Envoy's stream_idle_timeout.
const defaultStreamIdle = 5 * time.Minute

// upgradeAllowed asks the route, then the listener, whether it passes on this
// protocol, or CONNECT.
func (x *Exchange) upgradeAllowed() bool {
	if x.route != nil && x.route.Forward != nil && len(x.route.Forward.Upgrades) > 0 {
		on, ok := false, false
		if x.connect {
			on, ok = x.route.Forward.Upgrades["connect"]
		} else {
			on, ok = x.route.Forward.Upgrades[string(x.req.Protocol)]
		}
		if ok {
			return on
		}
	}
	if x.connect {
		return slices.Contains(x.conn.http.Upgrades, "connect")
	}
	return slices.Contains(x.conn.http.Upgrades, string(x.req.Protocol))
}

// acceptable answers requests that no listener takes.
func (x *Exchange) acceptable() bool {
	c := x.conn
	if len(x.req.Authority) == 0 {
		if c.h1 != nil {
			c.h1.Drain() // who says so little is not worth a connection
		}
		x.reply(telemetry.MissingHost, "")
		return false
	}
	if x.req.Version == 10 && !c.http.AcceptHTTP10 && !c.bridge {
		x.reply(telemetry.LowVersion, "")
		return false
	}
	if p := x.req.Path; len(p) > 0 && p[0] != '/' && !x.connect { // OPTIONS *
		x.reply(telemetry.NotRelative, "")
		return false
	}
	var b [1024]byte
	p, do := route.Normalize(b[:0], x.req.Path, c.http)
	switch {
	case do == route.PathReject:
		x.reply(telemetry.BadPath, "")
		return false
	case do == route.PathRedirect:
		x.moved(307, p)
		return false
	case len(p) != len(x.req.Path) || string(p) != string(x.req.Path):
		x.req.Path = x.req.Keep(p)
	}
	return true
}

// match finds the virtual host and route; neither need exist. It reports false
// when the request has to wait for that, or was answered.
func (x *Exchange) match() bool {
	t := x.conn.http.Routes
	if t == nil {
		t = x.env.Snapshot().Routes[x.conn.http.RouteName]
	}
	if t == nil {
		return true
	}
	x.path.Table = t
	route.StripPort(&x.req, x.conn.http.StripPort, x.conn.local().Port())
	if x.conn.port != 0 {
		if known := x.env.Desk.Learnt(); known != nil && !x.lookUp(known) {
			return false
		}
	}
	if x.vhost == nil {
		x.vhost = route.Host(t, x.req.Authority, nil)
	}
	if x.vhost == nil {
		return true
	}
	x.path.Host = x.vhost
	r, c := &x.rq, x.conn
	r.Head, r.Random = &x.req, x.env.Loop.Rand()
	r.Source, r.Remote, r.Local = c.remote(), netip.AddrPortFrom(x.remote, c.remote().Port()), c.local()
	r.SNI, r.PeerURI, r.LocalURI, r.TLSVersion, r.TLSCipher = c.peer.SNI, c.peer.Principal, c.peer.Local, c.peer.Version, c.peer.Cipher
	if r.TLSVersion == "" && c.peer.TLS {
		r.TLSVersion = "TLS"
	}
	x.route = route.Match(x.vhost, &x.rq, nil)
	x.path.Route = x.route
	if x.route != nil {
		r.RouteName = x.route.Name
	}
	return true
}

// act does what the route says, after all filters let the request pass.
func (x *Exchange) act() {
	if x.done || x.started {
		return
	}
	switch r := x.route; {
	case x.vhost != nil && route.NeedsTLS(x.vhost, &x.req):
		var b [512]byte
		x.moved(301, route.TLSLocation(b[:0], &x.req))
	case r == nil:
		x.reply(telemetry.NoRoute, "")
	case r.Redirect != nil:
		x.redirect(r)
	case r.Direct != nil:
		x.direct(r)
	case r.Forward != nil:
		x.forward(r)
	default:
		x.reply(telemetry.NoRoute, "")
	}
}

// OnHead is never called: the acceptor got the head.
func (x *Exchange) OnHead(*stream.Head, bool) {}

// OnData takes a piece of the request body.
func (x *Exchange) OnData(p []byte, end bool) {
	if x.done {
		return
	}
	x.breakAt("body")
	x.rec.BytesReceived += uint64(len(p))
	x.touch()
	if x.bounded && x.tooLong(len(p)) {
		return
	}
	live := x.a.sending()
	if live {
		x.a.touch()
		x.a.s.SendData(p, end)
	}
	for _, s := range x.shadows {
		s.data(p)
	}
	if x.keeping {
		x.keep(p, live)
	}
	if end {
		x.requestEnded()
		if x.answered { // the other way of a tunnel has ended before
			x.a.s = nil
			x.a.over()
			return
		}
	}
	if !x.done && live && x.a.s != nil && x.a.s.Blocked() {
		x.pauseDown(true)
	}
}

// keep holds body bytes back for a replay, or until there is somewhere to
// send them. Above the limit a replay is given up, or the client is made to wait.
func (x *Exchange) keep(p []byte, live bool) {
	if live && x.retries.left <= 0 {
		x.keeping = false
		return
	}
	if x.kept.size+len(p) <= x.conn.bufferLimit() || !live {
		x.kept.add(x.env.Loop, p)
		if !live && x.kept.size > waitLimit {
			x.pauseDown(true)
		}
		return
	}
	x.keeping, x.retries.left = false, 0
	x.kept.drop(x.env.Loop)
}

// waitLimit bounds what is read of a body that has no upstream yet, in bytes;
// one more read may come on top.
const waitLimit = 64 << 10

// OnTrailers ends the request with trailers.
func (x *Exchange) OnTrailers(t *stream.Head) {
	if x.done {
		return
	}
	x.trailers = new(stream.Head)
	x.trailers.CopyFrom(t)
	if x.a.sending() {
		x.a.s.SendTrailers(x.trailers)
	}
	x.requestEnded()
}

// OnReset says that the client is gone.
func (x *Exchange) OnReset(r stream.Reset, detail string) {
	if x.done {
		return
	}
	x.rec.Flags |= telemetry.FlagDC
	if r == stream.ProtocolError {
		x.rec.Flags = x.rec.Flags&^telemetry.FlagDC | telemetry.FlagDPE
	}
	x.rec.Details = "downstream_remote_disconnect"
	if detail != "" {
		x.rec.Details = detail
	}
	x.down = nil
	x.finish()
}

// OnWritable resumes the response when the client reads again.
func (x *Exchange) OnWritable() {
	if !x.done && x.a.s != nil && (x.squeeze == nil || !x.squeeze.busy) {
		x.a.s.Pause(false)
	}
}

func (x *Exchange) requestEnded() {
	x.reqEnd = true
	x.a.sent = x.a.s != nil
	x.rec.RequestEnd = x.env.Loop.Now()
	for _, s := range x.shadows {
		s.finish(x.trailers)
	}
	x.total.Stop() // of the request
	if x.fwd != nil {
		x.armTotal()
		x.a.armTry()
	}
}

// pauseDown stops or resumes reading the request.
func (x *Exchange) pauseDown(stop bool) {
	if x.paused != stop && x.down != nil && !x.reqEnd {
		x.paused = stop
		x.down.Pause(stop)
	}
}

// touch moves the stream idle timeout.
func (x *Exchange) touch() {
	if x.idleFor > 0 {
		x.env.Loop.Arm(&x.idle, x.idleFor, x.onIdle)
	}
}

// armTotal starts the route timeout; it counts from the end of the request.
func (x *Exchange) armTotal() {
	if x.times.Total > 0 && !x.upgrade && !x.connect {
		x.env.Loop.Arm(&x.total, x.times.Total, x.onTotal)
	}
}

// timedOut is the request timeout until the request is complete, the route
// timeout after.
func (x *Exchange) timedOut() {
	if !x.reqEnd {
		x.fail(telemetry.RequestTimeout, "")
		return
	}
	x.a.abandon()
	x.fail(telemetry.UpstreamTimeout, "")
}

// idled is the stream idle timeout. Who kept us waiting settles the status.
func (x *Exchange) idled() {
	o := telemetry.StreamIdle
	if !x.reqEnd {
		o.Status = 408
	}
	x.fail(o, "")
}

// expired is the maximum duration of a stream.
func (x *Exchange) expired() {
	o := telemetry.StreamDuration
	if !x.reqEnd {
		o.Status = 408
	}
	x.fail(o, "")
}

// finish releases everything, reports, and gives the exchange back.
func (x *Exchange) finish() {
	if x.done {
		return
	}
	x.done = true
	x.total.Stop()
	x.idle.Stop()
	x.whole.Stop()
	x.pause.Stop()
	x.wait.Cancel()
	x.squeeze.drop(x.env)
	x.a.release()
	x.retries.release(x.handle)
	x.endRecord()
	c := x.conn
	x.env.Reporter.Finished(x.env.Loop, &x.rec, c.http.AccessLog)
	c.ended()
	x.env.put(x)
}

// now is the wall clock, for dates and start times.
func (e *Env) now() time.Time { return e.Loop.Wall() }
