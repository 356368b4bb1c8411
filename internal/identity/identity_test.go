package identity

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	id, err := Parse("spiffe://cluster.local/ns/shop/sa/orders")
	if err != nil {
		t.Fatal(err)
	}
	if want := (ID{"cluster.local", "shop", "orders"}); id != want {
		t.Errorf("got %+v, want %+v", id, want)
	}
	if got := id.String(); got != "spiffe://cluster.local/ns/shop/sa/orders" {
		t.Errorf("String: %q", got)
	}
	if got := id.Principal(); got != "cluster.local/ns/shop/sa/orders" {
		t.Errorf("Principal: %q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"",
		"spiffe://",
		"cluster.local/ns/shop/sa/orders",
		"SPIFFE://cluster.local/ns/shop/sa/orders",
		"https://cluster.local/ns/shop/sa/orders",
		"spiffe://Cluster.local/ns/shop/sa/orders",
		"spiffe://cluster.local:80/ns/shop/sa/orders",
		"spiffe://me@cluster.local/ns/shop/sa/orders",
		"spiffe:///ns/shop/sa/orders",
		"spiffe://cluster.local/ns/shop/sa/orders/",
		"spiffe://cluster.local//ns/shop/sa/orders",
		"spiffe://cluster.local/ns/shop/sa/",
		"spiffe://cluster.local/ns//sa/orders",
		"spiffe://cluster.local/ns/./sa/orders",
		"spiffe://cluster.local/ns/../sa/orders",
		"spiffe://cluster.local/ns/sh%6fp/sa/orders",
		"spiffe://cluster.local/ns/shop/sa/orders?x=1",
		"spiffe://cluster.local/ns/shop/sa/orders#x",
		"spiffe://cluster.local/sa/orders/ns/shop",
		"spiffe://cluster.local/ns/shop/sa/orders\x00",
		"spiffe://" + strings.Repeat("a", 256) + "/ns/shop/sa/orders",
		"spiffe://cluster.local/ns/shop/sa/" + strings.Repeat("a", 2048),
	} {
		if id, err := Parse(s); err == nil {
			t.Errorf("%q was taken as %+v", s, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/orders")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Errorf("%q reads as %+v, which writes as %q", s, id, id)
		}
	})
}

func TestFromCertificate(t *testing.T) {
	u := func(s string) *url.URL {
		v, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	one := u("spiffe://cluster.local/ns/shop/sa/orders")
	if _, err := FromCertificate(&x509.Certificate{}); err != ErrNoIdentity {
		t.Errorf("no uri: %v", err)
	}
	if _, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{one, one}}); err == nil {
		t.Error("two uris were taken")
	}
	if _, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{u("spiffe://cluster.local/ns/a%2Fb/sa/x")}}); err == nil {
		t.Error("an escaped path was taken")
	}
	id, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{one}})
	if err != nil || id.Account != "orders" {
		t.Errorf("got %v, %v", id, err)
	}
}

func TestDomains(t *testing.T) {
	d := Domains{Own: "new.example", Aliases: []string{"old.example"}}
	id := ID{"old.example", "shop", "orders"}
	if got := d.Canonical(id).TrustDomain; got != "new.example" {
		t.Errorf("alias: %s", got)
	}
	id.TrustDomain = "else.example"
	if got := d.Canonical(id).TrustDomain; got != "else.example" {
		t.Errorf("foreign domain became %s", got)
	}
	if d.Trusts("") || d.Trusts("else.example") || !d.Trusts("old.example") {
		t.Error("Trusts")
	}
}

func TestRenewAt(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to := from.Add(24 * time.Hour)
	for _, c := range []struct {
		spread float64
		want   time.Duration
	}{{0, 12*time.Hour - 14*time.Minute - 24*time.Second}, {0.5, 12 * time.Hour}, {1, 12*time.Hour + 14*time.Minute + 24*time.Second}} {
		if got := RenewAt(from, to, c.spread).Sub(from); got != c.want {
			t.Errorf("spread %v: %v, want %v", c.spread, got, c.want)
		}
	}
}
