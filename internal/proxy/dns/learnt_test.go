package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
)

// On demand, names that may be the mesh's are asked for once, by packets and by
// streams; others are not.
func TestLearnt(t *testing.T) {
	board := demand.New(nil)
	known := conf.NewLearnt(&ext.Index{Names: []uint32{ext.Fingerprint("*.shop.svc.cluster.local")}})
	board.Learn(known)
	asked := make(chan string, 8)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		for {
			select {
			case q := <-board.Questions():
				a := &conf.Answer{}
				if q.Name == "db.shop.svc.cluster.local" {
					a.Host = &ext.Host{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}
				}
				known = known.With(known.Index, map[conf.Lookup]*conf.Answer{q: a})
				board.Learn(known)
				board.Answered([]conf.Lookup{q})
				asked <- q.Name
			case <-ctx.Done():
				return
			}
		}
	}()
	s := New(Options{Resolvers: func() []netip.AddrPort { return []netip.AddrPort{upstream(t)} }, Demand: board})
	pc, l := both(t, "127.0.0.1")
	t.Cleanup(func() { _, _ = pc.Close(), l.Close() })
	go s.Packets(pc)
	go s.Streams(l)
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, pc.LocalAddr().String())
		}}
		for range 2 {
			got, err := r.LookupHost(ctx, "db.shop.svc.cluster.local.")
			if err != nil || !slices.Equal(got, []string{"10.0.0.9"}) {
				t.Errorf("%s: %v %v", network, got, err)
			}
			var no *net.DNSError
			if _, err := r.LookupHost(ctx, "none.shop.svc.cluster.local."); !errors.As(err, &no) || !no.IsNotFound {
				t.Errorf("%s: what there is not: %v", network, err)
			}
			if _, err := r.LookupHost(ctx, "x.elsewhere.svc.cluster.local."); !errors.As(err, &no) || !no.IsNotFound {
				t.Errorf("%s: what the index excludes: %v", network, err)
			}
		}
	}
	var names []string
	for len(asked) > 0 {
		if n := <-asked; !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"db.shop.svc.cluster.local", "none.shop.svc.cluster.local"}) {
		t.Errorf("asked for %q", names)
	}
}
