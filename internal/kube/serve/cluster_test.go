//go:build linux && e2e

package serve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/internal/xds/xdstest"
	"github.com/tulle-mesh/tulle/test/cluster"
)

const setting = `
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: orders, namespace: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-sidecar-injector, namespace: istio-system}
data: {values: '{"global": {"hub": "tulle.test", "tag": 1}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: tulle-sidecar-injector, labels: {app.kubernetes.io/part-of: tulle}}
webhooks:
- name: pods.sidecar.test
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: "https://127.0.0.1:15017/inject"}
  namespaceSelector: {matchLabels: {istio-injection: enabled}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: tulle-validator, labels: {app.kubernetes.io/part-of: tulle}}
webhooks:
- name: rev.validation.test
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  clientConfig: {url: "https://127.0.0.1:15017/validate"}
  rules: [{apiGroups: [networking.istio.io], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: ["*"]}]
`

const ordersPod = `
apiVersion: v1
kind: Pod
metadata: {name: orders-1, namespace: shop, labels: {app: orders}}
spec: {serviceAccountName: orders, automountServiceAccountToken: false, containers: [{name: app, image: tulle.test/app:1}]}
`

// replica is one control plane, as a process beside the API server.
type replica struct {
	cmd   *exec.Cmd
	port  string
	ended chan error
}

type story struct {
	*testing.T
	ctx context.Context
	c   *cluster.Cluster
}

// TestControlPlane is one cluster's story with two replicas.
func TestControlPlane(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // a cold build
	defer cancel()
	c, err := cluster.Up(ctx, cluster.Options{APIOnly: true, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	}()
	s := &story{t, ctx, c}
	s.ok(c.InstallAPIs(ctx))
	s.ok(c.Apply(ctx, []byte(setting)))
	program := filepath.Join(t.TempDir(), "tulle")
	s.ok(cluster.Program(ctx, "./cmd/tulle", program))
	a, b := s.start(program, "a", "150"), s.start(program, "b", "250")

	s.until("the roots in every namespace", "true", "get", "configmap", "-n", "shop", "istio-ca-root-cert", "--ignore-not-found", "-o", `jsonpath={.metadata.labels.istio\.io/config}`)
	roots := s.kubectl("get", "configmap", "-n", "shop", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	if got := s.kubectl("get", "configmap", "-n", "kube-system", "istio-ca-root-cert", "--ignore-not-found"); got != "" {
		t.Errorf("kube-system has it too: %s", got)
	}

	// Injection and validation, once the configurations have the roots.
	s.until("a closed webhook", "Fail", "get", "validatingwebhookconfiguration", "tulle-validator", "-o", "jsonpath={.webhooks[0].failurePolicy}")
	s.eventually("a pod with its sidecar", func() error {
		if err := c.Apply(ctx, []byte(ordersPod)); err != nil {
			return err
		}
		got, err := c.Kubectl(ctx, "-n", "shop", "get", "pod", "orders-1", "-o", "jsonpath={.spec.containers[*].image}")
		if err == nil && got != "tulle.test/proxy:1 tulle.test/app:1" {
			_, _ = c.Kubectl(ctx, "-n", "shop", "delete", "pod", "orders-1", "--force")
			err = fmt.Errorf("images %q", got)
		}
		return err
	})
	_, err = c.Kubectl(ctx, "-n", "shop", "create", "-f", s.file(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders}
spec: {hosts: [orders], http: [{route: [{destination: {host: "not a host"}}]}]}
`))
	if err == nil || !strings.Contains(err.Error(), `VirtualService shop/orders spec.http[0].route[0].destination.host: "not a host" is not a host name`) {
		t.Errorf("an invalid object: %v", err)
	}
	s.kubectl("-n", "shop", "create", "-f", s.file(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders}
spec: {hosts: [orders], http: [{route: [{destination: {host: orders}}]}]}
`))

	// Callers: a pod is who its token says, at either replica.
	s.kubectl("-n", "shop", "patch", "pod", "orders-1", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Running","podIP":"10.244.9.9","podIPs":[{"ip":"10.244.9.9"}]}}`)
	mine := s.kubectl("-n", "shop", "create", "token", "orders", "--audience=istio-ca", "--bound-object-kind=Pod", "--bound-object-name=orders-1")
	other := s.kubectl("-n", "shop", "create", "token", "orders")
	for _, r := range []*replica{a, b} {
		if got := s.bundle(r, roots, mine); got != strings.TrimSpace(roots) {
			t.Errorf("replica at %s gives other roots", r.port)
		}
		_, err := s.ask(r, roots, other)
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("a token for another audience: %v", err)
		}
		leaf := s.sign(r, roots, mine)
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://cluster.local/ns/shop/sa/orders" {
			t.Errorf("a certificate for %v", leaf.URIs)
		}
	}

	// Only one leads. When it ends the other does.
	leader := s.kubectl("-n", "istio-system", "get", "lease", "tulle-leader", "-o", "jsonpath={.spec.holderIdentity}")
	first, second := a, b
	if leader == "b" {
		first, second = b, a
	}
	s.stop(first)
	s.kubectl("-n", "shop", "delete", "configmap", "istio-ca-root-cert")
	s.until("the roots again, by the other", roots, "get", "configmap", "-n", "shop", "istio-ca-root-cert", "--ignore-not-found", "-o", `jsonpath={.data.root-cert\.pem}`)

	// The user's own authority takes over, without a restart.
	m, err := ca.NewMaterial("cluster.local")
	s.ok(err)
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "cacerts", "namespace": "istio-system"},
		"stringData": map[string]string{"ca-cert.pem": string(m.Certificate), "ca-key.pem": string(m.Key), "root-cert.pem": string(m.Roots)},
	})
	s.ok(err)
	s.ok(c.Apply(ctx, secret))
	fresh := string(m.Roots)
	s.until("the new roots", strings.TrimSpace(fresh), "get", "configmap", "-n", "shop", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	if got := s.bundle(second, fresh, mine); got != strings.TrimSpace(fresh) {
		t.Error("proxies get other roots")
	}
	s.stop(second)
}

