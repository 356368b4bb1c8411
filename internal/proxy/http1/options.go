package http1

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// Limits bound what a peer can make us hold. A zero field takes its default.
type Limits struct {
	MaxHead   int // bytes of a start line with all fields, or of a trailer section; 60 KiB
	MaxFields int // lines of a head or trailer section; 100
}

const (
	defaultMaxHead   = 60 << 10
	defaultMaxFields = 100

	maxInterim  = 64       // 1xx heads before one final head
	maxAhead    = 16 << 10 // pipelined bytes held before reading stops
	maxDiscard  = 64 << 10 // request bytes read after an early response
	directWrite = 8 << 10  // pieces at least this large bypass the output buffer
	keptBuffers = 64       // input buffers that a Set keeps
	keptBufSize = 64 << 10 // larger ones are left to the collector
)

func (l Limits) head() int {
	if l.MaxHead > 0 {
		return l.MaxHead
	}
	return defaultMaxHead
}

func (l Limits) fields() int {
	if l.MaxFields > 0 {
		return l.MaxFields
	}
	return defaultMaxFields
}

// ServerOptions are shared by all connections of a listener; immutable while
// any of them lives.
type ServerOptions struct {
	Set    *Set // the loop's; required
	Limits Limits

	// Scheme is put into every request head: "http" or "https"; "" is "http".
	Scheme string
	// AcceptHTTP10 serves HTTP/1.0; without it such requests get 426 as Envoy
	// answers them.
	AcceptHTTP10 bool
	// Upgrades are the lower-case Upgrade tokens that become Head.Protocol;
	// nil is {"websocket"}. Others are ignored, as RFC 9110 7.8 allows.
	Upgrades []string
	// HalfClose lets a client that has closed its sending side still get its
	// response. Without it the exchange is reset, as Envoy does.
	HalfClose bool

	// OnBadRequest, if not nil, is told of requests that the codec itself
	// refused, with the status it answered and plain words for a log.
	OnBadRequest func(s *Server, status int, detail string)
	// OnIdle, if not nil, is told that a response has ended and no byte of a
	// next request is here.
	OnIdle func(s *Server)
	// Later, if not nil, is called when a pipelined request waits to be read
	// after a response that ended outside OnBytes; the owner then calls
	// Continue from the loop, before it sleeps. Without it the request is read
	// at once, inside the call that ended the response.
	Later func(s *Server)
}

// ClientOptions are shared by all connections of a pool; immutable while any
// of them lives.
type ClientOptions struct {
	Set    *Set // the loop's; required
	Limits Limits

	// OnIdle says that the exchange is over and Start may be called again.
	OnIdle func(c *Client)
	// OnGone says that the connection cannot be used any more; err is nil when
	// the codec closed it in good order. It is called once. After each Start
	// either OnIdle or OnGone follows.
	OnGone func(c *Client, err error)
}

// Set holds the storage that the codecs of one event loop share. The zero
// value is ready to use. Not safe for concurrent use.
type Set struct {
	heads []*stream.Head
	bufs  [][]byte
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
	if len(s.heads) < 8 {
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
	return append(make([]byte, 0, max(2048, len(p))), p...)
}

func (s *Set) drop(b []byte) {
	if cap(b) > 0 && cap(b) <= keptBufSize && len(s.bufs) < keptBuffers {
		s.bufs = append(s.bufs, b[:0])
	}
}
