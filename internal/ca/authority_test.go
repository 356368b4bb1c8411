package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

var orders = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", Account: "orders"}

func newAuthority(t *testing.T, o Options) *Authority {
	t.Helper()
	a, err := Open(filepath.Join(t.TempDir(), "ca"), "cluster.local", o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newCSR(t *testing.T, key crypto.Signer, tmpl x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func leaf(t *testing.T, c *Chain) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode([]byte(c.PEM[0]))
	crt, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return crt
}

func TestSignTakesNothingButTheKeyFromTheRequest(t *testing.T) {
	a := newAuthority(t, Options{})
	u, _ := url.Parse("spiffe://cluster.local/ns/bank/sa/vault")
	key := ecKey(t)
	chain, err := a.Sign(newCSR(t, key, x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "vault"},
		DNSNames:    []string{"vault.bank"},
		IPAddresses: []net.IP{{127, 0, 0, 1}},
		URIs:        []*url.URL{u},
	}), orders, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := leaf(t, chain)
	if id, err := identity.FromCertificate(c); err != nil || id != orders {
		t.Errorf("identity %v, %v", id, err)
	}
	if len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 || c.Subject.CommonName != "" || c.IsCA {
		t.Errorf("names from the request got into the certificate: %v %v %v", c.DNSNames, c.IPAddresses, c.Subject)
	}
	if !key.PublicKey.Equal(c.PublicKey) {
		t.Error("not the key of the request")
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Errorf("verify for %v: %v", use, err)
		}
	}
	if len(chain.PEM) != 2 || chain.PEM[1] != string(a.Bundle()) {
		t.Error("the chain does not end with the root")
	}
	if string(chain.Leaf()) != chain.PEM[0] {
		t.Error("Leaf is not the leaf alone")
	}
}

func TestSignRefuses(t *testing.T) {
	a := newAuthority(t, Options{})
	good := newCSR(t, ecKey(t), x509.CertificateRequest{})
	forged := func() []byte { // signed with another key than the one it carries
		b, _ := pem.Decode(good)
		der := append([]byte(nil), b.Bytes...)
		der[len(der)-1] ^= 1
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"empty":       nil,
		"not PEM":     []byte("hello"),
		"other block": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"not DER":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}}),
		"forged":      forged,
		"two":         append(append([]byte(nil), good...), good...),
		"huge":        append(append([]byte(nil), good...), strings.Repeat("\n", maxCSR)...),
		"RSA 1024":    newCSR(t, small, x509.CertificateRequest{}),
		"P-224":       newCSR(t, p224, x509.CertificateRequest{}),
		"Ed25519":     newCSR(t, ed, x509.CertificateRequest{}),
	} {
		if _, err := a.Sign(csr, orders, 0); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.Sign(good, identity.ID{}, 0); err == nil || errors.Is(err, ErrBadRequest) {
		t.Errorf("nobody: %v", err)
	}
}

func TestValidityIsClamped(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := newAuthority(t, Options{TTL: time.Hour, MaxTTL: 48 * time.Hour, Now: func() time.Time { return now }})
	csr := newCSR(t, ecKey(t), x509.CertificateRequest{})
	for _, c := range []struct{ ask, want time.Duration }{
		{0, time.Hour}, {-time.Hour, time.Hour}, {time.Minute, time.Minute}, {48 * time.Hour, 48 * time.Hour}, {1 << 62, 48 * time.Hour},
	} {
		chain, err := a.Sign(csr, orders, c.ask)
		if err != nil {
			t.Fatal(err)
		}
		if got := chain.NotAfter.Sub(now); got != c.want {
			t.Errorf("asked %v: got %v, want %v", c.ask, got, c.want)
		}
		if l := leaf(t, chain); !l.NotAfter.Equal(chain.NotAfter) || !l.NotBefore.Before(now) {
			t.Errorf("asked %v: certificate is valid %v to %v", c.ask, l.NotBefore, l.NotAfter)
		}
	}
	now = a.signer.Load().end().Add(-time.Minute)
	if chain, err := a.Sign(csr, orders, 0); err != nil || !chain.NotAfter.Equal(a.signer.Load().end()) {
		t.Errorf("near the root's end: %v, %v", chain, err)
	}
	now = a.signer.Load().end()
	if _, err := a.Sign(csr, orders, 0); err == nil {
		t.Error("signed after the root's end")
	}
}

func TestRootIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "ca")
	var wg sync.WaitGroup
	roots := make([]string, 8)
	for i := range roots {
		wg.Go(func() {
			a, err := Open(dir, "cluster.local", Options{})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = string(a.Bundle())
		})
	}
	wg.Wait()
	for _, r := range roots {
		if r != roots[0] || r == "" {
			t.Fatal("two first starts made two roots")
		}
	}
	path := filepath.Join(dir, rootFile)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	if st, err = os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if strings.Contains(roots[0], "PRIVATE") {
		t.Error("the bundle holds the key")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "cluster.local", Options{}); err == nil || !strings.Contains(err.Error(), "read by others") {
		t.Errorf("a key that the group may read: %v", err)
	}
}

func TestBrokenRootIsNeverReplaced(t *testing.T) {
	other := newAuthority(t, Options{})
	keyOnly := func(a *Authority) string {
		der, err := x509.MarshalPKCS8PrivateKey(a.signer.Load().key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	mine := newAuthority(t, Options{})
	for name, text := range map[string]string{
		"empty":      "",
		"no key":     string(mine.Bundle()),
		"no root":    keyOnly(mine),
		"mismatched": string(mine.Bundle()) + keyOnly(other),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, rootFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, "cluster.local", Options{}); err == nil {
			t.Errorf("%s: was taken", name)
		}
		if now, _ := os.ReadFile(path); string(now) != text {
			t.Errorf("%s: was overwritten", name)
		}
	}
}

func TestIssuedPairServesTLS(t *testing.T) {
	a := newAuthority(t, Options{})
	chain, key, err := a.Issue(orders, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(chain.Leaf(), key); err != nil {
		t.Error(err)
	}
	if leaf(t, chain).SerialNumber.Sign() <= 0 {
		t.Error("serial")
	}
}
