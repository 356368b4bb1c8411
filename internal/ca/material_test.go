package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// made is a certificate authority of a test.
type made struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (m made) pem() []byte { return []byte(pemOf(m.cert.Raw)) }

func under(t *testing.T, parent *made, name string, pub any) made {
	t.Helper()
	key := ecKey(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	signing, by := key, c
	if parent != nil {
		signing, by = parent.key, parent.cert
		c.NotAfter = time.Now().Add(6 * time.Hour)
	}
	if pub == nil {
		pub = key.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, pub, signing)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made{out, key}
}

// An intermediate as Istio's secret cacerts has it: the chain in another file,
// an RSA key in its own form, more than one root.
func TestIntermediate(t *testing.T) {
	root, other := under(t, nil, "root", nil), under(t, nil, "other root", nil)
	middle := under(t, &root, "middle", nil)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	own := under(t, &middle, "own", key.Public())
	m := Material{
		Certificate: own.pem(),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		Chain:       append(own.pem(), middle.pem()...),
		Roots:       append(other.pem(), root.pem()...),
	}
	a, err := New(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Sign(newCSR(t, ecKey(t), x509.CertificateRequest{}), orders, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(chain.PEM) != 4 || chain.PEM[1] != string(own.pem()) || chain.PEM[2] != string(middle.pem()) || chain.PEM[3] != string(root.pem()) {
		t.Errorf("chain of %d: want leaf, own, middle, root", len(chain.PEM))
	}
	if got := string(chain.Leaf()); strings.Count(got, "BEGIN") != 3 || strings.Contains(got, string(root.pem())) {
		t.Errorf("a server shows %d certificates, want all but the root", strings.Count(got, "BEGIN"))
	}
	if string(a.Bundle()) != string(m.Roots) {
		t.Error("the bundle is not all roots")
	}
	if !chain.NotAfter.Equal(middle.cert.NotAfter) && !chain.NotAfter.Equal(own.cert.NotAfter) {
		t.Errorf("a leaf until %v outlives its issuers", chain.NotAfter)
	}
	c := leaf(t, chain)
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(chain.Leaf())
	if _, err := c.Verify(x509.VerifyOptions{Roots: a.Pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if !a.Signs(c) {
		t.Error("Signs does not know its own")
	}

	// What does not fit together changes nothing.
	for _, bad := range []struct {
		text string
		m    Material
	}{
		{"does not lead to a root", Material{Certificate: own.pem(), Key: m.Key, Roots: root.pem()}},
		{"the key is not the certificate's", Material{Certificate: middle.pem(), Key: m.Key, Roots: root.pem()}},
		{"no PRIVATE KEY", Material{Certificate: own.pem(), Key: own.pem(), Roots: root.pem()}},
		{"no CERTIFICATE", Material{Key: m.Key, Roots: root.pem()}},
		{"chain", Material{Certificate: own.pem(), Key: m.Key, Chain: []byte("x"), Roots: root.pem()}},
		{"not a CA's", Material{Certificate: []byte(chain.PEM[0]), Key: m.Key, Roots: root.pem()}},
	} {
		if err := a.Replace(bad.m); err == nil || !strings.Contains(err.Error(), bad.text) {
			t.Errorf("%v, want %q", err, bad.text)
		}
		if !a.Signs(c) {
			t.Fatalf("after %q another key signs", bad.text)
		}
	}
	fresh, err := NewMaterial("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Replace(fresh); err != nil {
		t.Fatal(err)
	}
	if a.Signs(c) || string(a.Bundle()) != string(fresh.Roots) {
		t.Error("Replace did not replace")
	}
}
