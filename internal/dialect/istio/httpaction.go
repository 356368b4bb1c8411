package istio

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

func (r *reading) redirect(path string, in *networking.HTTPRedirect) *model.Redirect {
	if in == nil {
		return nil
	}
	out := &model.Redirect{Path: in.Uri, PathPrefix: in.PrefixRewrite, Authority: in.Authority, Scheme: in.Scheme, Code: int(in.RedirectCode)}
	if in.Uri != "" && in.PrefixRewrite != "" {
		r.Invalid(path, "uri and prefixRewrite exclude each other")
	}
	switch in.RedirectCode {
	case 0, 301, 302, 303, 307, 308:
	default:
		r.Invalid(path+".redirectCode", "%d is not one of 301, 302, 303, 307, 308", in.RedirectCode)
	}
	if in.Scheme != "" && in.Scheme != "http" && in.Scheme != "https" {
		r.Invalid(path+".scheme", "%q is neither http nor https", clip(in.Scheme))
	}
	r.headerValue(path+".uri", in.Uri)
	r.headerValue(path+".authority", in.Authority)
	r.headerValue(path+".prefixRewrite", in.PrefixRewrite)
	derived := false
	switch p := in.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.Port = r.port(path+".port", p.Port, false)
	case *networking.HTTPRedirect_DerivePort:
		derived = true
		out.FromRequestPort = p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT
	}
	if in.Uri == "" && in.PrefixRewrite == "" && in.Authority == "" && in.Scheme == "" && out.Port == 0 && !derived {
		r.Invalid(path, "one of uri, prefixRewrite, authority, scheme, port, derivePort is needed")
	}
	return out
}

func (r *reading) direct(path string, in *networking.HTTPDirectResponse) *model.DirectResponse {
	if in == nil {
		return nil
	}
	if in.Status < 200 || in.Status > 599 {
		r.Invalid(path+".status", "%d is not within 200 and 599", in.Status)
	}
	out := &model.DirectResponse{Status: int(in.Status)}
	switch b := in.Body.GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = []byte(b.String_)
	case *networking.HTTPBody_Bytes:
		out.Body = slices.Clone(b.Bytes)
	}
	switch size := len(out.Body); {
	case size > 1<<20:
		r.Invalid(path+".body", "%d bytes are more than the 1 MiB that a direct response may have", size)
	case size > 100<<10:
		r.Doubtful(path+".body", "%d bytes are much for a direct response", size)
	}
	return out
}

func (r *reading) rewrite(path string, in *networking.HTTPRewrite) *model.Rewrite {
	if in == nil {
		return nil
	}
	out := &model.Rewrite{Path: in.Uri, Authority: in.Authority}
	r.headerValue(path+".authority", in.Authority)
	if re := in.UriRegexRewrite; re != nil {
		if in.Uri != "" {
			r.Invalid(path, "uri and uriRegexRewrite exclude each other")
		}
		if re.Match == "" {
			r.Invalid(path+".uriRegexRewrite.match", "is missing")
		}
		r.regex(path+".uriRegexRewrite.match", re.Match)
		out.Regex, out.Replace = re.Match, re.Rewrite
	} else if in.Uri == "" && in.Authority == "" {
		r.Invalid(path, "one of uri, authority, uriRegexRewrite is needed")
	}
	return out
}

// retryTokens are Envoy's retry_on words, of HTTP and of gRPC.
var retryTokens = map[string]bool{
	"5xx": true, "gateway-error": true, "reset": true, "reset-before-request": true, "connect-failure": true,
	"envoy-ratelimited": true, "retriable-4xx": true, "refused-stream": true, "retriable-status-codes": true,
	"retriable-headers": true, "http3-post-connect-failure": true,
	"cancelled": true, "deadline-exceeded": true, "internal": true, "resource-exhausted": true, "unavailable": true,
}

