//go:build linux

package mtls

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

const (
	recordHeader = 5
	// pipeHigh is how many bytes may wait for the handshake before the
	// connection is no longer read.
	pipeHigh = 64 << 10
)

// pipe carries a handshake: towards the loop it is the connection's codec,
// towards crypto/tls (by way of shim) the transport, which blocks. Its fields
// belong to the loop, but for those under mu.
type pipe struct {
	engine *Engine
	conn   *loop.Conn
	done   Done
	server *conf.ServerTLS
	client *conf.ClientTLS
	sni    string
	alpn   []string
	timer  loop.Timer
	ctx    context.Context
	stop   context.CancelFunc
	begun  bool // the goroutine was started
	spoken bool // the peer has sent something
	over   bool
	held   bool // a slot of the gate; the goroutine's
	left   int  // of the record that is being read; the goroutine's

	mu     sync.Mutex
	in     []byte
	closed *Error // no more will come
	wake   chan struct{}
	paused bool
}

var _ stream.Codec = (*pipe)(nil)

// begin makes the pipe of a handshake and starts its clock.
func (e *Engine) begin(c *loop.Conn, timeout time.Duration, done Done) *pipe {
	p := &pipe{engine: e, conn: c, done: done, wake: make(chan struct{}, 1)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if timeout <= 0 {
		timeout = e.timeout
	}
	p.timer.Owner = c
	c.Loop().Arm(&p.timer, timeout, func() { p.fail(&Error{TimedOut, nil}) })
	return p
}

// launch starts the goroutine.
func (p *pipe) launch() {
	if p.begun || p.over {
		return
	}
	p.begun = true
	if p.engine.pending.Add(1) > p.engine.limit {
		p.engine.pending.Add(-1)
		p.fail(&Error{Overloaded, nil})
		return
	}
	go p.run()
}

// fail ends the handshake; what the goroutine still does is void.
func (p *pipe) fail(err *Error) {
	if p.over {
		return
	}
	p.end()
	if err.Reason == TimedOut || err.Reason == Overloaded {
		p.conn.Abort()
	} else {
		p.conn.Close() // after the alert
	}
	p.done(nil, err)
}

func (p *pipe) end() {
	p.over = true
	p.timer.Stop()
	p.stop()
}

func (p *pipe) cancelled() {
	if !p.over {
		p.end()
	}
}

// OnConnect begins a client's handshake.
func (p *pipe) OnConnect() {
	if p.client != nil {
		p.launch()
	}
}

// OnBytes takes what the peer sent. A server begins when the first record is
// whole: before that, a connection costs no goroutine.
func (p *pipe) OnBytes(b []byte) {
	if p.over {
		return
	}
	p.mu.Lock()
	p.in = append(p.in, b...)
	in := p.in
	pause := len(in) > pipeHigh && !p.paused
	if pause {
		p.paused = true
	}
	p.mu.Unlock()
	p.signal()
	if pause {
		p.conn.PauseRead(true)
	}
	// Record types: RFC 8446 section 5.1.
	const alert, handshake = 21, 22
	if !p.spoken {
		p.spoken = true
		if in[0] != handshake && (in[0] != alert || p.server != nil) {
			p.fail(failure(Protocol, "the first bytes are not TLS"))
			return
		}
	}
	if p.begun || p.server == nil {
		return
	}
	switch {
	case len(in) >= recordHeader && len(in) >= recordHeader+(int(in[3])<<8|int(in[4])):
		p.launch()
	case len(in) > recordHeader+maxRecord+256:
		p.fail(failure(Protocol, "record too long"))
	}
}

// OnEOF ends what can be read.
func (p *pipe) OnEOF() { p.ended(nil) }

// OnWritable does nothing: a handshake writes little.
func (p *pipe) OnWritable() {}

// OnClose ends what can be read. The goroutine still reads what came before:
// an alert says more than the end.
func (p *pipe) OnClose(err error) { p.ended(err) }

// ended tells the goroutine that no more will come.
func (p *pipe) ended(err error) {
	p.mu.Lock()
	if p.closed == nil {
		p.closed = &Error{Closed, err}
	}
	closed := p.closed
	p.mu.Unlock()
	p.signal()
	if !p.begun {
		p.fail(closed)
	}
}

func (p *pipe) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run is the handshake's goroutine.
func (p *pipe) run() {
	s := &sealer{loop: p.conn.Loop()}
	h, err := p.handshake(s)
	if p.held {
		p.engine.gate.Release()
		p.held = false
	}
	p.engine.pending.Add(-1)
	p.conn.Loop().Post(func() { p.finish(s, h, err) })
}

// handshake runs crypto/tls in a slot of the gate.
func (p *pipe) handshake(s *sealer) (h *Handshake, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = failure(Protocol, "internal error: %v", r)
		}
	}()
	if err := p.acquire(); err != nil {
		return nil, err
	}
	h = &Handshake{}
	v := p.engine.verifierFor(p)
	sh := &shim{pipe: p, sealer: s}
	var cfg *tls.Config
	if p.server != nil {
		if cfg, err = p.engine.serverConfig(p.server, v, h); err != nil {
			return nil, err
		}
		s.conn = tls.Server(sh, cfg)
	} else {
		if p.client.AutoSAN && p.sni == "" {
			return nil, &Error{SANMismatch, errNoName}
		}
		if cfg, err = p.engine.clientConfig(p.client, p.sni, p.alpn, v, h); err != nil {
			return nil, err
		}
		s.conn = tls.Client(sh, cfg)
	}
	if err := s.conn.Handshake(); err != nil {
		return nil, err
	}
	sh.pipe = nil // from here on driven from memory
	cs := s.conn.ConnectionState()
	h.SNI, h.ALPN = cs.ServerName, cs.NegotiatedProtocol
	h.Version, h.Cipher = versionName(cs.Version), cipherName(cs.CipherSuite)
	if p.server != nil && len(p.server.Certificates) > 0 {
		if own, err := p.engine.source.Pair(p.server.Certificates[0]); err == nil {
			h.Local = own.URI()
		}
	}
	if p.client != nil && p.client.Validation != "" && h.Peer == nil {
		return nil, failure(BadCert, "the server was not verified")
	}
	if p.server != nil && p.server.RequireClient && h.Peer == nil {
		return nil, &Error{NoClientCert, nil}
	}
	h.sealer = s
	return h, nil
}

