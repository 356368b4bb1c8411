package lower

import (
	"regexp"
	"slices"
	"strings"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corspb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	prevhostspb "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	prevpriopb "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// forward lowers a route that leads to clusters.
func (l *Lowering) forward(r *model.Route) *routepb.RouteAction {
	a := l.destinations(r)
	setTimeout(a, r.Timeout)
	if r.NotFound == 500 {
		a.ClusterNotFoundResponseCode = routepb.RouteAction_INTERNAL_SERVER_ERROR
	}
	a.RetryPolicy = retryPolicy(r.Retry, r.Hash != nil)
	l.rewrite(r, a)
	for _, m := range r.Mirrors {
		if m.Percent <= 0 {
			continue
		}
		a.RequestMirrorPolicies = append(a.RequestMirrorPolicies, &routepb.RouteAction_RequestMirrorPolicy{
			Cluster:                       m.Cluster,
			RuntimeFraction:               &corepb.RuntimeFractionalPercent{DefaultValue: fraction(m.Percent)},
			TraceSampled:                  no(),
			DisableShadowHostSuffixAppend: true,
		})
	}
	if r.Hash != nil {
		a.HashPolicy = []*routepb.RouteAction_HashPolicy{hashPolicy(r.Hash)}
	}
	return a
}

// setTimeout always says it: Envoy's own default is 15 s. A grpc-timeout
// header is obeyed up to the route's timeout.
func setTimeout(a *routepb.RouteAction, d time.Duration) {
	a.Timeout = dur(d)
	a.MaxGrpcTimeout = dur(d) //nolint:staticcheck // its replacement also limits streams
}

// destinations writes one cluster or several weighted ones.
func (l *Lowering) destinations(r *model.Route) *routepb.RouteAction {
	a := &routepb.RouteAction{}
	switch len(r.Backends) {
	case 0: // not by link; a route that leads nowhere answers 503
		a.ClusterSpecifier = &routepb.RouteAction_Cluster{Cluster: blackHoleCluster}
	case 1:
		a.ClusterSpecifier = &routepb.RouteAction_Cluster{Cluster: r.Backends[0].Cluster}
		if to := r.Backends[0].Authority; to != "" {
			a.HostRewriteSpecifier = &routepb.RouteAction_HostRewriteLiteral{HostRewriteLiteral: to}
		}
	default:
		a.ClusterSpecifier = &routepb.RouteAction_WeightedClusters{WeightedClusters: l.weighted(r)}
	}
	return a
}

func (l *Lowering) weighted(r *model.Route) *routepb.WeightedCluster {
	var total uint32
	for _, b := range r.Backends {
		total += b.Weight
	}
	out := &routepb.WeightedCluster{}
	for _, b := range r.Backends {
		weight := b.Weight
		if total == 0 { // Envoy refuses a sum of zero
			weight = 1
		}
		req, resp := l.headerOps(b.Headers, originOr(b.Origin, r.Origin))
		cw := &routepb.WeightedCluster_ClusterWeight{
			Name:                    b.Cluster,
			Weight:                  u32(weight),
			RequestHeadersToAdd:     req.add,
			RequestHeadersToRemove:  req.remove,
			ResponseHeadersToAdd:    resp.add,
			ResponseHeadersToRemove: resp.remove,
		}
		if b.Authority != "" {
			cw.HostRewriteSpecifier = &routepb.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: b.Authority}
		}
		out.Clusters = append(out.Clusters, cw)
	}
	return out
}

// rewrite of path and authority.
func (l *Lowering) rewrite(r *model.Route, a *routepb.RouteAction) {
	w := r.Rewrite
	if w == nil {
		return
	}
	if w.Authority != "" {
		a.HostRewriteSpecifier = &routepb.RouteAction_HostRewriteLiteral{HostRewriteLiteral: w.Authority}
	}
	switch m := r.Match.Path; {
	case w.Regex != "":
		a.RegexRewrite = &matcherpb.RegexMatchAndSubstitute{Pattern: regex(w.Regex), Substitution: w.Replace}
	case w.Path == "/" && m != nil && m.Kind == model.PathPrefix:
		a.RegexRewrite = dropSegments(m.Value)
	case w.Path != "":
		// Envoy replaces the matched prefix, or the whole path where the match
		// was exact or by expression.
		a.PrefixRewrite = w.Path
	}
}

// dropSegments replaces a matched path prefix by "/" without doubling the slash.
func dropSegments(prefix string) *matcherpb.RegexMatchAndSubstitute {
	return &matcherpb.RegexMatchAndSubstitute{
		Pattern:      regex("^" + regexp.QuoteMeta(strings.TrimRight(prefix, "/")) + "/*(.*)$"),
		Substitution: `/\1`,
	}
}

