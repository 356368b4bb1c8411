package rpc

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// pieceSize is how much of a message is given to the codec at once.
const pieceSize = 16 << 10

// Stream is one call. Send and Recv may each be used by one goroutine at a
// time.
type Stream struct {
	c     *conn
	ready chan struct{} // something came, or there is room to send
	room  chan struct{}
	ended chan struct{}
	stop  func() bool // the watch on the call's context

	// What follows is behind c.mu.

	s      stream.Stream
	in     splitter
	queue  [][]byte
	paused bool
	headed bool
	err    error // why it ended; io.EOF: well
}

// open begins a call on c; nil: c takes no more. Long ones end when the peer
// says goodbye.
func (c *conn) open(ctx context.Context, long bool, h *stream.Head) *Stream {
	s := &Stream{c: c, ready: make(chan struct{}, 1), room: make(chan struct{}, 1), ended: make(chan struct{}),
		in: splitter{max: c.client.o.MaxMessage}}
	c.locked(func() {
		if c.closing {
			return
		}
		if s.s = c.codec.Open(s); s.s == nil {
			return
		}
		if long {
			c.long[s] = struct{}{}
		}
		s.stop = context.AfterFunc(ctx, func() { s.cancel(ctx.Err()) })
		s.s.SendHead(h, false)
	})
	if s.s == nil {
		return nil
	}
	return s
}

// requestHead is the head of a call (gRPC over HTTP/2, "Requests").
func (c *Client) requestHead(ctx context.Context, method string) (*stream.Head, error) {
	h := &stream.Head{Method: []byte("POST"), Scheme: []byte(c.o.Scheme), Authority: []byte(c.o.Authority), Path: []byte(method),
		Length: -1, Body: true}
	h.AddString("content-type", "application/grpc+proto")
	h.AddString("te", "trailers")
	h.AddString("user-agent", c.o.UserAgent)
	if end, ok := ctx.Deadline(); ok {
		h.AddString("grpc-timeout", strconv.FormatInt(max(time.Until(end).Milliseconds(), 1), 10)+"m")
	}
	if c.o.Token != nil {
		t, err := c.o.Token()
		if err != nil {
			return nil, err
		}
		if t != "" {
			h.AddString("authorization", "Bearer "+t)
		}
	}
	return h, nil
}

// Send sends a message. It waits while the peer takes no more.
func (s *Stream) Send(p []byte) error { return s.send(p, false) }

func (s *Stream) send(p []byte, last bool) error {
	b := make([]byte, prefix, prefix+len(p))
	n := uint32(len(p))
	b[1], b[2], b[3], b[4] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	b = append(b, p...)
	for len(b) > 0 {
		var wait bool
		var err error
		s.c.locked(func() {
			if err = s.err; err != nil {
				return
			}
			if wait = s.s.Blocked(); wait {
				return
			}
			k := min(len(b), pieceSize)
			s.s.SendData(b[:k], last && k == len(b))
			b = b[k:]
		})
		if err != nil {
			return err
		}
		if wait {
			select {
			case <-s.room:
			case <-s.ended:
			}
		}
	}
	return nil
}

// Recv returns the next message, which is the caller's; io.EOF is a good end.
func (s *Stream) Recv() ([]byte, error) {
	for {
		var b []byte
		var err error
		s.c.locked(func() {
			if len(s.queue) == 0 {
				err = s.err
				return
			}
			b = s.queue[0]
			s.queue[0] = nil
			if s.queue = s.queue[1:]; len(s.queue) == 0 && s.paused && s.err == nil {
				s.paused = false
				s.s.Pause(false)
			}
		})
		if b != nil || err != nil {
			return b, err
		}
		select {
		case <-s.ready:
		case <-s.ended:
		}
	}
}

// cancel ends the call from our side.
func (s *Stream) cancel(why error) {
	s.c.locked(func() {
		if s.err == nil {
			s.s.Reset(stream.Cancelled)
			s.end(why)
		}
	})
}

// end ends the call; c.mu is held.
func (s *Stream) end(why error) {
	if s.err != nil {
		return
	}
	s.err = why
	delete(s.c.long, s)
	close(s.ended)
	s.stop()
}

// refuse ends the call because of what the peer sent; c.mu is held.
func (s *Stream) refuse(st *Status) {
	if s.err == nil {
		s.s.Reset(stream.ProtocolError)
		s.end(st)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// OnHead implements stream.Peer.
func (s *Stream) OnHead(h *stream.Head, end bool) {
	if s.err != nil || h.Status < 200 {
		return
	}
	s.headed = true
	if st := checkHead(h); st != nil {
		s.refuse(st)
	} else if end {
		s.OnTrailers(h)
	}
}

// OnData implements stream.Peer.
func (s *Stream) OnData(p []byte, end bool) {
	if s.err != nil {
		return
	}
	err := s.in.feed(p, func(m []byte) { s.queue = append(s.queue, m) })
	if err != nil {
		s.refuse(&Status{Internal, err.Error()})
		return
	}
	if len(s.queue) > 0 {
		if !s.paused && !end {
			s.paused = true
			s.s.Pause(true)
		}
		poke(s.ready)
	}
	if end {
		s.end(&Status{Internal, "the stream ended without a status"})
	}
}

// OnTrailers implements stream.Peer.
func (s *Stream) OnTrailers(t *stream.Head) {
	if s.err != nil {
		return
	}
	st, ok := statusOf(t)
	switch {
	case !ok:
		s.end(&Status{Internal, "the stream ended without a status"})
	case st != nil:
		s.end(st)
	case s.in.partial():
		s.end(&Status{Internal, "the stream ended within a message"})
	default:
		s.end(io.EOF)
	}
}

// OnReset implements stream.Peer.
func (s *Stream) OnReset(r stream.Reset, detail string) {
	if why := s.c.why; why != nil && (r == stream.ConnectionLost || r == stream.Refused) {
		detail = why.Error()
	}
	s.end(resetStatus(r, detail))
}

// OnWritable implements stream.Peer.
func (s *Stream) OnWritable() { poke(s.room) }

// exchange sends one message and waits for one.
func (s *Stream) exchange(in []byte) ([]byte, error) {
	if err := s.send(in, true); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	out, err := s.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return nil, &Status{Internal, "no message in the answer"}
	case err != nil:
		return nil, err
	}
	more, err := s.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return out, nil
	case err == nil && more != nil:
		err = &Status{Internal, "more than one message in the answer"}
		s.cancel(err)
	}
	return nil, err
}
