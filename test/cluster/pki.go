//go:build linux

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of a cluster's components into a directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// newAuthority writes NAME.crt and NAME.key.
func newAuthority(dir, name string) (*authority, error) {
	a := &authority{dir: dir}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return a, a.issue(name, template)
}

// client issues a certificate for a user of the API.
func (a *authority) client(name, user string, groups ...string) error {
	return a.issue(name, &x509.Certificate{
		Subject:  pkix.Name{CommonName: user, Organization: groups},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// server issues a certificate for something that listens.
func (a *authority) server(name string, addresses []string, names ...string) error {
	c := &x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: names,
	}
	for _, ip := range addresses {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip))
	}
	return a.issue(name, c)
}

// issue signs with the authority, or by itself when the authority has no
// certificate yet and so becomes it.
func (a *authority) issue(name string, c *x509.Certificate) error {
	key, err := newKey(filepath.Join(a.dir, name+".key"))
	if err != nil {
		return err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	c.NotBefore = time.Now().Add(-time.Minute)
	c.NotAfter = c.NotBefore.AddDate(1, 0, 0)
	if a.cert == nil {
		a.cert, a.key = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", name, err)
	}
	if a.cert == c {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	return writePEM(filepath.Join(a.dir, name+".crt"), "CERTIFICATE", der)
}

// newKey writes a private key and returns it.
func newKey(path string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// writePKI makes all keys and certificates of a cluster with these nodes.
func writePKI(dir string, nodes int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ca, err := newAuthority(dir, "ca")
	if err != nil {
		return err
	}
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	account, err := newKey(filepath.Join(dir, "accounts.key"))
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(account.Public())
	if err != nil {
		return err
	}
	steps := []error{
		writePEM(filepath.Join(dir, "accounts.pub"), "PUBLIC KEY", public),
		front.client("front-proxy-client", "front-proxy-client"),
		ca.server("apiserver", []string{hostIP, hostIP6, "127.0.0.1", firstServiceIP, firstServiceIP6},
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
		ca.client("apiserver-kubelet", "apiserver-kubelet-client", "system:masters"),
		ca.client("admin", "admin", "system:masters"),
		ca.client("controllers", "system:kube-controller-manager"),
		ca.client("scheduler", "system:kube-scheduler"),
		ca.client("proxy", "system:kube-proxy"),
	}
	for i := 1; i <= nodes; i++ {
		n := nodeName(i)
		steps = append(steps, ca.client(n, "system:node:"+n, "system:nodes"),
			ca.server(n+"-serving", []string{nodeIP(i), nodeIP6(i)}, n))
	}
	for _, err := range steps {
		if err != nil {
			return err
		}
	}
	return nil
}

// writeKubeconfig for the client certificate of that name. The certificates
// are inside, so that the file can be carried elsewhere.
func writeKubeconfig(path, pki, name, server string) error {
	var parts [3][]byte
	for i, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		b, err := os.ReadFile(filepath.Join(pki, file))
		if err != nil {
			return err
		}
		parts[i] = b
	}
	return os.WriteFile(path, fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Config", "current-context": "tulle",
 "clusters": [{"name": "tulle", "cluster": {"server": %q, "certificate-authority-data": %s}}],
 "users": [{"name": "tulle", "user": {"client-certificate-data": %s, "client-key-data": %s}}],
 "contexts": [{"name": "tulle", "context": {"cluster": "tulle", "user": "tulle"}}]}
`, server, quoted(parts[0]), quoted(parts[1]), quoted(parts[2])), 0o600)
}

// quoted is how JSON carries bytes.
func quoted(b []byte) string { return `"` + base64.StdEncoding.EncodeToString(b) + `"` }
