package tulle

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Group of the API, and the version of it that is read.
const (
	Group   = "traffic.tulle.dev"
	version = "v1alpha1"
)

// maxLimits of one policy.
const maxLimits = 32

// Reader reads our own kinds.
type Reader struct{}

var _ dialect.Joiner = Reader{}

// Name implements dialect.Reader.
func (Reader) Name() string { return "tulle" }

// Claims implements dialect.Reader.
func (Reader) Claims(apiVersion, _ string) bool { return dialect.Group(apiVersion) == Group }

// Join implements dialect.Joiner: each object is understood by itself.
func (Reader) Join(o *source.Object) dialect.Join { return dialect.Join{Alone: o} }

// RequestPolicy says what the requests of a workload are held to.
type RequestPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              Spec `json:"spec"`
}

// Spec of a RequestPolicy. Without selector and targetRefs it is for every
// workload of its namespace.
type Spec struct {
	Selector   *Selector   `json:"selector,omitempty"`
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	RateLimits []RateLimit `json:"rateLimits,omitempty"`
	// Limits and Timeouts: of several policies, the strictest holds.
	Limits   *Limits   `json:"limits,omitempty"`
	Timeouts *Timeouts `json:"timeouts,omitempty"`
	// Compression: of several policies, the last by name; the root namespace's
	// come first.
	Compression *Compression `json:"compression,omitempty"`
}

// Limits of the size of a request.
type Limits struct {
	HeaderBytes int64 `json:"headerBytes,omitempty"` // of the whole head
	Headers     int64 `json:"headers,omitempty"`
	BodyBytes   int64 `json:"bodyBytes,omitempty"`
}

// Timeouts of a request, as 500ms, 10s or 1h.
type Timeouts struct {
	Headers string `json:"headers,omitempty"` // until the head has come
	Request string `json:"request,omitempty"` // until the request has come
	Idle    string `json:"idle,omitempty"`    // without a byte either way
	Stream  string `json:"stream,omitempty"`  // until the answer has ended
}

// Compression of answers, for clients that accept it.
type Compression struct {
	Algorithms   []string `json:"algorithms,omitempty"` // gzip, brotli
	ContentTypes []string `json:"contentTypes,omitempty"`
	MinBytes     *int64   `json:"minBytes,omitempty"`
}

// Selector of workloads.
type Selector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// TargetRef names a Service, or a Gateway of the Gateway API, of the same
// namespace.
type TargetRef struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// RateLimit of each proxy.
type RateLimit struct {
	Requests int64  `json:"requests"`
	Per      string `json:"per,omitempty"`   // a duration; 1s
	Burst    int64  `json:"burst,omitempty"` // as many as Requests
	Match    *Match `json:"match,omitempty"`
	By       []Key  `json:"by,omitempty"`
	// HideHeaders keeps x-ratelimit-* and retry-after out of answers.
	HideHeaders bool `json:"hideHeaders,omitempty"`
}

// Match says which requests count; all that is given must match.
type Match struct {
	Path    *Text           `json:"path,omitempty"` // without the query
	Method  *Text           `json:"method,omitempty"`
	Headers map[string]Text `json:"headers,omitempty"`
}

// Text is matched by exactly one of its fields.
type Text struct {
	Exact  *string `json:"exact,omitempty"`
	Prefix *string `json:"prefix,omitempty"`
	Regex  *string `json:"regex,omitempty"`
}

// Key gives each value of a header or of an attribute of the request a limit of
// its own. Exactly one field is set.
type Key struct {
	Header    string `json:"header,omitempty"`
	Attribute string `json:"attribute,omitempty"` // Address, Path or Principal
}

// Read implements dialect.Reader.
func (Reader) Read(objects []*source.Object) (out model.Fragment, notices []model.Notice) {
	for _, o := range objects {
		r := &reading{dialect.Report{Object: o}}
		if p := r.object(); p != nil {
			out.Requests = append(out.Requests, p)
		}
		notices = append(notices, r.Notices...)
	}
	return out, notices
}

type reading struct{ dialect.Report }

// object reads one; nil when it is not in effect.
func (r *reading) object() *model.RequestPolicy {
	o := r.Object
	switch {
	case o.Kind != "RequestPolicy":
		r.Add(model.Error, model.UnknownKind, "kind", "%s has no kind %s; it has RequestPolicy", Group, o.Kind)
		return nil
	case dialect.Version(o.APIVersion) != version:
		r.Add(model.Error, model.UnknownKind, "apiVersion", "%s is not a version that is served; use %s/%s", o.APIVersion, Group, version)
		return nil
	}
	var in RequestPolicy
	if !dialect.Decode(&r.Report, &in) {
		return nil
	}
	if r.unknown() {
		return nil
	}
	p := &model.RequestPolicy{Name: o.Name, Namespace: o.Namespace, Origin: o.Origin("")}
	r.targets(p, &in.Spec)
	if n := len(in.Spec.RateLimits); n > maxLimits {
		r.Invalid("spec.rateLimits", "%d limits; one policy may have %d", n, maxLimits)
	}
	for i := range in.Spec.RateLimits {
		p.Limits = append(p.Limits, r.limit("spec.rateLimits["+strconv.Itoa(i)+"]", &in.Spec.RateLimits[i]))
	}
	r.bounds(&p.Bounds, &in.Spec)
	p.Compress = r.compression(in.Spec.Compression)
	if r.Errors() > 0 { // half a limit would be another one
		return nil
	}
	if len(p.Limits) == 0 && p.Bounds == (model.RequestBounds{}) && p.Compress == nil {
		r.Doubtful("spec", "it asks for nothing")
	}
	return p
}

