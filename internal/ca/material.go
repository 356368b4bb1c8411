package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

const rootLife = 10 * 365 * 24 * time.Hour

// Material is what an Authority signs with, each in PEM.
type Material struct {
	Certificate []byte // the signing certificate; a root, or an intermediate
	Key         []byte // of Certificate; PKCS #8, PKCS #1 or SEC 1
	Chain       []byte // intermediates that lead from Certificate to a root, in any order; may be empty
	Roots       []byte // all that workloads should trust; one of them ends the chain
}

// NewMaterial makes a self-signed root for a trust domain: ECDSA P-256, ten
// years.
func NewMaterial(trustDomain string) (Material, error) { return newMaterial(trustDomain, time.Now()) }

func newMaterial(trustDomain string, now time.Time) (Material, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Material{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Material{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{trustDomain}, CommonName: "tulle root"},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(rootLife),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:         true,

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return Material{}, fmt.Errorf("make root: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Material{}, fmt.Errorf("encode key: %w", err)
	}
	root := []byte(pemOf(der))
	return Material{Certificate: root, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), Roots: root}, nil
}

// signer is Material that was checked. Immutable.
type signer struct {
	key   crypto.Signer
	chain []*x509.Certificate // the signing certificate first, its root last; one and the same when it is a root
	roots []byte              // in PEM
	pool  *x509.CertPool      // of roots
}

// end is when the first certificate of the chain ends.
func (s *signer) end() time.Time {
	end := s.chain[0].NotAfter
	for _, c := range s.chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// New makes an Authority that signs with m.
func New(m Material, o Options) (*Authority, error) {
	a := unsigned(o)
	return a, a.Replace(m)
}

// unsigned has no signer yet.
func unsigned(o Options) *Authority {
	a := &Authority{ttl: o.TTL, maxTTL: o.MaxTTL, now: o.Now}
	if a.ttl <= 0 {
		a.ttl = defaultTTL
	}
	if a.maxTTL <= 0 {
		a.maxTTL = a.ttl
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// Replace signs with m from now on. Material that does not fit together is
// refused, and what was there stays.
func (a *Authority) Replace(m Material) error {
	s, err := m.check(a.now())
	if err == nil {
		a.signer.Store(s)
	}
	return err
}

// Bundle is the PEM of every root that workloads should trust.
func (a *Authority) Bundle() []byte { return bytes.Clone(a.signer.Load().roots) }

// Pool is Bundle as a pool, not to be changed.
func (a *Authority) Pool() *x509.CertPool { return a.signer.Load().pool }

// Signs reports whether c leads to what the Authority signs with now.
func (a *Authority) Signs(c *x509.Certificate) bool {
	return c.CheckSignatureFrom(a.signer.Load().chain[0]) == nil
}

func (m Material) check(now time.Time) (*signer, error) {
	own, err := certificates(m.Certificate)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	s := &signer{pool: x509.NewCertPool()}
	if s.key, err = privateKey(m.Key); err != nil {
		return nil, err
	}
	if !own[0].IsCA {
		return nil, errors.New("the certificate is not a CA's")
	}
	if pub, ok := own[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(s.key.Public()) {
		return nil, errors.New("the key is not the certificate's")
	}
	if now.After(own[0].NotAfter) {
		return nil, fmt.Errorf("the certificate ended at %s", own[0].NotAfter.Format(time.RFC3339))
	}
	roots, err := certificates(m.Roots)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	for _, c := range roots {
		s.pool.AddCert(c)
		s.roots = append(s.roots, pemOf(c.Raw)...)
	}
	between := x509.NewCertPool()
	for _, c := range own[1:] {
		between.AddCert(c)
	}
	if more, err := certificates(m.Chain); err == nil {
		for _, c := range more {
			between.AddCert(c)
		}
	} else if len(bytes.TrimSpace(m.Chain)) > 0 {
		return nil, fmt.Errorf("chain: %w", err)
	}
	chains, err := own[0].Verify(x509.VerifyOptions{Roots: s.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("the certificate does not lead to a root: %w", err)
	}
	s.chain = chains[0]
	return s, nil
}

// certificates of a PEM text, in its order; at least one. Other blocks are left
// out.
func certificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if out == nil {
		return nil, errors.New("want a CERTIFICATE and a PRIVATE KEY; there is no CERTIFICATE")
	}
	return out, nil
}

// privateKey of a PEM text, in any of the forms that openssl writes.
func privateKey(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var k any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			k, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		s, ok := k.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("key of type %T cannot sign", k)
		}
		return s, nil
	}
	return nil, errors.New("want a CERTIFICATE and a PRIVATE KEY; there is no PRIVATE KEY")
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
