package exchange

import (
	"net/netip"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/cors"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/fault"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/ratelimit"
	"github.com/tulle-mesh/tulle/internal/proxy/filter/rbac"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// filter runs the listener's filters in its order from x.at, then acts. A
// filter that must wait leaves, and calls it again.
func (x *Exchange) filter() {
	fs := x.conn.http.Filters
	for x.at < len(fs) {
		f := &fs[x.at]
		x.at++
		switch {
		case f.CORS:
			if x.cors() {
				return
			}
		case f.Limit != nil:
			if !x.inLimit(f.Limit) {
				return
			}
		case f.HasFault:
			if x.fault(f) {
				return
			}
		case f.MaxBody > 0:
			if !x.boundBody(f.MaxBody) {
				return
			}
		case f.Compress:
			x.toCompress, x.accept = true, x.req.Joined("accept-encoding")
		default:
			if r := x.rbacFor(f); r != nil && !x.allowed(r) {
				return
			}
		}
	}
	x.act()
}

// rbacFor is the filter's policy, or what the route puts in its place.
func (x *Exchange) rbacFor(f *conf.Filter) *conf.RBAC {
	if x.route != nil {
		if o, ok := x.route.RBAC[f.Name]; ok {
			return o.RBAC
		}
	}
	if x.vhost != nil {
		if o, ok := x.vhost.RBAC[f.Name]; ok {
			return o.RBAC
		}
	}
	return f.RBAC
}

// allowed asks one RBAC filter and answers a denied request.
func (x *Exchange) allowed(r *conf.RBAC) bool {
	c := x.conn
	in := rbac.Input{Head: &x.req, Destination: c.destination(), Source: c.remote(), Remote: netip.AddrPortFrom(x.remote, 0),
		TLS: c.peer.TLS, Mutual: c.peer.Mutual, Principals: c.peer.URIs, ServerName: c.peer.SNI}
	ok, policy := rbac.Eval(r, &in, nil)
	if ok {
		return true
	}
	x.reply(telemetry.DeniedBy(policy), "")
	return false
}

// inLimit asks one rate limit and answers a request that is refused.
func (x *Exchange) inLimit(c *conf.RateLimit) bool {
	l := x.env.Limits.Get(c.Key)
	if l == nil { // it went while the request came
		return true
	}
	in := ratelimit.Input{Head: &x.req, Remote: x.remote}
	if uris := x.conn.peer.URIs; len(uris) > 0 {
		in.Principal = uris[0]
	}
	v := l.Take(c, &in, x.env.Loop.Now())
	if c.Headers && v.By != nil && (x.limit == nil || !v.Allowed || v.Left < x.limit.Left) {
		x.limit = &v
	}
	if v.Allowed {
		return true
	}
	if c.RetryAfter && c.Status == 429 {
		x.resp.AddString("retry-after", strconv.FormatInt(max(1, v.Wait), 10))
	}
	x.reply(telemetry.Limited(c.Status, c.Exhausted), "")
	return false
}

// tellLimit adds what the limit has left that is nearest to its end.
func (x *Exchange) tellLimit(h *stream.Head) {
	if x.limit == nil {
		return
	}
	var b [20]byte
	h.Add("x-ratelimit-limit", strconv.AppendUint(b[:0], uint64(x.limit.By.Size), 10))
	h.Add("x-ratelimit-remaining", strconv.AppendUint(b[:0], uint64(x.limit.Left), 10))
	h.Add("x-ratelimit-reset", strconv.AppendInt(b[:0], x.limit.Wait, 10))
}

// boundBody refuses a request whose body is larger than that, or sees to it that
// it does not grow larger.
func (x *Exchange) boundBody(most int64) bool {
	x.body, x.bounded = most-int64(x.rec.BytesReceived), true
	if x.req.Length <= most && x.body >= 0 {
		return true
	}
	x.reply(telemetry.LengthTooLarge, "")
	return false
}

// tooLong counts a piece of the body and answers when it is too much.
func (x *Exchange) tooLong(n int) bool {
	if x.body -= int64(n); x.body >= 0 {
		return false
	}
	x.fail(telemetry.BodyTooLarge, "")
	return true
}

// fault delays or aborts. It reports true when the request does not go on now.
func (x *Exchange) fault(f *conf.Filter) bool {
	p := f.Fault
	if x.route != nil && x.route.Fault != nil {
		p = x.route.Fault
	}
	if p == nil {
		return false
	}
	d := fault.Decide(p, x.env.Loop.Rand())
	if d.Delay > 0 {
		x.rec.Flags |= telemetry.FlagDI
		x.abort = d
		x.env.Loop.Arm(&x.pause, d.Delay, x.onFault)
		return true
	}
	return x.aborted(d)
}

func (x *Exchange) faultDelayed() {
	if x.done || x.aborted(x.abort) {
		return
	}
	x.filter()
}

func (x *Exchange) aborted(d fault.Decision) bool {
	if !d.Abort {
		return false
	}
	x.reply(telemetry.Aborted(d.Status, d.GRPC), "")
	return true
}

// corsPolicy is the route's or the virtual host's. Redirects and direct
// responses have none, as in Envoy.
func (x *Exchange) corsPolicy() *conf.CORS {
	if x.route == nil || x.route.Forward == nil {
		return nil
	}
	if x.route.CORS != nil {
		return x.route.CORS
	}
	return x.vhost.CORS
}

// cors answers a preflight; true when it did.
func (x *Exchange) cors() bool {
	p := x.corsPolicy()
	if p == nil || x.req.Get("origin") == nil {
		return false
	}
	x.corsHit = cors.Allowed(p, &x.req)
	if !cors.Preflight(&x.req) {
		return false
	}
	if !x.corsHit && p.ForwardUnmatched {
		return false
	}
	h := &x.resp
	h.Status, h.Length = 200, 0
	x.rec.Details = "cors_response"
	cors.Answer(p, &x.req, h, x.corsHit)
	x.corsHit = false
	x.sendLocal(nil)
	return true
}

func (x *Exchange) corsResponse(h *stream.Head) {
	if x.corsHit {
		cors.Decorate(x.corsPolicy(), &x.req, h)
	}
}
