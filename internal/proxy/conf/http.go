package conf

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
	"github.com/tulle-mesh/tulle/internal/proxy/format"
)

// http builds an HttpConnectionManager.
func (b *builder) http(m *wire.HttpConnectionManager) (*HTTP, error) {
	h := &HTTP{
		StatPrefix: m.StatPrefix, ServerName: m.ServerName, StripDot: m.StripTrailingHostDot,
		UseRemoteAddress: or(m.UseRemoteAddress, false), TrustedHops: int(m.XffNumTrustedHops), SkipXFFAppend: m.SkipXffAppend,
		NoRequestID: !or(m.GenerateRequestId, true), KeepRequestID: m.PreserveExternalRequestId,
		NormalizePath: or(m.NormalizePath, false), MergeSlashes: m.MergeSlashes,
		MaxHeadBytes: int(or(m.MaxRequestHeadersKb, 0)) << 10,
	}
	if h.TrustedHops > 255 || h.MaxHeadBytes > 8<<20 {
		return nil, refuse("", "xff_num_trusted_hops or max_request_headers_kb is out of bounds")
	}
	if !headerValue(h.ServerName) {
		return nil, refuse("server_name", "it holds a control character")
	}
	if err := h.modes(m); err != nil {
		return nil, err
	}
	if err := h.protocols(m); err != nil {
		return nil, err
	}
	err := durations(
		durationField{&h.StreamIdle, m.StreamIdleTimeout, "stream_idle_timeout", 0, true},
		durationField{&h.RequestTimeout, m.RequestTimeout, "request_timeout", 0, false},
		durationField{&h.HeadersTimeout, m.RequestHeadersTimeout, "request_headers_timeout", 0, false},
		durationField{&h.DrainTimeout, m.DrainTimeout, "drain_timeout", 0, false},
	)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Rds != nil:
		if h.RouteName = m.Rds.RouteConfigName; h.RouteName == "" {
			return nil, refuse("rds.route_config_name", "empty")
		}
		err = adsOnly(m.Rds.ConfigSource, "rds.config_source")
	case m.RouteConfig != nil:
		h.Routes, err = b.routeTable(m.RouteConfig)
		err = in(err, "route_config")
	default:
		err = refuse("", "no routes")
	}
	if err != nil {
		return nil, err
	}
	for _, u := range m.UpgradeConfigs {
		if or(u.Enabled, true) && u.UpgradeType != "" {
			h.Upgrades = append(h.Upgrades, strings.ToLower(u.UpgradeType))
		}
	}
	if h.AccessLog, err = accessLogs(m.AccessLog); err != nil {
		return nil, err
	}
	return h, b.httpFilters(h, m.HttpFilters)
}

// modes reads the choices from closed lists.
func (h *HTTP) modes(m *wire.HttpConnectionManager) error {
	switch m.CodecType {
	case wire.HttpConnectionManagerCodecTypeHttp1:
		h.Codec = CodecHTTP1
	case wire.HttpConnectionManagerCodecTypeHttp2:
		h.Codec = CodecHTTP2
	case wire.HttpConnectionManagerCodecTypeHttp3:
		return refuse("codec_type", "HTTP3 is not supported")
	}
	switch m.ServerHeaderTransformation {
	case wire.HttpConnectionManagerServerHeaderTransformationAppendIfAbsent:
		h.ServerHeader = ServerAppendIfAbsent
	case wire.HttpConnectionManagerServerHeaderTransformationPassThrough:
		h.ServerHeader = ServerPassThrough
	}
	switch m.ForwardClientCertDetails {
	case wire.HttpConnectionManagerForwardClientCertDetailsForwardOnly:
		h.XFCC = XFCCForwardOnly
	case wire.HttpConnectionManagerForwardClientCertDetailsAppendForward:
		h.XFCC = XFCCAppendForward
	case wire.HttpConnectionManagerForwardClientCertDetailsSanitizeSet:
		h.XFCC = XFCCSanitizeSet
	case wire.HttpConnectionManagerForwardClientCertDetailsAlwaysForwardOnly:
		h.XFCC = XFCCAlwaysForward
	}
	if s := m.SetCurrentClientCertDetails; s != nil {
		h.XFCCFields = XFCCFields{Subject: or(s.Subject, false), Cert: s.Cert, Chain: s.Chain, DNS: s.Dns, URI: s.Uri}
	}
	switch m.PathWithEscapedSlashesAction {
	case wire.HttpConnectionManagerPathWithEscapedSlashesActionRejectRequest:
		h.EscapedSlashes = RejectEscaped
	case wire.HttpConnectionManagerPathWithEscapedSlashesActionUnescapeAndRedirect:
		h.EscapedSlashes = RedirectEscaped
	case wire.HttpConnectionManagerPathWithEscapedSlashesActionUnescapeAndForward:
		h.EscapedSlashes = ForwardEscaped
	}
	switch {
	case or(m.StripAnyHostPort, false) && m.StripMatchingHostPort:
		return refuse("strip_any_host_port", "strip_matching_host_port is set too")
	case or(m.StripAnyHostPort, false):
		h.StripPort = StripAny
	case m.StripMatchingHostPort:
		h.StripPort = StripMatching
	}
	return nil
}

