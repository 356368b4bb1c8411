//go:build linux

package loop

import (
	"time"

	"golang.org/x/sys/unix"
)

// Close closes after pending output was sent, within closeFlush, and waits a
// moment for the peer's end, so that nothing sent is lost by a reset. OnClose
// comes when all was sent.
func (c *Conn) Close() {
	c.loop.check()
	if c.phase > open {
		return
	}
	if !c.connected || c.discarding || c.phase == unstarted {
		c.kill(nil)
		return
	}
	c.phase = closing
	c.full = false
	c.timer(closeFlush)
	c.dirty = false // if it waits in lazy, eager comes first
	c.mark()
}

// Abort closes at once, with a reset where something stands already.
func (c *Conn) Abort() {
	c.loop.check()
	if c.phase == gone {
		return
	}
	_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // unix sockets
	c.kill(ErrAborted)
}

// CloseWrite ends our side after pending output was sent: close_notify under
// TLS, else FIN.
func (c *Conn) CloseWrite() {
	c.loop.check()
	if c.phase > open || c.wantShut {
		return
	}
	c.wantShut = true
	c.mark()
}

// timer arms the connection's close timer.
func (c *Conn) timer(d time.Duration) {
	if c.linger == nil {
		c.linger = &Timer{Owner: c}
	}
	c.loop.Arm(c.linger, d, c.expired)
}

// expired ends a close that took too long.
func (c *Conn) expired() {
	if c.phase == lingering {
		c.kill(nil)
		return
	}
	_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	c.kill(ErrSlow)
}

// sealEnd sends close_notify; it reports whether all was taken.
func (c *Conn) sealEnd() bool {
	if c.sealer != nil && !c.notified {
		c.notified = true
		l := c.loop
		l.sealed = c.sealer.CloseNotify(l.sealed[:0])
		c.sendSealed(l.sealed)
	}
	return c.pending() == 0 && c.phase != gone && !c.discarding
}

// shutWrite ends our side.
func (c *Conn) shutWrite() {
	if !c.sealEnd() {
		return // again when it is sent
	}
	c.shut = true
	if c.sealer == nil {
		_ = unix.Shutdown(int(c.fd), unix.SHUT_WR) // the peer may be gone: reading tells
	}
	if c.eof {
		c.kill(nil)
	}
}

// finish is the last step of Close: everything was sent.
func (c *Conn) finish() {
	if !c.sealEnd() {
		return
	}
	if c.eof && c.sealer == nil {
		c.kill(nil)
		return
	}
	if err := unix.Shutdown(int(c.fd), unix.SHUT_WR); err != nil {
		c.kill(nil)
		return
	}
	c.phase = lingering
	c.later(doClose)
	c.timer(closeLinger)
	c.readOff()
}

// kill ends the connection now. OnClose follows, if it has not been told.
func (c *Conn) kill(err error) {
	if c.phase == gone {
		return
	}
	if c.phase != lingering {
		c.err = err
	}
	fd := int(c.fd)
	c.drop()
	_ = unix.Close(fd)
	if !c.closeTold {
		c.later(doClose)
	}
}

// drop leaves the loop and gives back what the connection holds.
func (c *Conn) drop() {
	l := c.loop
	if c.slot >= 0 {
		l.leave(c.slot)
		c.slot = -1
	}
	if c.phase != unstarted {
		l.conns--
		l.setLoad()
	}
	c.phase = gone
	if c.tally != nil {
		c.tally.Give()
		c.tally = nil
	}
	if c.linger != nil {
		c.linger.Stop()
	}
	c.freeOut()
	c.freeWire()
	c.freePipe()
	c.relay, c.sealer = nil, nil
	c.full, c.readable = false, false
}
