package proxy

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
)

// Defaults of the Bootstrap's times.
const (
	defaultDrain          = 5 * time.Second  // as Istio's terminationDrainDuration
	defaultListenersDrain = 45 * time.Second // as Istio's drainDuration
	defaultRestartDrain   = 10 * time.Minute
)

// maxQuiet bounds how long an idle connection is kept for a request that may be
// under way: a fifth of the drain's limit, and no more than this.
const maxQuiet = 30 * time.Second

// or is d, or what holds where nothing is said.
func (d Duration) or(otherwise time.Duration) time.Duration {
	if d > 0 {
		return time.Duration(d)
	}
	return otherwise
}

// drain ends what is under way: with every response the client is told to come
// again on another connection, and what takes longer than limit is cut. For
// accept new connections are still taken, for one request each: whoever sends
// them may not know yet that we leave. hurry leaves only what is left of the
// limit for the end of a process.
func (p *Proxy) drain(limit, accept time.Duration, hurry <-chan struct{}) {
	p.ready.Store(false)
	p.leaving.Store(true)
	begin := time.Now()
	quiet := min(limit/5, maxQuiet)
	p.onLoops(func(w *worker) { w.http.Drain(quiet) })
	if accept > 0 {
		select {
		case <-time.After(min(accept, limit)):
		case <-hurry:
		}
	}
	p.sockets.Close()
	for wait := 5 * time.Millisecond; time.Since(begin) < limit; wait = min(2*wait, 250*time.Millisecond) {
		if p.carried(time.Since(begin) < quiet) == 0 {
			return
		}
		select {
		case <-time.After(wait):
		case <-hurry:
			hurry = nil
			left := min(limit-time.Since(begin), p.boot.Drain.or(defaultDrain))
			limit = time.Since(begin) + left
			p.onLoops(func(w *worker) { w.http.Drain(left / 5) })
		}
	}
	p.onLoops(func(w *worker) {
		w.http.Cut()
		w.tcp.CloseAll()
	})
}

// carried counts the connections of clients; silent ones that have not said
// what they want are worth waiting for only at first.
func (p *Proxy) carried(silent bool) int {
	var open atomic.Int64
	open.Add(int64(p.tls.Pending()))
	if silent {
		open.Add(int64(p.sockets.Inspecting()))
	}
	p.onLoops(func(w *worker) {
		open.Add(int64(w.http.Count() + w.tcp.Count()))
		if silent {
			open.Add(int64(w.detecting))
		}
	})
	return int(open.Load())
}

// onLoops runs fn on every loop and waits until all have done so, or ended.
func (p *Proxy) onLoops(fn func(w *worker)) {
	done := make(chan struct{}, len(p.workers))
	for _, w := range p.workers {
		if !w.loop.Post(func() { fn(w); done <- struct{}{} }) {
			done <- struct{}{}
		}
	}
	for range p.workers {
		<-done
	}
}

// leave tells clients with each response to go, or not any more.
func (p *Proxy) leave(which exchange.Leaving) {
	for _, w := range p.workers {
		w.loop.Post(func() { w.http.Leave(which) })
	}
}

// drainListeners is POST /drain_listeners: the listeners, or the inbound ones
// alone, are closed, gracefully after the time in which clients are told with
// their responses. With stay they are not closed in the end. The process goes on.
func (p *Proxy) drainListeners(ctx context.Context, inbound, graceful, stay bool) {
	which, shut := exchange.LeaveAll, func(*conf.Listener) bool { return true }
	if inbound {
		which, shut = exchange.LeaveInbound, func(l *conf.Listener) bool { return l.Inbound }
	}
	if p.shutting.Swap(true) && graceful {
		return // it is under way
	}
	p.leave(which)
	if !graceful {
		p.sockets.Shut(shut)
		return
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-time.After(p.boot.ListenersDrain.or(defaultListenersDrain)):
			if !stay {
				p.sockets.Shut(shut)
			}
		}
	}()
}
