package http2

import (
	"encoding/binary"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// onFrame takes one whole frame.
func (c *conn) onFrame(b []byte) {
	kind, flags := b[3], b[4]
	id := binary.BigEndian.Uint32(b[5:]) & 0x7fffffff
	p := b[9:]
	if !c.greeted && kind != frameSettings {
		c.fault(protocolError, "first frame is not settings")
		return
	}
	if c.blockID != 0 && (kind != frameContinuation || id != c.blockID) {
		c.fault(protocolError, "field block interrupted")
		return
	}
	switch kind {
	case frameData:
		c.onData(id, flags, p)
	case frameHeaders:
		c.onHeaders(id, flags, p)
	case frameContinuation:
		c.onContinuation(id, flags, p)
	case framePriority:
		c.onPriority(id, p)
	case frameReset:
		c.onReset(id, p)
	case frameSettings:
		c.onSettings(id, flags, p)
	case framePing:
		c.onPing(id, flags, p)
	case frameGoAway:
		c.onGoAway(id, p)
	case frameWindow:
		c.onWindow(id, p)
	case framePush:
		c.fault(protocolError, "push promise")
	default:
		c.spend(1) // RFC 9113 4.1: unknown types are ignored
	}
}

// unpad removes padding; false: the connection was ended.
func (c *conn) unpad(flags byte, p []byte) ([]byte, bool) {
	if flags&flagPadded == 0 {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		c.fault(protocolError, "padding longer than its frame")
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

// idle reports whether no stream of that id was opened yet.
func (c *conn) idle(id uint32) bool {
	if c.srv != nil {
		return id&1 == 0 || id > c.lastID
	}
	return id&1 == 0 || id >= c.nextID
}

func (c *conn) onData(id uint32, flags byte, p []byte) {
	size := int64(len(p))
	if id == 0 || c.idle(id) {
		c.fault(protocolError, "data on an idle stream")
		return
	}
	if size > c.recvWindow {
		c.fault(flowError, "connection window exceeded")
		return
	}
	c.recvWindow -= size
	c.credit += size
	body, ok := c.unpad(flags, p)
	if !ok {
		return
	}
	end := flags&flagEndStream != 0
	switch {
	case len(body) > 0:
		c.empty = 0
		c.earn(2)
	case size == 0 && !end && !c.emptied():
		return
	case !end:
		if !c.spend(1) {
			return
		}
	}
	s := c.streams.get(id)
	if s == nil || s.remoteEnd {
		c.dataOnClosed(id, s)
		return
	}
	if size > s.recvWindow {
		c.streamFault(s, flowError, "stream window exceeded")
		return
	}
	s.recvWindow -= size
	if s.head {
		c.deliver(s, body, size, end)
	} else {
		c.streamFault(s, protocolError, "data before the response head")
	}
}

// emptied counts a frame without payload and end; false: the connection was ended.
func (c *conn) emptied() bool {
	if c.empty++; c.empty > c.lim.Floods.Empty {
		c.fault(enhanceYourCalm, "flood of empty frames")
		return false
	}
	return true
}

// dataOnClosed answers DATA on a stream that can have none (RFC 9113 5.1).
func (c *conn) dataOnClosed(id uint32, s *h2stream) {
	switch {
	case s != nil:
		c.streamFault(s, streamClosed, "data after the end")
	case !c.wasReset(id) && c.spend(1):
		c.writeReset(id, streamClosed)
	}
}

// deliver hands a piece of a body over. size is what it took of the windows.
func (c *conn) deliver(s *h2stream, body []byte, size int64, end bool) {
	if s.left >= 0 {
		s.left -= int64(len(body))
		if s.left < 0 || end && s.left > 0 {
			c.streamFault(s, protocolError, badLengthEnd.text)
			return
		}
	}
	if end {
		c.remoteEnded(s, body, nil)
		return
	}
	s.credit += size
	s.large(size)
	if s.paused {
		s.held += size
		c.held += size
	}
	if s.peer != nil && len(body) > 0 {
		id := s.id
		s.peer.OnData(body, false)
		if c.closed || s.c != c || s.id != id {
			return
		}
	}
	s.giveCredit()
}

// remoteEnded delivers the last of a message: a piece, or trailers.
func (c *conn) remoteEnded(s *h2stream, body []byte, trailers *stream.Head) {
	s.remoteEnd = true
	p := s.peer
	over := c.cli != nil && !s.tunnel || s.localEnd
	if over {
		// The exchange is over: the stream ends before its peer hears of it, so
		// that the place it took is free.
		switch {
		case s.localSent:
			c.drop(s)
		case c.cli != nil && !s.tunnel:
			c.reset(s, cancel)
		default: // the rest of what we send is still queued
			s.peer = nil
		}
	}
	switch {
	case p == nil:
	case trailers != nil:
		p.OnTrailers(trailers)
	default:
		p.OnData(body, true)
	}
}

func (c *conn) onHeaders(id uint32, flags byte, p []byte) {
	p, ok := c.unpad(flags, p)
	if !ok {
		return
	}
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			c.fault(frameSizeError, "headers without room for priority")
			return
		}
		if binary.BigEndian.Uint32(p)&0x7fffffff == id {
			c.fault(protocolError, "stream depends on itself")
			return
		}
		p = p[5:]
	}
	if id == 0 || c.srv != nil && id&1 == 0 || c.cli != nil && c.idle(id) {
		c.fault(protocolError, "headers on a stream that cannot be")
		return
	}
	end := flags&flagEndStream != 0
	c.empty = 0
	if flags&flagEndHeaders != 0 {
		c.onBlock(id, end, p)
		return
	}
	c.block = c.set.hold(p)
	c.blockID, c.blockEnd = id, end
}

func (c *conn) onContinuation(id uint32, flags byte, p []byte) {
	if c.blockID == 0 {
		c.fault(protocolError, "continuation of nothing")
		return
	}
	if len(p) == 0 && flags&flagEndHeaders == 0 && !c.emptied() {
		return
	}
	// A list within MaxHead has a block hardly larger, Huffman codes included.
	if len(c.block)+len(p) > 2*c.lim.MaxHead {
		c.fault(enhanceYourCalm, "endless field block")
		return
	}
	c.block = append(c.block, p...)
	if flags&flagEndHeaders == 0 {
		return
	}
	b := c.block
	c.block, c.blockID = nil, 0
	c.onBlock(id, c.blockEnd, b)
	c.set.drop(b)
}

// onBlock takes a whole field block.
func (c *conn) onBlock(id uint32, end bool, block []byte) {
	h := c.set.head()
	l := fieldList{h: h, response: c.cli != nil}
	s := c.streams.get(id)
	if s != nil && s.head {
		l.trailers = true
	}
	if err := c.decode(&l, block); err != nil {
		c.fault(compression, err.Error())
	} else if c.srv != nil {
		c.srv.onList(s, id, end, &l)
	} else {
		c.cli.onList(s, id, end, &l)
	}
	c.set.putHead(h)
}

// onTrailers takes the second field block of a message.
func (c *conn) onTrailers(s *h2stream, end bool, l *fieldList) {
	switch {
	case s.remoteEnd:
		c.streamFault(s, streamClosed, "headers after the end")
	case l.bad != nil:
		c.streamFault(s, protocolError, l.bad.text)
	case !end:
		c.streamFault(s, protocolError, badTrailerEnd.text)
	case s.left > 0:
		c.streamFault(s, protocolError, badLengthEnd.text)
	case len(l.h.Fields) == 0:
		c.remoteEnded(s, nil, nil)
	default:
		l.h.Length = -1
		c.remoteEnded(s, nil, l.h)
	}
}

func (c *conn) onPriority(id uint32, p []byte) {
	switch {
	case id == 0:
		c.fault(protocolError, "priority on stream 0")
	case len(p) != 5:
		c.fault(frameSizeError, "malformed priority")
	case binary.BigEndian.Uint32(p)&0x7fffffff == id:
		c.fault(protocolError, "stream depends on itself")
	default:
		if c.priorities++; c.priorities > int64(c.lim.Floods.Priority)*(1+c.begun) {
			c.fault(enhanceYourCalm, "flood of priority frames")
			return
		}
		c.spend(1)
	}
}

func (c *conn) onReset(id uint32, p []byte) {
	if len(p) != 4 {
		c.fault(frameSizeError, "malformed rst_stream")
		return
	}
	if id == 0 || c.idle(id) {
		c.fault(protocolError, "rst_stream on an idle stream")
		return
	}
	s := c.streams.get(id)
	if s == nil {
		c.spend(1)
		return
	}
	e := code(binary.BigEndian.Uint32(p))
	if c.srv != nil {
		if c.srv.wasted(); c.closed {
			return
		}
	}
	r := stream.RemoteReset
	switch e {
	case refusedStream:
		r = stream.Refused
	case cancel, noError:
		r = stream.Cancelled
	case protocolError:
		r = stream.ProtocolError
	case enhanceYourCalm:
		r = stream.Overflow
	}
	c.lose(s, r, resetDetail(e))
}

// resetDetails are made once: a reset allocates nothing.
var resetDetails = func() (t [len(codeNames)]string) {
	for i, n := range codeNames {
		t[i] = "reset by peer: " + n
	}
	return t
}()

func resetDetail(e code) string {
	if int(e) < len(resetDetails) {
		return resetDetails[e]
	}
	return "reset by peer"
}

func (c *conn) onSettings(id uint32, flags byte, p []byte) {
	switch {
	case id != 0:
		c.fault(protocolError, "settings on a stream")
		return
	case flags&flagAck != 0 && len(p) > 0, len(p)%6 != 0:
		c.fault(frameSizeError, "malformed settings")
		return
	case flags&flagAck != 0:
		if !c.greeted {
			c.fault(protocolError, "first frame is not settings")
			return
		}
		c.acked()
		return
	}
	if !c.spend(1) {
		return
	}
	for ; len(p) > 0; p = p[6:] {
		if !c.onSetting(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])) {
			return
		}
	}
	c.queued(true)
	c.wire.SetOut(appendFrame(c.wire.Out(), 0, frameSettings, flagAck, 0))
	first := !c.greeted
	c.greeted = true
	if c.cli != nil {
		c.cli.onSettings(first)
	}
}

