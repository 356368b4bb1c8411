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
		return c.calls.take(c, b)
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
