package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	defaultTTL = 24 * time.Hour
	// backdate lets a peer's clock be this much behind ours.
	backdate = 2 * time.Minute
	// maxCSR bytes of PEM; a CSR with an RSA-4096 key has about 1,700.
	maxCSR = 16 << 10
)

// ErrBadRequest is wrapped by errors that are the CSR's fault.
var ErrBadRequest = errors.New("bad certificate request")

// Options of an Authority. The zero value of each field means its default.
type Options struct {
	TTL    time.Duration    // of workload certificates that ask for no validity; 24 h
	MaxTTL time.Duration    // the longest validity that a CSR gets; TTL
	Now    func() time.Time // time.Now
}

// Authority signs with one key at a time, which Replace changes. Safe for
// concurrent use.
type Authority struct {
	signer atomic.Pointer[signer]
	ttl    time.Duration
	maxTTL time.Duration
	now    func() time.Time
}

// Chain is a signed certificate with what leads to the root.
type Chain struct {
	PEM       []string // one certificate each, leaf first, root last
	NotBefore time.Time
	NotAfter  time.Time
}

// Leaf joins the certificates that a server shows: all but the root.
func (c *Chain) Leaf() []byte {
	var b bytes.Buffer
	for _, p := range c.PEM[:len(c.PEM)-1] {
		b.WriteString(p)
	}
	return b.Bytes()
}

// Sign answers a PEM CSR with a certificate for id. Of the CSR only the public
// key is used: names and extensions in it are ignored, since only id has been
// authenticated. ttl is clamped to the Authority's maximum and to the root's
// end; zero or less asks for the default. Errors wrap ErrBadRequest when the
// CSR is to blame.
func (a *Authority) Sign(csrPEM []byte, id identity.ID, ttl time.Duration) (*Chain, error) {
	csr, err := parseCSR(csrPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return a.sign(csr.PublicKey, id, ttl, nil)
}

// Issue makes a P-256 key and a certificate for id, for clients which take
// both from SDS. The key is PKCS #8 PEM.
func (a *Authority) Issue(id identity.ID, ttl time.Duration) (*Chain, []byte, error) {
	return a.issue(id, ttl, nil)
}

// IssueServer makes a key and a certificate for the control plane's own
// listener: id, and the names and addresses under which it is dialled.
func (a *Authority) IssueServer(id identity.ID, names []string, addrs []netip.Addr) (*Chain, []byte, error) {
	return a.issue(id, 0, func(c *x509.Certificate) {
		c.DNSNames = names
		for _, ip := range addrs {
			c.IPAddresses = append(c.IPAddresses, net.IP(ip.AsSlice()))
		}
	})
}

func (a *Authority) issue(id identity.ID, ttl time.Duration, edit func(*x509.Certificate)) (*Chain, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	chain, err := a.sign(key.Public(), id, ttl, edit)
	if err != nil {
		return nil, nil, err
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (a *Authority) sign(pub crypto.PublicKey, id identity.ID, ttl time.Duration, edit func(*x509.Certificate)) (*Chain, error) {
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("sign for %q: %w", id, err)
	}
	u, err := url.Parse(id.String())
	if err != nil {
		return nil, fmt.Errorf("sign for %q: %w", id, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if ttl <= 0 {
		ttl = a.ttl
	}
	ttl = min(ttl, a.maxTTL)
	ca := a.signer.Load()
	now := a.now()
	notAfter := now.Add(ttl)
	if end := ca.end(); notAfter.After(end) {
		notAfter = end
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("sign for %q: the authority's certificate ended at %s", id, ca.end().Format(time.RFC3339))
	}
	// The subject stays empty, which makes the SAN critical (RFC 5280 section
	// 4.2.1.6): nothing can be matched but the identity.
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{u},

		BasicConstraintsValid: true,
	}
	if _, ok := pub.(*rsa.PublicKey); ok {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment // TLS 1.2 RSA key exchange
	}
	if edit != nil {
		edit(t)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.chain[0], pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign for %q: %w", id, err)
	}
	out := &Chain{PEM: []string{pemOf(der)}, NotBefore: t.NotBefore, NotAfter: notAfter}
	for _, c := range ca.chain {
		out.PEM = append(out.PEM, pemOf(c.Raw))
	}
	return out, nil
}

// parseCSR checks that the sender holds the key, and that the key is of a kind
// that Envoy and we accept in TLS.
func parseCSR(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), maxCSR)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("PEM block is a %q", block.Type)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("text after the request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	switch k := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return nil, fmt.Errorf("curve %s", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return nil, fmt.Errorf("RSA key of %d bits, want 2048 to 8192", n)
		}
	default:
		return nil, fmt.Errorf("key of type %s, want ECDSA or RSA", csr.PublicKeyAlgorithm)
	}
	return csr, nil
}

// newSerial is 127 random bits, never zero (RFC 5280 section 4.1.2.2).
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
