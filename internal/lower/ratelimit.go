package lower

import (
	"fmt"
	"regexp"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratepb "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	limitpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	exprpb "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// limitValues is how many values of a limit that is split are kept apart.
const limitValues = 10_000

// rateLimits is a filter for each limit of the policies, to stand after those
// that deny: what is denied uses up nothing.
func (l *Lowering) rateLimits(ps []*model.RequestPolicy) []*hcmpb.HttpFilter {
	var out []*hcmpb.HttpFilter
	for _, p := range ps {
		l.origin(p.Origin)
		for i := range p.Limits {
			name := fmt.Sprintf("traffic.tulle.dev/%s/%s/%d", p.Namespace, p.Name, i)
			out = append(out, httpFilter(name, rateLimit(name, &p.Limits[i])))
		}
	}
	return out
}

func rateLimit(name string, r *model.RateLimit) *limitpb.LocalRateLimit {
	bucket := &typepb.TokenBucket{MaxTokens: r.Burst, TokensPerFill: u32(r.Requests), FillInterval: durationpb.New(r.Per)}
	all := &corepb.RuntimeFractionalPercent{DefaultValue: &typepb.FractionalPercent{Numerator: 100}}
	out := &limitpb.LocalRateLimit{
		StatPrefix:             name,
		FilterEnabled:          all,
		FilterEnforced:         all,
		EnableRetryAfterHeader: !r.Silent,
		// As gRPC's own servers say it.
		RateLimitedAsResourceExhausted: true,
	}
	if !r.Silent {
		out.EnableXRatelimitHeaders = ratepb.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03
	}
	match := limitMatch(r)
	if len(match)+len(r.By) == 0 {
		out.TokenBucket = bucket
		return out
	}
	d := &ratepb.LocalRateLimitDescriptor{TokenBucket: bucket}
	rule := &routepb.RateLimit{}
	if len(match) > 0 {
		rule.Actions = append(rule.Actions, &routepb.RateLimit_Action{ActionSpecifier: &routepb.RateLimit_Action_HeaderValueMatch_{
			HeaderValueMatch: &routepb.RateLimit_Action_HeaderValueMatch{DescriptorKey: "match", DescriptorValue: "yes", Headers: match}}})
		d.Entries = append(d.Entries, &ratepb.RateLimitDescriptor_Entry{Key: "match", Value: "yes"})
	}
	for i, k := range r.By {
		key, action := limitAction(i, k)
		rule.Actions = append(rule.Actions, action)
		d.Entries = append(d.Entries, &ratepb.RateLimitDescriptor_Entry{Key: key})
	}
	out.RateLimits, out.Descriptors = []*routepb.RateLimit{rule}, []*ratepb.LocalRateLimitDescriptor{d}
	if len(r.By) > 0 {
		out.MaxDynamicDescriptors = u32(limitValues)
	}
	return out
}

// limitMatch is what a request must have. Paths are compared without the query,
// which Envoy's :path has.
func limitMatch(r *model.RateLimit) []*routepb.HeaderMatcher {
	var out []*routepb.HeaderMatcher
	add := func(name string, m model.StringMatch) {
		out = append(out, &routepb.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routepb.HeaderMatcher_StringMatch{StringMatch: stringMatch(m)}})
	}
	if p := r.Path; p != nil {
		const query = `(?:\?.*)?`
		switch p.Kind {
		case model.Exact:
			add(":path", model.StringMatch{Kind: model.Regex, Value: regexp.QuoteMeta(p.Value) + query})
		case model.Regex:
			add(":path", model.StringMatch{Kind: model.Regex, Value: "(?:" + p.Value + ")" + query})
		default:
			add(":path", *p)
		}
	}
	if r.Method != nil {
		add(":method", *r.Method)
	}
	for _, h := range r.Headers {
		add(h.Name, h.StringMatch)
	}
	return out
}

func limitAction(i int, k model.LimitKey) (key string, a *routepb.RateLimit_Action) {
	expr := func(key, text string) (string, *routepb.RateLimit_Action) {
		return key, &routepb.RateLimit_Action{ActionSpecifier: &routepb.RateLimit_Action_Extension{Extension: &corepb.TypedExtensionConfig{
			Name:        "envoy.rate_limit_descriptors.expr",
			TypedConfig: pack(&exprpb.Descriptor{DescriptorKey: key, ExprSpecifier: &exprpb.Descriptor_Text{Text: text}}),
		}}}
	}
	switch k.Kind {
	case model.ByAddress:
		return "remote_address", &routepb.RateLimit_Action{ActionSpecifier: &routepb.RateLimit_Action_RemoteAddress_{RemoteAddress: &routepb.RateLimit_Action_RemoteAddress{}}}
	case model.ByPath:
		return expr("path", "request.url_path")
	case model.ByPrincipal:
		return expr("principal", "connection.uri_san_peer_certificate")
	}
	key = fmt.Sprintf("header_%d", i)
	return key, &routepb.RateLimit_Action{ActionSpecifier: &routepb.RateLimit_Action_RequestHeaders_{
		RequestHeaders: &routepb.RateLimit_Action_RequestHeaders{HeaderName: k.Header, DescriptorKey: key}}}
}
