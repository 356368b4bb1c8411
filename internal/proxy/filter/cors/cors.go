// Package cors answers cross-origin requests as Envoy's CORS filter does (the
// Fetch standard's protocol).
//
// In: the policy of the route or virtual host, a request, later its response.
// Out: whether the origin is allowed, and headers on the response. The order
// of use: Allowed and Preflight on the request; a preflight is answered 200
// with Answer; other responses to an allowed origin get Decorate.
// What does not belong here: sending anything (exchange).
package cors

import (
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// any is the text by which a policy allows every origin.
var any = []byte("*")

// Allowed reports whether the request's origin is one the policy knows. A
// matcher that takes "*" takes every origin, as Envoy has it.
func Allowed(p *conf.CORS, req *stream.Head) bool {
	o := req.Get("origin")
	if p == nil || len(o) == 0 {
		return false
	}
	for i := range p.Origins {
		if m := &p.Origins[i]; route.String(m, any) || route.String(m, o) {
			return true
		}
	}
	return false
}

// Preflight reports whether the request only asks what would be allowed.
func Preflight(req *stream.Head) bool {
	return string(req.Method) == "OPTIONS" && len(req.Get("access-control-request-method")) > 0 && len(req.Get("origin")) > 0
}

// Answer puts the answer to a preflight into resp. Without the origin, which is
// there if it is allowed, the rest gives nothing.
func Answer(p *conf.CORS, req, resp *stream.Head, allowed bool) {
	if allowed {
		resp.Set("access-control-allow-origin", req.Get("origin"))
	}
	if p.Credentials {
		set(resp, "access-control-allow-credentials", "true")
	}
	set(resp, "access-control-allow-methods", p.Methods)
	set(resp, "access-control-allow-headers", p.Headers)
	set(resp, "access-control-max-age", p.MaxAge)
}

// Decorate puts what a browser needs into the response to an allowed origin.
func Decorate(p *conf.CORS, req, resp *stream.Head) {
	resp.Set("access-control-allow-origin", req.Get("origin"))
	if p.Credentials {
		set(resp, "access-control-allow-credentials", "true")
	}
	set(resp, "access-control-expose-headers", p.Expose)
}

func set(h *stream.Head, name, value string) {
	if value == "" {
		return
	}
	h.Del(name)
	h.AddString(name, value)
}
