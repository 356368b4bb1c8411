package demo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"
)

// secret is a Secret with a certificate of its own for a host, and the serial
// number by which it is known.
func secret(t *testing.T, namespace, name, host string, serial int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, b []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n",
		name, namespace, text("CERTIFICATE", der), text("PRIVATE KEY", raw))
}

const secure = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https-a, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: a-cert}
    hosts: ["a.example.com"]
  - port: {number: 443, name: https-b, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: b-cert}
    hosts: ["b.example.com"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure, namespace: shop}
spec:
  hosts: ["*.example.com"]
  gateways: [secure]
  http:
  - route: [{destination: {host: echo, port: {number: 80}}}]
`

// A gateway serves HTTPS with Secrets of the Gateway's namespace and of the
// namespace where Istio installs gateways; a Secret that is edited is served to
// the next connection, and connections that are open live on.
func TestGatewayTLS(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop, "secure.yaml": secure,
		"a.yaml": secret(t, "shop", "a-cert", "a.example.com", 1), "b.yaml": secret(t, "istio-system", "b-cert", "b.example.com", 2)})
	port := freePort(t)
	w.args = []string{"--port", "443=" + port}
	up := w.start()
	up.wait("port 443 is open at 127.0.0.1:" + port)
	w.replica("echo", []string{"TEST_NAME=one"}, "-n", "shop", "--deployment", "echo")
	serial := func(host string) (int64, error) {
		c, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{ServerName: host, InsecureSkipVerify: true}) // the serial is compared
		if err != nil {
			return 0, err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
	}
	serves := func(host string, want int64) {
		t.Helper()
		until(t, host, func() error {
			got, err := serial(host)
			if err == nil && got != want {
				err = fmt.Errorf("certificate %d, want %d", got, want)
			}
			return err
		})
	}
	serves("a.example.com", 1)
	serves("b.example.com", 2)
	if n, err := serial("c.example.com"); err == nil {
		t.Errorf("a host that nobody serves is answered with certificate %d", n)
	}
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 8,
		TLSClientConfig: &tls.Config{ServerName: "a.example.com", InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	get := func() (string, error) {
		req, err := http.NewRequest(http.MethodGet, "https://127.0.0.1:"+port+"/", nil)
		if err != nil {
			return "", err
		}
		req.Host = "a.example.com"
		return fetch(c, req)
	}
	until(t, "an answer", func() error {
		body, err := get()
		if err == nil && !strings.HasPrefix(body, "one ") {
			err = fmt.Errorf("answer %q", body)
		}
		return err
	})
	l := startLoad(t, 4, get)
	for n := int64(3); n < 6; n++ {
		w.write("a.yaml", secret(t, "shop", "a-cert", "a.example.com", n))
		serves("a.example.com", n)
		l.more(t, 50)
	}
	l.verify(t)
	serves("b.example.com", 2)
	// One that cannot be used leaves the last good one in place, or its hosts
	// unserved, but never the others.
	w.write("a.yaml", strings.Replace(secret(t, "shop", "a-cert", "a.example.com", 9), "tls.key: ", "tls.key: AAAA", 1))
	up.wait("error: ", "Secret shop/a-cert")
	serves("b.example.com", 2)
	w.write("a.yaml", secret(t, "shop", "a-cert", "a.example.com", 10))
	serves("a.example.com", 10)
}
