// Command echo is the program in the pods of the suite's mesh tests: it takes
// the flags of the image that the suite's manifests name (echo-advanced), and
// its answers have that one's fields, which the suite reads.
//
// In: "--port N", "--grpc N", "--tcp N" and "--tls N" serve there until SIGTERM
// (a port of --tls with a certificate made at the start); as "client URL
// [--method M] [-H NAME:VALUE] [--count N]" requests, redirects not followed.
// Out: answers about the pod and what arrived. Nothing about a mesh belongs here.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

func main() {
	run := serve
	if filepath.Base(os.Args[0]) == "client" {
		run = client
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func serve(args []string) error {
	var plain, secure, rpc, raw list
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	flags.Var(&plain, "port", "HTTP")
	flags.Var(&secure, "tls", "of the HTTP ports those with TLS")
	flags.Var(&rpc, "grpc", "gRPC")
	flags.Var(&raw, "tcp", "whatever comes is sent back")
	flags.String("crt", "", "not read")
	flags.String("key", "", "not read")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	failed := make(chan error)
	for kind, ports := range map[string]list{"http": plain, "grpc": rpc, "tcp": raw} {
		for _, port := range ports {
			l, err := net.Listen("tcp", ":"+port)
			if err != nil {
				return err
			}
			switch {
			case kind == "grpc":
				s := grpc.NewServer()
				grpcechoserver.RegisterGrpcEchoServer(s, echo{})
				go func() { failed <- s.Serve(l) }()
			case kind == "tcp":
				go func() { failed <- back(l) }()
			case slices.Contains(secure, port):
				c, err := certificate()
				if err != nil {
					return err
				}
				s := http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{c}}}
				go func() { failed <- s.ServeTLS(l, "", "") }()
			default:
				s := http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute}
				go func() { failed <- s.Serve(l) }()
			}
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// back sends what comes to where it came from.
func back(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // its client sees the end
		}()
	}
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"echo"}}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// answer with the pod's name and what arrived, a field in each line.
func answer(w http.ResponseWriter, r *http.Request) {
	pod, _ := os.Hostname() // a pod has one
	fmt.Fprintf(w, "Hostname=%s\nHost=%s\nMethod=%s\nProto=%s\nURL=%s\n", pod, r.Host, r.Method, r.Proto, r.URL.RequestURI())
	for name, values := range r.Header {
		for _, v := range values {
			fmt.Fprintf(w, "RequestHeader=%s:%s\n", name, v)
		}
	}
}

// echo is the gRPC service.
type echo struct {
	grpcechoserver.UnimplementedGrpcEchoServer
}

func (echo) Echo(context.Context, *grpcechoserver.EchoRequest) (*grpcechoserver.EchoResponse, error) {
	pod, err := os.Hostname()
	return &grpcechoserver.EchoResponse{Assertions: &grpcechoserver.Assertions{Context: &grpcechoserver.Context{Pod: pod}}}, err
}

func client(args []string) error {
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	method, count := flags.String("method", "GET", "of requests"), flags.Int("count", 1, "of requests")
	var headers list
	flags.Var(&headers, "H", "header, as NAME:VALUE")
	if len(args) == 0 {
		return errors.New("want a URL")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	to, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	ask := func(ctx context.Context) error { return get(ctx, to, *method, headers) }
	if to.Scheme == "grpc" {
		conn, err := grpc.NewClient("passthrough:///"+to.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		ask = func(ctx context.Context) error { return call(ctx, conn) }
	}
	for range *count {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := ask(ctx)
		cancel()
		if err != nil {
			return err
		}
		fmt.Println() // between two answers
	}
	return nil
}

func get(ctx context.Context, to *url.URL, method string, headers []string) error {
	r, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		r.Header.Add(name, value)
		if strings.EqualFold(name, "host") {
			r.Host = value
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Printf("StatusCode=%d\n", resp.StatusCode)
	for name, values := range resp.Header {
		for _, v := range values {
			fmt.Printf("ResponseHeader=%s:%s\n", name, v)
		}
	}
	_, err = os.Stdout.Write(body)
	return err
}

func call(ctx context.Context, conn *grpc.ClientConn) error {
	r, err := grpcechoserver.NewGrpcEchoClient(conn).Echo(ctx, &grpcechoserver.EchoRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("StatusCode=200\nHostname=%s\n", r.GetAssertions().GetContext().GetPod())
	return nil
}
