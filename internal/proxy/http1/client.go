package http1

import (
	"bytes"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

type clientState uint8

const (
	clientIdle   clientState = iota
	responseHead             // Start was called, the final head is not here
	responseBody
	clientTunnel
	clientClosed
)

// Client is the upstream side of one HTTP/1 connection, one exchange at a
// time. It implements stream.Codec.
type Client struct {
	Owner any // whose connection it is; for the functions of ClientOptions

	wire stream.Wire
	o    *ClientOptions

	state   clientState
	running bool
	gone    bool // OnGone was called
	close   bool // the connection ends with this exchange
	turn    uint8
	served  uint32 // exchanges that ended well
	in      []byte
	seen    int
	body    body
	ex      [2]clientStream
}

// NewClient returns the codec of an established connection. o is shared, not copied.
func NewClient(wire stream.Wire, o *ClientOptions) *Client {
	return &Client{wire: wire, o: o}
}

// Start begins an exchange; nil when the connection is busy or gone. The
// request is sent by the stream; the response comes to peer.
func (c *Client) Start(peer stream.Peer) stream.Stream {
	if c.state != clientIdle || c.gone {
		return nil
	}
	c.turn ^= 1
	x := c.cur()
	*x = clientStream{c: c, peer: peer, live: true}
	c.state, c.close, c.seen = responseHead, false, 0
	return x
}

// Idle reports whether Start may be called.
func (c *Client) Idle() bool { return c.state == clientIdle && !c.gone }

// Reused reports whether an exchange before the present one went over this
// connection: then its loss before any byte of a response may only mean that
// the server had given up an idle connection.
func (c *Client) Reused() bool { return c.served > 0 }

// Progress says of the present or, inside OnReset, of the last exchange:
// begun that any byte of its request was sent, sent that all of it was,
// answered that any byte of a response came.
func (c *Client) Progress() (begun, sent, answered bool) {
	x := c.cur()
	return x.reqBegun, x.reqEnd, x.answered
}

// Close ends the connection; an exchange in progress is reset.
func (c *Client) Close() {
	x := c.cur()
	c.end(false, nil)
	x.reset(stream.LocalReset, "connection closed by its owner")
}

func (c *Client) cur() *clientStream { return &c.ex[c.turn] }

// OnBytes implements stream.Codec.
func (c *Client) OnBytes(p []byte) {
	if c.state == clientClosed || len(p) == 0 {
		return
	}
	if c.state == clientIdle { // nobody asked: often 408, the server's farewell
		c.end(false, nil)
		return
	}
	if !c.cur().reqBegun { // the same, while a request is about to be sent
		c.lost("upstream closed before the request")
		return
	}
	c.cur().answered = true
	if len(c.in) > 0 {
		c.in = append(c.in, p...)
		p = c.in
	}
	c.run(p)
}

// OnEOF implements stream.Codec.
func (c *Client) OnEOF() {
	x := c.cur()
	switch c.state {
	case clientClosed:
	case clientIdle:
		c.end(false, nil)
	case clientTunnel:
		c.close = true
		x.endResponse(nil)
		c.settle()
	case responseBody:
		if c.body.kind == untilClose {
			c.close = true
			x.endResponse(nil)
			c.settle()
			return
		}
		c.lost("upstream closed within the response")
	default:
		if x.answered {
			c.lost("upstream closed within the response head")
		} else {
			c.lost("upstream closed before the response")
		}
	}
}

// OnWritable implements stream.Codec.
func (c *Client) OnWritable() {
	if x := c.cur(); x.live && !x.reqEnd {
		x.peer.OnWritable()
	}
}

// OnClose implements stream.Codec.
func (c *Client) OnClose(err error) {
	x := c.cur()
	c.state = clientClosed
	c.release()
	c.goneOnce(err)
	switch {
	case x.fault != nil:
		x.reset(stream.ProtocolError, x.fault.text)
	case x.answered:
		x.reset(stream.ConnectionLost, "upstream connection lost within the response")
	default:
		x.reset(x.loss(), "upstream connection lost before the response")
	}
}

func (c *Client) lost(detail string) {
	c.end(true, nil)
	c.cur().reset(c.cur().loss(), detail)
}

// end closes the connection, with RST where an exchange breaks off.
func (c *Client) end(abort bool, err error) {
	if c.state == clientClosed {
		return
	}
	c.state = clientClosed
	c.release()
	if abort {
		c.wire.Abort()
	} else {
		c.wire.Close()
	}
	c.goneOnce(err)
}

func (c *Client) goneOnce(err error) {
	if !c.gone {
		c.gone = true
		if c.o.OnGone != nil {
			c.o.OnGone(c, err)
		}
	}
}

func (c *Client) release() {
	if !c.running {
		c.o.Set.drop(c.in)
		c.in = nil
	}
}

// run reads what it can of p and keeps the rest.
func (c *Client) run(p []byte) {
	c.running = true
	own := len(c.in) > 0
	n := 0
	for c.state != clientClosed {
		k, more := c.step(p[n:])
		n += k
		if !more {
			break
		}
	}
	c.running = false
	rest := p[n:]
	switch {
	case c.state == clientClosed || len(rest) == 0:
		c.release()
	case own:
		c.in = append(c.in[:0], rest...)
	default:
		c.in = c.o.Set.hold(rest)
	}
	c.settle()
}

// step makes one step of reading. more says that another may follow at once.
func (c *Client) step(p []byte) (n int, more bool) {
	switch c.state {
	case responseHead:
		return c.readHead(p)
	case responseBody:
		if c.cur().respEnd {
			// Bytes behind a response: nothing that follows can be trusted.
			c.close = c.close || len(p) > 0
			return len(p), false
		}
		return c.readBody(p)
	case clientTunnel:
		if len(p) > 0 {
			c.cur().data(p, false)
		}
		return len(p), false
	}
	return len(p), false
}

func (c *Client) readHead(p []byte) (n int, more bool) {
	maxHead := c.o.Limits.head()
	e := headEnd(p, c.seen)
	if e == 0 || e > maxHead {
		err := early(p, c.seen, maxHead)
		if err == nil && e > 0 {
			err = badLongHead
		}
		if err == nil && !bytes.HasPrefix(p, []byte("HTTP/1.")[:min(7, len(p))]) {
			err = badStatusLine
		}
		if err != nil {
			c.refuse(err)
		}
		c.seen = len(p)
		return 0, false
	}
	c.seen = 0
	h := c.o.Set.head()
	err := c.onHead(h, p[:e])
	c.o.Set.putHead(h)
	if err != nil {
		c.refuse(err)
		return e, false
	}
	return e, true
}

// onHead delivers an interim or the final head.
func (c *Client) onHead(h *stream.Head, raw []byte) *bad {
	var f framing
	if err := parseResponse(h, raw, &f, c.o.Limits.fields()); err != nil {
		return err
	}
	x := c.cur()
	switch {
	case h.Status == 101:
		return c.switched(x, h, &f)
	case h.Status < 200:
		if x.interims++; x.interims > maxInterim {
			return badInterim
		}
		h.Length = -1
		h.Del("content-length")
		x.head(h, false)
		return nil
	case x.connect && h.Status < 300:
		h.Length = -1
		h.Del("content-length")
		h.Body = true
		x.open(h)
		return nil
	}
	if f.close || h.Version == 10 && !f.keepAlive {
		c.close = true
	}
	if x.upgrade || x.connect { // refused: nothing more of the request travels
		x.reqEnd, x.early = true, nil
	}
	c.body = body{kind: f.response(h, x.toHead), left: max(f.length, 0)}
	if c.body.kind == chunkedBody {
		c.body.left = 0
	}
	if c.body.kind == untilClose {
		c.close = true
	}
	c.state = responseBody
	x.respEnd = c.body.kind == noBody
	x.head(h, x.respEnd)
	return nil
}

// switched takes a 101.
func (c *Client) switched(x *clientStream, h *stream.Head, f *framing) *bad {
	if !x.upgrade || !x.reqBegun {
		return badSwitch
	}
	if x.ownKey {
		var buf [28]byte
		if !bytes.Equal(f.wsAccept, appendAccept(buf[:0], x.wsKey[:])) {
			return badAccept
		}
		h.Del("sec-websocket-accept")
	}
	h.Length, h.Body = -1, true
	h.Del("content-length")
	t, _ := nextToken(f.token)
	h.Protocol = h.KeepLower(t)
	x.open(h)
	return nil
}

func (c *Client) readBody(p []byte) (n int, more bool) {
	d, n, end, trailers, err := c.body.next(p)
	if err != nil {
		c.refuse(err)
		return n, false
	}
	x := c.cur()
	if trailers {
		k, ended := c.readTrailers(p[n:])
		return n + k, ended
	}
	if end {
		x.endResponse(d)
		return n, true
	}
	if len(d) > 0 {
		x.data(d, false)
	}
	return n, n < len(p)
}

func (c *Client) readTrailers(p []byte) (n int, ended bool) {
	n, err := trailerEnd(p, c.seen, c.o.Limits.head())
	if n == 0 && err == nil {
		c.seen = len(p)
		return 0, false
	}
	c.seen = 0
	x := c.cur()
	if n == 2 {
		x.endResponse(nil)
		return n, true
	}
	h := c.o.Set.head()
	defer c.o.Set.putHead(h)
	if err == nil {
		err = parseTrailers(h, p[:n], c.o.Limits.fields())
	}
	if err != nil {
		c.refuse(err)
		return n, false
	}
	x.respEnd = true
	if x.live {
		x.peer.OnTrailers(h)
	}
	return n, true
}

// refuse ends the connection over a malformed response.
func (c *Client) refuse(err *bad) {
	x := c.cur()
	c.end(true, err)
	x.reset(stream.ProtocolError, err.text)
}

// settle ends the exchange when its response has ended, see the package text.
func (c *Client) settle() {
	x := c.cur()
	if c.running || c.state == clientClosed || c.state == clientIdle || !x.respEnd {
		return
	}
	if c.state == clientTunnel {
		if x.reqEnd {
			x.live = false
			c.end(false, nil)
		}
		return
	}
	whole := x.reqEnd && x.live
	x.live = false
	x.peer = nil
	if !whole || c.close {
		c.end(!whole, nil)
		return
	}
	c.state = clientIdle
	c.served++
	if x.paused {
		c.wire.PauseRead(false)
	}
	if c.o.OnIdle != nil {
		c.o.OnIdle(c)
	}
}

// appendRequest writes a request head and settles how the body travels.
func (x *clientStream) appendRequest(o []byte, h *stream.Head, end bool) []byte {
	method, target := h.Method, h.Path
	switch {
	case x.connect:
		target = h.Authority
	case x.upgrade && string(h.Method) == "CONNECT":
		method = []byte("GET")
	}
	o = append(o, method...)
	o = append(o, ' ')
	if len(target) == 0 {
		o = append(o, '/')
	}
	o = append(o, target...)
	o = append(o, " HTTP/1.1\r\nhost: "...)
	o = append(o, h.Authority...)
	o = append(o, "\r\n"...)

	length, tunnelled := h.Length, x.connect || x.upgrade
	if end && length > 0 || tunnelled {
		length = -1
	}
	if end && length < 0 && wantsLength(method) {
		length = 0
	}
	o, with := appendFields(o, h.Fields, length)
	switch {
	case tunnelled:
		x.out = outBody{kind: noBody}
	case length >= 0:
		if !with {
			o = appendLength(o, length)
		}
		x.out = outBody{kind: sizedBody, left: length}
	case !end:
		o = append(o, "transfer-encoding: chunked\r\n"...)
		x.out = outBody{kind: chunkedBody}
	}
	return x.appendHop(o, h)
}

// appendHop ends the head with what is for this hop only.
func (x *clientStream) appendHop(o []byte, h *stream.Head) []byte {
	te := h.Has("te")
	switch {
	case x.upgrade && te:
		o = append(o, "connection: upgrade, te\r\n"...)
	case x.upgrade:
		o = append(o, "connection: upgrade\r\n"...)
	case te:
		o = append(o, "connection: te\r\n"...)
	}
	if x.upgrade {
		o = append(o, "upgrade: "...)
		o = append(o, h.Protocol...)
		o = append(o, "\r\n"...)
		if string(h.Protocol) == "websocket" && !h.Has("sec-websocket-key") {
			x.ownKey, x.wsKey = true, newKey()
			o = append(o, "sec-websocket-key: "...)
			o = append(o, x.wsKey[:]...)
			o = append(o, "\r\n"...)
		}
	}
	return append(o, "\r\n"...)
}

// wantsLength reports whether a request of that method states that it has no
// body (RFC 9110 8.6).
func wantsLength(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}
