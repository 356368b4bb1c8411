package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// plainRequest is the HTTP/1.1 request of the load.
var plainRequest = func() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nhost: %s\r\n", loadPath, hostName(loadHost))
	for _, h := range loadHeaders {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	return []byte(b.String() + "\r\n")
}()

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

// grpcBody is a message of 123 bytes.
var grpcBody = append([]byte{0, 0, 0, 0, 123}, bytes.Repeat([]byte("q"), 123)...)

// take reads answers, or parts of them, and returns how many ended.
func (c *caller) take(b []byte) (done int, err error) {
	switch c.o.front {
	case stream:
		if len(b) > c.left {
			return 0, fmt.Errorf("%d bytes more than were sent came back", len(b)-c.left)
		}
		if c.left -= len(b); c.left == 0 {
			done = 1
		}
		return done, nil
	case muxed:
		return c.takeFrames(b)
	}
	if len(c.in) > 0 {
		b = append(c.in, b...)
		c.in = nil
	}
	for len(b) > 0 {
		if c.left > 0 {
			n := min(c.left, len(b))
			if b, c.left = b[n:], c.left-n; c.left == 0 {
				done++
			}
			continue
		}
		end := bytes.Index(b, headEnd)
		if end < 0 {
			c.in = bytes.Clone(b)
			return done, nil
		}
		head := bytes.ToLower(b[:end+2])
		if !bytes.HasPrefix(head, []byte("http/1.1 200")) {
			return done, fmt.Errorf("the answer is %.60q", head)
		}
		_, v, ok := bytes.Cut(head, []byte("\r\ncontent-length:"))
		if !ok {
			return done, fmt.Errorf("the answer has no length: %.200q", head)
		}
		v, _, _ = bytes.Cut(v, []byte("\r"))
		if c.left, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
			return done, err
		}
		b = b[end+4:]
	}
	return done, nil
}

// takeFrames counts streams that ended well.
func (c *caller) takeFrames(b []byte) (done int, err error) {
	if len(c.in) > 0 {
		b = append(c.in, b...)
		c.in = nil
	}
	for len(b) >= 9 {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if len(b) < 9+n {
			break
		}
		kind, flags, body := b[3], b[4], b[9:9+n]
		switch {
		case kind == 3 || kind == 7:
			return done, fmt.Errorf("frame of type %d: %x", kind, body)
		case kind == 4 && flags&1 == 0:
			c.out.add(frame(4, 1, 0, nil)...)
		case kind == 6 && flags&1 == 0:
			c.out.add(frame(6, 1, 0, body)...)
		case kind == 0:
			c.bodies, c.credit = c.bodies+n, c.credit+n
		}
		if kind <= 1 && flags&1 != 0 {
			done++
		}
		b = b[9+n:]
	}
	if v := c.credit; v > 1<<20 {
		c.out.add(frame(8, 0, 0, []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})...)
		c.credit = 0
	}
	c.in = bytes.Clone(b)
	return done, nil
}
