package proxy

import (
	"context"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/mtls"
)

// secured is a live connection under TLS.
type secured struct {
	conn *loop.Conn
	hand *mtls.Handshake
}

// reverify checks every live connection again, against the trust bundles of
// now, and cuts those whose peer is trusted no more. It returns at once; the
// work is done behind the gate, in pieces.
func (p *Proxy) reverify(ctx context.Context) {
	for _, w := range p.workers {
		w.loop.Post(func() {
			var all []secured
			add := func(c *loop.Conn, h *mtls.Handshake) { all = append(all, secured{c, h}) }
			w.http.EachSecure(add)
			w.tcp.EachSecure(add)
			w.pool.EachSecure(add)
			go p.check(ctx, w, all)
		})
	}
}

// check verifies the peers of one loop's connections. When no slot is to be had
// for long the rest is cut: unchecked is not trusted.
func (p *Proxy) check(ctx context.Context, w *worker, all []secured) {
	const piece = 4 // verifications, about a millisecond
	for len(all) > 0 {
		n := min(piece, len(all))
		var bad []*loop.Conn
		slot, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := p.group.Gate().Do(slot, func() {
			for _, s := range all[:n] {
				if s.hand.Reverify() != nil {
					bad = append(bad, s.conn)
				}
			}
		})
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			for _, s := range all[:n] {
				bad = append(bad, s.conn)
			}
		}
		all = all[n:]
		if len(bad) == 0 {
			continue
		}
		p.log.Info("connections end: their peers are not trusted any more", "connections", len(bad))
		w.loop.Post(func() {
			for _, c := range bad {
				c.Abort()
			}
		})
	}
}
