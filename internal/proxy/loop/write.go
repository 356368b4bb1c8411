//go:build linux

package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// directSize is from where on Write does not copy a piece to the pending
// output but sends it from where it lies.
const directSize = 2 << 10

// pending is how many bytes wait to be sent.
func (c *Conn) pending() int { return len(c.out) - c.off + len(c.wire) - int(c.woff) + c.piped() }

// Out lends the pending output for appending; see stream.Wire.
func (c *Conn) Out() []byte {
	l := c.loop
	l.check()
	if c.phase > open || c.wantShut {
		return l.trash[:0]
	}
	if c.out == nil {
		c.out = l.bufs.get(bufSizes[c.hint])
	}
	return c.out
}

// SetOut gives back what Out has lent, longer than before.
func (c *Conn) SetOut(b []byte) {
	if c.phase > open || c.wantShut {
		return
	}
	if n := len(b) - len(c.out); n > 0 {
		c.bytesOut += uint64(n)
	}
	if cap(b) != cap(c.out) { // outgrew its buffer
		c.loop.recycle(c.out)
	}
	c.out = b
	if len(b) == 0 { // nothing came of it
		c.loop.recycle(b)
		c.out = nil
	}
	c.appended()
}

// appended sees to output that is new in out.
func (c *Conn) appended() {
	if len(c.out) == c.off {
		return
	}
	if c.pending() > highWater {
		c.push()
		c.gauge()
	}
	c.mark()
}

// gauge keeps full, and ends connections whose codec does not heed it.
func (c *Conn) gauge() {
	if n := c.pending(); n > maxWater {
		c.kill(ErrOverflow)
	} else if n > highWater || c.pipe != nil {
		c.full = true
	}
}

// Write sends p; see stream.Wire.
func (c *Conn) Write(p []byte) {
	l := c.loop
	l.check()
	if c.phase > open || c.wantShut || len(p) == 0 {
		return
	}
	c.bytesOut += uint64(len(p))
	if len(p) >= directSize && !c.stuck && c.pipe == nil && c.connected && c.phase == open && !c.discarding {
		if c.sealer == nil {
			p = c.sendDirect(p)
		} else {
			p = c.sealDirect(p)
		}
		if c.phase > open {
			return
		}
	}
	if len(p) > 0 {
		c.reserve(len(p))
		c.out = append(c.out, p...)
		c.appended()
	} else if c.pending() > 0 {
		c.mark()
	}
}

// reserve makes room for n more bytes in out.
func (c *Conn) reserve(n int) {
	if cap(c.out)-len(c.out) >= n {
		return
	}
	rest := c.out[c.off:]
	b := append(c.loop.bufs.get(max(len(rest)+n, bufSizes[c.hint])), rest...)
	c.loop.recycle(c.out)
	c.out, c.off = b, 0
}

// sendDirect sends what is pending and p in one call, and returns what the
// kernel did not take of p.
func (c *Conn) sendDirect(p []byte) []byte {
	l := c.loop
	for len(p) > 0 && c.phase == open && !c.stuck && !c.discarding {
		var n int
		var e syscall.Errno
		head := len(c.out) - c.off
		if head > 0 {
			n, e = sysSend2(c.fd, &l.iov, &l.msg, c.out[c.off:], p)
		} else {
			n, e = sysSend(c.fd, p)
		}
		if !c.sent(e) {
			continue
		}
		k := min(n, head)
		if c.off += k; c.off == len(c.out) {
			c.freeOut()
		}
		p = p[n-k:]
	}
	return p
}

// sealDirect seals and sends p, and returns what was not sealed. A little that
// is pending is filled up to a whole record first.
func (c *Conn) sealDirect(p []byte) []byte {
	const record = 16 << 10
	l := c.loop
	if n := len(c.out) - c.off; n > 0 {
		k := min(len(p), max(record-n%record, 0)%record)
		c.reserve(k)
		c.out = append(c.out, p[:k]...)
		p = p[k:]
		c.push()
	}
	for len(p) > 0 && c.phase == open && !c.stuck && !c.discarding && c.pending() == 0 {
		k := min(len(p), sealStep)
		l.sealed = c.sealer.Seal(l.sealed[:0], p[:k])
		p = p[k:]
		c.sendSealed(l.sealed)
	}
	return p
}

// sent judges the result of a send; true: bytes were taken.
func (c *Conn) sent(e syscall.Errno) bool {
	switch e {
	case 0:
		return true
	case unix.EINTR:
	case unix.EAGAIN:
		c.stuck = true
	default:
		c.broken(e)
	}
	return false
}

