package conf

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// RateLimit is a local_ratelimit filter that acts.
type RateLimit struct {
	Key         string  // the filter's name and all that shapes its buckets
	Status      int     // of the answer to what is refused
	Whole       *Bucket // of requests that no descriptor matches; nil: no limit
	AlwaysWhole bool    // of those that one matches, too
	Descriptors []RateDescriptor
	Rules       []RateRule // what descriptors a request gives
	MaxValues   int        // buckets that are kept of each open descriptor
	Headers     bool       // x-ratelimit-* in every answer
	RetryAfter  bool       // retry-after in a 429
	Exhausted   bool       // gRPC RESOURCE_EXHAUSTED, not UNAVAILABLE
}

// Bucket holds up to Size tokens; Fill of them flow in, steadily, per Interval.
type Bucket struct {
	Size, Fill uint32
	Interval   time.Duration
}

// RateDescriptor has a bucket; one for each set of values when it is open.
type RateDescriptor struct {
	Entries []RateEntry
	Bucket  Bucket
}

// RateEntry of a descriptor; an empty Value is any.
type RateEntry struct{ Key, Value string }

// Open reports whether an entry may have any value.
func (d *RateDescriptor) Open() bool {
	return slices.ContainsFunc(d.Entries, func(e RateEntry) bool { return e.Value == "" })
}

// RateRule makes one descriptor of a request, unless an action has nothing to give.
type RateRule struct{ Actions []RateAction }

// RateKind of a RateAction.
type RateKind uint8

// Kinds. RatePath is without the query; RatePrincipal is the first URI of the
// client's certificate, empty without one.
const (
	RateFixed RateKind = iota
	RateHeader
	RateMatch // Value when all of Match do (or, with Invert, do not)
	RateAddress
	RatePath
	RatePrincipal
)

// RateAction makes one entry.
type RateAction struct {
	Kind     RateKind
	Key      string
	Value    []byte
	Header   string
	Optional bool // without the header there is no entry, but a descriptor
	Match    []HeaderMatch
	Invert   bool
}

// Bounds of a rate limit: what one request may cost, and what may be kept.
const (
	maxRateParts  = 32
	maxRateValues = 100_000
)

// Expressions of which we know what they say without an evaluator.
const (
	exprPath      = "request.url_path"
	exprPrincipal = "connection.uri_san_peer_certificate"
)

// rateLimit builds a local_ratelimit filter; nil when it limits nothing.
func (b *builder) rateLimit(name string, m *wire.LocalRateLimit) (*RateLimit, error) {
	on, err := allOrNothing(m.FilterEnabled, "filter_enabled")
	if err != nil {
		return nil, err
	}
	enforced, err := allOrNothing(m.FilterEnforced, "filter_enforced")
	if err != nil {
		return nil, err
	}
	r := &RateLimit{
		Status: 429, AlwaysWhole: or(m.AlwaysConsumeDefaultTokenBucket, true), MaxValues: int(or(m.MaxDynamicDescriptors, 20)),
		RetryAfter: m.EnableRetryAfterHeader, Exhausted: m.RateLimitedAsResourceExhausted,
		Headers: m.EnableXRatelimitHeaders == wire.XRateLimitHeadersRFCVersionDraftVersion03,
	}
	if m.Status != nil && m.Status.Code >= 400 {
		r.Status = int(m.Status.Code)
	}
	if r.Status > 599 {
		return nil, refuse("status", "%d is no status", r.Status)
	}
	if r.MaxValues < 1 || r.MaxValues > maxRateValues {
		return nil, refuse("max_dynamic_descriptors", "%d is not between 1 and %d", r.MaxValues, maxRateValues)
	}
	if m.TokenBucket != nil {
		bucket, err := tokenBucket(m.TokenBucket)
		if err != nil {
			return nil, in(err, "token_bucket")
		}
		r.Whole = &bucket
	}
	if len(m.Descriptors) > maxRateParts || len(m.RateLimits) > maxRateParts {
		return nil, refuse("", "more than %d descriptors or rate limits", maxRateParts)
	}
	if err := r.descriptors(m.Descriptors); err != nil {
		return nil, err
	}
	for i, l := range m.RateLimits {
		rule, err := b.rateRule(l)
		if err != nil {
			return nil, inIndex(err, "rate_limits", i)
		}
		r.Rules = append(r.Rules, rule)
	}
	if !on || !enforced {
		return nil, nil
	}
	r.Key = r.key(name)
	return r, nil
}

