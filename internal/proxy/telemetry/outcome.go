package telemetry

import (
	"errors"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/cluster"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Outcome is an answer of our own: what went wrong, as the client and the
// access log see it. The texts are Envoy's, so that what people know to search
// for is found.
type Outcome struct {
	Status  int
	Flag    Flags
	Details string // response_code_details
	Body    string // plain text; empty: no body
	// Reason of a broken upstream stream; with WithDetail a cause of lower
	// level is told after it.
	Reason     string
	WithDetail bool
	// Retried says that earlier attempts had failed too; the body tells it.
	Retried bool
	// Overloaded asks for x-envoy-overloaded: true.
	Overloaded bool
	grpc       int // gRPC status +1 when it does not follow from Status
}

// The outcomes that need nothing more.
var (
	NoRoute         = Outcome{Status: 404, Flag: FlagNR, Details: "route_not_found"}
	Denied          = Outcome{Status: 403, Details: "rbac_access_denied_matched_policy[none]", Body: "RBAC: access denied"}
	UpstreamTimeout = Outcome{Status: 504, Flag: FlagUT, Details: "response_timeout", Body: "upstream request timeout"}
	PerTryTimeout   = Outcome{Status: 504, Flag: FlagUT, Details: "upstream_per_try_timeout", Body: "upstream request timeout"}
	RequestTimeout  = Outcome{Status: 408, Details: "request_overall_timeout", Body: "request timeout"}
	HeadTimeout     = Outcome{Status: 408, Details: "request_header_timeout", Body: "Request Timeout"}
	StreamIdle      = Outcome{Status: 504, Flag: FlagSI, Details: "stream_idle_timeout", Body: "stream timeout"}
	PerTryIdle      = Outcome{Status: 504, Flag: FlagSI, Details: "upstream_per_try_idle_timeout", Body: "upstream per try idle timeout"}
	StreamDuration  = Outcome{Status: 504, Details: "max_duration_timeout", Body: "downstream duration timeout", grpc: 5}
	MaxDuration     = Outcome{Status: 504, Flag: FlagUMSDR, Details: "upstream_max_stream_duration_reached", Body: "upstream max stream duration reached"}
	MissingHost     = Outcome{Status: 400, Details: "missing_host_header"}
	LowVersion      = Outcome{Status: 426, Flag: FlagDPE, Details: "low_version", Body: "Upgrade Required"}
	UpgradeFailed   = Outcome{Status: 403, Details: "upgrade_failed"}
	NotRelative     = Outcome{Status: 404, Details: "absolute_path_rejected"}
	BadPath         = Outcome{Status: 400, Details: "path_normalization_failed"}
	LengthTooLarge  = Outcome{Status: 413, Details: "request_payload_too_large", Body: "content length too large"}
	BodyTooLarge    = Outcome{Status: 413, Details: "request_payload_too_large", Body: "request too long"}
	Internal        = Outcome{Status: 500, Details: "internal_error"}
	OutOfMemory     = Outcome{Status: 503, Flag: FlagOM, Details: "overload", Body: "envoy overloaded"}
	ClientsFull     = Outcome{Flag: FlagOM, Details: "downstream_global_cx_overflow"} // a connection, not a request
	ListenerFull    = Outcome{Flag: FlagOM, Details: "downstream_cx_overflow"}        // the same
	NotLearnt       = Outcome{Status: 503, Flag: FlagNC, Details: "destination_not_learnt_in_time"}
	NoHealthy       = Outcome{Status: 503, Flag: FlagUH, Details: "no_healthy_upstream", Body: "no healthy upstream"}
	Overflow        = FromReset(stream.Overflow)
	ConnectFailed   = FromReset(stream.ConnectFailed)
)

// NoCluster answers for a route whose cluster is not there; status 0 is 503.
func NoCluster(status int) Outcome {
	if status == 0 {
		status = 503
	}
	return Outcome{Status: status, Flag: FlagNC, Details: "cluster_not_found"}
}

// DeniedBy is Denied with the policy that did it; empty: none allowed it.
func DeniedBy(policy string) Outcome {
	o := Denied
	if policy != "" {
		o.Details = "rbac_access_denied_matched_policy[" + strings.ReplaceAll(policy, " ", "_") + "]"
	}
	return o
}

// Aborted is an injected fault. grpc -1: its gRPC status follows from status.
func Aborted(status, grpc int) Outcome {
	return Outcome{Status: status, Flag: FlagFI, Details: "fault_filter_abort", Body: "fault filter abort", grpc: grpc + 1}
}

// Limited is the answer to a request that came too soon after others.
// exhausted: gRPC clients are told RESOURCE_EXHAUSTED, not UNAVAILABLE.
func Limited(status int, exhausted bool) Outcome {
	o := Outcome{Status: status, Flag: FlagRL, Details: "local_rate_limited", Body: "local_rate_limited"}
	if exhausted {
		o.grpc = 8 + 1
	}
	return o
}

// FromCluster maps a cluster.Failure; other errors are ours.
func FromCluster(err error) Outcome {
	var f cluster.Failure
	if !errors.As(err, &f) {
		return Internal
	}
	switch f {
	case cluster.NoCluster:
		return NoCluster(0)
	case cluster.NoHealthy:
		return NoHealthy
	}
	return Overflow
}

// FromReset maps an upstream stream that broke before its response.
func FromReset(r stream.Reset) Outcome {
	o := Outcome{Status: 503, Flag: FlagsOf(r), Details: "upstream_reset_before_response_started", WithDetail: true}
	switch r {
	case stream.ConnectFailed, stream.TLSFailed:
		o.Reason = "remote connection failure"
	case stream.ConnectTimedOut:
		o.Reason = "connection timeout"
	case stream.ConnectionLost:
		o.Reason = "connection termination"
	case stream.ProtocolError:
		o.Reason, o.Status = "protocol error", 502
	case stream.Refused:
		o.Reason = "remote refused stream reset"
	case stream.Overflow:
		o.Reason, o.Overloaded = "overflow", true
	case stream.LocalReset:
		o.Reason = "local reset"
	default:
		o.Reason = "remote reset"
	}
	return o
}

// Text is the body. A cause of lower level is for the log, not for clients.
func (o Outcome) Text(string) string {
	if o.Reason == "" {
		return o.Body
	}
	again := ""
	if o.Retried {
		again = "retried and the latest "
	}
	return "upstream connect error or disconnect/reset before headers. " + again + "reset reason: " + o.Reason
}

// Detail is response_code_details with reason and cause:
// upstream_reset_before_response_started{remote_connection_failure|refused}.
func (o Outcome) Detail(detail string) string {
	if !o.WithDetail || o.Reason == "" {
		return o.Details
	}
	s := o.Details + "{" + o.Reason
	if detail != "" {
		s += "|" + detail
	}
	return strings.ReplaceAll(s, " ", "_") + "}"
}

// GRPC is the grpc-status that gRPC clients get.
func (o Outcome) GRPC() int {
	if o.grpc > 0 {
		return o.grpc - 1
	}
	switch o.Status {
	case 400:
		return 13
	case 401:
		return 16
	case 403:
		return 7
	case 404:
		return 12
	case 429, 502, 503, 504:
		return 14
	}
	return 2
}

// PercentEncode makes a grpc-message of text, as gRPC over HTTP/2 wants it.
func PercentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	clean := true
	for i := range len(s) {
		clean = clean && s[i] >= ' ' && s[i] <= '~' && s[i] != '%'
	}
	if clean {
		return s
	}
	var b []byte
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}