func (s *story) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *story) kubectl(args ...string) string {
	s.Helper()
	out, err := s.c.Kubectl(s.ctx, args...)
	s.ok(err)
	return out
}

func (s *story) file(text string) string {
	s.Helper()
	f := filepath.Join(s.TempDir(), "object.yaml")
	s.ok(os.WriteFile(f, []byte(text), 0o600))
	return f
}

// eventually asks until there is no error.
func (s *story) eventually(what string, ask func() error) {
	s.Helper()
	late := time.After(2 * time.Minute)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-late:
			s.Fatalf("waited for %s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *story) until(what, want string, args ...string) {
	s.Helper()
	s.eventually(what, func() error {
		got, err := s.c.Kubectl(s.ctx, args...)
		if err == nil && strings.TrimSpace(got) != strings.TrimSpace(want) {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// start a replica beside the API server. Its ports begin with prefix.
func (s *story) start(program, name, prefix string) *replica {
	s.Helper()
	dir := filepath.Join(s.c.Dir, "replica-"+name)
	s.ok(os.Mkdir(dir, 0o700))
	config, err := os.ReadFile(s.c.Kubeconfig)
	s.ok(err)
	inside := filepath.Join(dir, "kubeconfig")
	there := regexp.MustCompile(`https://127\.0\.0\.1:\d+`).ReplaceAll(config, []byte("https://172.30.0.1:6443"))
	s.ok(os.WriteFile(inside, there, 0o600))
	cmd, err := s.c.In(s.ctx, 0, "/usr/bin/env", "POD_NAME="+name, program, "control-plane", "--kube", "--kubeconfig", inside, "--state", dir,
		"--proxies", ":"+prefix+"12", "--webhooks", ":"+prefix+"17", "--metrics", ":"+prefix+"14", "--health", ":"+prefix+"80")
	s.ok(err)
	cmd.Stdout, cmd.Stderr = s.Output(), s.Output()
	s.ok(cmd.Start())
	r := &replica{cmd, prefix + "12", make(chan error, 1)}
	go func() { r.ended <- cmd.Wait() }()
	s.eventually("replica "+name, func() error {
		conn, err := s.c.Dial(s.ctx, "tcp", "127.0.0.1:"+prefix+"80")
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(conn, "GET /ready HTTP/1.0\r\n\r\n")
		answer := make([]byte, 12)
		if _, err := conn.Read(answer); err != nil {
			return err
		}
		if string(answer) != "HTTP/1.0 200" {
			return fmt.Errorf("%s", answer)
		}
		return nil
	})
	return r
}

func (s *story) stop(r *replica) {
	s.Helper()
	// The process is nsenter's, which waits for the program.
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", r.cmd.Process.Pid))
	s.ok(err)
	pid := r.cmd.Process.Pid
	if f := strings.Fields(string(b)); len(f) == 1 {
		pid, err = strconv.Atoi(f[0])
		s.ok(err)
	}
	s.ok(syscall.Kill(pid, syscall.SIGTERM))
	if err := <-r.ended; err != nil {
		s.Errorf("the replica ended with %v", err)
	}
}

// conn to a replica, which must show a certificate for Istio's address.
func (s *story) conn(r *replica, roots string) *grpc.ClientConn {
	s.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	c, err := grpc.NewClient("passthrough:///127.0.0.1:"+r.port,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "istiod.istio-system.svc"})),
		grpc.WithContextDialer(func(ctx context.Context, at string) (net.Conn, error) { return s.c.Dial(ctx, "tcp", at) }))
	s.ok(err)
	s.Cleanup(func() { c.Close() })
	return c
}

func (s *story) as(token string) context.Context {
	return metadata.AppendToOutgoingContext(s.ctx, "authorization", "Bearer "+token)
}

// ask for the roots over xDS.
func (s *story) ask(r *replica, roots, token string) ([]byte, error) {
	x, err := xdstest.Delta(s.as(token), s.conn(r, roots), &corepb.Node{Id: "sidecar~10.244.9.9~orders-1.shop~shop.svc.cluster.local", UserAgentName: "tulle-proxy"})
	if err == nil {
		err = x.Subscribe(xds.SecretType, "", "ROOTCA")
	}
	if err != nil {
		return nil, err
	}
	return x.Await(xds.SecretType, "ROOTCA")
}

// bundle is the roots that a proxy gets.
func (s *story) bundle(r *replica, roots, token string) string {
	s.Helper()
	var b []byte
	s.eventually("the record of the pod", func() (err error) { // the replica hears of it when it can
		b, err = s.ask(r, roots, token)
		return err
	})
	at, end := strings.Index(string(b), "-----BEGIN"), strings.LastIndex(string(b), "-----")
	if at < 0 {
		s.Fatalf("secret %q", b)
	}
	return string(b)[at : end+5]
}

// text is a gRPC codec of bytes as they are.
type text struct{}

func (text) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (text) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}
func (text) Name() string { return "proto" }

// sign has a key certified.
func (s *story) sign(r *replica, roots, token string) *x509.Certificate {
	s.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.ok(err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	s.ok(err)
	body := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	in := append([]byte{1<<3 | 2, byte(len(body)&0x7f | 0x80), byte(len(body) >> 7)}, body...)
	var out []byte
	s.ok(s.conn(r, roots).Invoke(s.as(token), ca.Method, in, &out, grpc.ForceCodec(text{})))
	b, _ := pem.Decode(out[strings.Index(string(out), "-----BEGIN"):])
	leaf, err := x509.ParseCertificate(b.Bytes)
	s.ok(err)
	return leaf
}
