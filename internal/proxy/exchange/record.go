package exchange

import (
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// startRecord notes what is known when the request begins.
func (x *Exchange) startRecord() {
	c, p := x.conn, x.conn.peer
	r := &x.rec // zero until now
	r.Start, r.Begin = x.env.now(), x.env.Loop.Now()
	r.Local, r.Inbound = &x.env.Node.Local, c.listener.Inbound
	r.Version, r.GRPC, r.GRPCStatus, r.Req, r.Resp = x.req.Version, x.grpc, -1, &x.req, &x.resp
	r.Downstream, r.Direct, r.DownstreamLocal = c.remote(), c.remote(), c.local()
	r.SNI, r.TLS, r.Mutual, r.TLSVersion, r.TLSCipher = p.SNI, p.TLS, p.Mutual, p.Version, p.Cipher
	r.Peer, r.PeerWorkload, r.LocalPrincipal = p.Principal, c.peer.workload, p.Local
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