// unknown makes errors of fields that the API does not have: they would be
// limits that somebody counts on.
func (r *reading) unknown() bool {
	any := false
	for i := range r.Notices {
		if n := &r.Notices[i]; n.Reason == model.UnknownField {
			n.Severity, n.Text = model.Error, strings.Replace(n.Text, ": ignored", "", 1)
			any = true
		}
	}
	return any
}

func (r *reading) targets(p *model.RequestPolicy, s *Spec) {
	if s.Selector != nil {
		p.Selector = s.Selector.MatchLabels
		if len(s.TargetRefs) > 0 {
			r.Invalid("spec.targetRefs", "selector is given too; a policy has one of them")
		}
	}
	for i, t := range s.TargetRefs {
		at := "spec.targetRefs[" + strconv.Itoa(i) + "]"
		ref := model.Ref{Namespace: p.Namespace, Name: t.Name}
		switch {
		case t.Name == "":
			r.Invalid(at+".name", "it is missing")
		case t.Group == "" && t.Kind == "Service":
			p.Services = append(p.Services, ref)
		case t.Group == "gateway.networking.k8s.io" && t.Kind == "Gateway":
			p.Gateways = append(p.Gateways, ref)
		case t.Group == "networking.istio.io" && t.Kind == "Gateway":
			r.Invalid(at+".kind", "a Gateway of Istio's API is not a workload; select its workload by labels, as istio: ingressgateway")
		default:
			r.Invalid(at+".kind", "%q of group %q cannot be named; a Service, or a Gateway of gateway.networking.k8s.io, can", t.Kind, t.Group)
		}
	}
	if len(p.Services) > 0 && len(p.Gateways) > 0 {
		r.Invalid("spec.targetRefs", "Services and Gateways cannot be named together; write two policies")
	}
}

func (r *reading) limit(at string, in *RateLimit) model.RateLimit {
	out := model.RateLimit{Per: time.Second, Silent: in.HideHeaders, Origin: r.Object.Origin(at)}
	if in.Requests < 1 || in.Requests > math.MaxUint32 {
		r.Invalid(at+".requests", "%d is not between 1 and %d", in.Requests, uint32(math.MaxUint32))
	}
	out.Requests = uint32(in.Requests)
	if out.Burst = out.Requests; in.Burst != 0 {
		if in.Burst < 1 || in.Burst > math.MaxUint32 {
			r.Invalid(at+".burst", "%d is not between 1 and %d", in.Burst, uint32(math.MaxUint32))
		}
		out.Burst = uint32(in.Burst)
	}
	if in.Per != "" {
		d, err := time.ParseDuration(in.Per)
		switch {
		case err != nil:
			r.Invalid(at+".per", "%q is not a duration as 500ms, 1s or 1m", in.Per)
		case d < 50*time.Millisecond || d > 366*24*time.Hour:
			r.Invalid(at+".per", "%s is not between 50ms and a year", in.Per)
		}
		out.Per = d
	}
	if m := in.Match; m != nil {
		out.Path, out.Method = r.text(at+".match.path", m.Path), r.text(at+".match.method", m.Method)
		for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
			t := m.Headers[name]
			if x := r.text(at+".match.headers."+name, &t); x != nil {
				r.headerName(at+".match.headers."+name, name)
				out.Headers = append(out.Headers, model.NamedMatch{Name: strings.ToLower(name), StringMatch: *x})
			}
		}
	}
	for i, k := range in.By {
		out.By = append(out.By, r.key(at+".by["+strconv.Itoa(i)+"]", k))
	}
	return out
}

func (r *reading) key(at string, k Key) model.LimitKey {
	if (k.Header == "") == (k.Attribute == "") {
		r.Invalid(at, "exactly one of header and attribute is to be given")
		return model.LimitKey{}
	}
	if k.Header != "" {
		r.headerName(at+".header", k.Header)
		return model.LimitKey{Header: strings.ToLower(k.Header)}
	}
	switch k.Attribute {
	case "Address":
		return model.LimitKey{Kind: model.ByAddress}
	case "Path":
		return model.LimitKey{Kind: model.ByPath}
	case "Principal":
		return model.LimitKey{Kind: model.ByPrincipal}
	}
	r.Invalid(at+".attribute", "%q is none of Address, Path and Principal", k.Attribute)
	return model.LimitKey{}
}

var fieldName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]{1,256}$") // RFC 9110 section 5.1

func (r *reading) headerName(at, name string) {
	if !fieldName.MatchString(name) {
		r.Invalid(at, "%q is no header name", name)
	}
}

// text reads a match; nil when there is none, or when it is wrong.
func (r *reading) text(at string, t *Text) *model.StringMatch {
	if t == nil {
		return nil
	}
	var out *model.StringMatch
	n := 0
	for _, x := range []struct {
		kind model.MatchKind
		v    *string
	}{{model.Exact, t.Exact}, {model.Prefix, t.Prefix}, {model.Regex, t.Regex}} {
		if x.v != nil {
			out = &model.StringMatch{Kind: x.kind, Value: *x.v}
			n++
		}
	}
	if n != 1 {
		r.Invalid(at, "exactly one of exact, prefix and regex is to be given")
		return nil
	}
	if out.Kind == model.Regex {
		if _, err := regexp.Compile(out.Value); err != nil {
			r.Invalid(at+".regex", "%v", err)
			return nil
		}
	}
	return out
}
