package judge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// richViews use everything that lower can write, for a stock Envoy (without
// features) or for our proxy.
func richViews(t *testing.T, features ...string) map[string]*model.View {
	gateway := gatewayView()
	gateway.Secrets = []*model.Secret{shopSecret(t)}
	views := map[string]*model.View{"sidecar": sidecarView(), "ports": portsView(), "gateway": gateway}
	for _, v := range views {
		v.Client.Features = features
	}
	return views
}

// TestEnvoyAccepts shows a stock Envoy everything that lower can write.
func TestEnvoyAccepts(t *testing.T) {
	for name, v := range richViews(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, _ := lower.Lower(v)
			b, err := envoy.Static(messages(t, out))
			if err != nil {
				t.Fatal(err)
			}
			if err := envoy.Validate(t, b); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestProxyAccepts shows our proxy's decoders the same.
func TestProxyAccepts(t *testing.T) {
	for name, v := range richViews(t, lower.FeatureBridge) {
		t.Run(name, func(t *testing.T) {
			out, _ := lower.Lower(v)
			all := map[string]map[string][]byte{}
			for url, list := range out.Resources {
				all[url] = map[string][]byte{}
				for _, r := range list {
					all[url][r.Name] = r.Body
				}
			}
			_, errs := conf.Load(all)
			for _, err := range errs {
				t.Error(err)
			}
		})
	}
}

// TestValidateCanFail keeps the test above honest.
func TestValidateCanFail(t *testing.T) {
	v := sidecarView()
	v.HTTP[0].Hosts[0].Routes[1].Match.Path.Value = "(unclosed"
	out, _ := lower.Lower(v)
	b, err := envoy.Static(messages(t, out))
	if err != nil {
		t.Fatal(err)
	}
	if envoy.Validate(t, b) == nil {
		t.Error("Envoy took an expression that does not parse")
	}
}

func messages(t *testing.T, out *lower.Output) []proto.Message {
	t.Helper()
	var ms []proto.Message
	for _, typ := range lower.Types {
		for _, r := range out.Resources[typ] {
			m, err := r.Message()
			if err != nil {
				t.Fatal(err)
			}
			ms = append(ms, m)
		}
	}
	return ms
}

func shopSecret(t *testing.T) *model.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop.example"}, DNSNames: []string{"shop.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return &model.Secret{Name: "shop", Namespace: "shop", Data: map[string]model.Sensitive{
		"tls.crt": cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), "ca.crt": cert,
	}}
}
