package route

import (
	"bytes"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Timeouts of one request; 0 is none.
type Timeouts struct {
	Total  time.Duration // from the end of the request to the end of the response
	PerTry time.Duration
}

// TimeoutsFor settles the timeouts of a request from its route, its retry
// policy (nil: none) and its headers: grpc-timeout where the route lets it,
// x-envoy-upstream-rq-timeout-ms and x-envoy-upstream-rq-per-try-timeout-ms,
// which win. The head is not changed, see TimeoutHeaders.
func TimeoutsFor(f *conf.Forward, retry *conf.Retry, h *stream.Head) Timeouts {
	t := Timeouts{Total: f.Timeout}
	if f.MaxGRPC >= 0 && IsGRPC(h) {
		t.Total, _ = grpcTimeout(h.Get("grpc-timeout"))
		if f.MaxGRPC > 0 && (t.Total == 0 || t.Total > f.MaxGRPC) {
			t.Total = f.MaxGRPC
		}
	}
	if retry != nil {
		t.PerTry = retry.PerTryTimeout
	}
	if ms, ok := millis(h.Get("x-envoy-upstream-rq-timeout-ms")); ok {
		t.Total = ms
	}
	if ms, ok := millis(h.Get("x-envoy-upstream-rq-per-try-timeout-ms")); ok {
		t.PerTry = ms
	}
	if t.PerTry >= t.Total && t.Total != 0 {
		t.PerTry = 0
	}
	return t
}

// TimeoutHeaders removes the timeout requests from h, tells the upstream how
// long we will wait (x-envoy-expected-rq-timeout-ms), and for gRPC with a
// capped or given timeout rewrites grpc-timeout.
func TimeoutHeaders(f *conf.Forward, t Timeouts, h *stream.Head) {
	h.Del("x-envoy-upstream-rq-timeout-ms")
	h.Del("x-envoy-upstream-rq-per-try-timeout-ms")
	expect := t.PerTry
	if expect == 0 {
		expect = t.Total
	}
	if expect <= 0 {
		return
	}
	var buf [32]byte
	h.Set("x-envoy-expected-rq-timeout-ms", appendInt(buf[:0], expect.Milliseconds()))
	if f.MaxGRPC >= 0 && IsGRPC(h) {
		h.Set("grpc-timeout", appendGRPCTimeout(buf[:0], expect))
	}
}

// grpcTimeout reads a grpc-timeout: up to eight digits and a unit.
func grpcTimeout(v []byte) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	n, ok := parseInt(v[:len(v)-1])
	if !ok || n < 0 || v[0] == '+' || v[0] == '-' {
		return 0, false
	}
	unit := time.Duration(0)
	switch v[len(v)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	if n > int64(1<<63-1)/int64(unit) {
		return 1<<63 - 1, true
	}
	d := time.Duration(n) * unit
	if d > 0 && d < time.Millisecond {
		d = time.Millisecond // shorter ones are rounded up, 0 would mean none
	}
	return d, true
}

func appendGRPCTimeout(dst []byte, d time.Duration) []byte {
	const most = 99999999
	n, unit := d.Milliseconds(), byte('m')
	if n > most {
		n, unit = n/1000, 'S'
	}
	if n > most {
		n, unit = n/60, 'M'
	}
	if n > most {
		n, unit = min(n/60, most), 'H'
	}
	return append(appendInt(dst, n), unit)
}

// millis reads a whole number of milliseconds; absent or odd ones do not count.
func millis(v []byte) (time.Duration, bool) {
	if v == nil {
		return 0, false
	}
	n, ok := parseInt(v)
	if !ok || n < 0 || n > int64(1<<63-1)/int64(time.Millisecond) {
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}

func appendInt(dst []byte, n int64) []byte {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			break
		}
	}
	return append(dst, b[i:]...)
}

// RetryPolicy is the policy in force: the route's, else the virtual host's,
// else nil.
func RetryPolicy(v *conf.VirtualHost, f *conf.Forward) *conf.Retry {
	if f.Retry != nil {
		return f.Retry
	}
	return v.Retry
}

