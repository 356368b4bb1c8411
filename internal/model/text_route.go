package model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func sortedPorts[V any](m map[uint16]V) []uint16 { return slices.Sorted(maps.Keys(m)) }

func textRouteSet(f *form, x *RouteSet) {
	f.note(&x.Origin)
	f.ref(&x.Namespace, &x.Name)
	f.strs("hosts", &x.Hosts)
	f.strs("gateways", &x.Gateways)
	f.strs("export", &x.ExportTo)
	f.flag("settled", &x.Settled)
	each(f, "http", &x.HTTP, textHTTPRule)
	each(f, "tls", &x.TLS, func(f *form, x *TLSRule) {
		f.note(&x.Origin)
		each(f, "match", &x.Matches, textL4Match)
		each(f, "to", &x.Backends, textBackend)
	})
	each(f, "tcp", &x.TCP, func(f *form, x *TCPRule) {
		f.note(&x.Origin)
		each(f, "match", &x.Matches, textL4Match)
		each(f, "to", &x.Backends, textBackend)
	})
}

func textHTTPRule(f *form, x *HTTPRule) {
	f.note(&x.Origin)
	f.arg(&x.Name)
	optional(f, "timeout", &x.Timeout, time.Duration.String, time.ParseDuration)
	each(f, "match", &x.Matches, textHTTPMatch)
	each(f, "to", &x.Backends, textBackend)
	one(f, "redirect", &x.Redirect, func(f *form, x *Redirect) {
		f.str("path", &x.Path)
		f.str("path-prefix", &x.PathPrefix)
		f.str("authority", &x.Authority)
		f.str("scheme", &x.Scheme)
		uintAttr(f, "port", &x.Port)
		f.flag("request-port", &x.FromRequestPort)
		f.int("code", &x.Code)
	})
	one(f, "direct", &x.Direct, func(f *form, x *DirectResponse) {
		f.int("status", &x.Status)
		body := string(x.Body)
		f.str("body", &body)
		if f.reading && body != "" {
			x.Body = []byte(body)
		}
	})
	one(f, "delegate", &x.Delegate, func(f *form, x *Ref) { f.ref(&x.Namespace, &x.Name) })
	one(f, "rewrite", &x.Rewrite, func(f *form, x *Rewrite) {
		f.str("path", &x.Path)
		f.str("authority", &x.Authority)
		f.str("regex", &x.Regex)
		f.str("replace", &x.Replace)
	})
	one(f, "retry", &x.Retry, textRetry)
	one(f, "fault", &x.Fault, func(f *form, x *Fault) {
		f.float("delay-percent", &x.DelayPercent)
		f.duration("delay", &x.Delay)
		f.flag("abort", &x.HasAbort)
		f.float("abort-percent", &x.AbortPercent)
		f.int("status", &x.AbortStatus)
		f.int("grpc", &x.AbortGRPC)
	})
	each(f, "mirror", &x.Mirrors, func(f *form, x *Mirror) {
		f.float("percent", &x.Percent)
		textBackend(f, &x.Backend)
	})
	one(f, "cors", &x.CORS, textCORS)
	one(f, "headers", &x.Headers, textHeaderOps)
}

func textRetry(f *form, x *Retry) {
	f.int("attempts", &x.Attempts)
	f.duration("per-try", &x.PerTryTimeout)
	f.strs("on", &x.On)
	f.ints("codes", &x.Codes)
	optional(f, "remote-locality", &x.RemoteLocality, strconv.FormatBool, strconv.ParseBool)
	optional(f, "ignore-previous", &x.IgnorePrevious, strconv.FormatBool, strconv.ParseBool)
	f.duration("backoff", &x.BackoffBase)
	f.duration("backoff-max", &x.BackoffMax)
	f.flag("mesh-default", &x.FromMeshDefault)
}

func textCORS(f *form, x *CORS) {
	f.matches("origin", &x.AllowOrigins)
	f.strs("methods", &x.AllowMethods)
	f.strs("headers", &x.AllowHeaders)
	f.strs("expose", &x.ExposeHeaders)
	optional(f, "max-age", &x.MaxAge, time.Duration.String, time.ParseDuration)
	optional(f, "credentials", &x.AllowCredentials, strconv.FormatBool, strconv.ParseBool)
	f.flag("ignore-unmatched", &x.IgnoreUnmatched)
}

