package tulle

import (
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Envoy's bounds of a head; a body is counted in 32 bits there.
const (
	maxHeaderBytes = 8192 << 10
	maxHeaders     = 10_000
	maxBodyBytes   = 1<<32 - 1
)

// bounds reads limits and timeouts.
func (r *reading) bounds(out *model.RequestBounds, in *Spec) {
	if l := in.Limits; l != nil {
		out.HeaderBytes = r.size("spec.limits.headerBytes", l.HeaderBytes, 1024, maxHeaderBytes)
		out.Headers = r.size("spec.limits.headers", l.Headers, 1, maxHeaders)
		out.BodyBytes = r.size("spec.limits.bodyBytes", l.BodyBytes, 1, maxBodyBytes)
	}
	if t := in.Timeouts; t != nil {
		out.HeaderTime = r.timeout("spec.timeouts.headers", t.Headers)
		out.RequestTime = r.timeout("spec.timeouts.request", t.Request)
		out.IdleTime = r.timeout("spec.timeouts.idle", t.Idle)
		out.StreamTime = r.timeout("spec.timeouts.stream", t.Stream)
	}
}

// size reads a limit; 0 is none.
func (r *reading) size(at string, n, least, most int64) uint32 {
	if n != 0 && (n < least || n > most) {
		r.Invalid(at, "%d is not between %d and %d", n, least, most)
		return 0
	}
	return uint32(n)
}

// timeout reads a duration; empty is none.
func (r *reading) timeout(at, text string) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.Invalid(at, "%q is not a duration as 500ms, 10s or 1h", text)
	case d < time.Millisecond || d > 366*24*time.Hour:
		r.Invalid(at, "%s is not between 1ms and a year", text)
	default:
		return d
	}
	return 0
}

// What compression does when nothing is said.
const minBytes = 256

var algorithms = []string{"brotli", "gzip"}

var mediaType = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]{1,127}/[-!#$%&'*+.^_`|~0-9A-Za-z]{1,127}$") // RFC 9110 section 8.3.1

// compression reads it; nil when there is none.
func (r *reading) compression(in *Compression) *model.Compression {
	if in == nil {
		return nil
	}
	const at = "spec.compression"
	out := &model.Compression{Algorithms: in.Algorithms, ContentTypes: in.ContentTypes, MinBytes: minBytes, Origin: r.Object.Origin(at)}
	if len(out.Algorithms) == 0 {
		out.Algorithms = algorithms
	}
	for i, a := range out.Algorithms {
		switch at := at + ".algorithms[" + strconv.Itoa(i) + "]"; {
		case !slices.Contains(algorithms, a):
			r.Invalid(at, "%q is neither gzip nor brotli", a)
		case slices.Contains(out.Algorithms[:i], a):
			r.Invalid(at, "%q is named twice", a)
		}
	}
	if n := len(out.ContentTypes); n > 64 {
		r.Invalid(at+".contentTypes", "%d types; 64 are possible", n)
	}
	for i, t := range out.ContentTypes {
		if !mediaType.MatchString(t) {
			r.Invalid(at+".contentTypes["+strconv.Itoa(i)+"]", "%q is no type as application/json", t)
		}
	}
	if in.MinBytes != nil {
		if out.MinBytes = uint32(*in.MinBytes); *in.MinBytes < 30 || *in.MinBytes > 1<<30 {
			r.Invalid(at+".minBytes", "%d is not between 30 and %d", *in.MinBytes, 1<<30)
		}
	}
	return out
}
