package conf

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// forward builds a RouteAction.
func (b *builder) forward(m *wire.RouteAction) (*Forward, error) {
	f := &Forward{
		PrefixRewrite: m.PrefixRewrite, HasPrefixRewrite: m.PrefixRewrite != "",
		HostRewrite: or(m.HostRewriteLiteral, ""), AutoHost: or(m.AutoHostRewrite, false), AppendXFH: m.AppendXForwardedHost,
		MaxGRPC: -1,
	}
	if err := f.clusters(m); err != nil {
		return nil, err
	}
	for _, s := range []string{f.PrefixRewrite, f.HostRewrite} {
		if !headerValue(s) {
			return nil, refuse("", "%q cannot stand in a request", s)
		}
	}
	if m.RegexRewrite != nil {
		if f.HasPrefixRewrite {
			return nil, refuse("regex_rewrite", "prefix_rewrite is set too")
		}
		re, err := b.searchRegex(m.RegexRewrite.Pattern)
		if err != nil {
			return nil, in(err, "regex_rewrite.pattern")
		}
		f.RegexRewrite, f.RegexReplace = re, m.RegexRewrite.Substitution
		if err := substitution(f.RegexReplace, re.NumSubexp()); err != nil {
			return nil, in(err, "regex_rewrite.substitution")
		}
	}
	if err := f.times(m); err != nil {
		return nil, err
	}
	var err error
	if f.Retry, err = b.retry(m.RetryPolicy); err != nil {
		return nil, in(err, "retry_policy")
	}
	for i, p := range m.RequestMirrorPolicies {
		ppm, _ := runtimeMillion(p.RuntimeFraction, 1_000_000)
		if p.Cluster == "" {
			return nil, inIndex(refuse("cluster", "empty"), "request_mirror_policies", i)
		}
		f.Mirrors = append(f.Mirrors, Mirror{Cluster: p.Cluster, Fraction: ppm, NoSuffix: p.DisableShadowHostSuffixAppend})
	}
	for i, p := range m.HashPolicy {
		h, err := hashPolicy(p)
		if err != nil {
			return nil, inIndex(err, "hash_policy", i)
		}
		f.Hash = append(f.Hash, h)
	}
	for _, u := range m.UpgradeConfigs {
		if f.Upgrades == nil {
			f.Upgrades = map[string]bool{}
		}
		f.Upgrades[strings.ToLower(u.UpgradeType)] = or(u.Enabled, true)
		if u.ConnectConfig != nil && or(u.Enabled, true) {
			if f.ConnectTCP = strings.EqualFold(u.UpgradeType, "CONNECT"); !f.ConnectTCP {
				return nil, refuse("upgrade_configs", "connect_config belongs to CONNECT")
			}
		}
	}
	switch m.ClusterNotFoundResponseCode {
	case wire.RouteActionClusterNotFoundResponseCodeNotFound:
		f.NotFoundCode = 404
	case wire.RouteActionClusterNotFoundResponseCodeInternalServerError:
		f.NotFoundCode = 500
	}
	return f, nil
}

func (f *Forward) clusters(m *wire.RouteAction) error {
	switch {
	case m.Cluster != nil:
		if *m.Cluster == "" {
			return refuse("cluster", "empty")
		}
		f.Clusters, f.Total = []WeightedCluster{{Name: *m.Cluster, Weight: 1}}, 1
	case m.ClusterHeader != nil:
		f.ClusterHeader = strings.ToLower(*m.ClusterHeader)
		if !headerName(strings.TrimPrefix(f.ClusterHeader, ":")) {
			return refuse("cluster_header", "%q is no header name", f.ClusterHeader)
		}
	case m.WeightedClusters != nil:
		return in(f.weighted(m.WeightedClusters), "weighted_clusters")
	default:
		return refuse("", "no cluster")
	}
	return nil
}

