package exchange

import "github.com/tulle-mesh/tulle/internal/proxy/http1"

// An HTTP/1 connection between two requests has no codec: most connections are
// there most of the time, and those that work share what is warm in the
// processor's cache.

// spareServers is how many codecs a loop keeps for connections that wake up.
const spareServers = 1024

// wake gives the connection its codec.
func (c *Conn) wake() *http1.Server {
	if c.h1 == nil {
		k := &c.env.codecs
		if n := len(k.spare); n > 0 {
			c.h1, k.spare = k.spare[n-1], k.spare[:n-1]
			c.h1.Adopt(c.wire, c, c.h1o)
		} else {
			c.h1 = http1.NewServer(c.wire, c, c.h1o)
		}
		if c.draining {
			c.h1.Drain()
		}
	}
	return c.h1
}

// rest takes the codec away when nothing is under way.
func (c *Conn) rest() {
	if c.h1 == nil || c.active > 0 || !c.h1.Rest() {
		return
	}
	if k := &c.env.codecs; len(k.spare) < spareServers {
		k.spare = append(k.spare, c.h1)
	}
	c.h1 = nil
}