func (h *HTTP) protocols(m *wire.HttpConnectionManager) error {
	if o := m.CommonHttpProtocolOptions; o != nil {
		h.MaxRequests = or(o.MaxRequestsPerConnection, 0)
		h.MaxHeaders = int(min(or(o.MaxHeadersCount, 0), 10_000))
		err := durations(
			durationField{&h.IdleTimeout, o.IdleTimeout, "idle_timeout", 0, true},
			durationField{&h.MaxConnDuration, o.MaxConnectionDuration, "max_connection_duration", 0, false},
			durationField{&h.MaxStream, o.MaxStreamDuration, "max_stream_duration", 0, false},
		)
		if err != nil {
			return in(err, "common_http_protocol_options")
		}
	}
	if o := m.HttpProtocolOptions; o != nil {
		if h.AcceptHTTP10 = o.AcceptHttp10; !or(o.AllowAbsoluteUrl, true) {
			return refuse("http_protocol_options.allow_absolute_url", "false is not supported")
		}
	}
	if o := m.Http2ProtocolOptions; o != nil {
		h.MaxStreams = or(o.MaxConcurrentStreams, 0)
		h.StreamWindow, h.ConnWindow = or(o.InitialStreamWindowSize, 0), or(o.InitialConnectionWindowSize, 0)
		h.Floods = Floods{OutFrames: or(o.MaxOutboundFrames, 0), OutControl: or(o.MaxOutboundControlFrames, 0),
			Empty:         or(o.MaxConsecutiveInboundFramesWithEmptyPayload, 0),
			Priority:      or(o.MaxInboundPriorityFramesPerStream, 0),
			WindowUpdates: or(o.MaxInboundWindowUpdateFramesPerDataFrameSent, 0)}
		return in(windows(h.StreamWindow, h.ConnWindow), "http2_protocol_options")
	}
	return nil
}

// windows checks HTTP/2 windows: RFC 9113 section 6.5.2, and Envoy's minimum.
func windows(stream, conn uint32) error {
	for field, w := range map[string]uint32{"initial_stream_window_size": stream, "initial_connection_window_size": conn} {
		if w != 0 && (w < 65535 || w > 1<<31-1) {
			return refuse(field, "%d is not between 65535 and 2147483647", w)
		}
	}
	return nil
}

