package wire

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestGRPC runs gRPC's own interoperability cases through one sidecar and
// through two. A case that fails ends the program with its reason.
func TestGRPC(t *testing.T) {
	t.Run("one sidecar", func(t *testing.T) {
		p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(interopServer(t)), func(p *proxytest.Parts) {
			p.Cluster.Protocol, p.Listener.Inbound = conf.UpHTTP2, true
		}))
		interopCases(t, p.Addr)
		idle(t, p)
		grpcCounted(t, p)
	})
	bothWays(t, func(t *testing.T, o proxytest.Options) {
		o.HTTP2 = true
		m := proxytest.NewMesh(t, interopServer(t), o)
		interopCases(t, m.Client.Addr)
		idle(t, m.Client, m.Server)
		grpcCounted(t, m.Server)
	})
}

func grpcCounted(t *testing.T, p *proxytest.Proxy) {
	t.Helper()
	if n := p.Requests(`request_protocol="grpc",response_code="200",grpc_response_status="0"`); n < 7 {
		t.Errorf("%d good calls\n%s", n, p.Totals())
	}
}

func interopServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, interop.NewTestServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func interopCases(t *testing.T, addr string) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := testpb.NewTestServiceClient(cc)
	for _, do := range []func(context.Context, testpb.TestServiceClient, ...grpc.CallOption){
		interop.DoEmptyUnaryCall, interop.DoLargeUnaryCall, interop.DoClientStreaming, interop.DoServerStreaming,
		interop.DoPingPong, interop.DoEmptyStream,
		interop.DoCancelAfterFirstResponse, interop.DoCustomMetadata, interop.DoStatusCodeAndMessage, interop.DoSpecialStatusMessage,
	} {
		do(ctx, c)
	}
	compressed := grpc.UseCompressor(gzip.Name) // the client_ and server_compressed_ cases
	var wg sync.WaitGroup
	for range 8 { // and concurrent_large_unary
		wg.Go(func() {
			interop.DoLargeUnaryCall(ctx, c, compressed)
			interop.DoPingPong(ctx, c, compressed)
		})
	}
	wg.Wait()
	cancelled(ctx, t, c)
	sleeping(ctx, t, c)
	interop.DoUnimplementedMethod(ctx, cc)
	interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
	soaks(ctx, t, addr)
}

// soaks are rpc_soak, large calls on one channel, and channel_soak, each on one
// of its own. None may fail; what is slow is the machine's affair.
func soaks(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	channel := func() (*grpc.ClientConn, func()) {
		cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Error(err)
		}
		return cc, func() { _ = cc.Close() }
	}
	one, end := channel()
	defer end()
	for _, c := range []func() (*grpc.ClientConn, func()){func() (*grpc.ClientConn, func()) { return one, func() {} }, channel} {
		interop.DoSoakTest(ctx, interop.SoakTestConfig{RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: time.Minute,
			OverallTimeout: 2 * time.Minute, ServerAddr: addr, NumWorkers: 4, Iterations: 12, ChannelForTest: c})
	}
}

// cancelled is interop.DoCancelAfterBegin, but for one thing: it does not half
// close. On a busy machine the server answers a call that is half closed before
// the client sees that it was cancelled, and that answer is good.
func cancelled(ctx context.Context, t *testing.T, c testpb.TestServiceClient) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	s, err := c.StreamingInputCall(ctx)
	cancel()
	if err == nil {
		err = s.RecvMsg(new(testpb.StreamingInputCallResponse))
	}
	if got := grpcstatus.Code(err); got != codes.Canceled {
		t.Errorf("a cancelled call: %v", err)
	}
}

// sleeping is interop.DoTimeoutOnSleepingServer, but for one thing: on a busy
// machine the server's deadline may come before the client's, which is of the
// same length. Then it resets the stream, and a proxy (Envoy too) says
// Unavailable.
func sleeping(ctx context.Context, t *testing.T, c testpb.TestServiceClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	s, err := c.FullDuplexCall(ctx)
	if err == nil {
		_, err = s.Recv()
	}
	if got := grpcstatus.Code(err); got != codes.DeadlineExceeded && got != codes.Unavailable {
		t.Errorf("a call beyond its deadline: %v", err)
	}
}
