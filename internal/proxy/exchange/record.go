package exchange

import (
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// startRecord notes what is known when the request begins.
func (x *Exchange) startRecord() {
	c, p := x.conn, &x.conn.peer
	x.rec = telemetry.Record{
		Start: x.env.now(), Begin: x.env.Loop.Now(), Local: &x.env.Node.Local, Inbound: c.listener.Inbound,
		Version: x.req.Version, GRPC: x.grpc, GRPCStatus: -1, Req: &x.req, Resp: &x.resp,
		Downstream: c.remote, Direct: c.remote, DownstreamLocal: c.local, SNI: p.SNI, TLS: p.TLS, Mutual: p.Mutual,
		TLSVersion: p.Version, TLSCipher: p.Cipher, Peer: p.Principal, PeerWorkload: c.workload, LocalPrincipal: p.Local,
	}
	if x.reqEnd {
		x.rec.RequestEnd = x.rec.Begin
	}
}

// endRecord adds what came of it.
func (x *Exchange) endRecord() {
	r := &x.rec
	r.End = x.env.Loop.Now()
	r.Attempts = x.attempts
	if x.route != nil {
		r.RouteName = x.route.Name
	}
	h := x.handle
	if x.target == nil && x.route != nil && x.route.Forward != nil {
		// Answered before it was forwarded: where it would have gone.
		if t := route.Pick(x.route.Forward, x.rq.Random); t != nil {
			r.Cluster, h = t.Name, x.env.Clusters.Get(t.Name)
		}
	}
	if h != nil {
		if c := h.Conf(); c != nil {
			r.To(c)
		}
	}
	if x.a.lastEndpoint != nil {
		r.UpstreamWorkload = x.a.lastEndpoint.Workload
	}
}