// acked takes our stream window into use: until its acknowledgement a client
// may have sent by the default one (RFC 9113 6.9.2).
func (c *conn) acked() {
	if !c.lenient {
		return
	}
	c.lenient = false
	for _, s := range c.streams.slots {
		if s != nil {
			s.recvWindow -= int64(defaultWindow - c.lim.StreamWindow)
		}
	}
}

func (c *conn) onSetting(k uint16, v uint32) bool {
	switch k {
	case setTableSize:
		c.enc.SetMax(v)
	case setPush:
		if v > 1 || v == 1 && c.cli != nil {
			c.fault(protocolError, "malformed enable_push")
		}
	case setMaxStreams:
		c.peerMax = v
	case setWindow:
		if v > 1<<31-1 {
			c.fault(flowError, "initial window too large")
			break
		}
		d := int64(v) - c.peerWindow
		c.peerWindow = int64(v)
		for _, s := range c.streams.slots {
			if s == nil {
				continue
			}
			if s.sendWindow += d; s.sendWindow > 1<<31-1 {
				c.fault(flowError, "window too large")
				break
			}
			if s.unsent() {
				c.makeReady(s)
			}
		}
	case setFrameSize:
		if v < frameSize || v > 1<<24-1 {
			c.fault(protocolError, "malformed max_frame_size")
		}
	case setConnect:
		if v > 1 {
			c.fault(protocolError, "malformed enable_connect_protocol")
		}
		c.extended = v == 1
	}
	return !c.closed
}