func (p *pipe) acquire() error {
	if err := p.engine.gate.Acquire(p.ctx); err != nil {
		return err
	}
	p.held = true
	return nil
}

// finish hands the connection on, on its loop.
func (p *pipe) finish(s *sealer, h *Handshake, err error) {
	p.conn.Loop().Blame(p.conn)
	switch {
	case p.over:
		return
	case err != nil:
		p.fail(classify(err))
		return
	}
	p.mu.Lock()
	if p.conn.Closed() {
		closed := p.closed
		p.mu.Unlock()
		if closed == nil {
			closed = &Error{Closed, nil}
		}
		p.fail(closed)
		return
	}
	rest, paused := p.in, p.paused
	p.in = nil
	p.mu.Unlock()
	p.end()
	c := p.conn
	c.SetSealer(s)
	c.Swap(orphan{c})
	p.done(h, nil)
	if paused {
		c.PauseRead(false)
	}
	c.Redeliver(rest)
}

// read blocks for bytes of the present record; it never returns any beyond
// it, so that what follows the handshake stays here for the loop. The slot is
// given up while it waits.
func (p *pipe) read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		if p.left == 0 && len(p.in) >= recordHeader {
			p.left = recordHeader + int(p.in[3])<<8 + int(p.in[4])
		}
		if n := min(p.left, len(p.in), len(b)); n > 0 {
			copy(b, p.in[:n])
			p.in = p.in[n:]
			p.left -= n
			p.mu.Unlock()
			return n, nil
		}
		closed := p.closed
		resume := p.paused
		p.paused = false
		p.mu.Unlock()
		if closed != nil {
			return 0, closed
		}
		if resume {
			p.conn.Loop().Post(func() { p.conn.PauseRead(false) })
		}
		p.engine.gate.Release()
		p.held = false
		select {
		case <-p.wake:
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
		if err := p.acquire(); err != nil {
			return 0, err
		}
	}
}

// write hands a flight to the loop.
func (p *pipe) write(b []byte) (int, error) {
	flight := append([]byte(nil), b...)
	if !p.conn.Loop().Post(func() {
		if !p.over {
			p.conn.Write(flight)
		}
	}) {
		return 0, loop.ErrEnded
	}
	return len(b), nil
}

// shim is the net.Conn under a tls.Conn: first the pipe, then the sealer.
type shim struct {
	pipe   *pipe
	sealer *sealer
}

func (s *shim) Read(b []byte) (int, error) {
	if s.pipe != nil {
		return s.pipe.read(b)
	}
	return s.sealer.read(b)
}

func (s *shim) Write(b []byte) (int, error) {
	if s.pipe != nil {
		return s.pipe.write(b)
	}
	return s.sealer.write(b)
}

// Close does nothing: the loop owns the connection. So do the deadlines.
func (s *shim) Close() error                     { return nil }
func (s *shim) SetDeadline(time.Time) error      { return nil }
func (s *shim) SetReadDeadline(time.Time) error  { return nil }
func (s *shim) SetWriteDeadline(time.Time) error { return nil }
func (s *shim) LocalAddr() net.Addr              { return addr{} }
func (s *shim) RemoteAddr() net.Addr             { return addr{} }

type addr struct{}

func (addr) Network() string { return "tcp" }
func (addr) String() string  { return "loop" }

// orphan is the codec of a connection that nobody took over.
type orphan struct{ c *loop.Conn }

func (o orphan) OnBytes([]byte) { o.c.Abort() }
func (o orphan) OnEOF()         { o.c.Abort() }
func (o orphan) OnWritable()    {}
func (o orphan) OnClose(error)  {}

func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return fmt.Sprintf("0x%04x", v)
}

// cipherName is OpenSSL's name where it differs from the IANA one: TLS 1.2.
func cipherName(id uint16) string {
	switch id {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-RSA-AES128-GCM-SHA256"
	case tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-RSA-AES256-GCM-SHA384"
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
		return "ECDHE-ECDSA-AES128-GCM-SHA256"
	case tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
		return "ECDHE-ECDSA-AES256-GCM-SHA384"
	case tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-RSA-CHACHA20-POLY1305"
	case tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return "ECDHE-ECDSA-CHACHA20-POLY1305"
	}
	return tls.CipherSuiteName(id)
}
