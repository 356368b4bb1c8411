package telemetry

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/format"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// EnvoyFormat is Envoy's own default line, used when no format is configured;
// IstioFormat is Istio's.
const (
	EnvoyFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"
	IstioFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n"
)

// Line is a compiled access-log format. Immutable; Append allocates nothing
// beyond dst.
type Line struct {
	text  []format.Part
	json  []jsonField
	omit  bool
	flags Flags // at least one must be set; 0: any record
}

type jsonField struct {
	key   string // quoted, with colon
	parts []format.Part
}

// Compile a configured log.
func Compile(c *conf.AccessLog) (*Line, error) {
	l := &Line{omit: c.OmitEmpty}
	for _, f := range c.Flags {
		b := ParseFlag(f)
		if b == 0 {
			return nil, fmt.Errorf("access log: response flag %q is not known", f)
		}
		l.flags |= b
	}
	for _, f := range c.JSON {
		parts, err := format.Parse(f.Format)
		if err != nil {
			return nil, fmt.Errorf("access log field %s: %w", f.Key, err)
		}
		l.json = append(l.json, jsonField{string(appendJSON(nil, f.Key)) + ":", parts})
	}
	if c.JSON != nil {
		return l, nil
	}
	text := c.Format
	if text == "" {
		text = EnvoyFormat
	}
	var err error
	if l.text, err = format.Parse(text); err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return l, nil
}

// Wants reports whether the log takes this record at all.
func (l *Line) Wants(r *Record) bool { return l.flags == 0 || r.Flags&l.flags != 0 }

