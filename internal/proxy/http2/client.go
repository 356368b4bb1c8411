package http2

import "github.com/tulle-mesh/tulle/internal/proxy/stream"

// Client is the upstream side of one HTTP/2 connection. It implements
// stream.Codec.
type Client struct {
	Owner any // whose connection it is; for the functions of ClientOptions

	conn
	o      *ClientOptions
	open   int         // streams, those included whose head was not sent
	unborn []*h2stream // streams without an id
	freed  bool        // OnCapacity is due
	gone   bool        // OnGone was called
	over   bool        // OnClosed was called
	pinged bool        // a Ping is not answered
	peerHi uint32      // last value of peerMax that the owner knows
}

// NewClient returns the codec of an established connection; it sends the
// preface and our SETTINGS. o is shared, not copied.
func NewClient(wire stream.Wire, o *ClientOptions) *Client {
	c := &Client{o: o}
	c.init(wire, o.Set, o.Limits)
	c.cli = c
	c.nextID = 1
	c.greet(append(wire.Out(), Preface...))
	return c
}

// Capacity returns how many streams may be opened now; 0 for ever once the
// peer has said goodbye (see ClientOptions.OnGone).
func (c *Client) Capacity() int {
	if c.closed || c.gone || c.goneAway {
		return 0
	}
	most := min(int(c.peerMax), c.lim.MaxStreams)
	if !c.greeted { // RFC 9113 6.5.2 recommends to allow no fewer
		most = min(most, 100)
	}
	return max(0, most-c.open)
}

// Active returns how many streams are in progress.
func (c *Client) Active() int { return c.open }

// Greeted reports whether the peer's SETTINGS came: it does speak HTTP/2.
func (c *Client) Greeted() bool { return c.greeted }

// Extended reports whether the peer takes extended CONNECT (RFC 8441); known
// once Greeted. An upgrade sent before waits for that.
func (c *Client) Extended() bool { return c.extended }

// Congested reports whether the connection's window is used up in one of the
// directions, or will be by streams that are not read: another connection would
// be faster.
func (c *Client) Congested() bool { return c.sendWindow <= 0 || c.held > int64(c.lim.MaxHeld)/2 }

// Bulk counts the streams in progress that carry large bodies: those whose
// length says so, and those that have moved so much.
func (c *Client) Bulk() int { return c.bulk }

// Open begins an exchange; nil when Capacity is 0. The request is sent by the
// stream; the response comes to peer.
func (c *Client) Open(peer stream.Peer) stream.Stream {
	if c.Capacity() == 0 {
		return nil
	}
	x := c.set.newStream()
	x.c, x.peer, x.left = &c.conn, peer, -1
	x.recvWindow = int64(c.lim.StreamWindow)
	c.open++
	c.unborn = append(c.unborn, x)
	return x
}

// Ping asks for a sign of life. It returns false when the last one was not
// answered yet: the connection is dead or nearly so.
func (c *Client) Ping() bool {
	if c.pinged {
		return false
	}
	if !c.closed {
		c.pinged = true
		c.ping(pingAlive)
	}
	return true
}

// Drain opens no more streams and closes when those in progress have ended.
func (c *Client) Drain() {
	c.tellGone(nil)
	if c.open == 0 {
		c.end("", stream.NoReset, false, nil)
	}
}

// Close ends the connection; streams in progress are reset.
func (c *Client) Close() {
	c.end("connection closed by its owner", stream.LocalReset, false, nil)
}

func (c *Client) tellGone(err error) {
	if c.gone {
		return
	}
	c.gone = true
	if c.o.OnGone != nil {
		c.o.OnGone(c, err)
	}
}

// tellClosed comes last.
func (c *Client) tellClosed(err error) {
	c.tellGone(err)
	if !c.over {
		c.over = true
		if c.o.OnClosed != nil {
			c.o.OnClosed(c)
		}
	}
}