func retryPolicy(r *model.Retry, hashed bool) *routepb.RetryPolicy {
	if r == nil || r.Attempts <= 0 {
		return nil
	}
	on := slices.Clone(r.On)
	if len(r.Codes) > 0 && !slices.Contains(on, "retriable-status-codes") {
		on = append(on, "retriable-status-codes")
	}
	out := &routepb.RetryPolicy{RetryOn: strings.Join(on, ","), NumRetries: u32(uint32(r.Attempts))}
	for _, c := range r.Codes {
		out.RetriableStatusCodes = append(out.RetriableStatusCodes, uint32(c))
	}
	if r.PerTryTimeout > 0 {
		out.PerTryTimeout = dur(r.PerTryTimeout)
	}
	avoid := !hashed // a hashed request must reach the same endpoint again
	if r.IgnorePrevious != nil {
		avoid = *r.IgnorePrevious
	}
	if avoid {
		out.RetryHostPredicate = []*routepb.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routepb.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&prevhostspb.PreviousHostsPredicate{})},
		}}
		out.HostSelectionRetryMaxAttempts = 5
	}
	if r.RemoteLocality != nil && *r.RemoteLocality {
		out.RetryPriority = &routepb.RetryPolicy_RetryPriority{
			Name:       "envoy.retry_priorities.previous_priorities",
			ConfigType: &routepb.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: pack(&prevpriopb.PreviousPrioritiesConfig{UpdateFrequency: 2})},
		}
	}
	if base := r.BackoffBase; base > 0 {
		longest := r.BackoffMax
		if longest < base {
			longest = 10 * base
		}
		out.RetryBackOff = &routepb.RetryPolicy_RetryBackOff{BaseInterval: dur(base), MaxInterval: dur(longest)}
	}
	return out
}

func hashPolicy(h *model.HashKey) *routepb.RouteAction_HashPolicy {
	switch {
	case h.Header != "":
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_Header_{
			Header: &routepb.RouteAction_HashPolicy_Header{HeaderName: h.Header}}}
	case h.Query != "":
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routepb.RouteAction_HashPolicy_QueryParameter{Name: h.Query}}}
	case h.Cookie != nil:
		c := &routepb.RouteAction_HashPolicy_Cookie{Name: h.Cookie.Name, Path: h.Cookie.Path}
		if h.Cookie.TTL != nil {
			c.Ttl = dur(*h.Cookie.TTL)
		}
		for _, a := range h.Cookie.Attributes {
			c.Attributes = append(c.Attributes, &routepb.RouteAction_HashPolicy_CookieAttribute{Name: a.Name, Value: a.Value})
		}
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_Cookie_{Cookie: c}}
	default:
		return &routepb.RouteAction_HashPolicy{PolicySpecifier: &routepb.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routepb.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true}}}
	}
}

// fraction of 100 in parts per million.
func fraction(percent float64) *typepb.FractionalPercent {
	n := min(max(percent, 0), 100) * 10000
	return &typepb.FractionalPercent{Numerator: uint32(n + 0.5), Denominator: typepb.FractionalPercent_MILLION}
}

// perFilter is the route's configuration of the fault and CORS filters.
func (l *Lowering) perFilter(r *model.Route) map[string]*anypb.Any {
	out := map[string]*anypb.Any{}
	if f := l.fault(r); f != nil {
		out[faultFilter] = pack(f)
	}
	if r.CORS != nil {
		out[corsFilter] = pack(cors(r.CORS))
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (l *Lowering) fault(r *model.Route) *faultpb.HTTPFault {
	f := r.Fault
	if f == nil {
		return nil
	}
	out := &faultpb.HTTPFault{}
	if f.Delay > 0 && f.DelayPercent > 0 {
		out.Delay = &commonfaultpb.FaultDelay{
			FaultDelaySecifier: &commonfaultpb.FaultDelay_FixedDelay{FixedDelay: dur(f.Delay)},
			Percentage:         fraction(f.DelayPercent),
		}
	}
	if f.HasAbort && f.AbortPercent > 0 {
		out.Abort = &faultpb.FaultAbort{Percentage: fraction(f.AbortPercent)}
		if f.AbortStatus != 0 {
			out.Abort.ErrorType = &faultpb.FaultAbort_HttpStatus{HttpStatus: l.status(f.AbortStatus, 500, r.Origin, "fault")}
		} else {
			out.Abort.ErrorType = &faultpb.FaultAbort_GrpcStatus{GrpcStatus: uint32(max(f.AbortGRPC, 0))}
		}
	}
	if out.Delay == nil && out.Abort == nil {
		return nil
	}
	return out
}

func cors(c *model.CORS) *corspb.CorsPolicy {
	out := &corspb.CorsPolicy{
		AllowMethods:  strings.Join(c.AllowMethods, ","),
		AllowHeaders:  strings.Join(c.AllowHeaders, ","),
		ExposeHeaders: strings.Join(c.ExposeHeaders, ","),
		FilterEnabled: &corepb.RuntimeFractionalPercent{
			DefaultValue: &typepb.FractionalPercent{Numerator: 100, Denominator: typepb.FractionalPercent_HUNDRED}},
		ForwardNotMatchingPreflights: wrapperspb.Bool(!c.IgnoreUnmatched),
	}
	for _, o := range c.AllowOrigins {
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, stringMatch(o))
	}
	if c.MaxAge != nil {
		out.MaxAge = seconds(*c.MaxAge)
	}
	if c.AllowCredentials != nil {
		out.AllowCredentials = wrapperspb.Bool(*c.AllowCredentials)
	}
	return out
}
