//go:build linux

package loop

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Water marks of a connection's pending output, bytes, and the size beyond
// which a codec that ignores them loses its connection.
const (
	highWater = 64 << 10
	lowWater  = 16 << 10
	maxWater  = 16 << 20
)

// Bounds of a close: for pending output to leave, and for the peer to close
// its side after that.
const (
	closeFlush  = 10 * time.Second
	closeLinger = time.Second
)

// readTurns is how many full reads one connection gets in a row.
const readTurns = 4

// Errors that OnClose may get beside those of the kernel.
var (
	ErrAborted   = errors.New("connection aborted")
	ErrOverflow  = errors.New("too much pending output")
	ErrSlow      = errors.New("peer did not take the rest in time")
	ErrTruncated = fmt.Errorf("tls: closed without close_notify: %w", io.ErrUnexpectedEOF)
)

// events a connection is registered for, once.
const connEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// Sealer encrypts a connection on its loop. It is driven by the Conn alone.
type Sealer interface {
	// Open decrypts what was received. It keeps what is partial and calls out
	// with plain bytes, valid during the call only. eof: the peer has ended its
	// side in an orderly way. What must be sent in consequence, an alert with
	// an error too, comes with the next Seal.
	Open(in []byte, out func([]byte)) (eof bool, err error)
	// Seal appends the protected form of plain to dst, after whatever Open has
	// left to be sent. plain may be empty.
	Seal(dst, plain []byte) []byte
	// CloseNotify appends the orderly end.
	CloseNotify(dst []byte) []byte
}

// phase of a connection's life.
type phase uint8

const (
	unstarted phase = iota
	open
	closing   // Close was called, output is leaving
	lingering // all was sent; waiting for the peer's end
	gone      // the descriptor is closed or taken away
)

// What proceed has to do.
const (
	doRead = 1 << iota
	doEOF
	doClose
)

// Conn is a connection, owned by its loop. It implements stream.Wire. Its
// methods may be called from codecs at any time and do nothing once the
// connection is closed.
type Conn struct {
	loop   *Loop
	codec  stream.Codec
	sealer Sealer
	err    error

	out        []byte // pending, plain when a sealer is set
	wire       []byte // pending, sealed
	off        int    // sent already of out
	linger     *Timer
	relay      *Relay // where input goes without being read; nil: to the codec
	pipe       *pipe  // pending output that was spliced; before out
	tally      *Tally // which counts it; nil: none
	local      netip.AddrPort
	remote     netip.AddrPort
	bytesIn    uint64
	bytesOut   uint64
	woff       int32 // sent already of wire
	fd, slot   int32
	phase      phase
	hint       uint8 // class of buffer that it used last
	todo       uint8
	queued     bool // in ready
	dirty      bool // in eager or lazy
	lazy       bool
	connected  bool
	readable   bool // an edge came and was not read up
	hup        bool // read until the end: no further edge will come
	paused     bool
	stuck      bool // the kernel takes no more
	full       bool // above high water, not yet below low
	eof        bool // the peer has ended its side
	wantShut   bool // CloseWrite
	shut       bool // our side is ended
	notified   bool // close_notify was sealed
	discarding bool // writing failed: only what was received still counts
	closeTold  bool
}

var _ stream.Wire = (*Conn)(nil)

// Adopt makes a connection of an accepted, non-blocking socket, which it owns
// from now on. Nothing happens before Start. Addresses may be invalid (unix
// sockets).
func (l *Loop) Adopt(fd int, local, remote netip.AddrPort) *Conn {
	l.check()
	return &Conn{loop: l, fd: int32(fd), slot: -1, local: local, remote: remote, connected: true}
}

// Start sets the codec and lets events flow. When the connection was dialled
// and the codec has an OnConnect method, it is called once the connection
// stands; a failure is told by OnClose. On a started connection it is Swap.
func (c *Conn) Start(codec stream.Codec) {
	l := c.loop
	l.check()
	if c.phase != unstarted {
		c.Swap(codec)
		return
	}
	c.codec = codec
	c.phase = open
	l.conns++
	l.setLoad()
	if l.closing {
		c.kill(ErrEnded)
		return
	}
	slot, err := l.enter(int(c.fd), connEvents, c, nil)
	if err != nil {
		c.kill(fmt.Errorf("epoll: %w", err))
		return
	}
	c.slot = slot
	if c.pending() > 0 {
		c.mark()
	}
}

// Swap replaces the codec. The old one is not called again. An end of the
// peer's side that the old one was told is told to the new one too, later.
func (c *Conn) Swap(codec stream.Codec) {
	c.loop.check()
	c.codec = codec
	if c.eof && c.phase == open {
		c.later(doEOF)
	}
}

// Redeliver hands p to the codec as if it had just been received: bytes that a
// former codec kept, or, after SetSealer, bytes that are still sealed.
func (c *Conn) Redeliver(p []byte) {
	c.loop.check()
	if c.phase == open && len(p) > 0 {
		c.received(p)
	}
}

