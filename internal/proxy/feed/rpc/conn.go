package rpc

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/http2"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

const (
	readSize   = 16 << 10
	highWater  = 64 << 10 // of output that waits; the codec stops above it
	lowWater   = 16 << 10
	keptOutput = 64 << 10 // of an output buffer that is kept

	greetWithin = 5 * time.Second  // the peer's SETTINGS
	pongWithin  = 8 * time.Second  // the answer to a ping
	writeWithin = 20 * time.Second // one write
	closeWithin = time.Second      // what is still to be sent at the end
)

// conn is one connection: an http2.Client, the goroutine that reads for it,
// and the one that writes. It is the codec's stream.Wire; its methods of that
// interface are called with mu held.
type conn struct {
	client *Client
	nc     net.Conn
	raw    net.Conn // what nc runs on, to be closed without a word
	start  time.Time
	quiet  time.Duration // without a byte of the peer before it is pinged

	mu      sync.Mutex
	codec   *http2.Client
	opts    http2.ClientOptions
	set     http2.Set
	out     []byte // to be written
	spare   []byte // the buffer that was written last
	blocked bool   // the codec was told so
	closing bool   // nothing more is read; what waits is written, then closed
	why     error  // of the end, first wins
	alive   *time.Timer
	long    map[*Stream]struct{}

	wake chan struct{} // there is something to write, or to close
	over chan struct{} // closed when both goroutines have ended
}

// newConn begins to speak on nc, which it owns.
func newConn(client *Client, nc net.Conn, quiet time.Duration) *conn {
	c := &conn{client: client, nc: nc, raw: nc, start: time.Now(), quiet: quiet, long: map[*Stream]struct{}{},
		wake: make(chan struct{}, 1), over: make(chan struct{})}
	if t, ok := nc.(*tls.Conn); ok {
		c.raw = t.NetConn()
	}
	c.opts = http2.ClientOptions{Set: &c.set, Limits: http2.Limits{MaxStreams: 16}, OnGone: c.gone}
	c.locked(func() {
		c.codec = http2.NewClient(c, &c.opts)
		c.alive = time.AfterFunc(greetWithin, c.probe)
	})
	return c
}

// run reads and writes until the end.
func (c *conn) run() {
	var both sync.WaitGroup
	both.Go(c.read)
	both.Go(c.write)
	both.Wait()
	c.client.forget(c)
	close(c.over)
}

// locked runs f with the codec at hand and sends what it made. A panic ends
// the connection alone.
func (c *conn) locked(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			slog.Error("BUG: panic on the connection to the control plane", "panic", p, "stack", string(debug.Stack()))
			c.fail(errors.New("internal error"))
			for s := range c.long {
				s.end(&Status{Internal, "internal error"})
			}
		}
	}()
	f()
	if len(c.out) > 0 || c.closing {
		c.kick()
	}
}

func (c *conn) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// fail ends the connection at once. mu is held.
func (c *conn) fail(why error) {
	if c.why == nil {
		c.why = why
	}
	c.closing = true
	_ = c.raw.Close() // both goroutines notice
	c.kick()
}

// read hands the codec what comes, until the end.
func (c *conn) read() {
	buf := make([]byte, readSize)
	for {
		n, err := c.nc.Read(buf)
		c.locked(func() {
			if n > 0 {
				c.codec.OnBytes(buf[:n])
				if c.codec.Greeted() {
					c.alive.Reset(c.quiet)
				}
			}
			if err == nil {
				return
			}
			c.alive.Stop()
			if c.why == nil {
				c.why = fmt.Errorf("connection lost: %w", err)
				if errors.Is(err, io.EOF) {
					c.why = errors.New("the other side closed the connection")
				}
			}
			c.codec.OnClose(c.why)
			c.closing = true
		})
		if err != nil {
			return
		}
	}
}

// write writes what the codec makes, until the end; then it closes nc, which
// ends read too.
func (c *conn) write() {
	defer func() { _ = c.nc.Close() }()
	for {
		c.mu.Lock()
		p, closing := c.out, c.closing
		if len(p) > 0 {
			c.out, c.spare = c.spare[:0], nil
		}
		c.mu.Unlock()
		if len(p) == 0 {
			if closing {
				return
			}
			<-c.wake
			continue
		}
		limit := writeWithin
		if closing {
			limit = closeWithin
		}
		_ = c.raw.SetWriteDeadline(time.Now().Add(limit))
		if _, err := c.nc.Write(p); err != nil {
			c.locked(func() { c.fail(fmt.Errorf("connection lost: %w", err)) })
			return
		}
		c.locked(func() {
			if cap(p) <= keptOutput {
				c.spare = p[:0]
			}
			if c.blocked && len(c.out) < lowWater {
				c.blocked = false
				c.codec.OnWritable()
			}
		})
	}
}

// probe asks a peer of whom nothing was heard for a sign of life, and gives up
// one who did not answer.
func (c *conn) probe() {
	c.locked(func() {
		switch {
		case c.closing:
		case !c.codec.Greeted():
			c.fail(fmt.Errorf("it does not speak HTTP/2: no settings within %v", greetWithin))
		case c.codec.Ping():
			c.alive.Reset(pongWithin)
		default:
			c.fail(fmt.Errorf("no answer to a ping within %v", pongWithin))
		}
	})
}

// gone is told by the codec that no stream can be opened any more.
func (c *conn) gone(_ *http2.Client, err error) {
	st := &Status{Unavailable, "the other side says goodbye"}
	switch {
	case c.why != nil:
		st.Message = c.why.Error()
	case err != nil:
		st.Message = err.Error()
		if http2.Calm(err) {
			c.client.pingLess(c.quiet)
		}
	}
	for s := range c.long {
		s.s.Reset(stream.Cancelled)
		s.end(st)
	}
}

// usable reports whether a stream can be opened.
func (c *conn) usable() (ok bool) {
	c.locked(func() { ok = !c.closing && c.codec.Capacity() > 0 })
	return ok
}

// close says goodbye and waits until both goroutines have ended.
func (c *conn) close() {
	c.locked(func() {
		if c.why == nil {
			c.why = ErrClosed
		}
		c.alive.Stop()
		c.codec.Close()
		c.closing = true
	})
	_ = c.raw.SetWriteDeadline(time.Now().Add(closeWithin))
	<-c.over
}

// Out implements stream.Wire.
func (c *conn) Out() []byte { return c.out }

// SetOut implements stream.Wire.
func (c *conn) SetOut(b []byte) { c.out = b }

// Write implements stream.Wire.
func (c *conn) Write(p []byte) { c.out = append(c.out, p...) }

// Blocked implements stream.Wire.
func (c *conn) Blocked() bool {
	c.blocked = c.blocked || len(c.out) >= highWater
	return c.blocked
}

// PauseRead implements stream.Wire; streams are paused instead.
func (c *conn) PauseRead(bool) {}

// Close implements stream.Wire.
func (c *conn) Close() { c.closing = true }

// Abort implements stream.Wire.
func (c *conn) Abort() { c.fail(errors.New("connection aborted")) }

// CloseWrite implements stream.Wire; only tunnels need it.
func (c *conn) CloseWrite() {}

// Now implements stream.Wire.
func (c *conn) Now() int64 { return int64(time.Since(c.start)) }
