package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// runIdle takes the memory of a number of connections that have each had one
// request and wait for the next. It is its own shape: idle resident memory
// before, "load" with the connections.
func (b *bench) runIdle(ctx context.Context, f front, all []*subject) error {
	name := fmt.Sprintf("idle-%d", b.idle)
	if f == ending {
		name = fmt.Sprintf("idle-tls-%d", b.idle)
	}
	for _, s := range all {
		if s.c == direct || ctx.Err() != nil {
			continue
		}
		before := rss(s.pids)
		var conns []net.Conn
		var err error
		for range b.idle {
			var c net.Conn
			if c, err = s.idle(); err != nil {
				break
			}
			conns = append(conns, c)
		}
		settled(ctx)
		with := rss(s.pids)
		for _, c := range conns {
			_ = c.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %s: connection %d: %w", name, s.c.name, len(conns)+1, err)
		}
		b.samples.memory(name, s, before, with)
	}
	return nil
}

// idle opens a connection and has one request answered.
func (s *subject) idle() (net.Conn, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	if s.front == ending {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: hostName(loadHost), MinVersion: tls.VersionTLS13})
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(plainRequest); err != nil {
		return c, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return c, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return c, err
	}
	return c, c.SetDeadline(time.Time{})
}
