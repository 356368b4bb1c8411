package wire

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestGRPC runs gRPC's own interoperability cases through two sidecars. A case
// that fails ends the program with its reason.
func TestGRPC(t *testing.T) {
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		testpb.RegisterTestServiceServer(s, interop.NewTestServer())
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		o.HTTP2 = true
		m := proxytest.NewMesh(t, l.Addr().String(), o)
		cc, err := grpc.NewClient("passthrough:///"+m.Client.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cc.Close() })
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		c := testpb.NewTestServiceClient(cc)
		for _, do := range []func(context.Context, testpb.TestServiceClient, ...grpc.CallOption){
			interop.DoEmptyUnaryCall, interop.DoLargeUnaryCall, interop.DoClientStreaming, interop.DoServerStreaming,
			interop.DoPingPong, interop.DoEmptyStream, interop.DoTimeoutOnSleepingServer, interop.DoCancelAfterBegin,
			interop.DoCancelAfterFirstResponse, interop.DoCustomMetadata, interop.DoStatusCodeAndMessage, interop.DoSpecialStatusMessage,
		} {
			do(ctx, c)
		}
		interop.DoUnimplementedMethod(ctx, cc)
		interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
		idle(t, m.Client, m.Server)
		if n := m.Server.Requests(`request_protocol="grpc",response_code="200",grpc_response_status="0"`); n < 7 {
			t.Errorf("%d good calls\n%s", n, m.Server.Totals())
		}
	})
}
