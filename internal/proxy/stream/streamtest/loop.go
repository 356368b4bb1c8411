package streamtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Loop drives codecs over net.Conns: all calls on codecs happen on its one
// goroutine, as on an event loop, though without its speed. It stands in
// where the engine's loop would make a codec's test depend on the engine.
type Loop struct {
	mu    sync.Mutex
	wake  *sync.Cond
	queue []func()
	stop  bool
	done  chan struct{}
	dirty []*conn
	start time.Time
}

// NewLoop starts a loop.
func NewLoop() *Loop {
	l := &Loop{done: make(chan struct{}), start: time.Now()}
	l.wake = sync.NewCond(&l.mu)
	go l.run()
	return l
}

// Do runs fn on the loop, later.
func (l *Loop) Do(fn func()) {
	l.mu.Lock()
	l.queue = append(l.queue, fn)
	l.mu.Unlock()
	l.wake.Signal()
}

// Wait runs fn on the loop and returns when it has run.
func (l *Loop) Wait(fn func()) {
	ch := make(chan struct{})
	l.Do(func() { fn(); close(ch) })
	select {
	case <-ch:
	case <-l.done:
	}
}

// Close ends the loop's goroutine; connections must be closed by their owners.
func (l *Loop) Close() {
	l.mu.Lock()
	l.stop = true
	l.mu.Unlock()
	l.wake.Signal()
	<-l.done
}

func (l *Loop) run() {
	defer close(l.done)
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.stop {
			l.wake.Wait()
		}
		if l.stop {
			l.mu.Unlock()
			return
		}
		q := l.queue
		l.queue = nil
		l.mu.Unlock()
		for _, fn := range q {
			fn()
			for len(l.dirty) > 0 {
				c := l.dirty[0]
				l.dirty = l.dirty[1:]
				c.dirty = false
				c.flush()
			}
		}
	}
}

const (
	highWater = 64 << 10
	lowWater  = 16 << 10
)

// conn is the Wire of a Loop.
type conn struct {
	l      *Loop
	nc     net.Conn
	codec  stream.Codec
	out    []byte // lent or not yet handed over
	dirty  bool
	queued int // bytes with the writer
	high   bool
	closed bool
	told   bool

	mu     sync.Mutex
	cond   *sync.Cond
	paused bool
	wq     [][]byte
	wend   int // 0 open, 1 half-close, 2 close after the queue, 3 abort
}

// Serve drives a codec on nc; make is called on the loop. The connection is
// closed when the codec or the peer has closed it.
func (l *Loop) Serve(nc net.Conn, make func(w stream.Wire) stream.Codec) {
	l.Do(func() { l.Attach(nc, make) })
}

// Attach is Serve for callers that are on the loop.
func (l *Loop) Attach(nc net.Conn, make func(w stream.Wire) stream.Codec) {
	c := &conn{l: l, nc: nc}
	c.cond = sync.NewCond(&c.mu)
	c.codec = make(c)
	go c.read()
	go c.write()
}

// Listen serves every connection of a listener until it is closed.
func (l *Loop) Listen(ln net.Listener, make func(w stream.Wire) stream.Codec) {
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			l.Serve(nc, make)
		}
	}()
}

func (c *conn) read() {
	buf := make([]byte, 64<<10)
	for {
		c.mu.Lock()
		for c.paused && c.wend < 2 {
			c.cond.Wait()
		}
		c.mu.Unlock()
		n, err := c.nc.Read(buf)
		if n > 0 {
			ch := make(chan struct{})
			c.l.Do(func() {
				if !c.closed {
					c.codec.OnBytes(buf[:n])
				}
				clear(buf[:n]) // what was not copied is gone, as on a real loop
				close(ch)
			})
			select {
			case <-ch:
			case <-c.l.done:
				return
			}
		}
		if err != nil {
			c.l.Do(func() {
				if errors.Is(err, io.EOF) {
					if !c.closed {
						c.codec.OnEOF()
					}
				} else {
					c.gone(err)
				}
			})
			return
		}
	}
}

func (c *conn) write() {
	for {
		c.mu.Lock()
		for len(c.wq) == 0 && c.wend == 0 {
			c.cond.Wait()
		}
		q, end := c.wq, c.wend
		c.wq = nil
		if end == 1 {
			c.wend = 0
		}
		c.mu.Unlock()
		if end < 3 {
			for _, b := range q {
				if _, err := c.nc.Write(b); err != nil {
					c.l.Do(func() { c.gone(err) })
					return
				}
				c.l.Do(func() { c.wrote(len(b)) })
			}
		}
		switch end {
		case 1:
			if t, ok := c.nc.(interface{ CloseWrite() error }); ok {
				t.CloseWrite()
			}
		case 2, 3:
			if t, ok := c.nc.(*net.TCPConn); ok && end == 3 {
				t.SetLinger(0)
			} else if ok {
				// Linger: closing with bytes unread would reset what was sent.
				t.CloseWrite()
				t.SetReadDeadline(time.Now().Add(time.Second))
				io.Copy(io.Discard, t)
			}
			c.nc.Close()
			c.l.Do(func() { c.gone(nil) })
			return
		}
	}
}

func (c *conn) gone(err error) {
	if c.told {
		return
	}
	c.told, c.closed = true, true
	c.mu.Lock()
	c.wend = 3
	c.mu.Unlock()
	c.cond.Broadcast()
	c.nc.Close()
	c.codec.OnClose(err)
}

func (c *conn) wrote(n int) {
	c.queued -= n
	if c.high && c.queued+len(c.out) < lowWater {
		c.high = false
		if !c.closed {
			c.codec.OnWritable()
		}
	}
}

func (c *conn) flush() {
	if len(c.out) == 0 {
		return
	}
	b := c.out
	c.out = nil
	c.queued += len(b)
	c.mu.Lock()
	c.wq = append(c.wq, b)
	c.mu.Unlock()
	c.cond.Broadcast()
}

func (c *conn) touch() {
	if !c.dirty {
		c.dirty = true
		c.l.dirty = append(c.l.dirty, c)
	}
	if c.queued+len(c.out) > highWater {
		c.high = true
	}
}

func (c *conn) end(how int) {
	if c.closed {
		return
	}
	c.flush()
	if how > 1 {
		c.closed = true
	}
	c.mu.Lock()
	c.wend = max(c.wend, how)
	c.mu.Unlock()
	c.cond.Broadcast()
}

func (c *conn) Out() []byte     { return c.out }
func (c *conn) SetOut(b []byte) { c.out = b; c.touch() }
func (c *conn) Write(p []byte)  { c.out = append(c.out, p...); c.touch() }
func (c *conn) Blocked() bool   { return c.high }
func (c *conn) Close()          { c.end(2) }
func (c *conn) Abort()          { c.end(3) }
func (c *conn) CloseWrite()     { c.end(1) }
func (c *conn) Now() int64      { return int64(time.Since(c.l.start)) }
func (c *conn) PauseRead(stop bool) {
	c.mu.Lock()
	c.paused = stop
	c.mu.Unlock()
	c.cond.Broadcast()
}
