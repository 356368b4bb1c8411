package route

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// Match returns the first route of v that matches, or nil. Whether v needs TLS
// at all is asked before, see NeedsTLS.
func Match(v *conf.VirtualHost, r *Request, w *why.Why) *conf.Route {
	path := view(PathOnly(r.Head.Path))
	for _, rt := range v.Routes {
		if !matches(&rt.Match, r, path) {
			if w.On() {
				w.Add("route", rt.Origin, "no_match", "%s: %s", describe(&rt.Match), reason(&rt.Match, r))
			}
			continue
		}
		if w.On() {
			w.Add("route", rt.Origin, "matched", "%s", describe(&rt.Match))
		}
		return rt
	}
	if w.On() {
		w.Add("route", v.Origin, "no_match", "none of the %d routes of %s matches %s %s; tried: %s",
			len(v.Routes), v.Name, r.Head.Method, r.Head.Path, tried(v))
	}
	return nil
}

// matches: path is the request's, without its query.
func matches(m *conf.Match, r *Request, path string) bool {
	return pathMatches(m, r.Head, path) && fractionMatches(m.Fraction, r.Random) &&
		(!m.GRPC || IsGRPC(r.Head)) && headersMatch(m.Headers, r.Head) && queryMatches(m.Query, r.Head)
}

func pathMatches(m *conf.Match, h *stream.Head, p string) bool {
	switch m.Kind {
	case conf.PathConnect:
		return IsConnect(h)
	case conf.PathPrefix:
		return len(p) >= len(m.Path) && equal(p[:len(m.Path)], m.Path, m.IgnoreCase)
	case conf.PathExact:
		return equal(p, m.Path, m.IgnoreCase)
	case conf.PathRegex:
		return m.Regex != nil && m.Regex.MatchString(p)
	case conf.PathSegments:
		n := len(m.Path)
		return len(p) >= n && equal(p[:n], m.Path, m.IgnoreCase) && (len(p) == n || p[n] == '/')
	}
	return false
}

// fractionMatches: parts per million of the request's random number; 0 is all.
func fractionMatches(f uint32, random uint64) bool { return f == 0 || random%1e6 < uint64(f) }

func headersMatch(ms []conf.HeaderMatch, h *stream.Head) bool {
	for i := range ms {
		if !Header(&ms[i], h) {
			return false
		}
	}
	return true
}

func queryMatches(ms []conf.QueryMatch, h *stream.Head) bool {
	for i := range ms {
		if !Query(&ms[i], h.Path) {
			return false
		}
	}
	return true
}

// NeedsTLS reports whether v only speaks https and the request came otherwise;
// the answer is then 301 to TLSLocation.
func NeedsTLS(v *conf.VirtualHost, h *stream.Head) bool {
	return v.RequireTLS && string(forwardedProto(h)) != "https"
}

// TLSLocation appends the https address of the same resource.
func TLSLocation(dst []byte, h *stream.Head) []byte {
	return append(append(append(dst, "https://"...), h.Authority...), h.Path...)
}

// forwardedProto is x-forwarded-proto, which the connection manager sets, else
// the scheme.
func forwardedProto(h *stream.Head) []byte {
	if p := h.Get("x-forwarded-proto"); p != nil {
		return p
	}
	return h.Scheme
}

// Pick chooses a cluster by weight. nil when the route names its cluster by a
// header, or has none.
func Pick(f *conf.Forward, random uint64) *conf.WeightedCluster {
	switch len(f.Clusters) {
	case 0:
		return nil
	case 1:
		return &f.Clusters[0]
	}
	if f.Total == 0 {
		return nil
	}
	n := uint32(random % uint64(f.Total))
	for i := range f.Clusters {
		if n < f.Clusters[i].Weight {
			return &f.Clusters[i]
		}
		n -= f.Clusters[i].Weight
	}
	return nil
}

// describe is a match in words.
func describe(m *conf.Match) string {
	var b strings.Builder
	switch m.Kind {
	case conf.PathPrefix:
		fmt.Fprintf(&b, "path prefix %s", m.Path)
	case conf.PathExact:
		fmt.Fprintf(&b, "path %s", m.Path)
	case conf.PathRegex:
		fmt.Fprintf(&b, "path regex %s", m.Regex)
	case conf.PathSegments:
		fmt.Fprintf(&b, "path under %s", m.Path)
	case conf.PathConnect:
		b.WriteString("CONNECT")
	}
	if m.IgnoreCase {
		b.WriteString(" (any case)")
	}
	for i := range m.Headers {
		b.WriteString(", " + describeHeader(&m.Headers[i]))
	}
	for i := range m.Query {
		fmt.Fprintf(&b, ", query %s %s", m.Query[i].Name, Describe(&m.Query[i].StringMatch))
	}
	if m.GRPC {
		b.WriteString(", gRPC only")
	}
	if m.Fraction > 0 {
		fmt.Fprintf(&b, ", %g%% of requests", float64(m.Fraction)/1e4)
	}
	return b.String()
}

func describeHeader(m *conf.HeaderMatch) string {
	name := "header " + m.Name
	switch m.Name {
	case ":method":
		name = "method"
	case ":authority":
		name = "authority"
	case ":scheme":
		name = "scheme"
	}
	s := Describe(&m.StringMatch)
	if m.Kind == conf.StrRange {
		s = fmt.Sprintf("in %d..%d", m.Low, m.High-1)
	}
	if m.Invert {
		s = "not " + s
	}
	return name + " " + s
}

// Describe is a string match in words.
func Describe(m *conf.StringMatch) string {
	fold := ""
	if m.IgnoreCase {
		fold = " (any case)"
	}
	switch m.Kind {
	case conf.StrExact:
		return m.Value + fold
	case conf.StrPrefix:
		return m.Value + "*" + fold
	case conf.StrSuffix:
		return "*" + m.Value + fold
	case conf.StrContains:
		return "*" + m.Value + "*" + fold
	case conf.StrRegex:
		return fmt.Sprintf("regex %s", m.Regex)
	case conf.StrAbsent:
		return "absent"
	}
	return "present"
}

// reason says which condition of m failed first.
func reason(m *conf.Match, r *Request) string {
	h := r.Head
	if !pathMatches(m, h, view(PathOnly(h.Path))) {
		return fmt.Sprintf("the path is %s", PathOnly(h.Path))
	}
	for i := range m.Headers {
		if hm := &m.Headers[i]; !Header(hm, h) {
			v := Value(h, hm.Name)
			if v == nil {
				return fmt.Sprintf("%s, but the header is absent", describeHeader(hm))
			}
			if hm.Name == "authorization" || hm.Name == "cookie" {
				v = []byte("another")
			}
			return fmt.Sprintf("%s, but it is %s", describeHeader(hm), v)
		}
	}
	for i := range m.Query {
		if qm := &m.Query[i]; !Query(qm, h.Path) {
			v := QueryValue(h.Path, qm.Name)
			if v == nil {
				return fmt.Sprintf("query parameter %s is absent", qm.Name)
			}
			return fmt.Sprintf("query parameter %s is %s", qm.Name, v)
		}
	}
	if m.GRPC && !IsGRPC(h) {
		return "the request is not gRPC"
	}
	return "outside the fraction of requests"
}

// tried lists the paths of v's routes, up to 20.
func tried(v *conf.VirtualHost) string {
	var b bytes.Buffer
	for i, rt := range v.Routes {
		if i == 20 {
			b.WriteString("; ...")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(describe(&rt.Match))
	}
	if b.Len() == 0 {
		return "it has no routes"
	}
	return b.String()
}
