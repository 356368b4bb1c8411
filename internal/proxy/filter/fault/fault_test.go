package fault

import (
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

func TestDecide(t *testing.T) {
	all := uint32(1e6)
	for i, c := range []struct {
		f    *conf.Fault
		want Decision
	}{
		{nil, Decision{GRPC: -1}},
		{&conf.Fault{AbortGRPC: -1}, Decision{GRPC: -1}},
		{&conf.Fault{AbortGRPC: -1, AbortFraction: all}, Decision{GRPC: -1}},
		{&conf.Fault{Delay: time.Second, DelayFraction: all, AbortGRPC: -1}, Decision{Delay: time.Second, GRPC: -1}},
		{&conf.Fault{Delay: time.Second, AbortGRPC: -1}, Decision{GRPC: -1}},
		{&conf.Fault{AbortHTTP: 418, AbortGRPC: -1, AbortFraction: all}, Decision{Abort: true, Status: 418, GRPC: -1}},
		{&conf.Fault{AbortHTTP: 418, AbortGRPC: -1}, Decision{GRPC: -1}},
		{&conf.Fault{AbortGRPC: 14, AbortFraction: all}, Decision{Abort: true, Status: 503, GRPC: 14}},
		{&conf.Fault{AbortGRPC: 0, AbortFraction: all}, Decision{Abort: true, Status: 200, GRPC: 0}},
		{&conf.Fault{Delay: 1, DelayFraction: all, AbortHTTP: 500, AbortGRPC: -1, AbortFraction: all}, Decision{Delay: 1, Abort: true, Status: 500, GRPC: -1}},
	} {
		if got := Decide(c.f, 12345); got != c.want {
			t.Errorf("%d: %+v, want %+v", i, got, c.want)
		}
	}
}

func TestFractionsAreIndependent(t *testing.T) {
	f := &conf.Fault{Delay: 1, DelayFraction: 5e5, AbortHTTP: 500, AbortGRPC: -1, AbortFraction: 5e5}
	var n [4]int
	for i := range uint64(1e6) {
		d, k := Decide(f, i), 0
		if d.Delay > 0 {
			k |= 1
		}
		if d.Abort {
			k |= 2
		}
		n[k]++
	}
	for k, got := range n {
		if got < 240000 || got > 260000 {
			t.Errorf("case %d: %d of a million", k, got)
		}
	}
}