// settle closes a connection without future and tells of capacity.
func (c *Client) settle() {
	if (c.gone || c.goneAway) && c.open == 0 {
		c.end("", stream.NoReset, false, nil)
		return
	}
	if c.freed || c.peerMax > c.peerHi {
		c.freed, c.peerHi = false, c.peerMax
		if c.o.OnCapacity != nil && c.Capacity() > 0 {
			c.o.OnCapacity(c)
		}
	}
}

// sendRequest sends a request head, or keeps it until the peer's SETTINGS say
// whether it takes extended CONNECT.
func (c *Client) sendRequest(s *h2stream, h *stream.Head, end bool) {
	if len(h.Protocol) > 0 && !c.greeted {
		s.early = c.set.head()
		s.early.CopyFrom(h)
		s.localEnd, s.pendEnd = end, end
		return
	}
	s.extended = len(h.Protocol) > 0
	s.websocket = string(h.Protocol) == "websocket"
	s.connect = !s.extended && string(h.Method) == "CONNECT"
	s.toHead = string(h.Method) == "HEAD"
	if s.extended && !c.extended || !c.sendable(s, h) || c.nextID > 1<<31-1 {
		c.doom(s)
		return
	}
	s.id = c.nextID
	c.nextID += 2
	c.begun++
	c.born(s)
	s.sendWindow = c.peerWindow
	c.streams.put(s)
	s.headSent = true
	if h.Length >= bulkSize {
		s.large(h.Length)
	}
	at, o := c.beginBlock(s.id)
	o = c.appendRequest(o, s, h, end)
	c.endBlock(o, at, s.id, end)
	if end {
		s.localEnd, s.localSent = true, true
	}
	if c.nextID > 1<<31-1 {
		c.tellGone(nil)
	}
}

// sendable checks what filters may have made of a head.
func (c *Client) sendable(s *h2stream, h *stream.Head) bool {
	return all(h.Method, 1|2) && stream.HostOK(h.Authority) && stream.TargetOK(h.Path) && (len(h.Protocol) == 0 || all(h.Protocol, 1|2)) &&
		(!s.connect || len(h.Authority) > 0)
}

func (c *Client) appendRequest(o []byte, s *h2stream, h *stream.Head, end bool) []byte {
	method, scheme, path := h.Method, h.Scheme, h.Path
	if len(scheme) == 0 {
		scheme = valueHTTP
	}
	if len(path) == 0 {
		path = []byte("/")
	}
	if s.extended {
		method = valueConnect
	}
	o = c.enc.Append(o, nameMethod, method)
	if !s.connect {
		o = c.enc.Append(o, nameScheme, scheme)
		o = c.enc.Append(o, namePath, path)
	}
	if len(h.Authority) > 0 || s.connect || s.extended {
		o = c.enc.Append(o, nameAuthority, h.Authority)
	}
	length := h.Length
	switch {
	case s.extended:
		o = c.enc.Append(o, nameProtocol, h.Protocol)
		length = -1
	case s.connect:
		length = -1
	case end && length > 0:
		length = -1
	}
	if end && length < 0 {
		switch string(method) {
		case "POST", "PUT", "PATCH":
			length = 0 // an HTTP/1 hop behind states it too (RFC 9110 8.6)
		}
	}
	return c.appendFields(o, h.Fields, length)
}

// born takes a stream off those without an id.
func (c *Client) born(s *h2stream) {
	for i, u := range c.unborn {
		if u == s {
			n := len(c.unborn) - 1
			c.unborn[i] = c.unborn[n]
			c.unborn[n] = nil
			c.unborn = c.unborn[:n]
			return
		}
	}
}

// doom marks a stream that cannot be sent. Its peer is told when a ping comes
// back: never within its own call.
func (c *Client) doom(s *h2stream) {
	s.doomed = true
	c.ping(pingDoom)
}

func (c *Client) tellDoomed() {
	for i := 0; i < len(c.unborn); {
		s := c.unborn[i]
		if !s.doomed {
			i++
			continue
		}
		c.lose(s, stream.ProtocolError, "request cannot be sent as http/2") // takes it off
	}
}

