package istio

import (
	"math"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxRegex bounds one expression; RE2 is linear in the text but not free in
// the expression.
const maxRegex = 1024

// port checks a port number; zero is an error unless optional.
func (r *reading) port(path string, n uint32, optional bool) uint16 {
	if n == 0 && optional {
		return 0
	}
	if n == 0 || n > math.MaxUint16 {
		r.Invalid(path, "port %d is not within 1 and 65535", n)
		return 0
	}
	return uint16(n)
}

// host checks a host name, which may begin with a wildcard label when wild is
// set, and returns it in lower case without a closing dot.
func (r *reading) host(path, host string, wild bool) string {
	h := strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(h); err == nil {
		return h
	}
	if why := badHost(h, wild); why != "" {
		r.Invalid(path, "%q is not a host name: %s", clip(host), why)
	}
	return h
}

// badHost says why h is no host name, "" when it is one.
func badHost(h string, wild bool) string {
	switch {
	case h == "":
		return "it is empty"
	case len(h) > 255:
		return "it is longer than 255 characters"
	case h == "*":
		if wild {
			return ""
		}
		return "a wildcard cannot stand here"
	}
	for i, label := range strings.Split(h, ".") {
		if i == 0 && strings.HasPrefix(label, "*") {
			if !wild {
				return "a wildcard cannot stand here"
			}
			if label == "*" {
				continue
			}
			label = strings.TrimPrefix(strings.TrimPrefix(label, "*"), "-")
		}
		switch {
		case strings.Contains(label, "*"):
			return "a wildcard may only begin it"
		case label == "":
			return "it has an empty part between dots"
		case len(label) > 63:
			return "a part is longer than 63 characters"
		}
		for j, c := range label {
			alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
			if !alnum && c != '-' && c != '_' || c == '-' && (j == 0 || j == len(label)-1) {
				if strings.ContainsAny(h, ":/") {
					return "it must not have a scheme, a port or a path"
				}
				return "only letters, digits and inner dashes may stand between dots"
			}
		}
	}
	return ""
}

// regex checks an expression as Envoy would (RE2, matched against the whole
// value).
func (r *reading) regex(path, expr string) {
	if len(expr) > maxRegex {
		r.Invalid(path, "the expression is longer than %d characters", maxRegex)
		return
	}
	if _, err := regexp.Compile(expr); err != nil {
		r.Invalid(path, "not a regular expression (RE2): %v", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// duration checks d against a lower bound; nil is zero and allowed.
func (r *reading) duration(path string, d *durationpb.Duration, low time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	v := d.AsDuration()
	if v < low {
		r.Invalid(path, "%v is shorter than %v", v, low)
	}
	return v
}

// count checks a number that must not be negative.
func (r *reading) count(path string, n int32) uint32 {
	if n < 0 {
		r.Invalid(path, "%d is negative", n)
		return 0
	}
	return uint32(n)
}

// percent checks a percentage between 0 and 100.
func (r *reading) percent(path string, v float64) float64 {
	if v < 0 || v > 100 || math.IsNaN(v) {
		r.Invalid(path, "%v is not within 0 and 100", v)
		return 0
	}
	return v
}

// labels checks a label selector or label set.
func (r *reading) labels(path string, m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
		if strings.Contains(v, "*") || strings.Contains(k, "*") {
			r.Invalid(path+"."+k, "a wildcard cannot stand in a label")
			continue
		}
		if errs := validation.IsQualifiedName(k); len(errs) > 0 {
			r.Invalid(path+"."+k, "%q is not a label name: %s", clip(k), short(errs[0]))
		}
		if errs := validation.IsValidLabelValue(v); len(errs) > 0 {
			r.Invalid(path+"."+k, "%q is not a label value: %s", clip(v), short(errs[0]))
		}
	}
	return out
}

// dnsLabel checks a short name.
func (r *reading) dnsLabel(path, what, name string) {
	if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
		r.Invalid(path, "%q is not a %s: %s", clip(name), what, short(errs[0]))
	}
}

// exportTo checks a visibility list.
func (r *reading) exportTo(path string, list []string) []string {
	seen := make(map[string]bool)
	for i, e := range list {
		at := index(path, i)
		switch {
		case seen[e]:
			r.Invalid(at, "%q stands here twice", e)
		case e == "." || e == "*":
			if len(list) > 1 && e == "*" {
				r.Invalid(at, "* (everywhere) and other entries exclude each other")
			}
		case e == "~":
			if len(list) > 1 {
				r.Invalid(at, "~ (nowhere) and other entries exclude each other")
			}
		default:
			r.dnsLabel(at, "namespace", e)
		}
		seen[e] = true
	}
	return list
}

// cidr parses an address or a block.
func (r *reading) cidr(path, s string) (netip.Prefix, bool) {
	p, why := parseCIDR(s)
	if why != "" {
		r.Invalid(path, "%q is %s", clip(s), why)
		return p, false
	}
	return p, true
}

func parseCIDR(s string) (netip.Prefix, string) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, "an address with a zone"
		}
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, "neither an IP address nor a CIDR block"
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, "a block over mapped and other addresses"
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, ""
}

// headerName checks a header name and returns it in lower case.
func (r *reading) headerName(path, name string) string {
	if name == "" {
		r.Invalid(path, "the header name is empty")
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			r.Invalid(path, "%q is not a header name", clip(name))
			break
		}
	}
	return strings.ToLower(name)
}

// headerValue checks that a value cannot break out of its line.
func (r *reading) headerValue(path, v string) string {
	if strings.ContainsAny(v, "\r\n\x00") {
		r.Invalid(path, "a header value cannot have line breaks")
	}
	return v
}

// matchKind gives the set kind of a StringMatch and its value.
func matchKind(m *networking.StringMatch) (kind, value string) {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return "exact", t.Exact
	case *networking.StringMatch_Prefix:
		return "prefix", t.Prefix
	case *networking.StringMatch_Regex:
		return "regex", t.Regex
	}
	return "", ""
}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return s
}

// short leaves out the examples and expressions of Kubernetes' messages.
func short(text string) string {
	text, _, _ = strings.Cut(text, " (e.g.")
	return strings.TrimPrefix(text, "a lowercase RFC 1123 label ")
}