func (f *Forward) weighted(m *wire.WeightedCluster) error {
	var total uint64
	for i, c := range m.Clusters {
		w := WeightedCluster{Name: c.Name, Weight: or(c.Weight, 0), HostRewrite: or(c.HostRewriteLiteral, "")}
		var err error
		if c.Name == "" {
			err = refuse("name", "empty")
		}
		if err == nil {
			w.Request, err = headerEdit(c.RequestHeadersToAdd, c.RequestHeadersToRemove, "request_headers")
		}
		if err == nil {
			w.Response, err = headerEdit(c.ResponseHeadersToAdd, c.ResponseHeadersToRemove, "response_headers")
		}
		if err != nil {
			return inIndex(err, "clusters", i)
		}
		total += uint64(w.Weight)
		f.Clusters = append(f.Clusters, w)
	}
	if total == 0 || total > math.MaxUint32 {
		return refuse("clusters", "the sum of weights is %d", total)
	}
	f.Total = uint32(total)
	return nil
}

func (f *Forward) times(m *wire.RouteAction) error {
	err := durations(
		durationField{&f.Timeout, m.Timeout, "timeout", defaultRouteTimeout, false},
		durationField{&f.IdleTimeout, m.IdleTimeout, "idle_timeout", 0, true},
		durationField{&f.MaxGRPC, m.MaxGrpcTimeout, "max_grpc_timeout", -1, false},
	)
	if d := m.MaxStreamDuration; err == nil && d != nil {
		err = in(durations(
			durationField{&f.MaxStream, d.MaxStreamDuration, "max_stream_duration", 0, false},
			durationField{&f.MaxGRPC, d.GrpcTimeoutHeaderMax, "grpc_timeout_header_max", f.MaxGRPC, false},
		), "max_stream_duration")
	}
	return err
}

// substitution checks \N references against the expression's groups.
func substitution(s string, groups int) error {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if i++; i == len(s) || s[i] != '\\' && (s[i] < '0' || s[i] > '9') {
			return refuse("", "%q: a backslash stands before a digit or a backslash", s)
		}
		if s[i] != '\\' && int(s[i]-'0') > groups {
			return refuse("", "%q: the expression has %d groups", s, groups)
		}
	}
	if !headerValue(s) {
		return refuse("", "%q cannot stand in a request", s)
	}
	return nil
}

func hashPolicy(m *wire.RouteActionHashPolicy) (HashPolicy, error) {
	h := HashPolicy{Terminal: m.Terminal}
	switch {
	case m.Header != nil:
		h.Header = strings.ToLower(m.Header.HeaderName)
		if !headerName(strings.TrimPrefix(h.Header, ":")) {
			return h, refuse("header.header_name", "%q is no header name", m.Header.HeaderName)
		}
	case m.Cookie != nil:
		h.Cookie, h.CookiePath, h.MakeCookie = m.Cookie.Name, m.Cookie.Path, m.Cookie.Ttl != nil
		if !headerName(h.Cookie) {
			return h, refuse("cookie.name", "%q is no cookie name", h.Cookie)
		}
		if !headerValue(h.CookiePath) || strings.Contains(h.CookiePath, ";") {
			return h, refuse("cookie.path", "%q is no cookie path", h.CookiePath)
		}
		for i, a := range m.Cookie.Attributes {
			if !headerName(a.Name) || !headerValue(a.Value) || strings.Contains(a.Value, ";") {
				return h, refuse(fmt.Sprintf("cookie.attributes[%d]", i), "%q is no cookie attribute", a.Name+"="+a.Value)
			}
			h.CookieAttributes += "; " + a.Name
			if a.Value != "" {
				h.CookieAttributes += "=" + a.Value
			}
		}
		var err error
		if h.CookieTTL, err = duration(m.Cookie.Ttl, "cookie.ttl", 0); err != nil {
			return h, err
		}
	case m.ConnectionProperties != nil:
		if h.SourceIP = m.ConnectionProperties.SourceIp; !h.SourceIP {
			return h, refuse("connection_properties", "only source_ip is supported")
		}
	case m.QueryParameter != nil:
		if h.Query = m.QueryParameter.Name; h.Query == "" {
			return h, refuse("query_parameter.name", "empty")
		}
	default:
		return h, refuse("", "no source")
	}
	return h, nil
}

