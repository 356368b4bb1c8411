//go:build linux

package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// pipeStock bounds the pipes of one loop: two descriptors each. A connection
// holds one only while there is something in it.
const pipeStock = 64

// spliceMax is how much one splice asks for, bytes. What a pipe really holds
// depends on how the kernel cut its pages.
const spliceMax = 1 << 20

// pipeSize is what is asked of the kernel for a pipe, bytes: the more pages,
// the fewer calls. It may give less.
const pipeSize = 256 << 10

// Relay passes what one connection receives on to another inside the kernel.
type Relay struct {
	// To is a connection of the same loop.
	To *Conn
	// Moved is called after n bytes were taken from the source; n counts in
	// its BytesIn and in BytesOut of To. It heeds To.Blocked, as OnBytes does.
	Moved func(n int)
}

// pipe holds n bytes that were taken from one socket and not yet given to the
// other.
type pipe struct {
	r, w int32
	n    int
}

// pipes is a loop's stock.
type pipes struct {
	free []*pipe
	low  int // the fewest that were free since the last trim
	made int
}

// get returns an empty pipe, nil when there are too many or none can be had.
func (ps *pipes) get() *pipe {
	if n := len(ps.free); n > 0 {
		p := ps.free[n-1]
		ps.free = ps.free[:n-1]
		ps.low = min(ps.low, n-1)
		return p
	}
	if ps.made == pipeStock {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize) // smaller ones work too
	ps.made++
	return &pipe{r: int32(fds[0]), w: int32(fds[1])}
}

// put takes a pipe back; one that is not empty is closed.
func (ps *pipes) put(p *pipe) {
	if p.n == 0 {
		ps.free = append(ps.free, p)
		return
	}
	ps.made--
	p.close()
}

func (p *pipe) close() {
	_ = unix.Close(int(p.r))
	_ = unix.Close(int(p.w))
}

// recyclePipe takes a pipe back and sees to it that it does not stay for ever.
func (l *Loop) recyclePipe(p *pipe) {
	l.pipes.put(p)
	l.armTrim()
}

// trim closes those that nobody has needed since the last time. It reports
// whether any is left.
func (ps *pipes) trim() (more bool) {
	n := len(ps.free) - ps.low
	for _, p := range ps.free[n:] {
		p.close()
	}
	clear(ps.free[n:])
	ps.made -= ps.low
	ps.free, ps.low = ps.free[:n], n
	return n > 0
}

// close closes those that nobody holds.
func (ps *pipes) close() {
	for _, p := range ps.free {
		p.close()
	}
	ps.free = nil
}

// Relay has what c receives from now on go to another connection by splice(2),
// as long as neither is under TLS; nil ends that. Where it cannot be (no pipe
// to be had, output of the other kind pending) bytes come to the codec as
// before, in order. Ends and errors come to the codec always.
func (c *Conn) Relay(r *Relay) {
	c.loop.check()
	if r != nil && (c.sealer != nil || r.To.sealer != nil || r.To.loop != c.loop) {
		r = nil
	}
	c.relay = r
}

// relayable reports whether the next bytes may go through a pipe.
func (c *Conn) relayable() bool {
	to := c.relay.To
	return to.sealer == nil && to.phase == open && to.connected && !to.stuck && !to.wantShut && !to.discarding && to.pending() == 0
}

// relayed moves a pipe full. tried is false when the bytes must be read.
func (c *Conn) relayed() (n int, e syscall.Errno, tried bool) {
	l, to := c.loop, c.relay.To
	p := l.pipes.get()
	if p == nil {
		return 0, 0, false
	}
	n, e = sysSplice(c.fd, p.w, spliceMax)
	if e == unix.EINVAL { // a kind of socket that cannot
		c.relay = nil
		l.recyclePipe(p)
		return 0, 0, false
	}
	if n <= 0 || e != 0 {
		l.recyclePipe(p)
		return n, e, true
	}
	p.n, to.pipe = n, p
	c.bytesIn += uint64(n)
	to.bytesOut += uint64(n)
	to.pushPipe()
	if to.phase == open {
		to.gauge()
	}
	c.relay.Moved(n)
	return n, 0, true
}

// pushPipe sends what is in the pipe, as far as the kernel takes it.
func (c *Conn) pushPipe() {
	for p := c.pipe; p.n > 0; {
		if c.stuck || c.phase == gone || c.discarding {
			return
		}
		n, e := sysSplice(p.r, c.fd, p.n)
		if c.sent(e) {
			p.n -= n
		}
		if c.pipe == nil {
			return // broken: it was given up
		}
	}
	c.freePipe()
}

func (c *Conn) freePipe() {
	if c.pipe != nil {
		c.loop.recyclePipe(c.pipe)
		c.pipe = nil
	}
}

// piped is how many bytes wait in the pipe.
func (c *Conn) piped() int {
	if c.pipe == nil {
		return 0
	}
	return c.pipe.n
}