func (r *reading) retry(path string, in *networking.HTTPRetry) *model.Retry {
	if in == nil {
		return nil
	}
	out := &model.Retry{
		Attempts:      int(r.count(path+".attempts", in.Attempts)),
		PerTryTimeout: r.duration(path+".perTryTimeout", in.PerTryTimeout, time.Millisecond),
		BackoffBase:   r.duration(path+".backoff", in.Backoff, time.Millisecond),
	}
	if in.Attempts == 0 && (in.PerTryTimeout != nil || in.RetryOn != "" || in.RetryRemoteLocalities != nil || in.Backoff != nil) {
		r.Invalid(path+".attempts", "is 0 or missing, which turns retries off, while other fields are set")
	}
	if v := in.RetryRemoteLocalities; v != nil {
		out.RemoteLocality = &v.Value
	}
	if v := in.RetryIgnorePreviousHosts; v != nil {
		out.IgnorePrevious = &v.Value
	}
	for word := range strings.SplitSeq(in.RetryOn, ",") {
		word = strings.TrimSpace(word)
		if word == "" {
			continue
		}
		if code, err := strconv.Atoi(word); err == nil {
			if code < 100 || code > 599 {
				r.Invalid(path+".retryOn", "%d is not a status code", code)
			}
			out.Codes = append(out.Codes, code)
			continue
		}
		if !retryTokens[word] {
			r.Invalid(path+".retryOn", "%q is not a condition for retries", clip(word))
			continue
		}
		out.On = append(out.On, word)
	}
	if len(out.Codes) > 0 && !slices.Contains(out.On, "retriable-status-codes") {
		out.On = append(out.On, "retriable-status-codes")
	}
	return out
}

var grpcCodes = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
	"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func (r *reading) fault(path string, in *networking.HTTPFaultInjection) *model.Fault {
	if in == nil {
		return nil
	}
	if in.Delay == nil && in.Abort == nil {
		r.Invalid(path, "one of delay, abort is needed")
	}
	out := &model.Fault{AbortGRPC: -1}
	if d := in.Delay; d != nil {
		at := path + ".delay"
		switch d.HttpDelayType.(type) {
		case *networking.HTTPFaultInjection_Delay_FixedDelay:
			out.Delay = r.duration(at+".fixedDelay", d.GetFixedDelay(), time.Millisecond)
		case nil:
			r.Invalid(at, "fixedDelay is missing")
		}
		out.DelayPercent = r.percentOf(at, d.Percentage, d.Percent) //nolint:staticcheck // read as long as the API has it
	}
	if a := in.Abort; a != nil {
		at := path + ".abort"
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			if e.HttpStatus < 200 || e.HttpStatus > 600 {
				r.Invalid(at+".httpStatus", "%d is not a status code within 200 and 600", e.HttpStatus)
			}
			out.AbortStatus, out.HasAbort = int(e.HttpStatus), true
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			code := slices.Index(grpcCodes, strings.ToUpper(e.GrpcStatus))
			if code < 0 {
				r.Invalid(at+".grpcStatus", "%q is not a gRPC status such as UNAVAILABLE", clip(e.GrpcStatus))
			}
			out.AbortGRPC, out.HasAbort = code, true
		case nil:
			r.Invalid(at, "one of httpStatus, grpcStatus is needed")
		}
		out.AbortPercent = r.percentOf(at, a.Percentage, 0)
	}
	return out
}

// percentOf a fault. Istio injects nothing when no percentage is given.
func (r *reading) percentOf(path string, p *networking.Percent, old int32) float64 {
	switch {
	case p != nil:
		return r.percent(path+".percentage.value", p.Value)
	case old != 0:
		return r.percent(path+".percent", float64(old))
	}
	r.Doubtful(path, "no percentage is given, which means 0: nothing is injected")
	return 0
}

