package mtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Peer is the other end, as its certificate says and our bundle confirms.
// Immutable.
type Peer struct {
	ID       identity.ID // zero: no SPIFFE ID of a workload
	URI      string      // of the SAN, the SPIFFE ID as a rule; empty: none
	URIs     []string
	DNS      []string
	Subject  string // RFC 2253
	Hash     string // SHA-256 of the certificate, hex
	Cert     *x509.Certificate
	NotAfter time.Time // of the first certificate of the chain to expire
}

// verifier checks a peer's chain. It is kept with the connection, to check
// again.
type verifier struct {
	source Source
	bundle string // secret name
	sans   []conf.StringMatch
	pins   conf.Pins
	host   string // DNS name that the certificate must be good for; empty: any
	usage  x509.ExtKeyUsage
	now    func() time.Time
}

// verify checks the chain (leaf first) against the bundle of the moment.
func (v *verifier) verify(chain []*x509.Certificate) (*Peer, error) {
	if len(chain) == 0 {
		return nil, &Error{NoClientCert, nil}
	}
	b, err := v.source.Bundle(v.bundle)
	if err != nil {
		return nil, err
	}
	o := x509.VerifyOptions{Roots: b.roots, Intermediates: x509.NewCertPool(), CurrentTime: v.now(),
		KeyUsages: []x509.ExtKeyUsage{v.usage}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	leaf := chain[0]
	chains, err := leaf.Verify(o)
	if err != nil {
		return nil, classifyCert(err)
	}
	if chains, err = unrevoked(chains, b.crls, v.now()); err != nil {
		return nil, err
	}
	if !pinned(&v.pins, leaf) {
		return nil, failure(BadCert, "the certificate is none of those that are named by their hashes")
	}
	p, err := newPeer(leaf)
	if err != nil {
		return nil, err
	}
	p.NotAfter = notAfter(chains)
	if v.host != "" {
		if err := leaf.VerifyHostname(v.host); err != nil {
			return nil, &Error{SANMismatch, err}
		}
	}
	if len(v.sans) > 0 && !matchSANs(v.sans, leaf) {
		return nil, failure(SANMismatch, "%s", describe(leaf))
	}
	return p, nil
}

// unrevoked keeps the chains of which every certificate below the root is
// covered by a list of its issuer that is valid now, and is not on it. Without
// lists all are kept.
func unrevoked(chains [][]*x509.Certificate, lists []*x509.RevocationList, now time.Time) ([][]*x509.Certificate, error) {
	if len(lists) == 0 {
		return chains, nil
	}
	var good [][]*x509.Certificate
	var why error
	for _, chain := range chains {
		ok := true
		for i := range len(chain) - 1 {
			if err := revoked(chain[i], chain[i+1], lists, now); err != nil {
				ok, why = false, err
				break
			}
		}
		if ok {
			good = append(good, chain)
		}
	}
	if len(good) == 0 {
		return nil, why
	}
	return good, nil
}

func revoked(c, issuer *x509.Certificate, lists []*x509.RevocationList, now time.Time) error {
	covered := false
	for _, l := range lists {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) || l.CheckSignatureFrom(issuer) != nil ||
			now.Before(l.ThisUpdate) || !l.NextUpdate.IsZero() && now.After(l.NextUpdate) {
			continue
		}
		covered = true
		for i := range l.RevokedCertificateEntries {
			if l.RevokedCertificateEntries[i].SerialNumber.Cmp(c.SerialNumber) == 0 {
				return failure(BadCert, "the certificate with serial number %x is revoked", c.SerialNumber)
			}
		}
	}
	if !covered {
		return failure(BadCert, "there is no valid revocation list of %s", issuer.Subject)
	}
	return nil
}