// httpFilters builds the chain; the router stands at its end and becomes part
// of the manager.
func (b *builder) httpFilters(h *HTTP, ms []*wire.HttpFilter) error {
	router := false
	for i, m := range ms {
		f := Filter{Name: m.Name}
		var err error
		var msg any
		if m.TypedConfig != nil {
			msg = m.TypedConfig.Msg
		}
		switch c := msg.(type) {
		case nil:
			if m.IsOptional || m.Disabled && m.TypedConfig != nil {
				continue
			}
			err = refuse("typed_config", "missing")
			if m.TypedConfig != nil {
				err = refuse("typed_config", "extension %q is not known here", m.TypedConfig.URL)
			}
		case *wire.Router:
			router, h.SuppressHeaders = true, c.SuppressEnvoyHeaders
		case *wire.HTTPRBAC:
			if f.RBAC, err = b.httpRBAC(c); f.RBAC == nil {
				// Kept: a route may bring rules of its own.
				f.RBAC = &RBAC{Action: RBACLog}
			}
		case *wire.Cors:
			f.CORS = true
		case *wire.HTTPFault:
			if f.HasFault = true; c.Delay != nil || c.Abort != nil {
				f.Fault, err = fault(c)
			}
		case *wire.LocalRateLimit:
			if f.Limit, err = b.rateLimit(m.Name, c); err == nil && f.Limit == nil {
				continue
			}
		case *wire.BodySizeLimit:
			if f.MaxBody = int64(or(c.MaxRequestBytes, 0)); f.MaxBody <= 0 {
				err = refuse("typed_config.max_request_bytes", "it is not between 1 and 2^63-1")
			}
		case *wire.Compressor:
			var one *Compressor
			if one, err = compressor(c); err == nil {
				f.Compress = len(h.Compressors) == 0
				h.Compressors = append(h.Compressors, one)
			}
		}
		if err == nil && m.Disabled {
			err = refuse("disabled", "not supported")
		}
		if err == nil && m.Name == "" {
			err = refuse("name", "empty")
		}
		last := i == len(ms)-1
		if _, isRouter := msg.(*wire.Router); err == nil && isRouter != last {
			err = refuse("", "the router, and only it, stands at the end")
		}
		if err != nil {
			return inIndex(err, "http_filters", i)
		}
		if _, isCompressor := msg.(*wire.Compressor); !last && (f.Compress || !isCompressor) {
			h.Filters = append(h.Filters, f)
		}
	}
	if !router {
		return refuse("http_filters", "no router")
	}
	return nil
}

// accessLogs builds the access logs of a listener, manager or TCP proxy.
func accessLogs(ms []*wire.AccessLog) ([]*AccessLog, error) {
	var out []*AccessLog
	for i, m := range ms {
		a, err := accessLog(m)
		if err != nil {
			return nil, inIndex(err, "access_log", i)
		}
		out = append(out, a)
	}
	return out, nil
}

func accessLog(m *wire.AccessLog) (*AccessLog, error) {
	if m.TypedConfig == nil {
		return nil, refuse("typed_config", "missing")
	}
	f, ok := m.TypedConfig.Msg.(*wire.FileAccessLog)
	if !ok {
		return nil, refuse("typed_config", "not supported")
	}
	a := &AccessLog{Path: f.Path}
	if !strings.HasPrefix(a.Path, "/") {
		return nil, refuse("typed_config.path", "%q is no absolute path", a.Path)
	}
	if m.Filter != nil {
		if m.Filter.ResponseFlagFilter == nil {
			return nil, refuse("filter", "no filter")
		}
		if a.Flags = m.Filter.ResponseFlagFilter.Flags; len(a.Flags) == 0 {
			return nil, refuse("filter.response_flag_filter.flags", "naming none is not supported")
		}
	}
	return a, in(a.format(f), "typed_config")
}

func (a *AccessLog) format(f *wire.FileAccessLog) (err error) {
	switch {
	case f.Format != nil:
		a.Format = *f.Format
	case f.JsonFormat != nil:
		a.JSON, err = logFields(f.JsonFormat)
	case f.TypedJsonFormat != nil:
		a.JSON, err = logFields(f.TypedJsonFormat)
	case f.LogFormat != nil:
		l := f.LogFormat
		a.OmitEmpty = l.OmitEmptyValues
		switch {
		case l.TextFormat != nil:
			a.Format = *l.TextFormat
		case l.TextFormatSource != nil:
			var text []byte
			if text, err = inline(l.TextFormatSource); err != nil {
				return in(err, "log_format.text_format_source")
			}
			a.Format = string(text)
		case l.JsonFormat != nil:
			a.JSON, err = logFields(l.JsonFormat)
		}
	}
	if err != nil {
		return err
	}
	if _, err := format.Parse(a.Format); err != nil {
		return refuse("log_format", "%v", err)
	}
	return nil
}

// logFields sorts the fields of a JSON log by key, so that its lines look the
// same every time.
func logFields(m map[string]any) ([]LogField, error) {
	out := []LogField{}
	for _, k := range sortedKeys(m) {
		s, ok := m[k].(string)
		if !ok {
			return nil, inKey(refuse("", "only text is supported"), "json_format", k)
		}
		if _, err := format.Parse(s); err != nil {
			return nil, inKey(refuse("", "%v", err), "json_format", k)
		}
		out = append(out, LogField{k, s})
	}
	return out, nil
}
