package proxy

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/overload"
)

// memoryPeriod is how often the memory in use is compared with its limit.
const memoryPeriod = 200 * time.Millisecond

// tidyAfter the start, and after a large change of the configuration, the system
// gets back what that took, unless another comes.
const tidyAfter = 500 * time.Millisecond

// tidyUp gives back free memory and the program's own pages.
func tidyUp() {
	debug.FreeOSMemory()
	dropImage()
}

// watchMemory gives things up in steps before the memory ends: idle connections
// and copies of bodies, then new requests (503, flag OM), then new connections.
func (p *Proxy) watchMemory(ctx context.Context) {
	if !p.memory.Limited() {
		return
	}
	t := time.NewTicker(memoryPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now, changed := p.memory.Sample()
		if changed {
			p.log.Warn("memory is "+now.String(), "pressure", p.memory.Pressure())
		}
		if now >= overload.Tight {
			for _, w := range p.workers {
				w.loop.Post(w.spare)
			}
		}
	}
}

// spare closes what is idle. It runs on the worker's loop.
func (w *worker) spare() {
	for range w.http.Spare() + w.pool.Spare() {
		w.p.memory.Shed(overload.Tight)
	}
}

// refuses reports whether a new connection is closed at once.
func (p *Proxy) refuses() bool {
	if p.memory.Level() < overload.Over {
		return false
	}
	p.memory.Shed(overload.Over)
	return true
}

// memoryGauges are the metrics of what was given up.
func (p *Proxy) memoryGauges() {
	p.telemetry.Gauge("tulle_proxy_memory_pressure", "Memory in use as a share of its limit; 0 without one.", p.memory.Pressure)
	for _, x := range []struct {
		name, help string
		level      overload.Level
	}{
		{"tulle_proxy_memory_idle_closed_total", "Idle connections closed to save memory.", overload.Tight},
		{"tulle_proxy_memory_requests_refused_total", "Requests answered with 503 to save memory.", overload.Full},
		{"tulle_proxy_memory_connections_refused_total", "Connections closed at once to save memory.", overload.Over},
	} {
		p.telemetry.CounterFunc(x.name, x.help, func() float64 { return float64(p.memory.Count(x.level)) })
	}
}
