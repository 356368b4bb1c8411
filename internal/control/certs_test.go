package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/internal/xds/xdstest"

	"os"
)

func selfSigned(t *testing.T, host string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	ok(t, err)
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	ok(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}))
}

func indent(s string) string {
	var b strings.Builder
	for _, l := range strings.Split(strings.TrimSpace(s), "\n") {
		b.WriteString("    " + l + "\n")
	}
	return b.String()
}

// Over TLS, a certificate of our CA is a credential for its own identity's
// workloads, and for no others.
func TestClientCertificates(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	users := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	orders := r.register(WorkloadSpec{Namespace: "shop", Deployment: "orders"})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.Roots())
	subscribe := func(cert *tls.Certificate, workload string) error {
		conf := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}
		if cert != nil {
			// Shown even if the server names other issuers.
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		c, err := grpc.NewClient(r.Address(), grpc.WithTransportCredentials(credentials.NewTLS(conf)))
		ok(t, err)
		defer c.Close()
		s, err := xdstest.Delta(r.ctx, c, node("sidecar~127.0.0.1~"+workload+".shop~shop.svc.cluster.local", nil))
		if err != nil {
			return err
		}
		_ = s.Subscribe(xds.ClusterType, "") // the stream may have ended already
		_, err = s.Next()
		return err
	}
	issue := func(id identity.ID) *tls.Certificate {
		chain, key, err := r.ca.Issue(id, 0)
		ok(t, err)
		c, err := tls.X509KeyPair(chain.Leaf(), key)
		ok(t, err)
		return &c
	}
	id := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", Account: "users"}
	foreignCert, foreignKey := selfSigned(t, "x")
	foreign, err := tls.X509KeyPair([]byte(foreignCert), []byte(foreignKey))
	ok(t, err)
	for _, c := range []struct {
		name     string
		cert     *tls.Certificate
		workload string
		want     codes.Code
	}{
		{"its own", issue(id), users.Name, codes.OK},
		{"another's", issue(id), orders.Name, codes.PermissionDenied},
		{"one that is not there", issue(id), "nobody", codes.Unavailable},
		{"another trust domain", issue(identity.ID{TrustDomain: "else", Namespace: "shop", Account: "users"}), users.Name, codes.Unauthenticated},
		{"none", nil, users.Name, codes.Unauthenticated},
		{"of another CA", &foreign, users.Name, codes.Unavailable}, // the handshake fails
	} {
		if err := subscribe(c.cert, c.workload); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// On the unix socket, the kernel's word for the user is a credential for the
// workloads that this user registered.
func TestPeerCredentials(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	me, other := uint32(os.Getuid()), uint32(os.Getuid()+1)
	mine, err := r.Register(WorkloadSpec{Namespace: "shop", Deployment: "users"}, &me)
	ok(t, err)
	theirs, err := r.Register(WorkloadSpec{Namespace: "shop", Deployment: "users"}, &other)
	ok(t, err)
	nobodys := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users"})
	for _, c := range []struct {
		name string
		want codes.Code
	}{{mine.Name, codes.OK}, {theirs.Name, codes.PermissionDenied}, {nobodys.Name, codes.PermissionDenied}} {
		s, err := xdstest.Delta(r.ctx, r.dial(grpc.WithTransportCredentials(insecure.NewCredentials())), node("sidecar~127.0.0.1~"+c.name+".shop~shop.svc.cluster.local", nil))
		ok(t, err)
		_ = s.Subscribe(xds.ClusterType, "")
		if _, err := s.Next(); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
