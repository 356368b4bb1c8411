package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxLength of a SPIFFE ID in bytes (SPIFFE-ID section 2.3).
const MaxLength = 2048

// ID is a workload identity, spiffe://<TrustDomain>/ns/<Namespace>/sa/<Account>.
// IDs compare with ==. The zero ID is nobody.
type ID struct {
	TrustDomain string
	Namespace   string
	Account     string
}

// String is the SPIFFE ID as a URI; empty for the zero ID.
func (id ID) String() string {
	if id == (ID{}) {
		return ""
	}
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.Account
}

// Principal is the form that AuthorizationPolicies use: the ID without scheme.
func (id ID) Principal() string { return strings.TrimPrefix(id.String(), "spiffe://") }

// Validate says what is wrong with an ID that was put together by hand.
func (id ID) Validate() error {
	if err := validTrustDomain(id.TrustDomain); err != nil {
		return err
	}
	if err := validSegment("namespace", id.Namespace); err != nil {
		return err
	}
	if err := validSegment("service account", id.Account); err != nil {
		return err
	}
	if n := len(id.String()); n > MaxLength {
		return fmt.Errorf("spiffe id has %d bytes, more than %d", n, MaxLength)
	}
	return nil
}

// Parse reads a workload's SPIFFE ID. It takes only the canonical form: lower
// case scheme and trust domain, no port, user, query, fragment, escapes or
// trailing slash, and exactly /ns/N/sa/S as path.
func Parse(s string) (ID, error) {
	if len(s) > MaxLength {
		return ID{}, fmt.Errorf("spiffe id has %d bytes, more than %d", len(s), MaxLength)
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("%q is no spiffe id: it does not begin with spiffe://", s)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, fmt.Errorf("%q is no workload identity: want spiffe://<trust domain>/ns/<namespace>/sa/<account>", s)
	}
	id := ID{TrustDomain: parts[0], Namespace: parts[2], Account: parts[4]}
	if err := id.Validate(); err != nil {
		return ID{}, fmt.Errorf("%q: %w", s, err)
	}
	return id, nil
}

// validTrustDomain follows SPIFFE-ID section 2.1: [a-z0-9.-_], 1 to 255 bytes.
func validTrustDomain(td string) error {
	if td == "" {
		return errors.New("trust domain is empty")
	}
	if len(td) > 255 {
		return fmt.Errorf("trust domain has %d bytes, more than 255", len(td))
	}
	for i := range len(td) {
		c := td[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fmt.Errorf("trust domain %q: character %q is not allowed", td, c)
		}
	}
	return nil
}

// validSegment follows SPIFFE-ID section 2.2: [a-zA-Z0-9.-_], not empty, no
// dot segments.
func validSegment(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if s == "." || s == ".." {
		return fmt.Errorf("%s %q is a dot segment", what, s)
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fmt.Errorf("%s %q: character %q is not allowed", what, s, c)
		}
	}
	return nil
}

// ErrNoIdentity is returned for certificates that carry no workload identity.
var ErrNoIdentity = errors.New("certificate has no spiffe id")

// FromCertificate reads the identity of a leaf certificate. X509-SVID section
// 2: exactly one URI SAN, and it is the SPIFFE ID. The certificate must have
// been verified before the answer means anything.
func FromCertificate(c *x509.Certificate) (ID, error) {
	if len(c.URIs) == 0 {
		return ID{}, ErrNoIdentity
	}
	if len(c.URIs) > 1 {
		return ID{}, fmt.Errorf("certificate has %d uri names, want exactly one", len(c.URIs))
	}
	return Parse(c.URIs[0].String())
}

// Domains are the trust domains that a mesh accepts.
type Domains struct {
	Own     string
	Aliases []string
}

// Trusts reports whether td is our trust domain or an alias of it.
func (d Domains) Trusts(td string) bool {
	if td == d.Own {
		return true
	}
	for _, a := range d.Aliases {
		if td == a {
			return true
		}
	}
	return false
}

// Canonical is id in our own trust domain when its trust domain is an alias,
// else id itself.
func (d Domains) Canonical(id ID) ID {
	if d.Trusts(id.TrustDomain) {
		id.TrustDomain = d.Own
	}
	return id
}

// RenewAt is when a certificate should be replaced: at half of its life, give
// or take a hundredth, so that workloads that started together spread out.
// spread is a random number in [0,1).
func RenewAt(notBefore, notAfter time.Time, spread float64) time.Time {
	life := notAfter.Sub(notBefore)
	return notBefore.Add(life/2 + time.Duration((spread-0.5)*0.02*float64(life)))
}
