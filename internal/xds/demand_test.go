package xds

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// asking runs a stream of a client on demand for which no name leads anywhere.
func asking(t *testing.T, asked func(want, leave []string)) *fake {
	return start(t, true, func(c *Config, _ *identity.Caller) {
		open := c.Open
		c.Open = func(ctx context.Context, caller *identity.Caller, n *Node) (*Feed, error) {
			feed, err := open(ctx, caller, n)
			feed.Ask = func(_ string, want, leave []string) { asked(want, leave) }
			return feed, err
		}
	})
}

// 100,000 names, a few at a time and as many taken back: no more than the
// client holds are ever remembered, and they are taken at the rate that is
// allowed.
func TestManyNamesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := map[string]bool{}
		most, asks := 0, 0
		f := asking(t, func(want, leave []string) {
			for _, n := range want {
				held[n] = true
			}
			for _, n := range leave {
				delete(held, n)
			}
			most, asks = max(most, len(held)), asks+len(want)
		})
		f.put("")
		go func() {
			for r := range f.out {
				f.in <- &request{typeURL: r.typeURL, nonce: r.nonce}
			}
		}()
		begin := time.Now()
		const each, window, all = 500, 4000, 100_000
		for i := 0; i < all; i += each {
			r := &request{typeURL: RouteType}
			for k := i; k < i+each; k++ {
				r.subscribe = append(r.subscribe, fmt.Sprintf("0.0.0.0_80/h%d.example", k))
				if k >= window {
					r.unsubscribe = append(r.unsubscribe, fmt.Sprintf("0.0.0.0_80/h%d.example", k-window))
				}
			}
			f.in <- r
		}
		time.Sleep(each * time.Second / asksPerSecond) // until the last may be read
		synctest.Wait()
		if most > window+each || asks != all {
			t.Errorf("%d names remembered at a time, %d asked for", most, asks)
		}
		if d := time.Since(begin); d < (all-asksAtOnce-each)*time.Second/asksPerSecond {
			t.Errorf("%d names were taken in %v", all, d)
		}
		f.stop()
		close(f.out)
	})
}

// A client that asks for more than may be remembered is told so.
func TestTooManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := asking(t, func(_, _ []string) {})
		f.put("")
		r := &request{typeURL: RouteType}
		for k := range 10_001 {
			r.subscribe = append(r.subscribe, fmt.Sprintf("0.0.0.0_80/h%d", k))
		}
		f.in <- r
		f.wantEnd(codes.ResourceExhausted)
		f.stop()
	})
}
