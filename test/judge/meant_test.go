package judge

import (
	"regexp"
	"slices"
	"strings"
)

var threeDigits = regexp.MustCompile(`\b[1-5][0-9][0-9]\b`)

// meant is a difference that is on purpose. Each stands in RATIONALE.md too.
type meant struct {
	why   string
	holds func(r *request, field, envoy, tulle string) bool
}

var onPurpose = []meant{
	{
		why: "TE is hop-by-hop and must be named in Connection (RFC 9110 10.1.4)",
		holds: func(r *request, field, envoy, tulle string) bool {
			return field == "saw connection" && envoy == "" && tulle == "te"
		},
	},
	{
		why: "our own mark of bridged streams is taken out wherever it is not ours",
		holds: func(r *request, field, _, tulle string) bool {
			return field == "saw tulle-orig" && tulle == ""
		},
	},
	{
		why: "a request without a body gets no content-length where its method needs none (RFC 9110 8.6)",
		holds: func(r *request, field, envoy, tulle string) bool {
			return r.method == "OPTIONS" && field == "saw content-length" && envoy == "0" && tulle == ""
		},
	},
	{
		why: "Expect is between client and backend: who waits is the one that asked",
		holds: func(r *request, field, envoy, tulle string) bool {
			return field == "saw expect" && envoy == "" && tulle == "100-continue"
		},
	},
	{
		why: "a gRPC fault is an error for other clients too; Envoy answers them 200",
		holds: func(r *request, field, envoy, tulle string) bool {
			return (strings.Contains(r.target, "/fault/grpc") || r.said == "fault") && (field == "status" || strings.HasSuffix(field, " code")) && envoy == "200" && tulle >= "400"
		},
	},
	{
		why: "an answer without a body is the same for every Accept-Encoding (RFC 9110 12.5.5)",
		holds: func(r *request, field, envoy, tulle string) bool {
			return field == "got vary" && envoy == "Accept-Encoding" && tulle == "" && (r.backend == "-" || r.method == "OPTIONS")
		},
	},
	{
		why: "Vary names fields, whose case does not count (RFC 9110 5.1)",
		holds: func(r *request, field, envoy, tulle string) bool {
			return field == "got vary" && envoy == "accept-encoding, Accept-Encoding" && tulle == "accept-encoding"
		},
	},
	{
		why: "how much of a body that is cut had got through is chance",
		holds: func(r *request, field, _, _ string) bool {
			return r.status == 413 && strings.HasSuffix(field, " received")
		},
	},
	{
		why: "exposed headers mean nothing in the answer to a preflight (Fetch 3.2.2)",
		holds: func(r *request, field, _, tulle string) bool {
			return r.method == "OPTIONS" && field == "got access-control-expose-headers" && tulle == ""
		},
	},
	{
		why: "the text of a failed connection says why",
		holds: func(r *request, field, envoy, tulle string) bool {
			if field == "text" {
				return strings.HasPrefix(envoy, "upstream connect error") && strings.HasPrefix(tulle, "upstream connect error")
			}
			return strings.Contains(field, "content-length") && r.backend == "-" && r.status == 503
		},
	},
	{
		why: "on a sniffed port a bridged request is known to be HTTP; Envoy's is bytes at the destination",
		holds: func(r *request, field, envoy, tulle string) bool {
			return strings.Contains(r.host+r.target, "quiet") && envoy == "" && (field == "saw x-forwarded-client-cert" || strings.HasPrefix(field, "log of quiet"))
		},
	},
	{
		why: "the details of a broken connection say how it broke",
		holds: func(r *request, field, envoy, tulle string) bool {
			if !strings.HasSuffix(field, " details") {
				return false
			}
			const before = "upstream_reset_before_response_started"
			return strings.HasPrefix(envoy, "downstream_remote_disconnect") || strings.HasPrefix(envoy, before) && strings.HasPrefix(tulle, before)
		},
	},
	{
		why: "a cluster that is not there is named in the log",
		holds: func(r *request, field, envoy, tulle string) bool {
			return strings.HasSuffix(field, " cluster") && envoy == "<nil>" && strings.HasPrefix(tulle, "outbound|")
		},
	},
	{
		why: "fields of one name are one list (RFC 9110 5.3); Envoy joins those that it knows",
		holds: func(r *request, field, envoy, tulle string) bool {
			return strings.Contains(tulle, " | ") && envoy == strings.TrimRight(strings.ReplaceAll(tulle, " | ", ","), ",")
		},
	},
	{
		why: "an answer without a body names no length (RFC 9110 8.6), nor itself as its location",
		holds: func(r *request, field, envoy, tulle string) bool {
			switch field {
			case "got location":
				return tulle == "" && r.said == "direct_response"
			case "got content-length", "got (content-length)":
				return envoy == "" && tulle == "0" || envoy != "" && tulle == ""
			}
			return false
		},
	},
	{
		why: "%RESPONSE_CODE% in an answer of the proxy's own is its status; Envoy writes 0",
		holds: func(r *request, field, envoy, tulle string) bool {
			return strings.HasPrefix(field, "got ") && r.backend == "-" && envoy == threeDigits.ReplaceAllString(tulle, "0")
		},
	},
	{
		why: "flags of the log have an order of their own",
		holds: func(r *request, field, envoy, tulle string) bool {
			a, b := strings.Split(envoy, ","), strings.Split(tulle, ",")
			slices.Sort(a)
			slices.Sort(b)
			return strings.HasSuffix(field, " flags") && slices.Equal(a, b)
		},
	},
	{
		why: "what a redirect's headers say of the request is what was asked for, not where it goes",
		holds: func(r *request, field, envoy, tulle string) bool {
			return r.said == "redirect" && strings.HasPrefix(field, "got x-") && strings.Contains(tulle, "/")
		},
	},
	{
		why: "whitespace at the end of a value is no part of it (RFC 9110 5.5)",
		holds: func(r *request, field, envoy, tulle string) bool {
			return tulle != "" && envoy != tulle && strings.ReplaceAll(envoy, " ", "") == strings.ReplaceAll(tulle, " ", "")
		},
	},
	{
		why: "a request without the body that its method may have says so over HTTP/2, too (RFC 9110 8.6)",
		holds: func(r *request, field, envoy, tulle string) bool {
			return field == "saw content-length" && envoy == "" && tulle == "0" && strings.HasPrefix(r.method, "P")
		},
	},
}

// onPurposeIs says why a difference is meant; empty: it is not.
func onPurposeIs(r *request, field, envoy, tulle string) string {
	for _, m := range onPurpose {
		if m.holds(r, field, envoy, tulle) {
			return m.why
		}
	}
	return ""
}