func textHeaderOps(f *form, x *HeaderOps) {
	edit := func(prefix string, e *HeaderEdit) {
		f.headers(prefix+"set", &e.Set)
		f.headers(prefix+"add", &e.Add)
		f.strs(prefix+"remove", &e.Remove)
	}
	edit("", &x.Request)
	edit("response-", &x.Response)
}

func textBackend(f *form, x *Backend) {
	f.note(&x.Origin)
	f.need(&x.Host)
	f.str("subset", &x.Subset)
	uintAttr(f, "port", &x.Port)
	uintAttr(f, "weight", &x.Weight)
	f.flag("invalid", &x.Invalid)
	one(f, "headers", &x.Headers, textHeaderOps)
}

var matchNames = []string{"exact", "prefix", "regex", "present", "path-prefix", "suffix"}

func matchText(m StringMatch) string { return matchNames[m.Kind] + ":" + quote(m.Value, "") }

func readMatch(s string) (StringMatch, error) {
	var m StringMatch
	kind, value, ok := strings.Cut(s, ":")
	if !ok {
		return m, fmt.Errorf("%q: want kind:value, as prefix:/api", s)
	}
	m.Value = value
	return m, readEnum(&m.Kind, matchNames)(kind)
}

// match is key=kind:value.
func (f *form) match(key string, p **StringMatch) { optional(f, key, p, matchText, readMatch) }

// matches is key=kind:value for each.
func (f *form) matches(key string, p *[]StringMatch) {
	repeated(f, key, p, matchText, func(raw string) (StringMatch, error) {
		s, err := unquote(raw)
		if err != nil {
			return StringMatch{}, err
		}
		return readMatch(s)
	})
}

// named is key=name=kind:value for each.
func (f *form) named(key string, p *[]NamedMatch) {
	repeated(f, key, p, func(m NamedMatch) string { return quote(m.Name, "") + "=" + matchText(m.StringMatch) }, func(raw string) (NamedMatch, error) {
		a, b, _ := cut(raw, '=')
		name, err1 := unquote(a)
		value, err2 := unquote(b)
		if err := cmp.Or(err1, err2); err != nil {
			return NamedMatch{}, err
		}
		m, err := readMatch(value)
		return NamedMatch{name, m}, err
	})
}

// repeated writes one attribute per element.
func repeated[T any](f *form, key string, p *[]T, write func(T) string, read func(string) (T, error)) {
	if !f.reading {
		for _, x := range *p {
			f.put(key, write(x))
		}
		return
	}
	for {
		raw, ok := f.take(key)
		if !ok {
			return
		}
		x, err := read(raw)
		if err != nil {
			f.fail("%s: %v", key, err)
			return
		}
		*p = append(*p, x)
	}
}

func textHTTPMatch(f *form, x *HTTPMatch) {
	f.note(&x.Origin)
	f.str("name", &x.Name)
	f.match("path", &x.Path)
	f.flag("ignore-case", &x.IgnorePathCase)
	f.match("scheme", &x.Scheme)
	f.match("method", &x.Method)
	f.match("authority", &x.Authority)
	f.named("header", &x.Headers)
	f.named("without", &x.WithoutHeaders)
	f.named("query", &x.Query)
	f.str("stat", &x.StatPrefix)
	uintAttr(f, "port", &x.Port)
	f.labels("source", &x.SourceLabels)
	f.str("source-namespace", &x.SourceNamespace)
	f.strs("gateways", &x.Gateways)
}

func textL4Match(f *form, x *L4Match) {
	f.note(&x.Origin)
	f.strs("sni", &x.SNI)
	f.strs("subnets", &x.DestSubnets)
	uintAttr(f, "port", &x.Port)
	f.labels("source", &x.SourceLabels)
	f.str("source-namespace", &x.SourceNamespace)
	f.strs("gateways", &x.Gateways)
}
