package feed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/feed/rpc"
)

// transport carries raw messages to the control plane. Safe for concurrent
// use.
type transport interface {
	// open starts a stream, which ends with ctx. rpc.ErrUnreachable is returned
	// (wrapped) when nobody is there.
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

// Times of connecting: until a connection is there, and until TLS is.
const (
	dialWithin = 2 * time.Second
	deadHost   = 30 * time.Second // of silence, until a host is given up
)

// dial makes the transport. Nothing is connected before it is used.
func dial(c *Config, pair func() *tls.Certificate) (transport, error) {
	o := rpc.Options{Scheme: "http", Authority: "localhost", UserAgent: c.Node.UserAgent + "/" + c.Node.Version,
		MaxMessage: maxMessage, Token: func() (string, error) { return readToken(c.TokenFile) }}
	d := &net.Dialer{Timeout: dialWithin, KeepAliveConfig: net.KeepAliveConfig{Enable: true,
		Idle: deadHost / 2, Interval: deadHost / 6, Count: 3}}
	if path, ok := strings.CutPrefix(c.Address, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		o.Dial = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", path) } // the kernel keeps others out
		return rpcTransport{rpc.New(o)}, nil
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("address of the control plane: %w", err)
	}
	if _, err := clientTLS(c.CAFile, host, pair); err != nil {
		return nil, err // now rather than in a log
	}
	address, caFile := c.Address, c.CAFile
	o.Scheme, o.Authority = "https", address
	o.Dial = func(ctx context.Context) (net.Conn, error) {
		conf, err := clientTLS(caFile, host, pair) // anew: the roots may have been replaced
		if err != nil {
			return nil, err
		}
		nc, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		t := tls.Client(nc, conf)
		if err = t.HandshakeContext(ctx); err == nil && t.ConnectionState().NegotiatedProtocol != "h2" {
			err = errors.New("it does not offer HTTP/2")
		}
		if err != nil {
			_ = nc.Close()
			return nil, fmt.Errorf("TLS with %s: %w", address, err)
		}
		return t, nil
	}
	return rpcTransport{rpc.New(o)}, nil
}

// readToken reads the join token, anew for every call: it may have been
// replaced. Empty without a file.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
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

// rpcTransport is the transport of every day.
type rpcTransport struct{ c *rpc.Client }

func (t rpcTransport) open(ctx context.Context, method string) (rawStream, error) {
	s, err := t.c.Open(ctx, method)
	if err != nil {
		return nil, plain(err)
	}
	return rpcStream{s}, nil
}

func (t rpcTransport) call(ctx context.Context, method string, in []byte) ([]byte, error) {
	out, err := t.c.Call(ctx, method, in)
	return out, plain(err)
}

func (t rpcTransport) close() error { return t.c.Close() }

type rpcStream struct{ s *rpc.Stream }

func (s rpcStream) send(b []byte) error { return plain(s.s.Send(b)) }

func (s rpcStream) recv() ([]byte, error) {
	b, err := s.s.Recv()
	return b, plain(err)
}

// plain is an error of a call in words of ours.
func plain(err error) error {
	var st *rpc.Status
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the control plane ended the stream")
	case errors.As(err, &st) && st.Code == rpc.Unimplemented:
		return fmt.Errorf("%w: %s", errUnimplemented, st.Message)
	}
	return err
}
