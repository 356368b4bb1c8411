package telemetry

import (
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Set is the telemetry of one process. Its reporting methods are called on the
// loop whose number they are given, everything else from anywhere.
type Set struct {
	metrics *metrics
	own     ownMetrics
	logs    logs
}

// New makes a Set for so many loops and starts the goroutine that writes logs;
// Close ends it.
func New(loops int) *Set {
	loops = max(loops, 1)
	s := &Set{metrics: newMetrics(loops)}
	s.logs.start(loops)
	return s
}

// Close writes what is pending, for a second at most, and stops. Nothing may be reported afterwards.
func (s *Set) Close() { s.logs.close() }

// Request reports a finished HTTP request and writes its log lines.
func (s *Set) Request(loop int, r *Record, logs []*conf.AccessLog) {
	s.metrics.request(loop, r)
	s.logs.write(loop, r, logs)
}

// Opened reports a TCP connection that reached its upstream.
func (s *Set) Opened(loop int, r *Record) { s.metrics.opened(loop, r) }

// Closed reports the end of a TCP connection, opened or not.
func (s *Set) Closed(loop int, r *Record, logs []*conf.AccessLog) {
	s.metrics.closed(loop, r)
	s.logs.write(loop, r, logs)
}

// Refused reports a connection or request that only the log shows: one that no
// route or filter chain took.
func (s *Set) Refused(loop int, r *Record, logs []*conf.AccessLog) { s.logs.write(loop, r, logs) }

// Counter is a number of this process's own, tulle_proxy_…, that only grows.
type Counter struct{ n atomic.Uint64 }

// Add n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value now.
func (c *Counter) Value() uint64 { return c.n.Load() }

// ownMetrics are registered once, at start.
type ownMetrics struct {
	mu   sync.Mutex
	list []ownMetric
}

type ownMetric struct {
	name, help, kind string
	value            func() float64
	lines            func(yield func(labels string, value float64)) // instead of value
	bounds           []float64                                      // of a histogram
	counts           func() (counts []uint64, sum float64)
}

// Counter registers a counter. Names begin with tulle_proxy_.
func (s *Set) Counter(name, help string) *Counter {
	c := &Counter{}
	s.register(ownMetric{name: name, help: help, kind: "counter", value: func() float64 { return float64(c.Value()) }})
	return c
}

// Gauge registers a value that is asked for at every scrape, off the loops.
func (s *Set) Gauge(name, help string, value func() float64) {
	s.register(ownMetric{name: name, help: help, kind: "gauge", value: value})
}

// CounterFunc registers a counter that is asked for at every scrape.
func (s *Set) CounterFunc(name, help string, value func() float64) {
	s.register(ownMetric{name: name, help: help, kind: "counter", value: value})
}

// Lines registers a metric, "counter" or "gauge", of which there are several: at
// every scrape lines yields the labels, as they are written, and value of each.
func (s *Set) Lines(name, help, kind string, lines func(yield func(labels string, value float64))) {
	s.register(ownMetric{name: name, help: help, kind: kind, lines: lines})
}

// Histogram registers a histogram: at every scrape value returns how many were
// at most each of bounds and above the one before, and, last, above all; and
// what they sum up to.
func (s *Set) Histogram(name, help string, bounds []float64, value func() (counts []uint64, sum float64)) {
	s.register(ownMetric{name: name, help: help, kind: "histogram", bounds: bounds, counts: value})
}

func (s *Set) register(m ownMetric) {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	s.own.list = append(s.own.list, m)
}
