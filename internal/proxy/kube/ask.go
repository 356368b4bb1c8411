package kube

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/http1"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// question is one HTTP request and how it is put.
type question struct {
	method    string // empty: GET
	secure    bool   // by TLS, whoever answers
	address   string // host:port to dial
	source    net.IP // to dial from; nil: the kernel chooses
	authority string // empty: the address
	path      string
	header    []Field
	limit     int // bytes of the body that are kept
}

// Field of a request's header; the name is lower-case.
type Field struct{ Name, Value string }

// answer is a response. A body that is longer than the question's limit is cut.
type answer struct {
	status      int
	contentType string
	location    string
	body        []byte
	cut         bool
}

var errEarly = errors.New("the connection ended before the response")

// ask puts a question on a connection of its own; ctx bounds all of it.
func ask(ctx context.Context, q *question) (*answer, error) {
	d := net.Dialer{}
	if q.source != nil {
		d.LocalAddr = &net.TCPAddr{IP: q.source}
	}
	c, err := d.DialContext(ctx, "tcp", q.address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if q.secure {
		// A probe asks whether the program answers, not who it is: as the kubelet.
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c = t
	}
	x := &exchange{c: c, began: time.Now(), limit: q.limit}
	if err := x.run(q); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer in time: %w", ctx.Err())
		}
		return nil, err
	}
	return &x.answer, nil
}

// exchange is the wire and the peer of an http1.Client that one goroutine
// drives.
type exchange struct {
	c      net.Conn
	began  time.Time
	out    []byte
	limit  int
	over   bool
	err    error
	answer answer
}

func (x *exchange) run(q *question) error {
	codec := http1.NewClient(x, &http1.ClientOptions{Set: &http1.Set{}})
	s := codec.Start(x)
	var h stream.Head
	h.Reset()
	h.Method, h.Scheme, h.Path = []byte("GET"), []byte("http"), []byte(q.path)
	if q.method != "" {
		h.Method, h.Length, h.Body = []byte(q.method), 0, false
	}
	if h.Authority = []byte(q.authority); q.authority == "" {
		h.Authority = []byte(q.address)
	}
	for _, f := range q.header {
		h.AddString(f.Name, f.Value)
	}
	s.SendHead(&h, true)
	buf := make([]byte, 8<<10)
	for !x.over {
		if len(x.out) > 0 {
			if _, err := x.c.Write(x.out); err != nil {
				return err
			}
			x.out = x.out[:0]
		}
		n, err := x.c.Read(buf)
		if n > 0 {
			codec.OnBytes(buf[:n])
		}
		switch {
		case x.over:
		case errors.Is(err, io.EOF):
			codec.OnEOF()
			x.end(errEarly)
		case err != nil:
			return err
		}
	}
	return x.err
}

// end notes how it ended; the first time counts.
func (x *exchange) end(err error) {
	if !x.over {
		x.over, x.err = true, err
	}
}

// OnHead implements stream.Peer.
func (x *exchange) OnHead(h *stream.Head, end bool) {
	if h.Status < 200 && h.Status != 101 {
		return
	}
	x.answer = answer{status: h.Status, contentType: string(h.Get("content-type")), location: string(h.Get("location"))}
	if end || h.Status == 101 {
		x.end(nil)
	}
}

// OnData implements stream.Peer.
func (x *exchange) OnData(p []byte, end bool) {
	n := min(len(p), x.limit-len(x.answer.body))
	x.answer.body = append(x.answer.body, p[:n]...)
	if n < len(p) {
		x.answer.cut = true
		x.end(nil)
	}
	if end {
		x.end(nil)
	}
}

// OnTrailers implements stream.Peer.
func (x *exchange) OnTrailers(*stream.Head) { x.end(nil) }

// OnReset implements stream.Peer.
func (x *exchange) OnReset(_ stream.Reset, detail string) {
	x.end(errors.New(strings.TrimSpace("bad response: " + detail)))
}

// OnWritable implements stream.Peer.
func (x *exchange) OnWritable() {}

// Out implements stream.Wire.
func (x *exchange) Out() []byte { return x.out }

// SetOut implements stream.Wire.
func (x *exchange) SetOut(b []byte) { x.out = b }

// Write implements stream.Wire.
func (x *exchange) Write(p []byte) { x.out = append(x.out, p...) }

// Blocked implements stream.Wire.
func (x *exchange) Blocked() bool { return false }

// PauseRead implements stream.Wire.
func (x *exchange) PauseRead(bool) {}

// Close implements stream.Wire.
func (x *exchange) Close() { x.end(errEarly) }

// Abort implements stream.Wire.
func (x *exchange) Abort() { x.end(errEarly) }

// CloseWrite implements stream.Wire.
func (x *exchange) CloseWrite() {}

// Now implements stream.Wire.
func (x *exchange) Now() int64 { return int64(time.Since(x.began)) }

var (
	_ stream.Peer = (*exchange)(nil)
	_ stream.Wire = (*exchange)(nil)
)