// Loop returns the owner.
func (c *Conn) Loop() *Loop { return c.loop }

// Local returns the own address; invalid for unix sockets.
func (c *Conn) Local() netip.AddrPort {
	if !c.local.IsValid() && c.phase != gone && c.remote.IsValid() {
		c.local = LocalAddr(int(c.fd))
	}
	return c.local
}

// Remote returns the peer's address; invalid for unix sockets.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// FD returns the descriptor, -1 when it is closed or detached.
func (c *Conn) FD() int {
	if c.phase == gone {
		return -1
	}
	return int(c.fd)
}

// BytesIn counts what was delivered to codecs; under TLS plain bytes.
func (c *Conn) BytesIn() uint64 { return c.bytesIn }

// BytesOut counts what codecs have written; under TLS plain bytes.
func (c *Conn) BytesOut() uint64 { return c.bytesOut }

// Connected reports whether the connection stands.
func (c *Conn) Connected() bool { return c.connected && c.phase != gone }

// Closed reports whether the connection has ended, or is ending.
func (c *Conn) Closed() bool { return c.phase > open }

// Lazy makes pending output leave together with that of some other connections,
// at the latest at the end of the round (true), instead of at the end of the
// event: one write for all that happened meanwhile, and fewer wakings of those
// who are sent to.
func (c *Conn) Lazy(on bool) { c.lazy = on }

// SetSealer puts TLS between codec and socket. Pending output leaves as it is.
// Byte counts begin anew, and a FIN that came before is looked at again: it is
// no clean end under TLS.
func (c *Conn) SetSealer(s Sealer) {
	c.loop.check()
	if c.phase == gone {
		return
	}
	c.wire, c.woff = c.out, int32(c.off) // no more than maxWater
	c.out, c.off = nil, 0
	c.sealer, c.relay = s, nil
	c.bytesIn, c.bytesOut = 0, 0
	if c.eof {
		c.eof, c.readable, c.hup = false, true, true
		c.later(doRead)
	}
}

// Sealer returns what SetSealer was given.
func (c *Conn) Sealer() Sealer { return c.sealer }

// Detach takes the descriptor out of the loop; it is the caller's then, still
// non-blocking. OnClose is not called. It fails while output is pending, and
// under TLS. pending are bytes which were received but not delivered: none,
// since the loop does not read ahead.
func (c *Conn) Detach() (fd int, pending []byte, err error) {
	l := c.loop
	l.check()
	switch {
	case c.phase > open || !c.connected:
		return -1, nil, fmt.Errorf("detach: %w", ErrEnded)
	case c.sealer != nil:
		return -1, nil, errors.New("detach: connection is under TLS")
	}
	c.push()
	if c.pending() > 0 {
		return -1, nil, errors.New("detach: output is pending")
	}
	if c.slot >= 0 {
		if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil); err != nil {
			return -1, nil, fmt.Errorf("detach: %w", err)
		}
	}
	c.closeTold = true
	fd = int(c.fd)
	c.drop()
	return fd, nil, nil
}

// later puts the connection on the list of those that go on after the events.
func (c *Conn) later(what uint8) {
	c.todo |= what
	if !c.queued {
		c.queued = true
		c.loop.ready = append(c.loop.ready, c)
	}
}

// proceed does what later was asked for.
func (c *Conn) proceed() {
	todo := c.todo
	c.todo, c.queued = 0, false
	if todo&doClose != 0 && !c.closeTold {
		c.closeTold = true
		if c.codec != nil {
			c.codec.OnClose(c.err)
		}
		return
	}
	if todo&doEOF != 0 && c.phase == open && c.eof {
		c.finished()
	}
	if todo&doRead != 0 {
		c.read()
	}
}

// event handles what epoll reported.
func (c *Conn) event(ev uint32) {
	if !c.connected {
		if ev&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			c.kill(c.sockError(unix.ECONNREFUSED))
			return
		}
		if ev&unix.EPOLLOUT == 0 {
			return
		}
		c.established()
	}
	if ev&unix.EPOLLOUT != 0 && c.stuck {
		c.stuck = false
		c.flush()
	}
	if ev&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	c.readable = true
	if ev&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.hup = true
	}
	if ev&unix.EPOLLERR != 0 && (c.paused || c.eof || c.phase == closing) {
		c.kill(c.sockError(unix.ECONNRESET)) // nobody would read the error
		return
	}
	c.read()
}

func (c *Conn) established() {
	c.connected = true
	if oc, ok := c.codec.(interface{ OnConnect() }); ok {
		oc.OnConnect()
	}
	if c.pending() > 0 || c.wantShut || c.phase == closing {
		c.mark()
	}
}

// sockError asks the socket for its error.
func (c *Conn) sockError(otherwise syscall.Errno) error {
	n, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return err
	case n != 0:
		return syscall.Errno(n)
	}
	return otherwise
}
