package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	certRequests = 10_000
	certCallers  = 1_000 // workloads, which come ten times each
	certMethod   = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
)

// certificates are what so many requests cost, each over a TLS connection of its
// own with a token, as pods ask when they start.
type certificates struct {
	Requests int     `json:"requests"`
	Lost     int     `json:"lost"`
	Seconds  float64 `json:"seconds"`
	CPU      float64 `json:"cpuSeconds"`
}

func (b *bench) certificates(ctx context.Context) (*certificates, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := b.spawn(ctx, dir, size{Services: 100, Proxies: certCallers})
	if err != nil {
		return nil, err
	}
	defer c.end()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.hello.Roots) {
		return nil, errors.New("the control plane has no roots")
	}
	requests, err := requests()
	if err != nil {
		return nil, err
	}
	if err := settle(c); err != nil {
		return nil, err
	}
	before, err := c.tell("usage")
	if err != nil {
		return nil, err
	}
	start := time.Now()
	var next, lost atomic.Int64
	var wg sync.WaitGroup
	first := make(chan error, 1) // why the first was lost
	for range 4 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < certRequests; n = next.Add(1) - 1 {
				if err := c.hello.sign(ctx, roots, int(n)%certCallers, requests[n]); err != nil {
					lost.Add(1)
					select {
					case first <- err:
					default:
					}
				}
			}
		})
	}
	wg.Wait()
	out := &certificates{Requests: certRequests, Lost: int(lost.Load()), Seconds: time.Since(start).Seconds()}
	after, err := c.tell("usage")
	out.CPU = after.CPU - before.CPU
	select {
	case err := <-first:
		fmt.Fprintln(os.Stderr, "a certificate was not given:", err)
	default:
	}
	return out, err
}

// requests are made before, so that their keys cost nothing of the time measured.
func requests() ([][]byte, error) {
	out := make([][]byte, certRequests)
	for i := range out {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			return nil, err
		}
		out[i] = text(nil, 1, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	}
	return out, nil
}

// sign has one certificate made, and checks that it leads to the roots.
func (h *hello) sign(ctx context.Context, roots *x509.CertPool, caller int, request []byte) error {
	c, err := grpc.NewClient(h.Address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13})),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		return err
	}
	defer c.Close()
	var answer []byte
	if err := c.Invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+h.Tokens[caller]), certMethod, &request, &answer); err != nil {
		return err
	}
	var chain []byte
	if err := each(answer, func(n protowire.Number, v []byte) {
		if n == 1 && chain == nil {
			chain = v
		}
	}); err != nil {
		return err
	}
	block, _ := pem.Decode(chain)
	if block == nil {
		return errors.New("no certificate in the answer")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}
