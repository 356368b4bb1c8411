package exchange

import (
	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// maxLookup bounds the hosts that are looked up, in bytes: names of the DNS have
// no more.
const maxLookup = 253

// lookUp finds the virtual host of a request on a port whose hosts are looked up
// when they are first used, in a table of its own. It reports false when the
// request has to wait, or was answered.
func (x *Exchange) lookUp(known *conf.Learnt) bool {
	var b [maxLookup]byte
	host, ok := canonical(b[:0], x.req.Authority)
	if !ok {
		return true
	}
	port, desk := x.conn.port, x.env.Desk
	a := known.Route(port, host)
	switch {
	case a != nil:
		if a.Use(desk.Now()); !a.None() {
			if x.vhost = route.Host(a.Routes, x.req.Authority, nil); x.vhost != nil {
				x.path.Table = a.Routes
			}
		}
		return true
	case !known.Index.MayName(string(host)):
		return true
	case x.asked: // what came was lost again at once
		x.reply(telemetry.NotLearnt, "")
		return false
	}
	x.asked = true
	q := conf.Lookup{Kind: conf.LookupRoutes, Name: ext.HostRoute(port, string(host))}
	if x.wait = desk.Wait([]conf.Lookup{q}, x.learnt); x.wait == nil {
		x.reply(telemetry.NotLearnt, "")
	}
	return false
}

// learnt goes on with a request that has waited.
func (x *Exchange) learnt(ok bool) {
	x.wait = nil
	x.env.Loop.Blame(x.conn.wire)
	if !ok {
		x.reply(telemetry.NotLearnt, "")
		return
	}
	if x.match() {
		x.routed()
	}
}

// canonical is an authority as hosts are looked up, in lower case and without a
// port (see ext.Canonical). It reports false for what is too long for a name.
func canonical(b, authority []byte) ([]byte, bool) {
	host := route.WithoutPort(authority)
	if len(host) == 0 || len(host) > maxLookup {
		return nil, false
	}
	for _, c := range host {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		b = append(b, c)
	}
	return b, true
}