// retryTokens are Envoy's conditions, of retry_on and of the gRPC list alike.
var retryTokens = map[string]RetryOn{
	"5xx": On5xx, "gateway-error": OnGatewayError, "reset": OnReset,
	"reset-before-request": OnResetBeforeRequest, "connect-failure": OnConnectFailure,
	"refused-stream": OnRefusedStream, "retriable-4xx": OnRetriable4xx,
	"retriable-status-codes": OnRetriableCodes, "envoy-ratelimited": OnEnvoyRateLimited,
	"http3-post-connect-failure": OnHTTP3Failure,
	"cancelled":                  OnGRPCCancelled, "deadline-exceeded": OnGRPCDeadline, "internal": OnGRPCInternal,
	"resource-exhausted": OnGRPCExhausted, "unavailable": OnGRPCUnavailable,
}

// retry builds a RetryPolicy; nil stays nil, and no condition means no retry.
func (b *builder) retry(m *wire.RetryPolicy) (*Retry, error) {
	if m == nil {
		return nil, nil
	}
	r := &Retry{Attempts: int(min(or(m.NumRetries, 1), 1000))}
	for tok := range strings.SplitSeq(m.RetryOn, ",") {
		tok = strings.TrimSpace(tok)
		on, ok := retryTokens[tok]
		if !ok && tok != "" {
			return nil, refuse("retry_on", "%q is not known", tok)
		}
		r.On |= on
	}
	for i, c := range m.RetriableStatusCodes {
		if c < 100 || c > 599 {
			return nil, inIndex(refuse("", "%d is no HTTP status", c), "retriable_status_codes", i)
		}
		r.Codes = append(r.Codes, int(c))
	}
	if m.HostSelectionRetryMaxAttempts < 0 || m.HostSelectionRetryMaxAttempts > 1000 {
		return nil, refuse("host_selection_retry_max_attempts", "%d is not between 0 and 1000", m.HostSelectionRetryMaxAttempts)
	}
	r.PickAttempts = max(int(m.HostSelectionRetryMaxAttempts), 1)
	for i, p := range m.RetryHostPredicate {
		if p.TypedConfig == nil && p.Name != "envoy.retry_host_predicates.previous_hosts" {
			return nil, inIndex(refuse("name", "%q is not known", p.Name), "retry_host_predicate", i)
		}
		r.AvoidPrevious = true // the only predicate that the decoder lets pass
	}
	if p := m.RetryPriority; p != nil {
		if p.TypedConfig == nil {
			return nil, refuse("retry_priority.typed_config", "missing")
		}
		r.AllPriorities = true // the same
	}
	err := durations(
		durationField{&r.PerTryTimeout, m.PerTryTimeout, "per_try_timeout", 0, false},
		durationField{&r.PerTryIdle, m.PerTryIdleTimeout, "per_try_idle_timeout", 0, false},
	)
	if err != nil {
		return nil, err
	}
	r.BackoffBase, r.BackoffMax = 25*time.Millisecond, 250*time.Millisecond
	if o := m.RetryBackOff; o != nil {
		if o.BaseInterval == nil || *o.BaseInterval <= 0 {
			return nil, refuse("retry_back_off.base_interval", "it must be positive")
		}
		r.BackoffBase = max(*o.BaseInterval, time.Millisecond)
		if r.BackoffMax, err = duration(o.MaxInterval, "retry_back_off.max_interval", 10*r.BackoffBase); err != nil {
			return nil, err
		}
		if r.BackoffMax < r.BackoffBase {
			return nil, refuse("retry_back_off.max_interval", "less than base_interval")
		}
	}
	return r, nil
}
