package exchange

import (
	"encoding/pem"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// internalHeaders are Envoy's switches that only a trusted client may set; no
// client is trusted by its address, so they are always removed.
var internalHeaders = map[string]bool{
	"x-envoy-internal": true, "x-envoy-retry-on": true, "x-envoy-retry-grpc-on": true,
	"x-envoy-max-retries": true, "x-envoy-retriable-status-codes": true,
	"x-envoy-retriable-header-names": true, "x-envoy-upstream-alt-stat-name": true,
	"x-envoy-upstream-rq-timeout-ms": true, "x-envoy-upstream-rq-per-try-timeout-ms": true,
	"x-envoy-upstream-rq-timeout-alt-response": true, "x-envoy-expected-rq-timeout-ms": true,
	"x-envoy-force-trace": true, "x-envoy-ip-tags": true, "x-envoy-original-url": true,
	"x-envoy-hedge-on-per-try-timeout": true, "x-envoy-upstream-stream-duration-ms": true,
}

// edgeHeaders are removed too where the peer is the outside world.
var edgeHeaders = map[string]bool{
	"x-envoy-decorator-operation": true, "x-envoy-downstream-service-cluster": true,
	"x-envoy-downstream-service-node": true,
}

// prepare does to the request head what a connection manager does before any
// route is looked at, and learns the address the request came from.
func (c *Conn) prepare(x *Exchange) {
	h, cfg := &x.req, c.http
	c.dropInternal(h)
	c.forwardedFor(x)
	if h.Get("x-forwarded-proto") == nil {
		h.AddString("x-forwarded-proto", c.scheme())
	}
	if p := h.Get("x-forwarded-proto"); len(p) == 4 || len(p) == 5 {
		if strings.EqualFold(string(p), "http") || strings.EqualFold(string(p), "https") {
			h.Scheme = p
		}
	}
	if !cfg.NoRequestID {
		c.requestID(h)
	}
	c.clientCert(h)
}

func (c *Conn) scheme() string {
	if c.peer.TLS {
		return "https"
	}
	return "http"
}

// dropInternal removes fields that a client has no business to send. The
// common request has none of them, so names are looked at once.
func (c *Conn) dropInternal(h *stream.Head) {
	n := 0
	for i := range h.Fields {
		if c.internal(h.Fields[i].Name) {
			continue
		}
		if n < i {
			h.Fields[n] = h.Fields[i]
		}
		n++
	}
	clear(h.Fields[n:])
	h.Fields = h.Fields[:n]
}

func (c *Conn) internal(name []byte) bool {
	switch {
	case len(name) > 6 && string(name[:6]) == "tulle-":
		return true
	case len(name) > 8 && string(name[:8]) == "x-envoy-":
		return internalHeaders[string(name)] || c.http.UseRemoteAddress && edgeHeaders[string(name)]
	}
	return false
}

// forwardedFor keeps x-forwarded-for as Envoy does and sets x.remote.
func (c *Conn) forwardedFor(x *Exchange) {
	h, cfg := &x.req, c.http
	direct := c.remote().Addr()
	if !cfg.UseRemoteAddress {
		x.remote = fromEnd(h, cfg.TrustedHops)
		if !x.remote.IsValid() {
			x.remote = direct
		}
		return
	}
	x.remote = direct
	if cfg.TrustedHops > 0 {
		if a := fromEnd(h, cfg.TrustedHops-1); a.IsValid() {
			x.remote = a
		}
	}
	if !cfg.SkipXFFAppend {
		if c.remoteText == "" {
			c.remoteText = direct.String()
		}
		appendList(h, "x-forwarded-for", c.remoteText)
	}
	if cfg.TrustedHops == 0 || h.Get("x-forwarded-proto") == nil {
		h.Set("x-forwarded-proto", []byte(c.scheme()))
	}
	var b [64]byte
	h.Set("x-envoy-external-address", x.remote.AppendTo(b[:0]))
}

// fromEnd returns the n-th address of x-forwarded-for counted from its end.
func fromEnd(h *stream.Head, n int) netip.Addr {
	v := h.Joined("x-forwarded-for")
	for ; v != nil; n-- {
		var part []byte
		if i := lastComma(v); i >= 0 {
			v, part = v[:i], v[i+1:]
		} else {
			v, part = nil, v
		}
		if n == 0 {
			a, err := netip.ParseAddr(strings.TrimSpace(string(part)))
			if err != nil {
				return netip.Addr{}
			}
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

func lastComma(b []byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == ',' {
			return i
		}
	}
	return -1
}

// appendList adds value to a comma-separated list field, or makes the field.
func appendList(h *stream.Head, name, value string) {
	for i := len(h.Fields) - 1; i >= 0; i-- {
		if f := &h.Fields[i]; string(f.Name) == name {
			v := make([]byte, 0, len(f.Value)+1+len(value))
			f.Value = h.Keep(append(append(append(v, f.Value...), ','), value...))
			return
		}
	}
	h.AddString(name, value)
}

// requestID makes x-request-id where there is none; one that is there is never
// altered, except from the outside when the listener says so.
func (c *Conn) requestID(h *stream.Head) {
	if id := h.Get("x-request-id"); len(id) > 0 && (c.http.KeepRequestID || !c.http.UseRemoteAddress) {
		return
	}
	h.Del("x-request-id")
	var b [36]byte
	uuid(&b, c.env.Loop)
	h.Add("x-request-id", b[:])
}

// uuid writes a version 4 UUID (RFC 9562 5.4).
func uuid(b *[36]byte, l *loop.Loop) {
	const hex = "0123456789abcdef"
	hi, lo := l.Rand(), l.Rand()
	hi = hi&^(0xf<<12) | 4<<12
	lo = lo&^(3<<62) | 2<<62
	p := 0
	for i := range 32 {
		if i == 8 || i == 12 || i == 16 || i == 20 {
			b[p] = '-'
			p++
		}
		v := hi
		if i >= 16 {
			v = lo
		}
		b[p] = hex[v>>(60-4*uint(i&15))&15]
		p++
	}
}

// clientCert keeps x-forwarded-client-cert by the listener's mode.
func (c *Conn) clientCert(h *stream.Head) {
	const name = "x-forwarded-client-cert"
	switch mode := c.http.XFCC; {
	case mode == conf.XFCCAlwaysForward:
	case !c.peer.Mutual || mode == conf.XFCCSanitize:
		h.Del(name)
	case mode == conf.XFCCForwardOnly:
	case mode == conf.XFCCSanitizeSet:
		h.Set(name, []byte(c.xfcc()))
	case mode == conf.XFCCAppendForward:
		appendList(h, name, c.xfcc())
	}
}

// inQuery escapes a certificate as Envoy does.
var inQuery = strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D")

// xfcc is this connection's element of x-forwarded-client-cert, made once.
func (c *Conn) xfcc() string {
	if c.peer.xfcc != "" {
		return c.peer.xfcc
	}
	p, f := c.peer, c.http.XFCCFields
	var b strings.Builder
	if p.Local != "" {
		b.WriteString("By=" + p.Local + ";")
	}
	b.WriteString("Hash=" + p.Hash)
	if f.Cert && len(p.Cert) > 0 {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Cert})
		b.WriteString(`;Cert="` + inQuery.Replace(string(text)) + `"`)
	}
	if f.Subject {
		b.WriteString(`;Subject="` + strings.ReplaceAll(p.Subject, `"`, `\"`) + `"`)
	}
	if f.URI {
		for _, u := range p.URIs {
			b.WriteString(";URI=" + u)
		}
		if len(p.URIs) == 0 {
			b.WriteString(";URI=")
		}
	}
	if f.DNS {
		for _, d := range p.DNS {
			b.WriteString(";DNS=" + d)
		}
	}
	c.peer.xfcc = b.String()
	return c.peer.xfcc
}
