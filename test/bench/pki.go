package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Names in the certificates.
const (
	trustDomain = "spiffe://cluster.local/"
	pairName    = "backend.bench.local" // DNS name of the second of a pair
)

// certificate is a chain and its key in files, and both in one.
type certificate struct{ cert, key, both string }

// pki is a CA with the certificates of the contenders: P-256, as a mesh has.
type pki struct {
	ca                      string
	gateway, server, client certificate
}

func newPKI(dir string) (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	p := &pki{ca: filepath.Join(dir, "ca.pem")}
	if err := os.WriteFile(p.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	hosts := []string{pairName}
	for h := range hostCount {
		hosts = append(hosts, hostName(h))
	}
	for i, l := range []struct {
		to   *certificate
		name string
		dns  []string
		id   string
	}{
		{&p.gateway, "gateway", hosts, ""},
		{&p.server, "server", hosts[:1], trustDomain + "ns/bench/sa/backend"},
		{&p.client, "client", nil, trustDomain + "ns/bench/sa/client"},
	} {
		t := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: l.name}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			DNSNames: l.dns, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		if l.id != "" {
			u, err := url.Parse(l.id)
			if err != nil {
				return nil, err
			}
			t.URIs = []*url.URL{u}
		}
		if *l.to, err = issue(dir, l.name, t, root, key); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func issue(dir, name string, t, root *x509.Certificate, by *ecdsa.PrivateKey) (c certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root, &key.PublicKey, by)
	if err != nil {
		return c, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return c, err
	}
	cert, priv := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	c = certificate{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"), filepath.Join(dir, name+"-both.pem")}
	for file, b := range map[string][]byte{c.cert: cert, c.key: priv, c.both: slices.Concat(cert, priv)} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return c, err
		}
	}
	return c, nil
}
