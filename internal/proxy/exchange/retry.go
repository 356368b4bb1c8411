package exchange

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// retries is what is left of a request's retry policy.
type retries struct {
	p     *conf.Retry
	left  int
	made  int
	holds bool // the cluster's retry budget counts us
}

func (r *retries) set(p *conf.Retry) {
	*r = retries{p: p}
	if p != nil {
		r.left = p.Attempts
	}
}

func (r *retries) release(h *cluster.Handle) {
	if r.holds {
		r.holds = false
		h.Release(cluster.Retries)
	}
}

// mayRetry spends one retry if the policy, the body and the cluster's limit
// allow it.
func (x *Exchange) mayRetry() bool {
	r := &x.retries
	if r.p == nil || x.started || x.upgrade && x.a.headed {
		return false
	}
	if r.left <= 0 {
		if r.p.Attempts > 0 && r.made >= r.p.Attempts {
			x.rec.Flags |= telemetry.FlagURX
		}
		return false
	}
	if !x.keeping {
		return false
	}
	if !r.holds && !x.handle.TryAcquire(cluster.Retries) {
		x.rec.Flags |= telemetry.FlagUO
		return false
	}
	r.holds = true
	r.left--
	r.made++
	return true
}

// retryStatus decides by the head of a response.
func (x *Exchange) retryStatus(h *stream.Head) bool {
	p := x.retries.p
	return p != nil && !x.started && route.Retries(p.On, p.Codes, h) && x.mayRetry()
}

// retryReset decides by the way an attempt broke before any answer. begun says
// that the endpoint may have seen the request.
func (x *Exchange) retryReset(r stream.Reset, begun bool) bool {
	p := x.retries.p
	return p != nil && route.RetriesReset(p.On, r, begun) && x.mayRetry()
}

func (x *Exchange) retryTimeout() bool {
	p := x.retries.p
	return p != nil && p.On&(conf.On5xx|conf.OnGatewayError|conf.OnReset) != 0 && x.mayRetry()
}

// backOff waits a random time below base x 2^n, capped, and tries again.
func (x *Exchange) backOff() {
	base, limit := 25*time.Millisecond, 250*time.Millisecond
	if b := x.retries.p.BackoffBase; b > 0 {
		base, limit = b, 10*b
	}
	if m := x.retries.p.BackoffMax; m > 0 {
		limit = m
	}
	d := min(base<<min(x.retries.made-1, 16), limit)
	x.env.Loop.Arm(&x.pause, time.Duration(x.env.Loop.Rand()%uint64(d)), x.onRetry)
}
