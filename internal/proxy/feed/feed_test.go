package feed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// The first requests ask for everything, what is named is asked for, and the
// first snapshot is whole.
func TestFirstSnapshotIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), nil)
		defer w.stop()
		s := w.stream(t)
		first := s.requests()
		if len(first) != 2 || first[0].TypeUrl != conf.CDSType || first[1].TypeUrl != conf.LDSType {
			t.Fatalf("first requests: %v", first)
		}
		n := first[0].Node
		if n.GetId() != "shop/web-1" || n.GetUserAgentName() != "tulle-proxy" || n.GetUserAgentVersion() != "1" ||
			!slices.Equal(n.GetClientFeatures(), []string{"f"}) || n.GetMetadata().GetFields()["a"].GetStringValue() != "b" || first[1].Node != nil {
			t.Errorf("node: %v, second %v", n, first[1].Node)
		}
		if a := s.push("1", cds, nil, edsCluster("a"), edsCluster("b")); a.ErrorDetail != nil {
			t.Errorf("refused: %v", a.ErrorDetail)
		}
		s.push("1", lds, nil, listener("l", "80"))
		rs := s.requests()
		if sub, _ := names(of(rs, conf.EDSType)); !slices.Equal(sub, []string{"a", "b"}) {
			t.Errorf("endpoints asked for: %v", sub)
		}
		if sub, _ := names(of(rs, conf.RDSType)); !slices.Equal(sub, []string{"80"}) {
			t.Errorf("routes asked for: %v", sub)
		}
		s.push("1", eds, nil, load("a", "10.0.0.1"))
		s.push("1", rds, nil, routes("80", "a"))
		if _, n := w.last(); n != 0 {
			t.Errorf("%d snapshots before the endpoints of b", n)
		}
		s.push("1", eds, []string{"b"})
		snap, n1 := w.last()
		if n1 != 1 || snap.Listeners["l"] == nil || snap.Routes["80"] == nil || snap.Clusters["a"] == nil || snap.Clusters["b"] == nil || len(snap.Endpoints) != 1 {
			t.Errorf("%d snapshots, last %+v", n1, snap)
		}
		if st := w.Status(t.Context()); !st.Connected || !st.Synced || st.Resources["Cluster"] != 2 || st.FromDisk {
			t.Errorf("status: %+v", st)
		}
	})
}

// A bad resource keeps its last good version; the others of its response are
// used; the NACK names it with the path. The same bytes are refused again
// without harm, good ones heal it.
func TestAcceptancePerResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), nil)
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		before, _ := w.last()
		bad := edsCluster("a")
		bad.HealthChecks = []*corepb.HealthCheck{{}}
		for range 2 {
			a := s.push("2", cds, nil, bad, edsCluster("b"))
			if got := a.GetErrorDetail().GetMessage(); got != "a: health_checks: not supported" || a.ErrorDetail.Code != 3 {
				t.Errorf("refusal: %v", a.ErrorDetail)
			}
		}
		s.push("2", eds, []string{"b"})
		snap, _ := w.last()
		if snap.Clusters["a"] != before.Clusters["a"] || snap.Clusters["b"] == nil {
			t.Errorf("clusters: %v", snap.Clusters)
		}
		if st := w.Status(t.Context()); st.Refused["Cluster a"] != "health_checks: not supported" {
			t.Errorf("status: %v", st.Refused)
		}
		good := edsCluster("a")
		good.LbPolicy = clusterpb.Cluster_RANDOM
		if a := s.push("3", cds, nil, good); a.ErrorDetail != nil {
			t.Errorf("refused: %v", a.ErrorDetail)
		}
		snap, _ = w.last()
		if snap.Clusters["a"].Balance != conf.BalanceRandom {
			t.Error("the good version is not used")
		}
		if st := w.Status(t.Context()); len(st.Refused) != 0 {
			t.Errorf("status: %v", st.Refused)
		}
	})
}

