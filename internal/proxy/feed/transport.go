package feed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// transport carries raw messages to the control plane. Safe for concurrent
// use.
type transport interface {
	// open starts a stream, which ends with ctx.
	open(ctx context.Context, method string) (rawStream, error)
	// call makes one exchange. errUnimplemented is returned (wrapped) when the
	// control plane does not know the method.
	call(ctx context.Context, method string, in []byte) ([]byte, error)
	close() error
}

// rawStream is a stream of messages; each method may be called by one
// goroutine at a time.
type rawStream interface {
	send(b []byte) error
	recv() ([]byte, error)
}

var errUnimplemented = errors.New("the control plane does not offer this")

// maxMessage is the largest message that is taken, in bytes.
const maxMessage = 64 << 20

// dial makes the gRPC transport. Nothing is connected before it is used.
func dial(c *Config, pair func() *tls.Certificate) (transport, error) {
	target := c.Address
	creds := insecure.NewCredentials() // a unix socket: the kernel keeps others out
	if !strings.HasPrefix(target, "unix:") {
		host, _, err := net.SplitHostPort(target)
		if err != nil {
			return nil, fmt.Errorf("address of the control plane: %w", err)
		}
		conf, err := clientTLS(c.CAFile, host, pair)
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(conf)
		target = "passthrough:///" + target
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
		grpc.WithUserAgent(c.Node.UserAgent+"/"+c.Node.Version),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("control plane %s: %w", c.Address, err)
	}
	return &grpcTransport{conn: conn, token: c.TokenFile}, nil
}

func clientTLS(caFile, host string, pair func() *tls.Certificate) (*tls.Config, error) {
	t := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if p := pair(); p != nil {
				return p, nil
			}
			return &tls.Certificate{}, nil // the token speaks for us
		}}
	if caFile == "" {
		return t, nil // the system's roots
	}
	b, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("roots of the control plane: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("roots of the control plane: %s holds no certificate", caFile)
	}
	return t, nil
}

type grpcTransport struct {
	conn  *grpc.ClientConn
	token string // file
}

// context adds the token, read anew: it may have been replaced.
func (g *grpcTransport) context(ctx context.Context) (context.Context, error) {
	if g.token == "" {
		return ctx, nil
	}
	b, err := os.ReadFile(g.token)
	if err != nil {
		return nil, fmt.Errorf("join token: %w", err)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(b))), nil
}

func (g *grpcTransport) open(ctx context.Context, method string) (rawStream, error) {
	ctx, err := g.context(ctx)
	if err != nil {
		return nil, err
	}
	g.conn.ResetConnectBackoff()
	s, err := g.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return nil, plain(err)
	}
	return grpcStream{s}, nil
}

func (g *grpcTransport) call(ctx context.Context, method string, in []byte) ([]byte, error) {
	ctx, err := g.context(ctx)
	if err != nil {
		return nil, err
	}
	var out []byte
	if err := g.conn.Invoke(ctx, method, &in, &out); err != nil {
		return nil, plain(err)
	}
	return out, nil
}

func (g *grpcTransport) close() error { return g.conn.Close() }

// plain is a gRPC error in words of ours.
func plain(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	switch {
	case !ok:
		return err
	case st.Code() == codes.Unimplemented:
		return fmt.Errorf("%w: %s", errUnimplemented, st.Message())
	}
	return fmt.Errorf("%s: %s", st.Code(), st.Message())
}

type grpcStream struct{ s grpc.ClientStream }

func (g grpcStream) send(b []byte) error { return plain(g.s.SendMsg(&b)) }

func (g grpcStream) recv() ([]byte, error) {
	var b []byte
	if err := g.s.RecvMsg(&b); err != nil {
		return nil, plain(err)
	}
	return b, nil
}

// rawCodec passes *[]byte through. It calls itself proto, which is what the
// bytes are.
type rawCodec struct{}

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (rawCodec) Name() string { return "proto" }
