package telemetry

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// bounds are the upper limits of Istio's histograms (milliseconds or bytes);
// what is above the last only counts in +Inf.
var bounds = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1.8e6, 3.6e6}

var boundText = func() (t [len(bounds)]string) {
	for i, b := range bounds {
		t[i] = strconv.FormatFloat(b, 'g', -1, 64)
	}
	return t
}()

// histogram of one loop. Observations are exact in their buckets.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	sum     atomic.Uint64 // in thousandths
}

// observe adds a value of so many thousandths.
func (h *histogram) observe(milli uint64) {
	v := float64(milli) / 1000
	i := 0
	for i < len(bounds) && v > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	if milli > 0 {
		h.sum.Add(milli)
	}
}

// cells are one loop's values of one series.
type cells struct {
	duration, received, sent histogram // HTTP; each counts the requests
	tcpReceived, tcpSent     atomic.Uint64
	tcpOpened, tcpClosed     atomic.Uint64
	_                        [56]byte // loops do not share a cache line
}

// series is one set of labels. Its cells are one per loop, made when that loop
// first needs them.
type series struct {
	labels string // rendered, in Istio's order
	tcp    bool
	last   atomic.Int64 // when it was last used, loops' clock, coarse
	dead   atomic.Bool  // expired: loops must forget it
	loops  []atomic.Pointer[cells]
}

func (s *series) cell(loop int) *cells {
	c := s.loops[loop].Load()
	if c == nil {
		c = &cells{}
		s.loops[loop].Store(c)
	}
	return c
}

// key is everything labels are made of, comparable.
type key struct {
	local                              *Workload
	peer, peerWorkload, localPrincipal string
	cluster, service, name, space      string
	upstreamWorkload, upstreamPeer     string
	flags                              Flags
	status                             int16
	grpcStatus                         int16
	inbound, tcp, grpc, mutual         bool
}

// Bounds on series. When there are more, further ones share one whose labels
// are all unknown.
const (
	maxSeries = 8192
	// expiry after which an unused series is no longer shown.
	expiry = int64(30 * time.Minute)
	// coarse: how exact a series' last use is.
	coarse = int64(time.Second)
)

// metrics of one process.
type metrics struct {
	max     int // series
	mu      sync.Mutex
	all     map[key]*series
	loops   []loopTable
	swept   atomic.Uint32 // grows when series die
	spilled atomic.Uint64 // records that fell into the shared series
	other   [2]*series    // by tcp
}

// loopTable finds series without a lock; owned by its loop.
type loopTable struct {
	known  map[key]*series
	recent [recentSeries]struct {
		key
		*series
	}
	swept uint32
	_     [48]byte
}

// recentSeries of a loop are found by comparing: that takes a fraction of what
// hashing so many strings does. A power of two.
const recentSeries = 16

// place among the recent ones: requests to the same service with the same
// outcome share it.
func (k *key) place() int {
	n := int(k.status) + 3*len(k.cluster) + 5*len(k.upstreamWorkload) + 7*len(k.peer)
	if len(k.cluster) > 0 {
		n += int(k.cluster[len(k.cluster)-1])
	}
	return n & (recentSeries - 1)
}

func newMetrics(loops int) *metrics {
	m := &metrics{max: maxSeries, all: map[key]*series{}, loops: make([]loopTable, loops)}
	for i := range m.loops {
		m.loops[i].known = map[key]*series{}
	}
	return m
}

// find the series of a record on its loop.
func (m *metrics) find(loop int, r *Record, now int64) *series {
	t := &m.loops[loop]
	if g := m.swept.Load(); g != t.swept {
		t.swept = g
		for k, s := range t.known {
			if s.dead.Load() {
				delete(t.known, k)
			}
		}
		clear(t.recent[:])
	}
	k := keyOf(r)
	at := &t.recent[k.place()]
	s := at.series
	if s == nil || at.key != k {
		s = t.known[k]
	}
	if s == nil {
		if s = m.make(k, r); s == nil {
			m.spilled.Add(1)
			return m.shared(r.TCP)
		}
		t.known[k] = s
	}
	if at.series != s {
		at.key, at.series = k, s
	}
	if now-s.last.Load() >= coarse || s.last.Load() == 0 {
		s.last.Store(max(now, 1))
	}
	return s
}

func keyOf(r *Record) key {
	k := key{local: r.Local, peer: r.Peer, peerWorkload: r.PeerWorkload, localPrincipal: r.LocalPrincipal,
		cluster: r.Cluster, service: r.Service, name: r.ServiceName, space: r.ServiceSpace,
		flags: r.Flags, inbound: r.Inbound, tcp: r.TCP, grpc: r.GRPC, mutual: r.Mutual}
	if r.Inbound {
		return k.outcome(r)
	}
	k.peer, k.peerWorkload = "", "" // at the source the client is ourselves
	k.mutual = r.UpstreamPeer != ""
	k.upstreamWorkload, k.upstreamPeer = r.UpstreamWorkload, r.UpstreamPeer
	return k.outcome(r)
}

func (k key) outcome(r *Record) key {
	if !r.TCP {
		k.status = int16(r.Status)
		if r.GRPC {
			k.grpcStatus = int16(r.GRPCStatus)
		}
	}
	return k
}

// make creates a series, nil when there are too many.
func (m *metrics) make(k key, r *Record) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.all[k]; s != nil {
		return s
	}
	if len(m.all) >= m.max {
		return nil
	}
	s := &series{labels: string(appendLabels(nil, r)), tcp: r.TCP, loops: make([]atomic.Pointer[cells], len(m.loops))}
	m.all[k] = s
	return s
}

// shared is the series of everything beyond maxSeries.
func (m *metrics) shared(tcp bool) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := 0
	if tcp {
		i = 1
	}
	if m.other[i] == nil {
		m.other[i] = &series{labels: string(appendLabels(nil, &Record{TCP: tcp})), tcp: tcp, loops: make([]atomic.Pointer[cells], len(m.loops))}
	}
	return m.other[i]
}

// live lists the series to show and buries those nobody used for long.
func (m *metrics) live(now int64) []*series {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*series, 0, len(m.all)+2)
	died := false
	for k, s := range m.all {
		if now-s.last.Load() > expiry {
			s.dead.Store(true)
			delete(m.all, k)
			died = true
			continue
		}
		out = append(out, s)
	}
	if died {
		m.swept.Add(1)
	}
	for _, s := range m.other {
		if s != nil {
			out = append(out, s)
		}
	}
	return out
}

// request counts a finished HTTP request.
func (m *metrics) request(loop int, r *Record) {
	c := m.find(loop, r, r.End).cell(loop)
	c.duration.observe(uint64(max(r.End-r.Begin, 0)) / 1000)
	c.received.observe(r.BytesReceived * 1000)
	c.sent.observe(r.BytesSent * 1000)
}

// opened and closed count a TCP connection. Bytes are counted when it ends.
func (m *metrics) opened(loop int, r *Record) {
	m.find(loop, r, r.Begin).cell(loop).tcpOpened.Add(1)
}

func (m *metrics) closed(loop int, r *Record) {
	c := m.find(loop, r, r.End).cell(loop)
	c.tcpClosed.Add(1)
	c.tcpReceived.Add(r.BytesReceived)
	c.tcpSent.Add(r.BytesSent)
}
