package judge

import "strings"

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
			return strings.Contains(r.target, "/fault/grpc") && (field == "status" || strings.HasSuffix(field, " code")) && envoy == "200" && tulle == "503"
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
