package http2

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// Limits bound what a peer can make us hold and do. A zero field takes its default.
type Limits struct {
	MaxStreams   int // streams at once: those we let a client open, or open ourselves; 1024
	MaxHead      int // bytes of a field list as RFC 9113 6.5.2 counts them; 60 KiB
	MaxFields    int // fields of a list, cookie crumbs counted one by one; 128
	StreamWindow int // bytes a peer may send on a stream ahead of us; 256 KiB
	ConnWindow   int // the same for the connection; 1 MiB
	Floods       Floods
	MaxHeld      int // bytes of paused streams after which the connection gets no more credit; 4 MiB
}

// Floods bound frames that cost work and carry nothing, by Envoy's names and
// with its defaults, which a zero field takes.
type Floods struct {
	OutFrames     int // max_outbound_frames: frames that wait for a peer that does not read; 10,000
	OutControl    int // max_outbound_control_frames: of them those that answer PING, SETTINGS and mistakes; 1,000
	Empty         int // max_consecutive_inbound_frames_with_empty_payload: in a row, without an end; 1
	Priority      int // max_inbound_priority_frames_per_stream: PRIORITY for each stream opened, and one more; 100
	WindowUpdates int // max_inbound_window_update_frames_per_data_frame_sent: WINDOW_UPDATE; 10
}

func (l Limits) filled() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.MaxStreams, 1024)
	set(&l.MaxHead, 60<<10)
	set(&l.MaxFields, 128)
	set(&l.StreamWindow, 256<<10)
	set(&l.ConnWindow, 1<<20)
	set(&l.MaxHeld, 4<<20)
	set(&l.Floods.OutFrames, 10_000)
	set(&l.Floods.OutControl, 1000)
	set(&l.Floods.Empty, 1)
	set(&l.Floods.Priority, 100)
	set(&l.Floods.WindowUpdates, 10)
	l.StreamWindow = min(max(l.StreamWindow, 16<<10), 1<<30)
	l.ConnWindow = min(max(l.ConnWindow, defaultWindow), 1<<30)
	return l
}

const (
	defaultWindow = 65535
	frameSize     = 16384 // of frames we take and send: the protocol's default
	highWater     = 64 << 10
	lowWater      = 16 << 10
	directWrite   = 8 << 10 // DATA at least this large bypasses the output buffer
	bulkSize      = 1 << 20 // body of a stream that counts as large
	keptBuffers   = 64
	keptBufSize   = 128 << 10
	keptStreams   = 32 // streams that rest before one is used again
	keptHeads     = 16

	// floodBurst is how many frames that cost work and carry nothing (PING,
	// SETTINGS, PRIORITY, empty and unknown ones) a peer may send at once;
	// floodRate how many more a second. DATA and requests earn more.
	floodBurst = 1000
	floodRate  = 100
	// resetFloor: from so many streams reset by the peer, or by us for its
	// mistakes, on, more than half of all streams ending so is an attack
	// (CVE-2023-44487, CVE-2025-8671).
	resetFloor = 200
)

// ServerOptions are shared by all connections of a listener; immutable while
// any of them lives.
type ServerOptions struct {
	Set    *Set // the loop's; required
	Limits Limits

	// Scheme, if set, is put into every request head instead of :scheme.
	Scheme string
	// NoExtendedConnect leaves RFC 8441 out of our SETTINGS.
	NoExtendedConnect bool

	// OnBadRequest, if not nil, is told of requests that the codec itself
	// refused: status is 431 when it answered so, 400 when it reset the
	// stream. detail is plain words for a log.
	OnBadRequest func(s *Server, status int, detail string)
	// OnIdle, if not nil, is told that the last stream has ended.
	OnIdle func(s *Server)
	// OnSeen, if not nil, is told that the client has seen Drain's first GOAWAY,
	// and has Leave called some time later: a client of several threads may have
	// chosen the connection for a request before, and write it after. nil: at once.
	OnSeen func(s *Server)
	// OnFault, if not nil, is told why the codec ends the connection over the
	// peer's behaviour.
	OnFault func(s *Server, detail string)
}

// ClientOptions are shared by all connections of a pool; immutable while any
// of them lives.
type ClientOptions struct {
	Set    *Set // the loop's; required
	Limits Limits

	// OnCapacity, if not nil, says that Capacity has grown: a stream ended or
	// the peer allows more.
	OnCapacity func(c *Client)
	// OnGone, if not nil, says that no stream can be opened any more. Streams
	// in progress may go on. It is called once; err is nil when the peer said
	// goodbye or we closed.
	OnGone func(c *Client, err error)
	// OnClosed, if not nil, says that the connection is over with all its
	// streams. It is called once, after OnGone.
	OnClosed func(c *Client)
}

// Set holds the storage that the codecs of one event loop share. The zero
// value is ready to use. Not safe for concurrent use.
type Set struct {
	first, last *h2stream // resting streams, oldest first
	resting     int
	heads       []*stream.Head
	bufs        [][]byte
	scratch     []byte // decoded strings
	block       []byte // field blocks that need more than one frame
}

// newStream takes the stream that has rested longest, so that a late call on
// an ended one meets nobody else's.
func (s *Set) newStream() *h2stream {
	x := s.first
	if x == nil || s.resting <= keptStreams {
		return new(h2stream)
	}
	s.first = x.next
	if s.first == nil {
		s.last = nil
	}
	s.resting--
	*x = h2stream{}
	return x
}

func (s *Set) putStream(x *h2stream) {
	*x = h2stream{}
	if s.resting >= 4096 {
		return
	}
	if s.last == nil {
		s.first = x
	} else {
		s.last.next = x
	}
	s.last = x
	s.resting++
}

func (s *Set) head() *stream.Head {
	if n := len(s.heads); n > 0 {
		h := s.heads[n-1]
		s.heads = s.heads[:n-1]
		h.Reset()
		return h
	}
	h := new(stream.Head)
	h.Reset()
	return h
}

func (s *Set) putHead(h *stream.Head) {
	if len(s.heads) < keptHeads {
		s.heads = append(s.heads, h)
	}
}

// hold copies p into a buffer of the set.
func (s *Set) hold(p []byte) []byte {
	if n := len(s.bufs); n > 0 {
		b := s.bufs[n-1]
		s.bufs[n-1] = nil
		s.bufs = s.bufs[:n-1]
		return append(b[:0], p...)
	}
	return append(make([]byte, 0, max(4096, len(p))), p...)
}

func (s *Set) drop(b []byte) {
	if cap(b) > 0 && cap(b) <= keptBufSize && len(s.bufs) < keptBuffers {
		s.bufs = append(s.bufs, b[:0])
	}
}
