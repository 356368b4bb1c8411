package telemetry

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Expose writes all metrics as Prometheus text (version 0.0.4). It is made at
// once, off the loops; now is the loops' clock in nanoseconds.
func (s *Set) Expose(w io.Writer, now int64) error {
	b := bufio.NewWriterSize(w, 32<<10)
	all := s.metrics.live(now)
	slices.SortFunc(all, func(x, y *series) int { return strings.Compare(x.labels, y.labels) })
	e := exposer{b: b}
	var http, tcp []merged
	for _, x := range all {
		if x.tcp {
			tcp = append(tcp, merge(x))
		} else {
			http = append(http, merge(x))
		}
	}
	e.counter("istio_requests_total", "Requests by source, destination and response.", http, func(m *merged) uint64 { return m.duration.count() })
	e.histogram("istio_request_duration_milliseconds", "Duration of requests in milliseconds.", http, func(m *merged) *sums { return &m.duration })
	e.histogram("istio_request_bytes", "Size of request bodies in bytes.", http, func(m *merged) *sums { return &m.received })
	e.histogram("istio_response_bytes", "Size of response bodies in bytes.", http, func(m *merged) *sums { return &m.sent })
	e.counter("istio_tcp_sent_bytes_total", "Bytes sent to clients of TCP connections.", tcp, func(m *merged) uint64 { return m.tcpSent })
	e.counter("istio_tcp_received_bytes_total", "Bytes received from clients of TCP connections.", tcp, func(m *merged) uint64 { return m.tcpReceived })
	e.counter("istio_tcp_connections_opened_total", "TCP connections opened.", tcp, func(m *merged) uint64 { return m.tcpOpened })
	e.counter("istio_tcp_connections_closed_total", "TCP connections closed.", tcp, func(m *merged) uint64 { return m.tcpClosed })
	s.own.mu.Lock()
	own := append([]ownMetric{
		{name: "tulle_proxy_metric_series", help: "Label sets held now.", kind: "gauge", value: func() float64 { return float64(len(all)) }},
		{name: "tulle_proxy_metric_spilled_total", help: "Records counted without labels because there were too many label sets.", kind: "counter",
			value: func() float64 { return float64(s.metrics.spilled.Load()) }},
		{name: "tulle_proxy_access_log_dropped_total", help: "Access log lines dropped because a ring was full.", kind: "counter",
			value: func() float64 { return float64(s.logs.dropped.Load()) }},
	}, s.own.list...)
	s.own.mu.Unlock()
	for _, m := range own {
		e.head(m.name, m.help, m.kind)
		switch {
		case m.counts != nil:
			e.ownHistogram(&m)
		case m.lines != nil:
			m.lines(func(labels string, v float64) { e.line(m.name, labels, float(v)) })
		default:
			e.line(m.name, "", float(m.value()))
		}
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}

// merged is a series with its loops added up.
type merged struct {
	labels                                     string
	duration, received, sent                   sums
	tcpReceived, tcpSent, tcpOpened, tcpClosed uint64
}

type sums struct {
	buckets [len(bounds) + 1]uint64
	sum     uint64
}

func (s *sums) add(h *histogram) {
	for i := range s.buckets {
		s.buckets[i] += h.buckets[i].Load()
	}
	s.sum += h.sum.Load()
}

func (s *sums) count() (n uint64) {
	for _, k := range s.buckets {
		n += k
	}
	return n
}

func merge(x *series) merged {
	m := merged{labels: x.labels}
	for i := range x.loops {
		c := x.loops[i].Load()
		if c == nil {
			continue
		}
		m.tcpReceived += c.tcpReceived.Load()
		m.tcpSent += c.tcpSent.Load()
		m.tcpOpened += c.tcpOpened.Load()
		m.tcpClosed += c.tcpClosed.Load()
		if !x.tcp {
			m.duration.add(&c.duration)
			m.received.add(&c.received)
			m.sent.add(&c.sent)
		}
	}
	return m
}

func float(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func (e *exposer) ownHistogram(m *ownMetric) {
	counts, sum := m.counts()
	n := uint64(0)
	for i, c := range counts {
		le := "+Inf"
		if i < len(m.bounds) {
			le = float(m.bounds[i])
		}
		n += c
		e.line(m.name+"_bucket", `le="`+le+`"`, strconv.FormatUint(n, 10))
	}
	e.line(m.name+"_sum", "", float(sum))
	e.line(m.name+"_count", "", strconv.FormatUint(n, 10))
}

type exposer struct{ b *bufio.Writer }

func (e *exposer) head(name, help, kind string) {
	fmt.Fprintf(e.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (e *exposer) line(name, labels, value string) {
	e.b.WriteString(name)
	if labels != "" {
		e.b.WriteByte('{')
		e.b.WriteString(labels)
		e.b.WriteByte('}')
	}
	e.b.WriteByte(' ')
	e.b.WriteString(value)
	e.b.WriteByte('\n')
}

func (e *exposer) counter(name, help string, all []merged, value func(*merged) uint64) {
	if len(all) == 0 {
		return
	}
	e.head(name, help, "counter")
	for i := range all {
		e.line(name, all[i].labels, strconv.FormatUint(value(&all[i]), 10))
	}
}

func (e *exposer) histogram(name, help string, all []merged, value func(*merged) *sums) {
	if len(all) == 0 {
		return
	}
	e.head(name, help, "histogram")
	for i := range all {
		s, labels, n := value(&all[i]), all[i].labels, uint64(0)
		for j, c := range s.buckets {
			le := "+Inf"
			if j < len(bounds) {
				le = boundText[j]
			}
			n += c
			e.line(name+"_bucket", labels+`,le="`+le+`"`, strconv.FormatUint(n, 10))
		}
		e.line(name+"_sum", labels, strconv.FormatFloat(float64(s.sum)/1000, 'f', -1, 64))
		e.line(name+"_count", labels, strconv.FormatUint(n, 10))
	}
}
