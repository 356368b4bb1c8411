package xds_test

import (
	"context"
	"net"
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/watch"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/internal/xds/xdstest"
)

// Both protocols once over a real socket: what the fakes leave out is the
// translation to and from the messages.
func TestOverASocket(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		var sets watch.Value[*xds.Set]
		nodes := make(chan *xds.Node, 2)
		rejected := make(chan xds.Rejection, 1)
		s := xds.New(xds.Config{
			Name:         "tulle",
			Authenticate: func(context.Context) (*identity.Caller, error) { return &identity.Caller{}, nil },
			Open: func(_ context.Context, _ *identity.Caller, n *xds.Node) (*xds.Feed, error) {
				nodes <- n
				return &xds.Feed{Key: "k", Get: sets.Get, Rejected: func(r xds.Rejection) { rejected <- r }}, nil
			},
		})
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		g := grpc.NewServer()
		s.Register(g)
		go g.Serve(l)
		defer g.Stop()
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		node := &corepb.Node{Id: "sidecar~1", UserAgentName: "test", ClientFeatures: []string{"tulle.bridge"}}
		first := xds.NewSet("v1", nil, []xds.Resource{{Type: xds.ClusterType, Name: "a", Body: []byte("one")}, {Type: xds.ClusterType, Name: "b", Body: []byte("two")}})
		sets.Set(first)

		d, err := xdstest.Delta(ctx, conn, node)
		if err != nil {
			t.Fatal(err)
		}
		must(t, d.Subscribe(xds.ClusterType, ""))
		r := next(t, d)
		if len(r.Resources) != 2 || string(r.Resources["a"]) != "one" || r.Version != "v1" {
			t.Errorf("%s delta: %+v", addr, r)
		}
		if n := <-nodes; n.ID != "sidecar~1" || n.UserAgent != "test" || len(n.Features) != 1 {
			t.Errorf("node: %+v", n)
		}
		must(t, d.Answer(r, ""))

		w, err := xdstest.Sotw(ctx, conn, node)
		if err != nil {
			t.Fatal(err)
		}
		must(t, w.Subscribe(xds.ClusterType, ""))
		r = next(t, w)
		if len(r.Resources) != 2 || string(r.Resources["1"]) != "two" || r.Version != "v1" {
			t.Errorf("%s sotw: %+v", addr, r)
		}
		must(t, w.Answer(r, ""))
		<-nodes

		sets.Set(xds.NewSet("v2", first, []xds.Resource{{Type: xds.ClusterType, Name: "b", Body: []byte("three")}}))
		r = next(t, d)
		if string(r.Resources["b"]) != "three" || len(r.Removed) != 1 || r.Removed[0] != "a" {
			t.Errorf("%s delta change: %+v", addr, r)
		}
		must(t, d.Answer(r, "b: not good"))
		if x := <-rejected; x.Name != "b" || x.Reason != "not good" {
			t.Errorf("%s rejection: %+v", addr, x)
		}
		r = next(t, w)
		if string(r.Resources["0"]) != "three" || len(r.Resources) != 1 {
			t.Errorf("%s sotw change: %+v", addr, r)
		}
		must(t, w.Answer(r, ""))
	}
}

func next(t *testing.T, s *xdstest.Stream) *xdstest.Response {
	t.Helper()
	r, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
