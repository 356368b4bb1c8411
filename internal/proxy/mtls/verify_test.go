//go:build linux

package mtls

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// revoke makes a revocation list of an authority, in PEM.
func (a *authority) revoke(t testing.TB, until time.Time, serials ...int64) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: until}
	for _, n := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("X509 CRL", der)
}

// leaf of an authority with a serial number.
func (a *authority) leaf(t testing.TB, serial int64) *x509.Certificate {
	t.Helper()
	chain, _ := a.issue(t, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(serial) }, clientURI)
	return certificate(t, chain)
}

func certificate(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(chain)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A certificate that a valid list of its issuer names is refused, and so is
// every one when the issuer has no valid list.
func TestRevocation(t *testing.T) {
	ca, other := newAuthority(t, "root"), newAuthority(t, "other")
	good, bad := ca.leaf(t, 7), ca.leaf(t, 8)
	later := time.Now().Add(time.Hour)
	for _, tc := range []struct {
		name string
		crl  []byte
		want [2]string // of good and of bad; "": accepted
	}{
		{"named", ca.revoke(t, later, 8, 9), [2]string{"", "serial number 8 is revoked"}},
		{"nobody", ca.revoke(t, later), [2]string{"", ""}},
		{"stale", ca.revoke(t, time.Now().Add(-time.Second), 8), [2]string{"no valid revocation list of CN=root", "no valid revocation list of CN=root"}},
		{"of another", other.revoke(t, later, 8), [2]string{"no valid revocation list of CN=root", "no valid revocation list of CN=root"}},
		{"one stale, one good", append(ca.revoke(t, time.Now().Add(-time.Second), 7), ca.revoke(t, later, 8)...), [2]string{"", "serial number 8 is revoked"}},
	} {
		s := NewStore()
		if _, errs := s.Update(map[string]*conf.Secret{"ca": {CA: ca.pem, CRL: tc.crl}}); len(errs) > 0 {
			t.Fatal(tc.name, errs)
		}
		v := &verifier{source: s, bundle: "ca", usage: x509.ExtKeyUsageClientAuth, now: time.Now}
		for i, c := range []*x509.Certificate{good, bad} {
			_, err := v.verify([]*x509.Certificate{c})
			if want := tc.want[i]; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: serial %v: %v, want %q", tc.name, c.SerialNumber, err, want)
			}
		}
	}
}

// Lists may stand in a file; a new one is trusted anew, and one that does not
// parse leaves the last good state.
func TestRevocationChanges(t *testing.T) {
	ca := newAuthority(t, "root")
	later := time.Now().Add(time.Hour)
	s := NewStore()
	if trust, errs := s.Update(map[string]*conf.Secret{"ca": {CA: ca.pem}}); trust || len(errs) > 0 {
		t.Fatal(trust, errs)
	}
	if trust, errs := s.Update(map[string]*conf.Secret{"ca": {CA: ca.pem, CRL: ca.revoke(t, later, 8)}}); !trust || len(errs) > 0 {
		t.Error("a list that came is no reason to look again", errs)
	}
	if trust, errs := s.Update(map[string]*conf.Secret{"ca": {CA: ca.pem, CRL: []byte("x")}}); trust || errs["ca"] == nil {
		t.Error("what does not parse must be told and change nothing", errs)
	}
	v := &verifier{source: s, bundle: "ca", usage: x509.ExtKeyUsageClientAuth, now: time.Now}
	if _, err := v.verify([]*x509.Certificate{ca.leaf(t, 8)}); err == nil {
		t.Error("the last good list is gone")
	}
	dir := t.TempDir()
	for name, text := range map[string][]byte{"ca": ca.pem, "crl": ca.revoke(t, later, 8)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v.bundle = "file-root:" + dir + "/ca~" + dir + "/crl"
	if _, err := v.verify([]*x509.Certificate{ca.leaf(t, 7)}); err != nil {
		t.Error(err)
	}
	if _, err := v.verify([]*x509.Certificate{ca.leaf(t, 8)}); err == nil {
		t.Error("a list from a file does not act")
	}
	v.bundle = "file-inline:" + string(ca.pem)
	if _, err := v.verify([]*x509.Certificate{ca.leaf(t, 8)}); err != nil {
		t.Error(err)
	}
}

// Certificates named by hash: of themselves or of their key, one is enough.
func TestPins(t *testing.T) {
	ca := newAuthority(t, "root")
	leaf, other := ca.leaf(t, 7), ca.leaf(t, 8)
	s := NewStore()
	s.Update(map[string]*conf.Secret{"ca": {CA: ca.pem}})
	cert, key, no := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo), sha256.Sum256(other.Raw)
	for i, tc := range []struct {
		pins conf.Pins
		ok   bool
	}{
		{conf.Pins{}, true},
		{conf.Pins{Certificates: [][32]byte{no, cert}}, true},
		{conf.Pins{Keys: [][32]byte{key}}, true},
		{conf.Pins{Certificates: [][32]byte{no}, Keys: [][32]byte{key}}, true},
		{conf.Pins{Certificates: [][32]byte{no}}, false},
		{conf.Pins{Certificates: [][32]byte{key}, Keys: [][32]byte{cert}}, false},
	} {
		v := &verifier{source: s, bundle: "ca", pins: tc.pins, usage: x509.ExtKeyUsageClientAuth, now: time.Now}
		if _, err := v.verify([]*x509.Certificate{leaf}); (err == nil) != tc.ok {
			t.Errorf("%d: %v", i, err)
		}
	}
}