// Append writes the record's line, with its newline for JSON.
func (l *Line) Append(dst []byte, r *Record) []byte {
	if l.json == nil {
		return appendText(dst, l.text, r, l.omit)
	}
	dst = append(dst, '{')
	for n := range l.json {
		f := &l.json[n]
		at := len(dst)
		if at > 0 && dst[at-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(dst, f.key...)
		ok := false
		if dst, ok = appendValue(dst, f.parts, r, l.omit); !ok {
			dst = dst[:at]
		}
	}
	return append(dst, '}', '\n')
}

func appendText(dst []byte, parts []format.Part, r *Record, omit bool) []byte {
	for i := range parts {
		p := &parts[i]
		n := len(dst)
		if dst = appendPart(dst, p, r); len(dst) == n && p.Cmd != format.Text && !omit {
			dst = append(dst, '-')
		}
	}
	return dst
}

// appendValue writes a JSON value: a number or null where the field is one
// command, else a string. It is false when the field is to be left out.
func appendValue(dst []byte, parts []format.Part, r *Record, omit bool) ([]byte, bool) {
	if len(parts) != 1 || parts[0].Cmd == format.Text {
		var buf [512]byte
		return appendJSONBytes(dst, appendText(buf[:0], parts, r, omit)), true
	}
	p := &parts[0]
	if numeric(p.Cmd) {
		n := len(dst)
		dst = appendPart(dst, p, r)
		if len(dst) > n {
			return dst, true
		}
	} else {
		var buf [512]byte
		if v := appendPart(buf[:0], p, r); len(v) > 0 {
			return appendJSONBytes(dst, v), true
		}
	}
	if omit {
		return dst, false
	}
	return append(dst, "null"...), true
}

func numeric(c format.Command) bool {
	switch c {
	case format.ResponseCode, format.BytesReceived, format.BytesSent, format.Duration, format.RequestDuration,
		format.ResponseDuration, format.ResponseTxDuration, format.AttemptCount, format.UpstreamLocalPort,
		format.UpstreamRemotePort, format.DownstreamLocalPort, format.DownstreamRemotePort, format.DownstreamDirectPort:
		return true
	}
	return false
}

// appendPart writes one part, nothing when it has no value.
//
// Long because it is the table of all commands.
func appendPart(dst []byte, p *format.Part, r *Record) []byte {
	n := len(dst)
	switch p.Cmd {
	case format.Text:
		return append(dst, p.Text...)
	case format.Req:
		dst = appendHeader(dst, r.Req, p)
	case format.Resp:
		dst = appendHeader(dst, r.Resp, p)
	case format.Trailer:
		dst = appendHeader(dst, r.Trailers, p)
	case format.StartTime:
		dst = format.AppendTime(dst, r.Start, p.Text)
	case format.Protocol:
		switch r.Version {
		case 10:
			dst = append(dst, "HTTP/1.0"...)
		case 11:
			dst = append(dst, "HTTP/1.1"...)
		case 20:
			dst = append(dst, "HTTP/2"...)
		}
	case format.ResponseCode:
		dst = strconv.AppendInt(dst, int64(r.Status), 10)
	case format.ResponseFlags, format.ResponseFlagsLong:
		dst = r.Flags.Append(dst)
	case format.ResponseCodeDetails:
		dst = append(dst, r.Details...)
	case format.ConnectionTermination:
		dst = append(dst, r.Termination...)
	case format.UpstreamFailure:
		dst = append(dst, r.TransportFailure...)
		for i := n; i < len(dst); i++ {
			if dst[i] == ' ' {
				dst[i] = '_' // one field of the line, as Envoy has it
			}
		}
	case format.BytesReceived:
		dst = strconv.AppendUint(dst, r.BytesReceived, 10)
	case format.BytesSent:
		dst = strconv.AppendUint(dst, r.BytesSent, 10)
	case format.Duration:
		dst = appendMillis(dst, r.Begin, r.End)
	case format.RequestDuration:
		dst = appendMillis(dst, r.Begin, r.RequestEnd)
	case format.ResponseDuration:
		dst = appendMillis(dst, r.Begin, r.ResponseStart)
	case format.ResponseTxDuration:
		if r.ResponseStart > 0 {
			dst = appendMillis(dst, r.ResponseStart, r.End)
		}
	case format.UpstreamCluster, format.UpstreamClusterRaw:
		dst = append(dst, r.Cluster...)
	case format.AttemptCount:
		dst = strconv.AppendInt(dst, int64(r.Attempts), 10)
	case format.ServerName:
		dst = append(dst, r.SNI...)
	case format.RouteName:
		dst = append(dst, r.RouteName...)
	case format.PeerURISAN:
		dst = append(dst, r.Peer...)
	case format.LocalURISAN:
		dst = append(dst, r.LocalPrincipal...)
	case format.TLSVersion:
		dst = append(dst, r.TLSVersion...)
	case format.TLSCipher:
		dst = append(dst, r.TLSCipher...)
	case format.Hostname:
		dst = append(dst, hostname...)
	default:
		dst = appendAddress(dst, p.Cmd, r)
	}
	if p.Max > 0 && len(dst)-n > p.Max {
		dst = dst[:n+p.Max]
	}
	return dst
}

var hostname = func() string { h, _ := os.Hostname(); return h }()

func appendAddress(dst []byte, c format.Command, r *Record) []byte {
	direct := r.Direct
	if !direct.IsValid() {
		direct = r.Downstream
	}
	switch c {
	case format.UpstreamHost:
		return appendAddr(dst, r.Upstream, 0)
	case format.UpstreamLocal, format.UpstreamLocalIP, format.UpstreamLocalPort:
		return appendAddr(dst, r.UpstreamLocal, c-format.UpstreamLocal)
	case format.UpstreamRemote, format.UpstreamRemoteIP, format.UpstreamRemotePort:
		return appendAddr(dst, r.Upstream, c-format.UpstreamRemote)
	case format.DownstreamLocal, format.DownstreamLocalIP, format.DownstreamLocalPort:
		return appendAddr(dst, r.DownstreamLocal, c-format.DownstreamLocal)
	case format.DownstreamRemote, format.DownstreamRemoteIP, format.DownstreamRemotePort:
		return appendAddr(dst, r.Downstream, c-format.DownstreamRemote)
	case format.DownstreamDirect, format.DownstreamDirectIP, format.DownstreamDirectPort:
		return appendAddr(dst, direct, c-format.DownstreamDirect)
	}
	return dst
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

// appendMillis writes whole milliseconds; nothing when the end did not come.
func appendMillis(dst []byte, from, to int64) []byte {
	if to == 0 {
		return dst
	}
	return strconv.AppendInt(dst, max(to-from, 0)/1e6, 10)
}

func appendHeader(dst []byte, h *stream.Head, p *format.Part) []byte {
	if h == nil {
		return dst
	}
	v := field(h, p.Text)
	if v == nil && p.Alt != "" {
		v = field(h, p.Alt)
	}
	for _, c := range v {
		if c < ' ' || c == 0x7f {
			c = '?' // a log line is one line
		}
		dst = append(dst, c)
	}
	return dst
}

func field(h *stream.Head, name string) []byte {
	switch name {
	case ":authority", "host":
		return h.Authority
	case ":path":
		return h.Path
	case ":method":
		return h.Method
	case ":scheme":
		return h.Scheme
	}
	return h.Get(name)
}

// appendJSON writes s as a JSON string.
func appendJSON(dst []byte, s string) []byte { return appendJSONBytes(dst, []byte(s)) }

func appendJSONBytes(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for len(s) > 0 {
		c := s[0]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c < ' ' || c == 0x7f:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				dst = append(dst, c)
			}
			s = s[1:]
			continue
		}
		r, n := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[n:]
	}
	return append(dst, '"')
}
