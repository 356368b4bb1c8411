// Package fault decides whether a request is delayed or aborted on purpose, as
// Envoy's fault filter does when it is configured, not asked by headers.
//
// In: the route's fault and a random number. Out: a Decision.
// What does not belong here: waiting and answering (exchange).
package fault

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Decision for one request: wait first, then abort or go on.
type Decision struct {
	Delay  time.Duration // 0: none
	Abort  bool
	Status int // HTTP status of the abort
	GRPC   int // its gRPC status; -1: derive it from Status
}

// Decide draws from random whether delay and abort happen; the two are
// independent. A nil fault does nothing.
func Decide(f *conf.Fault, random uint64) Decision {
	d := Decision{GRPC: -1}
	if f == nil {
		return d
	}
	if f.Delay > 0 && hit(f.DelayFraction, random) {
		d.Delay = f.Delay
	}
	if !hit(f.AbortFraction, mix(random)) {
		return d
	}
	switch {
	case f.AbortHTTP != 0:
		d.Abort, d.Status = true, f.AbortHTTP
	case f.AbortGRPC >= 0:
		d.Abort, d.Status, d.GRPC = true, statusOf(f.AbortGRPC), f.AbortGRPC
	}
	return d
}

// hit: parts per million; 0 is never.
func hit(fraction uint32, random uint64) bool { return random%1e6 < uint64(fraction) }

// mix makes a second random number of the first.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// statusOf is the HTTP status of a gRPC one for clients that do not speak gRPC.
func statusOf(grpc int) int {
	switch grpc {
	case 0:
		return 200
	case 1:
		return 499
	case 3, 9, 11:
		return 400
	case 4:
		return 504
	case 5:
		return 404
	case 6, 10:
		return 409
	case 7:
		return 403
	case 8:
		return 429
	case 12:
		return 501
	case 14:
		return 503
	case 16:
		return 401
	}
	return 500
}
