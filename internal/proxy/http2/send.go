package http2

import (
	"bytes"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// sendData sends what the windows and the wire allow of p and returns the rest.
// END_STREAM goes with the last byte.
func (c *conn) sendData(s *h2stream, p []byte, end bool) []byte {
	for {
		n := min(int64(len(p)), int64(c.frameMax), c.sendWindow, s.sendWindow)
		if n <= 0 && len(p) > 0 {
			return p
		}
		n = max(n, 0)
		last := end && int(n) == len(p)
		c.sendFrame(s, p[:n], last)
		p = p[n:]
		if len(p) == 0 || c.wire.Blocked() {
			return p
		}
	}
}

func (c *conn) sendFrame(s *h2stream, p []byte, end bool) {
	var flags byte
	if end {
		flags, s.localSent = flagEndStream, true
	}
	o := appendFrame(c.wire.Out(), len(p), frameData, flags, s.id)
	if len(p) >= directWrite {
		c.wire.SetOut(o)
		c.wire.Write(p)
	} else {
		c.wire.SetOut(append(o, p...))
	}
	c.sendWindow -= int64(len(p))
	s.sendWindow -= int64(len(p))
	c.dataSent++
	s.large(int64(len(p)))
	c.earn(2)
}

// localEnded moves on when our side of a stream has ended or was sent.
func (c *conn) localEnded(s *h2stream) {
	if !s.localEnd {
		return
	}
	if c.srv != nil && !s.tunnel {
		s.peer = nil // the exchange is over
	}
	if !s.localSent {
		return
	}
	switch {
	case s.remoteEnd:
		c.drop(s)
	case c.srv != nil && !s.tunnel:
		c.reset(s, noError) // RFC 9113 8.1: the request is not needed further
	default:
		return
	}
	c.idleCheck()
}

// idleCheck does what settle does when a stream has ended outside OnBytes.
func (c *conn) idleCheck() {
	if !c.running && !c.closed {
		c.settle()
	}
}

// makeReady puts a stream at the end of those that have something to send.
func (c *conn) makeReady(s *h2stream) {
	if s.queued {
		return
	}
	s.queued, s.prev, s.next = true, c.readyTail, nil
	if c.readyTail == nil {
		c.ready = s
	} else {
		c.readyTail.next = s
	}
	c.readyTail = s
}

func (c *conn) unready(s *h2stream) {
	if !s.queued {
		return
	}
	s.queued = false
	if s.prev == nil {
		c.ready = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		c.readyTail = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.next, s.prev = nil, nil
}

// pump sends what waits, one frame of each stream in turn, until a window or
// the wire is full; then it tells those who waited for that.
func (c *conn) pump() {
	for c.ready != nil && !c.closed && !c.wire.Blocked() {
		s := c.ready
		if c.sendWindow <= 0 && len(s.pend) > s.off {
			break
		}
		c.unready(s)
		if n := int64(len(s.pend) - s.off); n > 0 || s.pendEnd && s.late == nil {
			if n > 0 && s.sendWindow <= 0 {
				continue // a window_update brings it back
			}
			k := min(n, int64(c.frameMax), c.sendWindow, s.sendWindow)
			k = max(k, 0)
			c.sendFrame(s, s.pend[s.off:s.off+int(k)], s.pendEnd && k == n)
			s.off += int(k)
		}
		switch {
		case s.off < len(s.pend):
			c.makeReady(s)
			continue
		case s.late != nil:
			t := s.late
			c.sendTrailers(s, t)
			s.late = nil
			c.set.putHead(t)
		}
		c.set.drop(s.pend)
		s.pend, s.off, s.pendEnd = nil, 0, false
		c.localEnded(s)
	}
	c.tellWaiting()
}

// tellWaiting calls OnWritable of the streams that were blocked and are not.
func (c *conn) tellWaiting() {
	if len(c.waiting) == 0 || c.closed {
		return
	}
	list := c.waiting
	c.waiting = c.spare[:0]
	for _, s := range list {
		if s.c != c || !s.waits {
			continue
		}
		if s.blocked(lowWater) {
			c.waiting = append(c.waiting, s)
			continue
		}
		s.waits = false
		if s.peer != nil && !s.localEnd {
			s.peer.OnWritable()
		}
		if c.closed {
			break
		}
	}
	clear(list)
	c.spare = list[:0]
}

// sendTrailers ends our side with a second field block.
func (c *conn) sendTrailers(s *h2stream, t *stream.Head) {
	at, o := c.beginBlock(s.id)
	o = c.appendFields(o, t.Fields, -1)
	c.endBlock(o, at, s.id, true)
	s.localSent = true
}

// beginBlock begins a HEADERS frame in the output; at is where.
func (c *conn) beginBlock(id uint32) (at int, o []byte) {
	o = c.wire.Out()
	at = len(o)
	o = appendFrame(o, 0, frameHeaders, flagEndHeaders, id)
	return at, c.enc.Start(o)
}

// endBlock completes the frame, or splits it when it is too large for one.
func (c *conn) endBlock(o []byte, at int, id uint32, end bool) {
	if end {
		o[at+4] |= flagEndStream
	}
	n := len(o) - at - 9
	if n <= c.frameMax {
		patchFrame(o[at:], n)
		c.wire.SetOut(o)
		return
	}
	block := append(c.set.block[:0], o[at+9:]...)
	c.set.block = block
	o[at+4] &^= flagEndHeaders
	patchFrame(o[at:], c.frameMax)
	o = o[:at+9+c.frameMax]
	for block = block[c.frameMax:]; ; {
		k := min(len(block), c.frameMax)
		var flags byte
		if k == len(block) {
			flags = flagEndHeaders
		}
		o = appendFrame(o, k, frameContinuation, flags, id)
		o = append(o, block[:k]...)
		if block = block[k:]; flags != 0 {
			break
		}
	}
	c.wire.SetOut(o)
}

// appendFields appends the fields that HTTP/2 may carry. content-length takes
// the value of length, at its place; without a place it is put behind.
func (c *conn) appendFields(o []byte, fields []stream.Field, length int64) []byte {
	var buf [20]byte
	for i := range fields {
		f := &fields[i]
		switch len(f.Name) {
		case 0:
			continue
		case 2:
			if string(f.Name) == "te" && string(f.Value) != "trailers" {
				if !hasTrailers(f.Value) {
					continue
				}
				o = c.enc.Append(o, f.Name, []byte("trailers"))
				continue
			}
		case 4, 7, 10, 16, 17:
			switch string(f.Name) {
			case "host", "upgrade", "connection", "keep-alive", "proxy-connection", "transfer-encoding":
				continue
			}
		case 14:
			if string(f.Name) == "content-length" {
				if length >= 0 {
					o = c.enc.Append(o, f.Name, strconv.AppendInt(buf[:0], length, 10))
					length = -1
				}
				continue
			}
		}
		v := f.Value
		if !valueOK(v) {
			v = bytes.Trim(v, " \t") // RFC 9113 8.2.1; a format's end may be empty
		}
		if !stream.NameOK(f.Name) || !valueOK(v) {
			continue // the last gate: filters may have made it
		}
		o = c.enc.Append(o, f.Name, v)
	}
	if length >= 0 {
		o = c.enc.Append(o, nameLength, strconv.AppendInt(buf[:0], length, 10))
	}
	return o
}

// hasTrailers reports whether a te list has "trailers".
func hasTrailers(v []byte) bool {
	const word = "trailers"
	for i := 0; i+len(word) <= len(v); i++ {
		if foldEqual(v[i:i+len(word)], []byte(word)) {
			return true
		}
	}
	return false
}

var (
	nameLength    = []byte("content-length")
	nameMethod    = []byte(":method")
	nameScheme    = []byte(":scheme")
	nameAuthority = []byte(":authority")
	namePath      = []byte(":path")
	nameProtocol  = []byte(":protocol")
	valueConnect  = []byte("CONNECT")
	valueHTTP     = []byte("http")
)

// sendResponse sends an interim or the final head.
func (c *conn) sendResponse(s *h2stream, h *stream.Head, end bool) {
	c.queued(false)
	status, length := h.Status, h.Length
	switch {
	case status == 101 && s.extended:
		status, s.tunnel, length = 200, true, -1
	case s.extended && status >= 200 && status < 300:
		status = 501 // it would say that the protocol was switched (RFC 8441 5)
	case status == 101:
		c.reset(s, internalError) // nobody asked: not a response we can send
		c.idleCheck()
		return
	case status < 200:
		at, o := c.beginBlock(s.id)
		o = c.enc.Status(o, status)
		c.endBlock(c.appendFields(o, h.Fields, -1), at, s.id, false)
		return
	case s.connect && status < 300:
		s.tunnel, length = true, -1
	case status == 204:
		length = -1
	case end && !s.toHead && status != 304:
		length = 0
	}
	s.headSent = true
	if s.toHead {
		end = true
	}
	at, o := c.beginBlock(s.id)
	o = c.enc.Status(o, status)
	c.endBlock(c.appendFields(o, h.Fields, length), at, s.id, end)
	if end {
		s.localEnd, s.localSent = true, true
		c.localEnded(s)
	}
}