func (r *reading) mirrors(path string, h *networking.HTTPRoute) []model.Mirror {
	if h.Mirror != nil && len(h.Mirrors) > 0 {
		r.Invalid(path, "mirror and mirrors exclude each other")
	}
	var out []model.Mirror
	if h.Mirror != nil {
		m := model.Mirror{Backend: r.backend(path+".mirror", h.Mirror), Percent: 100}
		switch {
		case h.MirrorPercentage != nil:
			m.Percent = r.percent(path+".mirrorPercentage.value", h.MirrorPercentage.Value)
		case h.MirrorPercent != nil: //nolint:staticcheck // read as long as the API has it
			m.Percent = r.percent(path+".mirrorPercent", float64(h.MirrorPercent.Value)) //nolint:staticcheck // as above
		}
		out = append(out, m)
	} else if h.MirrorPercentage != nil {
		r.Doubtful(path+".mirrorPercentage", "has no effect without mirror")
	}
	for i, p := range h.Mirrors {
		at := index(path+".mirrors", i)
		m := model.Mirror{Backend: r.backend(at+".destination", p.Destination), Percent: 100}
		if p.Percentage != nil {
			m.Percent = r.percent(at+".percentage.value", p.Percentage.Value)
		}
		out = append(out, m)
	}
	return out
}

func (r *reading) cors(path string, in *networking.CorsPolicy) *model.CORS {
	if in == nil {
		return nil
	}
	out := &model.CORS{
		AllowMethods: in.AllowMethods, AllowHeaders: in.AllowHeaders, ExposeHeaders: in.ExposeHeaders,
		IgnoreUnmatched: in.UnmatchedPreflights == networking.CorsPolicy_IGNORE,
	}
	for i, o := range in.AllowOrigins {
		if m := r.stringMatch(index(path+".allowOrigins", i), o); m != nil {
			out.AllowOrigins = append(out.AllowOrigins, *m)
		}
	}
	if len(in.AllowOrigins) == 0 {
		for i, o := range in.AllowOrigin { //nolint:staticcheck // read as long as the API has it
			switch {
			case o == "":
				r.Invalid(index(path+".allowOrigin", i), "is empty")
			case o == "*":
				out.AllowOrigins = append(out.AllowOrigins, model.StringMatch{Kind: model.Regex, Value: ".*"})
			default:
				out.AllowOrigins = append(out.AllowOrigins, model.StringMatch{Kind: model.Exact, Value: o})
			}
		}
	}
	known := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "*"}
	for i, m := range in.AllowMethods {
		if !slices.Contains(known, m) {
			r.Invalid(index(path+".allowMethods", i), "%q is not an HTTP method", clip(m))
		}
	}
	for i, h := range in.AllowHeaders {
		r.headerName(index(path+".allowHeaders", i), h)
	}
	for i, h := range in.ExposeHeaders {
		r.headerName(index(path+".exposeHeaders", i), h)
	}
	if in.MaxAge != nil {
		age := r.duration(path+".maxAge", in.MaxAge, 0)
		if age%time.Second != 0 {
			r.Invalid(path+".maxAge", "%v is not a whole number of seconds", age)
		}
		out.MaxAge = &age
	}
	if v := in.AllowCredentials; v != nil {
		out.AllowCredentials = &v.Value
	}
	return out
}

func (r *reading) headers(path string, in *networking.Headers) *model.HeaderOps {
	if in == nil {
		return nil
	}
	out := &model.HeaderOps{Request: r.headerEdit(path+".request", in.Request), Response: r.headerEdit(path+".response", in.Response)}
	if in.Request == nil && in.Response == nil {
		return nil
	}
	return out
}

func (r *reading) headerEdit(path string, in *networking.Headers_HeaderOperations) model.HeaderEdit {
	var out model.HeaderEdit
	if in == nil {
		return out
	}
	list := func(at string, m map[string]string) []model.Header {
		var l []model.Header
		for _, name := range slices.Sorted(maps.Keys(m)) {
			h := model.Header{Name: r.editName(at+"."+name, name), Value: r.headerValue(at+"."+name, m[name])}
			l = append(l, h)
		}
		slices.SortStableFunc(l, func(a, b model.Header) int { return strings.Compare(a.Name, b.Name) })
		return l
	}
	out.Set, out.Add = list(path+".set", in.Set), list(path+".add", in.Add)
	for i, name := range in.Remove {
		out.Remove = append(out.Remove, r.editName(index(path+".remove", i), name))
	}
	slices.Sort(out.Remove)
	return out
}

// editName allows the pseudo header :authority beside header names.
func (r *reading) editName(path, name string) string {
	if strings.EqualFold(name, ":authority") {
		return ":authority"
	}
	return r.headerName(path, name)
}