func (c *conn) onPing(id uint32, flags byte, p []byte) {
	switch {
	case id != 0:
		c.fault(protocolError, "ping on a stream")
	case len(p) != 8:
		c.fault(frameSizeError, "malformed ping")
	case flags&flagAck != 0:
		c.onPong(p)
	case c.spend(1):
		c.queued(true)
		o := appendFrame(c.wire.Out(), 8, framePing, flagAck, 0)
		c.wire.SetOut(append(o, p...))
	}
}

// Payloads of our own pings.
const (
	pingDrain = "tulledrn"
	pingDoom  = "tulledoo"
	pingAlive = "tullealv"
)

func (c *conn) ping(payload string) {
	o := appendFrame(c.wire.Out(), 8, framePing, 0, 0)
	c.wire.SetOut(append(o, payload...))
}

func (c *conn) onPong(p []byte) {
	switch {
	case c.srv != nil && string(p) == pingDrain:
		c.srv.drained()
	case c.cli != nil && string(p) == pingDoom:
		c.cli.tellDoomed()
	case c.cli != nil && string(p) == pingAlive:
		c.cli.pinged = false
	}
}

func (c *conn) onGoAway(id uint32, p []byte) {
	switch {
	case id != 0:
		c.fault(protocolError, "goaway on a stream")
	case len(p) < 8:
		c.fault(frameSizeError, "malformed goaway")
	case c.cli == nil:
		c.goneAway = true // a client opens no more streams; nothing to do
		c.spend(1)
	default:
		c.cli.onGoAway(binary.BigEndian.Uint32(p)&0x7fffffff, code(binary.BigEndian.Uint32(p[4:])))
	}
}

func (c *conn) onWindow(id uint32, p []byte) {
	if len(p) != 4 {
		c.fault(frameSizeError, "malformed window_update")
		return
	}
	if c.windows++; c.windows > 5+2*(c.begun+int64(c.lim.Floods.WindowUpdates)*c.dataSent) {
		c.fault(enhanceYourCalm, "flood of window updates")
		return
	}
	n := int64(binary.BigEndian.Uint32(p) & 0x7fffffff)
	if id == 0 {
		if n == 0 {
			c.fault(protocolError, "window_update of 0")
			return
		}
		if c.sendWindow += n; c.sendWindow > 1<<31-1 {
			c.fault(flowError, "window too large")
		}
		return // OnBytes pumps
	}
	if c.idle(id) {
		c.fault(protocolError, "window_update on an idle stream")
		return
	}
	s := c.streams.get(id)
	if s == nil {
		return
	}
	if n == 0 {
		c.streamFault(s, protocolError, "window_update of 0")
		return
	}
	if s.sendWindow += n; s.sendWindow > 1<<31-1 {
		c.streamFault(s, flowError, "window too large")
		return
	}
	if s.unsent() {
		c.makeReady(s)
	}
}
