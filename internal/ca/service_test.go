package ca

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// rawCodec sends bytes as they are, so that the wire format is what the test
// says and not what the service's own descriptor says.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}
func (rawCodec) Name() string                  { return "proto" }
func rawCall(c encoding.Codec) grpc.CallOption { return grpc.ForceCodec(c) }
func request(csr []byte, secs int64) []byte {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, csr)
	b = protowire.AppendTag(b, 3, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(secs))
}

func dial(t *testing.T, s *Service) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	s.Register(srv)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// byToken takes the token's text as service account.
func byToken(ctx context.Context) (*identity.Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a := md.Get("authorization")
	if len(a) != 1 {
		return nil, status.Error(codes.Unauthenticated, "no token")
	}
	if a[0] == "many" {
		return &identity.Caller{Proof: identity.PeerCreds}, nil
	}
	return &identity.Caller{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", Account: a[0]}}, nil
}

func as(account string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "authorization", account)
}

func TestServiceSpeaksIstiosWireFormat(t *testing.T) {
	a := newAuthority(t, Options{})
	conn := dial(t, NewService(a, byToken))
	csr := newCSR(t, ecKey(t), x509.CertificateRequest{})
	var out []byte
	if err := conn.Invoke(as("orders"), "/istio.v1.auth.IstioCertificateService/CreateCertificate", request(csr, 600), &out, rawCall(rawCodec{})); err != nil {
		t.Fatal(err)
	}
	var chain []string
	for len(out) > 0 {
		num, typ, n := protowire.ConsumeTag(out)
		if num != 1 || typ != protowire.BytesType {
			t.Fatalf("field %d of type %d in the answer", num, typ)
		}
		v, m := protowire.ConsumeBytes(out[n:])
		chain = append(chain, string(v))
		out = out[n+m:]
	}
	if len(chain) != 2 || chain[1] != string(a.Bundle()) {
		t.Fatalf("chain of %d", len(chain))
	}
	b, _ := pem.Decode([]byte(chain[0]))
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.FromCertificate(c); err != nil || id != orders {
		t.Errorf("%v, %v", id, err)
	}
	if left := time.Until(c.NotAfter); left > 10*time.Minute || left < 9*time.Minute {
		t.Errorf("asked for 10 min, got %v", left)
	}
}

func TestServiceDenies(t *testing.T) {
	a := newAuthority(t, Options{})
	conn := dial(t, NewService(a, byToken))
	csr := newCSR(t, ecKey(t), x509.CertificateRequest{})
	md, err := structpb.NewStruct(map[string]any{"ImpersonatedIdentity": "spiffe://cluster.local/ns/bank/sa/vault"})
	if err != nil {
		t.Fatal(err)
	}
	mdBytes, err := proto.Marshal(md)
	if err != nil {
		t.Fatal(err)
	}
	impersonate := protowire.AppendBytes(protowire.AppendTag(request(csr, 0), 4, protowire.BytesType), mdBytes)
	for _, c := range []struct {
		name string
		ctx  context.Context
		in   []byte
		want codes.Code
	}{
		{"no credential", context.Background(), request(csr, 0), codes.Unauthenticated},
		{"no single identity", as("many"), request(csr, 0), codes.PermissionDenied},
		{"impersonation", as("orders"), impersonate, codes.PermissionDenied},
		{"no CSR", as("orders"), nil, codes.InvalidArgument},
		{"a bad CSR", as("orders"), request([]byte("x"), 0), codes.InvalidArgument},
	} {
		var out []byte
		err := conn.Invoke(c.ctx, Method, c.in, &out, rawCall(rawCodec{}))
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestServiceBoundsRequestsPerCaller(t *testing.T) {
	now := time.Now()
	a := newAuthority(t, Options{Now: func() time.Time { return now }})
	s := NewService(a, byToken)
	conn := dial(t, s)
	in := request(newCSR(t, ecKey(t), x509.CertificateRequest{}), 0)
	call := func(who string) codes.Code {
		var out []byte
		return status.Code(conn.Invoke(as(who), Method, in, &out, rawCall(rawCodec{})))
	}
	for i := range perMinute {
		if c := call("orders"); c != codes.OK {
			t.Fatalf("request %d: %v", i, c)
		}
	}
	if c := call("orders"); c != codes.ResourceExhausted {
		t.Errorf("request %d: %v", perMinute, c)
	}
	if c := call("users"); c != codes.OK {
		t.Errorf("another caller: %v", c)
	}
	now = now.Add(time.Minute)
	if c := call("orders"); c != codes.OK {
		t.Errorf("a minute later: %v", c)
	}
}