// What did not change is shared: nodes keep their pointers and maps of other
// kinds are the same maps. Bytes that did not change publish nothing.
func TestSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), nil)
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		a, n := w.last()
		s.push("2", eds, nil, load("a", "10.0.0.2"))
		b, m := w.last()
		if m != n+1 || b.Version != a.Version+1 {
			t.Errorf("%d snapshots, versions %d and %d", m-n, a.Version, b.Version)
		}
		if b.Listeners["l"] != a.Listeners["l"] || b.Clusters["a"] != a.Clusters["a"] || b.Endpoints["a"] == a.Endpoints["a"] {
			t.Error("nodes are not shared as they should be")
		}
		if reflect.ValueOf(a.Clusters).Pointer() != reflect.ValueOf(b.Clusters).Pointer() || reflect.ValueOf(a.Endpoints).Pointer() == reflect.ValueOf(b.Endpoints).Pointer() {
			t.Error("maps are not shared as they should be")
		}
		s.push("3", eds, nil, load("a", "10.0.0.2"))
		if _, k := w.last(); k != m {
			t.Errorf("%d snapshots for the same bytes", k-m)
		}
	})
}

// A new version waits for what it names, for five seconds at most, while the
// old one serves.
func TestWarming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), nil)
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		old, _ := w.last()
		s.push("2", cds, nil, edsCluster("b"))
		s.push("2", rds, nil, routes("80", "b"))
		time.Sleep(time.Second)
		if now, _ := w.last(); now.Routes["80"] != old.Routes["80"] || now.Clusters["b"] != nil {
			t.Error("published before its endpoints came")
		}
		s.push("2", eds, nil, load("b", "10.0.0.3"))
		if now, _ := w.last(); now.Routes["80"] == old.Routes["80"] || now.Clusters["b"] == nil || now.Endpoints["b"] == nil {
			t.Error("not published when all was there")
		}
		old, _ = w.last()
		s.push("3", cds, nil, edsCluster("c"))
		s.push("3", rds, nil, routes("80", "c"))
		time.Sleep(patience - time.Millisecond)
		if now, _ := w.last(); now.Routes["80"] != old.Routes["80"] {
			t.Error("published before its time")
		}
		time.Sleep(2 * time.Millisecond)
		if now, _ := w.last(); now.Routes["80"] == old.Routes["80"] || now.Clusters["c"] == nil {
			t.Error("not published after its time")
		}
	})
}

// A cluster that nobody sends holds a route up for half a second once, and
// never again.
func TestMissingCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), nil)
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		old, _ := w.last()
		s.push("2", rds, nil, routes("80", "a", "nowhere"))
		time.Sleep(clusterPatience - time.Millisecond)
		if now, _ := w.last(); now.Routes["80"] != old.Routes["80"] {
			t.Error("published before its time")
		}
		time.Sleep(2 * time.Millisecond)
		now, _ := w.last()
		if now.Routes["80"] == old.Routes["80"] {
			t.Error("not published after its time")
		}
		s.push("3", rds, nil, routes("80", "nowhere"))
		if again, _ := w.last(); again.Routes["80"] == now.Routes["80"] {
			t.Error("it waited in vain again")
		}
	})
}

// What is removed stays while a published node names it, then its endpoints
// are not asked for any more.
func TestRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), nil)
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		s.push("2", cds, []string{"a"}, edsCluster("b"))
		s.push("2", eds, nil, load("b", "10.0.0.2"))
		if now, _ := w.last(); now.Clusters["a"] == nil || now.Endpoints["a"] == nil {
			t.Error("gone while a route names it")
		}
		s.push("2", rds, nil, routes("80", "b"))
		if now, _ := w.last(); now.Clusters["a"] != nil || now.Endpoints["a"] != nil {
			t.Errorf("still there: %v %v", now.Clusters, now.Endpoints)
		}
		if _, un := names(of(s.requests(), conf.EDSType)); !slices.Equal(un, []string{"a"}) {
			t.Errorf("unsubscribed: %v", un)
		}
		s.push("3", cds, []string{"b"})
		time.Sleep(afterlife + time.Millisecond)
		if now, _ := w.last(); now.Clusters["b"] != nil || now.Routes["80"] == nil {
			t.Error("it outlives its afterlife")
		}
		s.push("4", lds, []string{"l"})
		if now, _ := w.last(); len(now.Listeners)+len(now.Routes) != 0 {
			t.Errorf("a removed listener, or its routes, are there: %v %v", now.Listeners, now.Routes)
		}
	})
}