func (r *RateLimit) descriptors(ms []*wire.LocalRateLimitDescriptor) error {
	for i, m := range ms {
		d := RateDescriptor{}
		for _, e := range m.Entries {
			d.Entries = append(d.Entries, RateEntry{e.Key, e.Value})
		}
		if len(d.Entries) == 0 || len(d.Entries) > maxRateParts {
			return inIndex(refuse("entries", "none, or more than %d", maxRateParts), "descriptors", i)
		}
		if m.TokenBucket == nil {
			return inIndex(refuse("token_bucket", "missing"), "descriptors", i)
		}
		var err error
		if d.Bucket, err = tokenBucket(m.TokenBucket); err != nil {
			return inIndex(in(err, "token_bucket"), "descriptors", i)
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	return nil
}

// key tells buckets apart that must not be shared.
func (r *RateLimit) key(name string) string {
	var b strings.Builder
	fmt.Fprint(&b, name, r.MaxValues, r.Whole)
	for _, d := range r.Descriptors {
		fmt.Fprintf(&b, "|%q%v", d.Entries, d.Bucket)
	}
	return b.String()
}

// allOrNothing reads a share of requests, of which we support all and none.
func allOrNothing(m *wire.RuntimeFractionalPercent, field string) (bool, error) {
	n, err := runtimeMillion(m, 0)
	if err == nil && n != 0 && n != 1_000_000 {
		err = refuse("", "only 0 and 100 per cent are supported")
	}
	return n != 0, in(err, field)
}

func tokenBucket(m *wire.TokenBucket) (Bucket, error) {
	b := Bucket{Size: m.MaxTokens, Fill: or(m.TokensPerFill, 1)}
	if m.FillInterval != nil {
		b.Interval = *m.FillInterval
	}
	switch {
	case b.Size == 0:
		return b, refuse("max_tokens", "0")
	case b.Fill == 0:
		return b, refuse("tokens_per_fill", "0")
	case b.Interval < 50*time.Millisecond || b.Interval > 366*24*time.Hour:
		return b, refuse("fill_interval", "%v is not between 50ms and a year", b.Interval)
	}
	return b, nil
}

func (b *builder) rateRule(m *wire.RateLimit) (RateRule, error) {
	var out RateRule
	if len(m.Actions) == 0 || len(m.Actions) > maxRateParts {
		return out, refuse("actions", "none, or more than %d", maxRateParts)
	}
	for i, a := range m.Actions {
		act, err := b.rateAction(a)
		if err == nil && act.Key == "" {
			err = refuse("descriptor_key", "empty")
		}
		if err != nil {
			return out, inIndex(err, "actions", i)
		}
		out.Actions = append(out.Actions, act)
	}
	return out, nil
}

func (b *builder) rateAction(m *wire.RateLimitAction) (RateAction, error) {
	switch {
	case m.RequestHeaders != nil:
		h := m.RequestHeaders
		out := RateAction{Kind: RateHeader, Key: h.DescriptorKey, Header: strings.ToLower(h.HeaderName), Optional: h.SkipIfAbsent}
		if !headerName(strings.TrimPrefix(out.Header, ":")) {
			return out, in(refuse("header_name", "%q is no header name", h.HeaderName), "request_headers")
		}
		return out, nil
	case m.RemoteAddress != nil:
		return RateAction{Kind: RateAddress, Key: "remote_address"}, nil
	case m.GenericKey != nil:
		key := m.GenericKey.DescriptorKey
		if key == "" {
			key = "generic_key"
		}
		return RateAction{Key: key, Value: []byte(m.GenericKey.DescriptorValue)}, nil
	case m.HeaderValueMatch != nil:
		h := m.HeaderValueMatch
		out := RateAction{Kind: RateMatch, Key: h.DescriptorKey, Value: []byte(h.DescriptorValue), Invert: !or(h.ExpectMatch, true)}
		if out.Key == "" {
			out.Key = "header_match"
		}
		for i, x := range h.Headers {
			hm, err := b.headerMatch(x)
			if err != nil {
				return out, in(inIndex(err, "headers", i), "header_value_match")
			}
			out.Match = append(out.Match, hm)
		}
		return out, nil
	case m.Extension != nil && m.Extension.TypedConfig != nil:
		e, ok := m.Extension.TypedConfig.Msg.(*wire.Descriptor)
		if !ok {
			return RateAction{}, refuse("extension", "not supported")
		}
		switch or(e.Text, "") {
		case exprPath:
			return RateAction{Kind: RatePath, Key: e.DescriptorKey}, nil
		case exprPrincipal:
			return RateAction{Kind: RatePrincipal, Key: e.DescriptorKey}, nil
		}
		return RateAction{}, refuse("extension.text", "only %s and %s are supported", exprPath, exprPrincipal)
	}
	return RateAction{}, refuse("", "no action")
}
