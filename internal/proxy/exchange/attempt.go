package exchange

import (
	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// attempt is one try to get an answer from one endpoint. There is one at a
// time; it is the Peer of the upstream stream and the owner of the ticket.
type attempt struct {
	x      *Exchange
	tried  []*cluster.Endpoint
	onTry  func()
	onIdle func()
	tries
}

// tries is what of it begins at zero with each request.
type tries struct {
	ticket       pool.Ticket
	ep           *cluster.Endpoint
	lastEndpoint *cluster.Endpoint // for the record
	s            stream.Stream     // nil until the pool gave one, and after its end
	via          *pool.Upstream
	counts       bool // the endpoint's and cluster's counters hold this attempt
	headed       bool // a final head came
	begunSending bool // request bytes went out
	sent         bool // the whole request was handed over
	begun        int64
	try          loop.Timer // per-try timeout
	idle         loop.Timer // per-try idle timeout
}

func (a *attempt) reset() {
	clear(a.tried)
	a.tried = a.tried[:0]
	a.tries = tries{}
}

// sending reports whether request bytes can go straight to the upstream.
func (a *attempt) sending() bool { return a.s != nil && !a.sent }

// startAttempt picks an endpoint and asks the pool for a stream to it.
func (x *Exchange) startAttempt() {
	if x.done {
		return
	}
	a := &x.a
	a.headed, a.sent, a.via, a.begunSending = false, false, nil, false
	pick := cluster.PickContext{Random: x.env.Loop.Rand(), Hash: x.hash, HasHash: x.hashed, Loop: x.env.Loop.ID(),
		Attempt: x.attempts, OriginalDst: x.conn.original}
	if r := x.retries.p; r != nil && r.AvoidPrevious && x.attempts > 0 {
		pick.Previous, pick.Tries = a.tried, r.PickAttempts
	}
	ep, err := x.handle.Pick(&pick, nil)
	if err != nil {
		x.fail(telemetry.FromCluster(err), "")
		return
	}
	if !x.handle.TryAcquire(cluster.Requests) {
		x.fail(telemetry.Overflow, "")
		return
	}
	x.handle.Begin(ep)
	a.ep, a.lastEndpoint, a.counts, a.begun = ep, ep, true, x.env.Loop.Now()
	a.tried = append(a.tried, ep)
	x.attempts++
	a.ticket = pool.Ticket{Cluster: x.handle, Endpoint: ep, Version: x.req.Version, Upgrade: x.upgrade, Large: x.req.Length >= pool.Large,
		Authority: x.req.Authority, Raw: x.connect && x.fwd.ConnectTCP, Peer: a, Owner: a}
	x.env.Pool.Get(&a.ticket)
}

// Ready gets the stream that the pool found and sends what is there.
func (a *attempt) Ready(s stream.Stream, via *pool.Upstream) {
	x := a.x
	a.s, a.via, a.begunSending = s, via, true // before anything that may panic: it is given back with the request
	x.env.Loop.Blame(x.conn.wire)
	x.breakAt("ready")
	if x.attempts > 1 && x.vhost != nil && x.vhost.AttemptCount {
		x.setAttemptCount()
	}
	x.rec.Upstream = via.Remote
	x.rec.UpstreamLocal = via.Local
	x.rec.UpstreamTLS = via.TLS
	x.rec.UpstreamPeer = via.Principal
	whole := x.reqEnd && x.kept.size == 0 && x.trailers == nil
	x.sendHead(s, via, whole)
	for i, n := 0, len(x.kept.pieces); i < n && a.s == s; i++ { // it may fail meanwhile
		s.SendData(x.kept.pieces[i], i == n-1 && x.reqEnd && x.trailers == nil)
	}
	if x.trailers != nil {
		s.SendTrailers(x.trailers)
	}
	a.sent = x.reqEnd
	if x.kept.size > x.conn.bufferLimit() { // more came before there was a connection
		x.retries.left = 0
	}
	if x.retries.left <= 0 && !x.reqEnd {
		x.keeping = false
		x.kept.drop(x.env.Loop)
	}
	a.armTry()
	a.touch()
	x.pauseDown(s.Blocked())
}

// armTry starts the per-try timeout: the whole request is on its way.
func (a *attempt) armTry() {
	x := a.x
	if x.reqEnd && a.s != nil && !a.headed && x.times.PerTry > 0 && !x.upgrade && !x.connect {
		x.env.Loop.Arm(&a.try, x.times.PerTry, a.onTry)
	}
}

// touch moves the per-try idle timeout.
func (a *attempt) touch() {
	if r := a.x.retries.p; r != nil && r.PerTryIdle > 0 && a.s != nil && !a.headed {
		a.x.env.Loop.Arm(&a.idle, r.PerTryIdle, a.onIdle)
	}
}

// Failed says that no stream could be had.
func (a *attempt) Failed(r stream.Reset, detail string) {
	a.x.env.Loop.Blame(a.x.conn.wire)
	if r == stream.Overflow {
		detail = ""
	}
	a.x.rec.TransportFailure = detail
	a.lost(r, detail)
}

// OnHead takes the response head.
func (a *attempt) OnHead(h *stream.Head, end bool) {
	x := a.x
	if h.Status >= 100 && h.Status < 200 && h.Status != 101 {
		x.touch()
		if !x.started && x.req.Version >= 11 {
			x.down.SendHead(h, false)
		}
		return
	}
	x.breakAt("answer")
	if x.upgrade && a.via.Bridged {
		asAnswered(h)
	}
	a.headed = true
	a.try.Stop()
	a.idle.Stop()
	x.handle.Judge(a.ep, cluster.Outcome{Status: judged(h)}, x.env.Loop.Now())
	if x.retryStatus(h) {
		a.release()
		x.backOff()
		return
	}
	x.touch()
	end = end || x.head // whatever an upstream still sends
	x.answer(h, end)
	if end {
		a.over()
	}
}

// OnData takes a piece of the response body.
func (a *attempt) OnData(p []byte, end bool) {
	x := a.x
	x.touch()
	if q := x.squeeze; q != nil {
		if end {
			a.s = nil
			a.settle()
		}
		q.data(p, end)
		return
	}
	x.rec.BytesSent += uint64(len(p))
	x.down.SendData(p, end)
	switch {
	case end && x.tunnel && !x.reqEnd:
		x.answered = true // the client may still send
	case end:
		a.s = nil // a codec deals with the rest of a request that was answered early
		a.over()
	case x.down.Blocked():
		a.s.Pause(true)
	}
}

// OnTrailers ends the response.
func (a *attempt) OnTrailers(t *stream.Head) {
	x := a.x
	if x.grpc {
		x.rec.GRPCStatus = grpcStatus(t)
	}
	if c := x.conn; len(c.http.AccessLog) > 0 {
		x.rec.Trailers = new(stream.Head)
		x.rec.Trailers.CopyFrom(t)
	}
	a.s = nil
	if q := x.squeeze; q != nil {
		q.trailers = new(stream.Head)
		q.trailers.CopyFrom(t)
		a.settle()
		q.data(nil, true)
		return
	}
	x.down.SendTrailers(t)
	a.over()
}

// over ends an attempt whose response is complete, and with it the exchange.
func (a *attempt) over() {
	x := a.x
	if s := a.s; s != nil { // it goes on with an answer that nobody takes
		a.s = nil
		s.Reset(stream.Cancelled)
	}
	a.settle()
	x.responded()
}

// settle gives the endpoint back: it has said all.
func (a *attempt) settle() {
	a.uncount(nothing)
	a.ticket.Done()
}

// OnReset says that the upstream stream broke.
func (a *attempt) OnReset(r stream.Reset, detail string) {
	a.s = nil
	if v := a.via; v.Refused != "" && !a.headed { // by TLS, after its handshake
		r, detail = stream.TLSFailed, "TLS error: "+v.Refused
		a.x.rec.TransportFailure = detail
	}
	if r == stream.Cancelled || r == stream.Overflow { // why is the endpoint's affair, for Envoy too
		r = stream.RemoteReset
	}
	a.lost(r, detail)
}

// OnWritable resumes the request when the upstream takes more.
func (a *attempt) OnWritable() { a.x.pauseDown(false) }

// lost handles an attempt that ended without an answer, or in its middle.
func (a *attempt) lost(r stream.Reset, detail string) {
	x := a.x
	headed, begun := a.headed, a.begunSending
	a.uncount(cluster.Outcome{Reset: r})
	a.release()
	if headed {
		o := telemetry.FromReset(r)
		o.Details = "upstream_reset_after_response_started"
		x.fail(o, "")
		return
	}
	if x.retryReset(r, begun) {
		x.backOff()
		return
	}
	x.fail(telemetry.FromReset(r), detail)
}

// timedOut is the per-try timeout.
func (a *attempt) timedOut() {
	x := a.x
	a.abandon()
	if x.retryTimeout() {
		x.backOff()
		return
	}
	x.fail(telemetry.PerTryTimeout, "")
}

// idled is the per-try idle timeout.
func (a *attempt) idled() {
	x := a.x
	a.abandon()
	if x.retryTimeout() {
		x.backOff()
		return
	}
	x.fail(telemetry.PerTryIdle, "")
}

// nothing says nothing about an endpoint: it was judged before, or left.
var nothing = cluster.Outcome{Reset: stream.Cancelled}

// abandon gives an attempt up for its slowness.
func (a *attempt) abandon() {
	a.uncount(cluster.Outcome{Timeout: true})
	a.release()
}

// uncount gives back what the attempt counted for, with what came of it.
func (a *attempt) uncount(o cluster.Outcome) {
	if a.counts {
		a.counts = false
		a.x.handle.Done(a.ep, o, a.x.env.Loop.Now())
		a.x.handle.Release(cluster.Requests)
	}
}

// release lets go of everything the attempt holds.
func (a *attempt) release() {
	a.try.Stop()
	a.idle.Stop()
	if s := a.s; s != nil {
		a.s = nil
		s.Reset(stream.Cancelled)
	}
	a.uncount(nothing)
	if a.ep != nil {
		a.ep = nil
		a.ticket.Done()
	}
}

// judged is the status by which outlier detection judges a response head: a
// gRPC status in it counts as its HTTP equivalent.
func judged(h *stream.Head) int {
	switch grpcStatus(h) {
	case -1, 0:
		return h.Status
	case 4:
		return 504
	case 14:
		return 503
	case 2, 13, 15:
		return 500
	}
	return h.Status
}