// Without the control plane everything serves on. A new stream brings the
// versions that are held; attempts are spaced out.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		w := run(t, p, nil)
		defer w.stop()
		s := w.stream(t)
		settle(t, s)
		before, n := w.last()
		p.setDown(true)
		close(s.gone)
		time.Sleep(time.Minute)
		p.mu.Lock()
		tries := p.opened
		p.mu.Unlock()
		if tries < 40 || tries > 90 { // one a second, give or take a half
			t.Errorf("%d attempts in a minute", tries)
		}
		if st := w.Status(t.Context()); st.Connected || st.LastError == "" {
			t.Errorf("status: %+v", st)
		}
		p.setDown(false)
		time.Sleep(absent + absent/2)
		s = w.stream(t)
		rs := s.requests()
		for _, r := range rs {
			want := map[string]string{conf.CDSType: "a", conf.EDSType: "a", conf.LDSType: "l", conf.RDSType: "80"}[r.TypeUrl]
			if r.InitialResourceVersions[want] != "1" {
				t.Errorf("%s: versions %v", conf.ShortType(r.TypeUrl), r.InitialResourceVersions)
			}
			if wild := r.TypeUrl == conf.CDSType || r.TypeUrl == conf.LDSType; wild != (len(r.ResourceNamesSubscribe) == 0) {
				t.Errorf("%s: names %v", conf.ShortType(r.TypeUrl), r.ResourceNamesSubscribe)
			}
		}
		if len(rs) != 4 || rs[0].Node == nil {
			t.Errorf("%d requests on the new stream", len(rs))
		}
		s.push("1", cds, nil)
		if after, m := w.last(); after != before || m != n {
			t.Error("nothing new, but published")
		}
	})
}

// State of the world: what a response about clusters leaves out is gone; a
// NACK keeps the last accepted version.
func TestStateOfTheWorld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), func(c *Config) { c.StateOfTheWorld = true })
		defer w.stop()
		s := w.stream(t)
		push := func(version string, k kind, ms ...proto.Message) *discoverypb.DiscoveryRequest {
			r := &discoverypb.DiscoveryResponse{TypeUrl: types[k].url, VersionInfo: version, Nonce: version + types[k].url}
			for _, m := range ms {
				r.Resources = append(r.Resources, pack(m))
			}
			b, _ := proto.Marshal(r)
			s.out <- b
			synctest.Wait()
			var answer *discoverypb.DiscoveryRequest
			for len(s.in) > 0 {
				m := &discoverypb.DiscoveryRequest{}
				if err := proto.Unmarshal(<-s.in, m); err != nil {
					t.Fatal(err)
				}
				if m.ResponseNonce == r.Nonce && answer == nil {
					answer = m
				}
			}
			return answer
		}
		push("1", cds, edsCluster("a"), edsCluster("b"))
		push("1", lds, listener("l", "80"))
		push("1", eds, load("a"), load("b"))
		a := push("1", rds, routes("80", "a"))
		if a.VersionInfo != "1" || !slices.Equal(a.ResourceNames, []string{"80"}) || a.ErrorDetail != nil {
			t.Errorf("answer: %v", a)
		}
		bad := edsCluster("c")
		bad.LrsReportEndpointMetrics = nil
		bad.TransportSocketMatcher = nil
		bad.HealthChecks = []*corepb.HealthCheck{{}}
		if a := push("2", cds, edsCluster("a"), bad); a.VersionInfo != "1" || a.ErrorDetail.GetMessage() != "c: health_checks: not supported" {
			t.Errorf("answer: %v", a)
		}
		snap, _ := w.last()
		if snap.Clusters["a"] == nil || snap.Clusters["b"] != nil || snap.Clusters["c"] != nil {
			t.Errorf("clusters: %v", snap.Clusters)
		}
	})
}

func gatewaySecret() *tlspb.Secret {
	return &tlspb.Secret{Name: "kubernetes://s", Type: &tlspb.Secret_TlsCertificate{TlsCertificate: &tlspb.TlsCertificate{
		CertificateChain: &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: "chain"}},
		PrivateKey:       &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: "TOPSECRET"}}}}}
}