// RetryHeaders are what a client asked for: x-envoy-retry-on,
// x-envoy-retry-grpc-on (both add conditions) and x-envoy-max-retries (0: not
// given, then one retry when a condition was given without a policy).
func RetryHeaders(h *stream.Head) (on conf.RetryOn, attempts int) {
	on = tokens(h.Get("x-envoy-retry-on")) | tokens(h.Get("x-envoy-retry-grpc-on"))
	if n, ok := parseInt(h.Get("x-envoy-max-retries")); ok && n > 0 && n < 1<<16 {
		attempts = int(n)
	}
	return on, attempts
}

// retryTokens in the order of conf's bits.
var retryTokens = [...]string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream",
	"retriable-4xx", "retriable-status-codes", "envoy-ratelimited", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

func tokens(v []byte) (on conf.RetryOn) {
	for len(v) > 0 {
		t := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			t, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		t = bytes.TrimSpace(t)
		for i, s := range retryTokens {
			if string(t) == s {
				on |= 1 << i
			}
		}
	}
	return on
}

// RetryWords lists conditions by Envoy's tokens.
func RetryWords(on conf.RetryOn) []string {
	var out []string
	for i, s := range retryTokens {
		if on&(1<<i) != 0 {
			out = append(out, s)
		}
	}
	return out
}

// Retries reports whether a response asks for another attempt under on. The
// trailers-only or trailing grpc-status counts as a response head here.
func Retries(on conf.RetryOn, codes []int, h *stream.Head) bool {
	s := h.Status
	if on&conf.OnEnvoyRateLimited == 0 && h.Has("x-envoy-ratelimited") {
		return false
	}
	switch {
	case on&conf.OnEnvoyRateLimited != 0 && h.Has("x-envoy-ratelimited"):
		return true
	case on&conf.On5xx != 0 && s >= 500 && s < 600:
		return true
	case on&conf.OnGatewayError != 0 && (s == 502 || s == 503 || s == 504):
		return true
	case on&conf.OnRetriable4xx != 0 && s == 409:
		return true
	case on&conf.OnRetriableCodes != 0:
		for _, c := range codes {
			if s == c {
				return true
			}
		}
	}
	const grpc = conf.OnGRPCCancelled | conf.OnGRPCDeadline | conf.OnGRPCInternal | conf.OnGRPCExhausted | conf.OnGRPCUnavailable
	if on&grpc == 0 {
		return false
	}
	n, ok := parseInt(h.Get("grpc-status"))
	return ok && (n == 1 && on&conf.OnGRPCCancelled != 0 || n == 4 && on&conf.OnGRPCDeadline != 0 ||
		n == 13 && on&conf.OnGRPCInternal != 0 || n == 8 && on&conf.OnGRPCExhausted != 0 ||
		n == 14 && on&conf.OnGRPCUnavailable != 0)
}

// RetriesReset reports whether a reset asks for another attempt under on.
// begun says that request bytes had been sent when it came. As Envoy does, any
// reset but an overflow counts as a gateway error, since it would end in one.
func RetriesReset(on conf.RetryOn, r stream.Reset, begun bool) bool {
	switch r {
	case stream.ConnectFailed, stream.ConnectTimedOut, stream.TLSFailed:
		return on&(conf.On5xx|conf.OnGatewayError|conf.OnReset|conf.OnConnectFailure|conf.OnResetBeforeRequest) != 0
	case stream.Refused:
		return on&(conf.On5xx|conf.OnGatewayError|conf.OnReset|conf.OnRefusedStream) != 0 || on&conf.OnResetBeforeRequest != 0 && !begun
	case stream.Overflow, stream.NoReset:
		return false
	}
	return on&(conf.On5xx|conf.OnGatewayError|conf.OnReset) != 0 || on&conf.OnResetBeforeRequest != 0 && !begun
}