// broken handles a failed send. What the peer sent before it closed (an early
// response) is still delivered; then the connection ends with the error.
func (c *Conn) broken(e syscall.Errno) {
	c.freeOut()
	c.freeWire()
	c.freePipe()
	if c.phase != open || c.paused {
		c.kill(e)
		return
	}
	c.discarding, c.err = true, e
	c.readable, c.hup = true, true
	c.later(doRead)
}

// push sends what is pending, as far as the kernel takes it. It calls no
// codec.
func (c *Conn) push() {
	if !c.connected || c.discarding {
		if c.discarding {
			c.freeOut()
		}
		return
	}
	if c.pipe != nil {
		if c.pushPipe(); c.pipe != nil {
			return
		}
	}
	if c.sealer == nil && len(c.wire) == 0 {
		for c.off < len(c.out) && !c.stuck {
			n, e := sysSend(c.fd, c.out[c.off:])
			if c.sent(e) {
				c.off += n
			}
		}
		if c.off == len(c.out) {
			c.freeOut()
		} else {
			c.shrink()
		}
		return
	}
	for !c.stuck && c.phase < gone && !c.discarding {
		if int(c.woff) < len(c.wire) {
			n, e := sysSend(c.fd, c.wire[c.woff:])
			if c.sent(e) {
				c.woff += int32(n)
			}
			continue
		}
		c.freeWire()
		if c.off == len(c.out) {
			c.freeOut()
			return
		}
		k := min(len(c.out)-c.off, sealStep)
		l := c.loop
		l.sealed = c.sealer.Seal(l.sealed[:0], c.out[c.off:c.off+k])
		c.off += k
		c.sendSealed(l.sealed)
	}
}

// sendSealed sends from the cipher scratch and keeps what is not taken.
func (c *Conn) sendSealed(b []byte) {
	for len(b) > 0 && !c.stuck && c.phase < gone && !c.discarding {
		n, e := sysSend(c.fd, b)
		if c.sent(e) {
			b = b[n:]
		}
	}
	if len(b) == 0 || c.phase == gone || c.discarding {
		return
	}
	c.keepSealed(b)
}

func (c *Conn) keepSealed(b []byte) {
	if cap(c.wire)-len(c.wire) < len(b) {
		w := append(c.loop.bufs.get(len(c.wire)-int(c.woff)+len(b)), c.wire[c.woff:]...)
		c.loop.recycle(c.wire)
		c.wire, c.woff = w, 0
	}
	c.wire = append(c.wire, b...)
}

// control sends what the sealer has to say by itself.
func (c *Conn) control() {
	l := c.loop
	if b := c.sealer.Seal(l.sealed[:0], nil); len(b) > 0 {
		l.sealed = b
		c.keepSealed(b)
		c.mark()
	}
}

func (c *Conn) freeOut() {
	if c.out == nil {
		return
	}
	// Remember which class sufficed, so that the next loan need not grow.
	switch n := len(c.out); {
	case n > bufMid:
		c.hint = 2
	case n > bufSmall || c.hint == 2:
		c.hint = 1
	}
	c.loop.recycle(c.out)
	c.out, c.off = nil, 0
}

func (c *Conn) freeWire() {
	if c.wire != nil {
		c.loop.recycle(c.wire)
		c.wire, c.woff = nil, 0
	}
}

// shrink moves a small rest that must wait to a small buffer.
func (c *Conn) shrink() {
	rest := c.out[c.off:]
	if cap(c.out) <= bufSmall || len(rest) > bufSmall/2 {
		if c.off > len(rest) { // at least drop what was sent
			n := copy(c.out, rest)
			c.out, c.off = c.out[:n], 0
		}
		return
	}
	b := append(c.loop.bufs.get(len(rest)), rest...)
	c.loop.recycle(c.out)
	c.out, c.off = b, 0
}

// mark has the connection flushed soon.
func (c *Conn) mark() {
	if c.dirty || c.phase == unstarted || c.phase == gone {
		return
	}
	c.dirty = true
	l := c.loop
	if c.lazy && c.phase == open {
		l.lazy = append(l.lazy, c)
	} else {
		l.eager = append(l.eager, c)
	}
}

// flush sends what is pending and does what waits for that.
func (c *Conn) flush() {
	if c.phase == gone || !c.connected {
		return
	}
	c.push()
	if c.phase == open {
		c.gauge()
	}
	n := c.pending()
	if n == 0 && c.phase != gone {
		if c.phase == closing {
			c.finish()
			return
		}
		if c.wantShut && !c.shut {
			c.shutWrite()
		}
	}
	if c.full && n < lowWater && c.pipe == nil && c.phase == open {
		c.full = false
		c.codec.OnWritable()
	}
}

// Blocked reports whether output waits above the high-water mark.
func (c *Conn) Blocked() bool { return c.full }

// Now is the loop's clock.
func (c *Conn) Now() int64 { return c.loop.now }