// pinned reports whether a certificate or its key is named by its hash, where
// any is.
func pinned(p *conf.Pins, leaf *x509.Certificate) bool {
	if len(p.Certificates)+len(p.Keys) == 0 {
		return true
	}
	return slices.Contains(p.Certificates, sha256.Sum256(leaf.Raw)) || slices.Contains(p.Keys, sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
}

// notAfter is when the longest living chain ends, roots not counted: they are
// trusted by name.
func notAfter(chains [][]*x509.Certificate) time.Time {
	var best time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain[1:max(len(chain)-1, 1)] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(best) {
			best = end
		}
	}
	return best
}

// newPeer reads the names of a verified leaf. A SPIFFE certificate has exactly
// one URI and is no CA's (X509-SVID sections 2 and 5.2): with two URIs, policies
// could be read either way.
func newPeer(leaf *x509.Certificate) (*Peer, error) {
	sum := sha256.Sum256(leaf.Raw)
	p := &Peer{DNS: leaf.DNSNames, Subject: leaf.Subject.String(), Hash: hex.EncodeToString(sum[:]), Cert: leaf}
	spiffe := false
	for _, u := range leaf.URIs {
		p.URIs = append(p.URIs, u.String())
		spiffe = spiffe || strings.EqualFold(u.Scheme, "spiffe")
	}
	if spiffe && len(p.URIs) > 1 {
		return nil, failure(BadCert, "the certificate has more than one URI")
	}
	if spiffe && leaf.IsCA {
		return nil, failure(BadCert, "the certificate is a CA's")
	}
	if len(p.URIs) > 0 {
		p.URI = p.URIs[0]
	}
	if id, err := identity.Parse(p.URI); err == nil {
		p.ID = id
	}
	return p, nil
}

// matchSANs reports whether a name of the certificate matches one of the list.
func matchSANs(list []conf.StringMatch, c *x509.Certificate) bool {
	for i := range list {
		m := &list[i]
		is := func(t conf.SANType) bool { return m.SAN == conf.SANAny || m.SAN == t }
		if is(conf.SANURI) {
			for _, u := range c.URIs {
				if matchString(m, u.String()) {
					return true
				}
			}
		}
		if is(conf.SANDNS) {
			for _, d := range c.DNSNames {
				if matchString(m, d) || matchWildcard(m, d) {
					return true
				}
			}
		}
		if is(conf.SANIP) {
			for _, ip := range c.IPAddresses {
				if matchString(m, ip.String()) {
					return true
				}
			}
		}
		if is(conf.SANEmail) {
			for _, e := range c.EmailAddresses {
				if matchString(m, e) {
					return true
				}
			}
		}
	}
	return false
}

// matchWildcard matches a certificate for "*.x" with the wanted name "a.x".
func matchWildcard(m *conf.StringMatch, dns string) bool {
	suffix, ok := strings.CutPrefix(dns, "*.")
	if !ok || m.Kind != conf.StrExact {
		return false
	}
	label, rest, ok := strings.Cut(m.Value, ".")
	return ok && label != "" && strings.EqualFold(rest, suffix)
}

// matchString applies a matcher to a name; kinds without a meaning here match
// nothing.
func matchString(m *conf.StringMatch, s string) bool {
	v := m.Value
	if m.IgnoreCase {
		s, v = strings.ToLower(s), strings.ToLower(v)
	}
	switch m.Kind {
	case conf.StrExact:
		return s == v
	case conf.StrPrefix:
		return strings.HasPrefix(s, v)
	case conf.StrSuffix:
		return strings.HasSuffix(s, v)
	case conf.StrContains:
		return strings.Contains(s, v)
	case conf.StrRegex:
		if m.Regex == nil {
			return false
		}
		loc := m.Regex.FindStringIndex(s)
		return loc != nil && loc[0] == 0 && loc[1] == len(s)
	}
	return false
}

// describe names a certificate in an error.
func describe(c *x509.Certificate) string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "the certificate has no names"
	}
	if len(names) > 4 {
		names = append(names[:4], "…")
	}
	return "the peer is " + strings.Join(names, ", ")
}