// An earlier run's configuration is served before anything is connected. Keys
// are only in the directory of secrets; another identity's files, and broken
// ones, are not used.
func TestLastGood(t *testing.T) {
	state, secrets := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	kept := func(c *Config) { c.StateDir, c.SecretDir = state, secrets }
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), kept)
		s := w.stream(t)
		s.push("1", cds, nil, withTLS(edsCluster("a"), "kubernetes://s", "file-root:/x"), edsCluster("b"))
		s.push("1", lds, nil, listener("l", "80"))
		s.push("1", eds, nil, load("a", "10.0.0.1"), load("b"))
		s.push("1", sds, nil, gatewaySecret())
		s.push("1", rds, nil, routes("80", "a"))
		time.Sleep(2 * saveAfter)
		s.push("2", cds, []string{"b"})
		w.stop()
	})
	for _, c := range []struct {
		dir string
		key bool
	}{{state, false}, {secrets, true}} {
		files, _ := os.ReadDir(c.dir)
		for _, f := range files {
			b, _ := os.ReadFile(filepath.Join(c.dir, f.Name()))
			if i, _ := f.Info(); i.Mode().Perm() != 0o600 || bytes.Contains(b, []byte("TOPSECRET")) != c.key {
				t.Errorf("%s: mode %v, key %v", f.Name(), i.Mode(), bytes.Contains(b, []byte("TOPSECRET")))
			}
		}
		if len(files) != 1 {
			t.Errorf("%s: %d files", c.dir, len(files))
		}
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.down = true
		w := run(t, p, kept)
		snap, _ := w.last()
		if snap == nil || snap.Listeners["l"] == nil || snap.Routes["80"] == nil || snap.Endpoints["a"] == nil ||
			snap.Secrets["kubernetes://s"] == nil || len(snap.Clusters) != 1 || len(snap.Endpoints) != 1 {
			t.Fatalf("%+v", snap)
		}
		if st := w.Status(t.Context()); !st.FromDisk || st.Synced {
			t.Errorf("status: %+v", st)
		}
		p.setDown(false)
		time.Sleep(lastRetry * 2)
		s := w.stream(t)
		s.push("3", cds, []string{"a"})
		s.push("3", lds, []string{"l"})
		if snap, _ := w.last(); len(snap.Listeners) != 0 || len(snap.Routes) != 0 {
			t.Errorf("gone meanwhile, but served: %+v", snap)
		}
		w.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		w := run(t, p, kept)
		settle(t, w.stream(t))
		w.stop()
	})
	served := func(t *testing.T, c func(*Config)) (snap *conf.Snapshot) {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane(t)
			p.down = true
			w := run(t, p, func(x *Config) { kept(x); c(x) })
			snap, _ = w.last()
			w.stop()
		})
		return snap
	}
	if served(t, func(*Config) {}) == nil {
		t.Error("the second run was not kept")
	}
	if served(t, func(c *Config) { c.Identity = "shop/other" }) != nil {
		t.Error("another identity's configuration is served")
	}
	file := filepath.Join(state, "config.state")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if served(t, func(*Config) {}) != nil {
		t.Error("a broken file is served")
	}
}

// The certificate comes from the CA API, is renewed at half of its life, is
// kept over a restart, and is used until the CA answers again.
func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	var ca *fakeCA
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		ca = newCA(t, 10*time.Hour)
		p.ca = ca
		edit := func(c *Config) { c.NoCertificate, c.SecretDir = false, dir }
		w := run(t, p, edit)
		s := w.stream(t)
		s.push("1", cds, nil, withTLS(edsCluster("a"), "default", "ROOTCA"))
		s.push("1", lds, nil, listener("l", "80"))
		s.push("1", eds, nil, load("a", "10.0.0.1"))
		s.push("1", rds, nil, routes("80", "a"))
		if sub, _ := names(of(s.requests(), conf.SDSType)); !slices.Equal(sub, []string{"ROOTCA"}) {
			t.Errorf("secrets asked for: %v", sub)
		}
		a, _ := w.last()
		if a == nil || len(a.Secrets["default"].Key) == 0 || !bytes.Equal(a.Secrets["ROOTCA"].CA, ca.pem) {
			t.Fatalf("secrets: %+v", a)
		}
		if st := w.Status(t.Context()); st.Certificate != "spiffe://cluster.local/ns/shop/sa/web" {
			t.Errorf("status: %+v", st)
		}
		time.Sleep(4*time.Hour + 29*time.Minute)
		if b, _ := w.last(); b.Secrets["default"] != a.Secrets["default"] {
			t.Error("renewed too early")
		}
		p.fail(errors.New("not now"))
		time.Sleep(2 * time.Hour)
		if b, _ := w.last(); b.Secrets["default"] != a.Secrets["default"] {
			t.Error("lost")
		}
		p.fail(nil)
		time.Sleep(2 * lastSign)
		b, _ := w.last()
		if b.Secrets["default"] == a.Secrets["default"] || b.Secrets["ROOTCA"] != a.Secrets["ROOTCA"] {
			t.Error("not renewed, or the root is not shared")
		}
		s.push("2", sds, nil, &tlspb.Secret{Name: "ROOTCA", Type: &tlspb.Secret_ValidationContext{ValidationContext: &tlspb.CertificateValidationContext{
			TrustedCa: &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: "bundle"}}}}})
		if c, _ := w.last(); string(c.Secrets["ROOTCA"].CA) != "bundle" {
			t.Error("the control plane's bundle does not win")
		}
		w.stop()

		p2 := newPlane(t)
		p2.ca, p2.down = ca, true
		w = run(t, p2, edit)
		time.Sleep(time.Second)
		if p2.signs != 0 || !bytes.Equal(w.pair.Load().Certificate[0], mustPair(t, b.Secrets["default"])) {
			t.Errorf("the kept certificate is not used; %d requests", p2.signs)
		}
		w.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), func(c *Config) { c.NoCertificate, c.SecretDir, c.Identity = false, dir, "shop/other" })
		if w.pair.Load() != nil {
			t.Error("another workload's certificate is used")
		}
		w.stop()
	})
	info, err := os.Stat(filepath.Join(dir, "identity.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: %v %v", info, err)
	}
}

