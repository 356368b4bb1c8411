package route

import (
	"net/netip"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/format"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Edit applies e to h: remove, then set, add and add-if-absent in order. Values
// may hold %COMMAND% operators, read from r; an empty result is left out, as
// Envoy does, unless it is to be kept. Every value is worked out from what the
// headers were after the removals, before the first of them is written.
func Edit(h *stream.Head, e *conf.HeaderEdit, r *Request) {
	for _, name := range e.Remove {
		h.Del(name)
	}
	if len(e.Set)+len(e.Add)+len(e.AddIfAbsent) == 0 {
		return // mostly; the room below need not be cleared
	}
	var room [512]byte
	var ends [16]int // of the values in buf
	buf, at := room[:0], ends[:0]
	for _, list := range [...][]conf.Header{e.Set, e.Add, e.AddIfAbsent} {
		for i := range list {
			buf = headerValue(buf, &list[i], r)
			at = append(at, len(buf))
		}
	}
	from, n := 0, 0
	next := func(x *conf.Header) (v []byte, ok bool) {
		v = buf[from:at[n]:at[n]]
		from, n = at[n], n+1
		return v, len(v) > 0 || x.KeepEmpty
	}
	for i := range e.Set {
		if v, ok := next(&e.Set[i]); ok {
			set(h, e.Set[i].Name, v)
		}
	}
	for i := range e.Add {
		if v, ok := next(&e.Add[i]); ok {
			h.Add(e.Add[i].Name, v)
		}
	}
	for i := range e.AddIfAbsent {
		if v, ok := next(&e.AddIfAbsent[i]); ok && Value(h, e.AddIfAbsent[i].Name) == nil {
			set(h, e.AddIfAbsent[i].Name, v)
		}
	}
}

// set writes a header, or the pseudo-header of that name.
func set(h *stream.Head, name string, v []byte) {
	switch name {
	case "host", ":authority":
		h.Authority = h.Keep(v)
	case ":path":
		h.Path = h.Keep(v)
	case ":method":
		h.Method = h.Keep(v)
	case ":scheme":
		h.Scheme = h.Keep(v)
	default:
		h.Set(name, v)
	}
}

func headerValue(dst []byte, h *conf.Header, r *Request) []byte {
	if !h.Dynamic {
		return append(dst, h.Value...)
	}
	return appendFormat(dst, h.Value, r)
}

// appendFormat expands a format string. What has no value adds nothing. A
// format that does not parse is taken as it is; conf refuses such.
func appendFormat(dst []byte, s string, r *Request) []byte {
	for s != "" {
		p, rest, err := format.Next(s)
		if err != nil {
			return append(dst, s...)
		}
		n := len(dst)
		dst = appendPart(dst, &p, r)
		if p.Max > 0 && len(dst)-n > p.Max {
			dst = dst[:n+p.Max]
		}
		s = rest
	}
	return dst
}

func appendPart(dst []byte, p *format.Part, r *Request) []byte {
	switch p.Cmd {
	case format.Text:
		return append(dst, p.Text...)
	case format.Req:
		return append(dst, formatHeader(r.Head, p)...)
	case format.Resp:
		if r.Response != nil {
			return append(dst, formatHeader(r.Response, p)...)
		}
	case format.Protocol:
		return append(dst, Protocol(r.Head.Version)...)
	case format.ResponseCode:
		if r.Response == nil {
			return append(dst, '0')
		}
		return strconv.AppendInt(dst, int64(r.Response.Status), 10)
	case format.StartTime:
		return format.AppendTime(dst, r.Start, p.Text)
	case format.DownstreamRemote, format.DownstreamRemoteIP, format.DownstreamRemotePort:
		return appendAddr(dst, r.Remote, p.Cmd-format.DownstreamRemote)
	case format.DownstreamDirect, format.DownstreamDirectIP, format.DownstreamDirectPort:
		return appendAddr(dst, r.Source, p.Cmd-format.DownstreamDirect)
	case format.DownstreamLocal, format.DownstreamLocalIP, format.DownstreamLocalPort:
		return appendAddr(dst, r.Local, p.Cmd-format.DownstreamLocal)
	case format.UpstreamHost:
		return appendAddr(dst, r.Upstream, 0)
	case format.UpstreamRemote, format.UpstreamRemoteIP, format.UpstreamRemotePort:
		return appendAddr(dst, r.Upstream, p.Cmd-format.UpstreamRemote)
	case format.ServerName:
		return append(dst, r.SNI...)
	case format.RouteName:
		return append(dst, r.RouteName...)
	case format.PeerURISAN:
		return append(dst, r.PeerURI...)
	case format.LocalURISAN:
		return append(dst, r.LocalURI...)
	case format.TLSVersion:
		return append(dst, r.TLSVersion...)
	case format.TLSCipher:
		return append(dst, r.TLSCipher...)
	case format.Hostname:
		return append(dst, r.Hostname...)
	}
	return dst
}

// Protocol is the version as Envoy writes it: HTTP/1.1.
func Protocol(v uint8) string {
	switch v {
	case 10:
		return "HTTP/1.0"
	case 20:
		return "HTTP/2"
	}
	return "HTTP/1.1"
}

// appendAddr writes address and port (part 0), the address (1) or the port (2).
func appendAddr(dst []byte, a netip.AddrPort, part format.Command) []byte {
	switch {
	case !a.IsValid():
		return dst
	case part == 1:
		return a.Addr().AppendTo(dst)
	case part == 2:
		return strconv.AppendUint(dst, uint64(a.Port()), 10)
	}
	return a.AppendTo(dst)
}

func formatHeader(h *stream.Head, p *format.Part) []byte {
	if v := getFold(h, p.Text); v != nil || p.Alt == "" {
		return v
	}
	return getFold(h, p.Alt)
}

// getFold is Value for a name in any case; only the first field counts.
func getFold(h *stream.Head, name string) []byte {
	if name != "" && name[0] == ':' || len(name) == 4 {
		var buf [16]byte
		if len(name) <= len(buf) {
			l := buf[:len(name)]
			for i := range l {
				l[i] = lower(name[i])
			}
			switch string(l) {
			case ":authority", "host":
				return h.Authority
			case ":path":
				return h.Path
			case ":method":
				return h.Method
			case ":scheme":
				return h.Scheme
			}
		}
	}
	for i := range h.Fields {
		if equalFold(view(h.Fields[i].Name), name) {
			return h.Fields[i].Value
		}
	}
	return nil
}
