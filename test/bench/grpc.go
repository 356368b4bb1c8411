package main

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/net/http2/hpack"
)

// Kinds of gRPC load.
const (
	unary     = "unary"
	streaming = "stream" // a stream sends a message when the last one was answered
)

// Sizes of gRPC messages with their five bytes of prefix.
const (
	grpcRequest = 128
	grpcAnswer  = 1 << 10
	perStream   = 100 // messages of a stream before it is ended
	streamMark  = 's' // first byte of a message whose call streams
)

// grpcBlock is the header block of the HTTP/2 request: literals, no table.
var grpcBlock = func() []byte {
	b := []byte{0x83, 0x86} // POST, http
	add := func(name, value string) {
		b = append(b, 0, byte(len(name)))
		b = append(append(b, name...), byte(len(value)))
		b = append(b, value...)
	}
	add(":path", grpcPath)
	add(":authority", hostName(loadHost))
	for _, h := range grpcHeaders {
		add(h[0], h[1])
	}
	return b
}()

// grpcBody is a message of 123 bytes, streamBody the same for a stream.
var (
	grpcBody   = grpcMessage('q')
	streamBody = grpcMessage(streamMark)
)

func grpcMessage(of byte) []byte {
	return append([]byte{0, 0, 0, 0, grpcRequest - 5}, bytes.Repeat([]byte{of}, grpcRequest-5)...)
}

// calls are the gRPC streams of one connection of the load. Every answer is
// looked at: status 200, whole messages, trailers with gRPC status 0.
type calls struct {
	next   uint32
	open   map[uint32]*grpcCall
	hpack  *hpack.Decoder
	credit int // bytes not yet given back to the connection's window
	// of the header block that is decoded
	status, code string
}

type grpcCall struct {
	got, answered int // bytes of the present message, messages
	head          bool
}

func newCalls() *calls {
	c := &calls{next: 1, open: map[uint32]*grpcCall{}}
	c.hpack = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			c.status = f.Value
		case "grpc-status":
			c.code = f.Value
		}
	})
	return c
}

// start sends the head and the first message of a call.
func (s *calls) start(c *caller) {
	body, flags := grpcBody, byte(1)
	if c.o.grpc == streaming {
		body, flags = streamBody, 0
	}
	c.out.add(frame(1, 4, s.next, grpcBlock)...)
	c.out.add(frame(0, flags, s.next, body)...)
	s.open[s.next] = &grpcCall{}
	s.next += 2
}

// take reads frames, or parts of them, and returns how many requests ended: of
// a stream each message is one.
func (s *calls) take(c *caller, b []byte) (done int, err error) {
	if len(c.in) > 0 {
		b = append(c.in, b...)
	}
	for len(b) >= 9 {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if len(b) < 9+n {
			break
		}
		k, err := s.frame(c, b[3], b[4], uint32(b[5]&0x7f)<<24|uint32(b[6])<<16|uint32(b[7])<<8|uint32(b[8]), b[9:9+n])
		if err != nil {
			return done, err
		}
		done += k
		b = b[9+n:]
	}
	if v := s.credit; v > 1<<20 {
		c.out.add(frame(8, 0, 0, []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})...)
		s.credit = 0
	}
	c.in = bytes.Clone(b)
	return done, nil
}

func (s *calls) frame(c *caller, kind, flags byte, id uint32, body []byte) (done int, err error) {
	call, end := s.open[id], flags&1 != 0
	switch {
	case kind == 3 || kind == 7 || kind == 9:
		return 0, fmt.Errorf("frame of type %d: %x", kind, body)
	case kind == 4 && !end:
		c.out.add(frame(4, 1, 0, nil)...)
	case kind == 6 && !end:
		c.out.add(frame(6, 1, 0, body)...)
	case kind > 1:
	case call == nil || flags&^5 != 0:
		return 0, fmt.Errorf("frame of type %d with flags %x for stream %d", kind, flags, id)
	case kind == 1:
		return s.block(c, id, call, body, end)
	case end:
		return 0, errors.New("an answer without trailers")
	default:
		s.credit += len(body)
		return s.data(c, id, call, len(body))
	}
	return 0, nil
}

// block is a head or trailers.
func (s *calls) block(c *caller, id uint32, call *grpcCall, b []byte, end bool) (done int, err error) {
	s.status, s.code = "", ""
	if _, err := s.hpack.Write(b); err != nil {
		return 0, fmt.Errorf("header block: %w", err)
	}
	switch {
	case !call.head && s.status == "200" && !end:
		call.head = true
		return 0, nil
	case !call.head || !end || s.code != "0" || call.got != 0 || call.answered == 0:
		return 0, fmt.Errorf("a call ended with status %q, gRPC status %q after %d messages", s.status, s.code, call.answered)
	}
	delete(s.open, id)
	if c.o.grpc == streaming {
		s.start(c)
		return 0, nil
	}
	return 1, nil
}

func (s *calls) data(c *caller, id uint32, call *grpcCall, n int) (done int, err error) {
	call.got += n
	if call.got < grpcAnswer {
		return 0, nil
	}
	call.got, call.answered = call.got-grpcAnswer, call.answered+1
	if call.got > 0 {
		return 0, fmt.Errorf("stream %d: more was answered than was asked", id)
	}
	if c.o.grpc != streaming {
		return 0, nil
	}
	if call.answered == perStream {
		c.out.add(frame(0, 1, id, nil)...)
	} else {
		c.out.add(frame(0, 0, id, streamBody)...)
	}
	return 1, nil
}
