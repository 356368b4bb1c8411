//go:build linux

package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// PauseRead stops or resumes reading. What was received already, at most one
// read's worth, may still be delivered after it is stopped. Resuming delivers
// later, never inside the call.
func (c *Conn) PauseRead(stop bool) {
	c.loop.check()
	if c.paused == stop {
		return
	}
	c.paused = stop
	if !stop && c.readable && c.phase == open {
		c.later(doRead)
	}
}

// Paused reports whether reading is stopped.
func (c *Conn) Paused() bool { return c.paused }

// read reads up what an edge has announced. A read that does not fill the
// scratch was the last, unless the peer has hung up: then there is no further
// edge, so the end must be found now.
func (c *Conn) read() {
	l := c.loop
	if c.phase == lingering {
		c.readOff()
		return
	}
	for turn := 0; c.phase == open && c.readable && !c.paused && c.connected; turn++ {
		if turn == readTurns {
			c.later(doRead)
			return
		}
		var n int
		var e syscall.Errno
		spliced := false
		if c.relay != nil && c.relayable() {
			n, e, spliced = c.relayed()
		}
		if !spliced {
			n, e = sysRead(c.fd, l.rb)
		}
		switch {
		case e == unix.EINTR:
			continue
		case e != 0 && c.discarding:
			c.kill(c.err)
			return
		case e == unix.EAGAIN:
			c.readable = false
			return
		case e != 0:
			c.kill(e)
			return
		case n == 0:
			c.readable = false
			c.ended()
			return
		case spliced: // a full pipe says nothing of what the socket has left
			continue
		}
		if n < len(l.rb) && !c.hup {
			c.readable = false
		}
		c.received(l.rb[:n])
	}
}

// received hands bytes from the wire on.
func (c *Conn) received(p []byte) {
	if c.sealer == nil {
		c.bytesIn += uint64(len(p))
		c.codec.OnBytes(p)
		return
	}
	l := c.loop
	before := l.opening
	l.opening = c
	eof, err := c.sealer.Open(p, l.openFn)
	l.opening = before
	if c.phase != open {
		return
	}
	c.control()
	if err != nil {
		c.push()
		c.kill(err)
		return
	}
	if eof && !c.eof {
		c.finished()
	}
}

// opened hands decrypted bytes on.
func (c *Conn) opened(p []byte) {
	if c.phase == open && len(p) > 0 {
		c.bytesIn += uint64(len(p))
		c.codec.OnBytes(p)
	}
}

// ended handles the end of the TCP stream.
func (c *Conn) ended() {
	switch {
	case c.discarding:
		c.kill(c.err)
	case c.eof: // came after close_notify
	case c.sealer != nil:
		c.kill(ErrTruncated)
	default:
		c.finished()
	}
}

// finished tells the codec of the clean end of the peer's side.
func (c *Conn) finished() {
	c.eof = true
	c.codec.OnEOF()
	if c.phase == open && c.shut {
		c.kill(nil) // both sides are done
	}
}

// readOff throws away what a peer still sends after we have closed.
func (c *Conn) readOff() {
	for range readTurns {
		n, e := sysRead(c.fd, c.loop.rb)
		if e == unix.EINTR {
			continue
		}
		if e == unix.EAGAIN {
			return
		}
		if e != 0 || n == 0 {
			c.kill(nil)
			return
		}
	}
	c.later(doRead)
}
