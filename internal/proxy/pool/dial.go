package pool

import (
	"errors"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
)

// Dialing is a connection that is being made outside any group. The zero
// value is none.
type Dialing struct{ d *dialing }

// Cancel gives up; the callback is not called any more.
func (d Dialing) Cancel() {
	if d.d != nil && !d.d.over {
		d.d.end()
		if d.d.wire != nil {
			d.d.wire.Abort()
		}
	}
}

// dialing is the codec of such a connection until it is handed over.
type dialing struct {
	p      *Pool
	wire   *loop.Conn
	over   bool
	timer  loop.Timer
	cancel func()
	secure func()
	done   func(*loop.Conn, *mtls.Handshake, error)
}

// Dial makes one connection to an endpoint, with TLS where the cluster's
// policy says so, and hands it over, never inside the call. It is started:
// done sets its codec by Swap. The handshake is nil without TLS.
func (p *Pool) Dial(h *cluster.Handle, ep *cluster.Endpoint, done func(*loop.Conn, *mtls.Handshake, error)) Dialing {
	c := h.Conf()
	d := &dialing{p: p, done: done}
	if c == nil {
		p.loop.Next(func() { d.failed(errors.New("cluster was removed")) })
		return Dialing{d}
	}
	timeout := c.ConnectTimeout
	if timeout <= 0 {
		timeout = defaultConnect
	}
	p.loop.Arm(&d.timer, timeout, func() { d.failed(errTimeout) })
	if t := ep.TLS; t != nil {
		g := group{key: key{conf: c, tls: t}, p: p}
		alpn := g.offers()
		for i, a := range alpn {
			if a == Bridge { // these bytes are nobody's HTTP
				alpn = append(alpn[:i:i], alpn[i+1:]...)
				break
			}
		}
		d.secure = func() { d.cancel = p.o.TLS.Client(d.wire, t, t.SNI, alpn, d.secured) }
	}
	wire, err := p.connect(c, ep)
	if err != nil {
		p.loop.Next(func() { d.failed(err) })
		return Dialing{d}
	}
	d.wire = wire
	wire.Start(d)
	return Dialing{d}
}

func (d *dialing) end() {
	d.over = true
	d.timer.Stop()
	if d.cancel != nil {
		d.cancel()
		d.cancel = nil
	}
}

func (d *dialing) failed(err error) {
	if d.over {
		return
	}
	d.end()
	if d.wire != nil {
		d.wire.Abort()
	}
	d.done(nil, nil, err)
}

func (d *dialing) secured(h *mtls.Handshake, err error) {
	d.cancel = nil
	if d.over {
		return
	}
	if err != nil {
		d.end()
		d.done(nil, nil, err)
		return
	}
	d.end()
	d.done(d.wire, h, nil)
}

// OnConnect hands the connection over, or begins TLS.
func (d *dialing) OnConnect() {
	if d.secure != nil {
		d.secure()
		return
	}
	d.end()
	d.done(d.wire, nil, nil)
}

// OnBytes cannot come before the connection was handed over.
func (d *dialing) OnBytes([]byte) { d.failed(errors.New("bytes before the handshake")) }

// OnEOF ends the attempt.
func (d *dialing) OnEOF() { d.failed(errors.New("closed at once")) }

// OnWritable does nothing.
func (d *dialing) OnWritable() {}

// OnClose ends the attempt.
func (d *dialing) OnClose(err error) {
	if err == nil {
		err = errors.New("connection closed")
	}
	d.failed(err)
}