// onSettings goes on with what waited for the first SETTINGS.
func (c *Client) onSettings(first bool) {
	if !first {
		return
	}
	for i := 0; i < len(c.unborn); {
		s := c.unborn[i]
		if s.early == nil {
			i++
			continue
		}
		h := s.early
		s.early = nil
		end := s.localEnd && len(s.pend) == 0 && s.late == nil
		s.pendEnd = s.pendEnd && !end
		c.sendRequest(s, h, end)
		c.set.putHead(h)
		if s.doomed {
			i++
			continue
		}
		if s.unsent() {
			c.makeReady(s)
		}
	}
}

// onList takes a decoded field block; x is its stream, nil when there is none.
func (c *Client) onList(x *h2stream, id uint32, end bool, l *fieldList) {
	switch {
	case x == nil:
		if !c.wasReset(id) {
			c.spend(1) // ended by both sides: late, or nonsense; either way nobody's
		}
		return
	case l.trailers:
		c.onTrailers(x, end, l)
		return
	case x.remoteEnd:
		c.streamFault(x, streamClosed, "headers after the end")
		return
	}
	h := l.h
	if l.bad == nil && l.pseudo&hasStatus == 0 {
		l.bad = badMissing
	}
	if l.bad == nil && h.Status < 200 && (h.Status == 101 || end) {
		l.bad = badInterim
	}
	if l.bad != nil {
		c.streamFault(x, protocolError, l.bad.text)
		return
	}
	h.Version = 20
	if h.Status < 200 {
		h.Length = -1
		h.Del("content-length")
		if c.spend(1) && x.peer != nil {
			x.peer.OnHead(h, false)
		}
		return
	}
	c.onResponse(x, end, h)
}

// onResponse takes a final head.
func (c *Client) onResponse(x *h2stream, end bool, h *stream.Head) {
	x.head = true
	noBody := x.toHead || h.Status == 204 || h.Status == 304
	x.left = h.Length
	if noBody {
		x.left = 0
	}
	if (x.connect || x.extended) && h.Status < 300 {
		x.tunnel, x.left, h.Length = true, -1, -1
		h.Del("content-length")
		if x.extended {
			h.Status = 101
			if x.websocket {
				h.Protocol = h.KeepString("websocket")
			}
		}
	} else if end && !noBody && h.Length > 0 {
		c.streamFault(x, protocolError, badLengthEnd.text)
		return
	}
	h.Body = !end
	if !end && h.Length >= bulkSize {
		x.large(h.Length)
	}
	if x.tunnel || !end {
		if x.peer != nil {
			x.peer.OnHead(h, false)
		}
		if end && x.c == &c.conn {
			c.remoteEnded(x, nil, nil)
		}
		return
	}
	x.remoteEnd = true
	p := x.peer
	if x.localSent {
		c.drop(x)
	} else {
		c.reset(x, cancel)
	}
	if p != nil {
		p.OnHead(h, true)
	}
}

// Calm reports whether err, of OnGone, is a peer's word that we asked too often
// (ENHANCE_YOUR_CALM; gRPC servers say so about pings).
func Calm(err error) bool {
	f, ok := err.(*faultError)
	return ok && f.code == enhanceYourCalm
}

// onGoAway refuses what the peer will not process (RFC 9113 6.8).
func (c *Client) onGoAway(last uint32, e code) {
	if c.goneAway && last > c.goneLast {
		c.fault(protocolError, "goaway with a higher stream")
		return
	}
	c.goneAway, c.goneLast = true, last
	var err error
	if e != noError {
		err = &faultError{e, "goaway by peer"}
	}
	c.tellGone(err)
	for _, s := range c.streams.all(nil) {
		if s.c == &c.conn && s.id > last {
			c.lose(s, stream.Refused, "connection is going away")
		}
	}
	for len(c.unborn) > 0 && !c.closed {
		c.lose(c.unborn[0], stream.Refused, "connection is going away")
	}
}