func mustPair(t *testing.T, s *conf.Secret) []byte {
	c := &credential{chain: s.Chain, key: s.Key}
	_ = c.parse() // without its root
	if len(c.pair.Certificate) == 0 {
		t.Fatal("no certificate")
	}
	return c.pair.Certificate[0]
}

// An answer that does not fit our key, or does not chain to its root, is not
// used.
func TestCertificateIsChecked(t *testing.T) {
	a, b := newCA(t, time.Hour), newCA(t, time.Hour)
	f := &Feed{c: Config{Gate: func(_ context.Context, w func()) error { w(); return nil }}}
	p := newPlane(t)
	f.t = p
	p.ca = a
	if _, err := f.sign(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.ca = &fakeCA{a.key, a.cert, b.pem, time.Hour, 0, nil}
	if _, err := f.sign(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a chain to another root: %v", err)
	}
	p.ca = &fakeCA{a.key, a.cert, a.pem, -time.Minute, 0, nil}
	if _, err := f.sign(t.Context()); err == nil {
		t.Error("an expired certificate is taken")
	}
}

// When the clocks of the control plane and of this machine differ, each
// certificate is to be renewed as soon as it has come: it is used, and another
// one asked for now and then. A time of day that is far behind, or was set back,
// does not keep a certificate for longer than half of its life.
func TestClocksDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.ca = newCA(t, 10*time.Hour)
		p.ca.late = 6 * time.Hour
		w := run(t, p, func(c *Config) { c.NoCertificate = false })
		w.stream(t)
		time.Sleep(time.Hour)
		if w.pair.Load() == nil || p.signs < 40 || p.signs > 130 {
			t.Errorf("certificate %t, %d requests for one in an hour", w.pair.Load() != nil, p.signs)
		}
		w.stop()
		from := time.Now().AddDate(10, 0, 0)
		c := &credential{pair: tls.Certificate{Leaf: &x509.Certificate{NotBefore: from, NotAfter: from.Add(20 * time.Hour)}}}
		if d := c.due(time.Now()); d < 9*time.Hour || d > 11*time.Hour {
			t.Errorf("a certificate of the future is renewed in %s", d)
		}
	})
}

// A control plane that signs nothing is asked for the pair by SDS.
func TestNoCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), func(c *Config) { c.NoCertificate = false })
		defer w.stop()
		s := w.stream(t)
		s.push("1", cds, nil, withTLS(edsCluster("a"), "default", "ROOTCA"))
		if sub, _ := names(of(s.requests(), conf.SDSType)); !slices.Equal(sub, []string{"ROOTCA", "default"}) {
			t.Errorf("secrets asked for: %v", sub)
		}
	})
}

// Nothing of a key or of a secret reaches the log.
func TestNoSecretsInLogs(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t)
		p.ca = newCA(t, time.Hour)
		w := run(t, p, func(c *Config) {
			c.NoCertificate, c.Log = false, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		s := w.stream(t)
		s.push("1", cds, nil, withTLS(edsCluster("a"), "kubernetes://s", "ROOTCA"))
		bad := gatewaySecret()
		bad.GetTlsCertificate().Password = &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: "HUSH"}}
		a := s.push("1", sds, nil, bad)
		if a.ErrorDetail.GetMessage() != "kubernetes://s: tls_certificate.password: not supported" {
			t.Errorf("refusal: %v", a.ErrorDetail)
		}
		w.stop()
	})
	if log.Len() == 0 || strings.Contains(log.String(), "TOPSECRET") || strings.Contains(log.String(), "HUSH") || strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("log: %s", log.String())
	}
}
