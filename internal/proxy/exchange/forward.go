package exchange

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/pool"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// forward chooses a cluster, shapes the request and starts the first attempt.
func (x *Exchange) forward(r *conf.Route) {
	f := r.Forward
	x.fwd = f
	switch x.target = route.Pick(f, x.rq.Random); {
	case x.target != nil:
		x.rec.Cluster = x.target.Name
		x.handle = x.env.Clusters.Get(x.target.Name)
	case f.ClusterHeader != "":
		x.handle = x.env.Clusters.GetBytes(x.req.Get(f.ClusterHeader))
	}
	if x.handle == nil {
		x.reply(telemetry.NoCluster(f.NotFoundCode), "")
		return
	}
	retry := route.RetryPolicy(x.vhost, f)
	x.times = route.TimeoutsFor(f, retry, &x.req)
	x.retries.set(retry)
	x.path.Cluster = x.target
	if len(f.Hash) > 0 {
		x.hash, x.hashed, x.cookie = cluster.Hash(f.Hash, &x.req, x.conn.remote().Addr(), x.rq.Random)
	}
	x.mirror(f)
	route.Rewrite(&x.path, &x.rq)
	route.TimeoutHeaders(f, x.times, &x.req)
	if x.conn.http.SuppressHeaders {
		x.req.Del("x-envoy-expected-rq-timeout-ms")
	}
	if x.vhost.AttemptCount {
		x.req.Set("x-envoy-attempt-count", one)
	}
	if f.IdleTimeout != 0 {
		x.idleFor = f.IdleTimeout
		x.idle.Stop()
		x.touch()
	}
	if f.MaxStream > 0 {
		x.env.Loop.Arm(&x.whole, f.MaxStream, x.onLife)
	}
	if x.reqEnd {
		x.armTotal()
	}
	x.startAttempt()
}

var one = []byte("1")

func (x *Exchange) setAttemptCount() {
	x.req.Set("x-envoy-attempt-count", strconv.AppendInt(nil, int64(x.attempts), 10))
}

// sendHead hands the request head to an upstream stream. What only our own
// proxies may see must not stay for a later attempt over another connection.
func (x *Exchange) sendHead(s stream.Stream, via *pool.Upstream, whole bool) {
	if !via.Ours {
		s.SendHead(&x.req, whole)
		return
	}
	n := len(x.req.Fields)
	toBridge(&x.req, via.Bridged, x.env.Node.Tell)
	s.SendHead(&x.req, whole)
	clear(x.req.Fields[n:])
	x.req.Fields = x.req.Fields[:n]
}

// redirect answers with the Location that the route makes.
func (x *Exchange) redirect(r *conf.Route) {
	var b [512]byte
	x.moved(r.Redirect.Code, route.Location(b[:0], &x.path, &x.req))
}

// moved answers with a Location.
func (x *Exchange) moved(code int, location []byte) {
	x.rec.Details = "direct_response"
	h := &x.resp
	h.Status, h.Length = code, 0
	if x.grpc { // an error to such a client, as Envoy has it
		h.Status, x.rec.GRPCStatus = 200, telemetry.Outcome{Status: code}.GRPC()
		h.AddString("grpc-status", strconv.Itoa(x.rec.GRPCStatus))
	}
	h.Add("location", location)
	x.editResponse(h)
	x.sendLocal(nil)
}

// direct answers with the route's own body; gRPC clients get status and message
// of their own instead.
func (x *Exchange) direct(r *conf.Route) {
	if x.grpc {
		x.reply(telemetry.Outcome{Status: r.Direct.Status, Details: "direct_response", Body: string(r.Direct.Body)}, "")
		return
	}
	x.rec.Details = "direct_response"
	h := &x.resp
	h.Status, h.Length = r.Direct.Status, int64(len(r.Direct.Body))
	x.editResponse(h)
	x.sendLocal(r.Direct.Body)
}
