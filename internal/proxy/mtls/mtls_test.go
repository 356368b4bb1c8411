//go:build linux

package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

func (w *world) clientConfig() *tls.Config {
	return &tls.Config{RootCAs: w.ca.pool(), ServerName: "orders.shop.svc",
		Certificates: []tls.Certificate{w.clientCert}, NextProtos: []string{"istio"}}
}

func TestServerKnowsItsPeer(t *testing.T) {
	w := newWorld(t)
	for _, ip := range []string{"127.0.0.1", "::1"} {
		nc, ch := w.serve(t, ip, strict, nil)
		tc := tls.Client(nc, w.clientConfig())
		if _, err := tc.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		r := recv(t, ch)
		if r.err != nil {
			t.Fatal(r.err)
		}
		h := r.h
		if !h.Mutual() || h.Peer.URI != clientURI || h.Peer.ID.String() != clientURI || len(h.Peer.Hash) != 64 {
			t.Errorf("peer %+v", h.Peer)
		}
		if h.ALPN != "istio" || h.SNI != "orders.shop.svc" || h.Version != "TLSv1.3" || h.Local != serverURI ||
			!strings.HasPrefix(h.Cipher, "TLS_") {
			t.Errorf("%+v", h)
		}
		if d := time.Until(h.Expiry()); d < 20*time.Minute || d > 40*time.Minute {
			t.Errorf("expires in %s", d)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(tc, b); err != nil || string(b) != "hello" {
			t.Errorf("%q %v", b, err)
		}
		// Half-close: close_notify both ways, then the end is clean.
		tc.CloseWrite()
		if rest, err := io.ReadAll(tc); err != nil || len(rest) != 0 {
			t.Errorf("%q %v", rest, err)
		}
		if err := recv(t, r.closed); err != nil {
			t.Error(err)
		}
	}
}

// A gateway's clients resume their sessions, also after the listener was sent
// anew; in the mesh every handshake shows its certificates.
func TestResumption(t *testing.T) {
	w := newWorld(t)
	gateway := conf.ServerTLS{Certificates: []string{"server"}, ALPN: []string{"http/1.1"}}
	again, without := gateway, gateway
	without.NoTickets = true
	for _, c := range []struct {
		name          string
		first, second *conf.ServerTLS
		want          bool
	}{
		{"gateway", &gateway, &gateway, true},
		{"gateway after a change elsewhere", &gateway, &again, true},
		{"gateway without tickets", &without, &without, false},
		{"mesh", strict, strict, false},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cfg := w.clientConfig()
			cfg.MaxVersion, cfg.NextProtos = version, nil
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			resumed := false
			for _, s := range []*conf.ServerTLS{c.first, c.second} {
				nc, ch := w.serve(t, "127.0.0.1", s, nil)
				tc := tls.Client(nc, cfg)
				if _, err := tc.Write([]byte("hello")); err != nil {
					t.Fatal(c.name, err)
				}
				if _, err := io.ReadFull(tc, make([]byte, 5)); err != nil { // a ticket comes before it
					t.Fatal(c.name, err)
				}
				recv(t, ch)
				resumed = tc.ConnectionState().DidResume
			}
			if resumed != c.want {
				t.Errorf("%s, %x: resumed %t, want %t", c.name, version, resumed, c.want)
			}
		}
	}
}

func TestLargeTransfersBothVersions(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18) // 4 MiB
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		nc, ch := w.serve(t, "127.0.0.1", strict, nil)
		cfg := w.clientConfig()
		cfg.MaxVersion = version
		tc := tls.Client(nc, cfg)
		go func() {
			for rest := data; len(rest) > 0; { // odd pieces: records of all sizes
				n := min(len(rest), 7777)
				if _, err := tc.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
			tc.CloseWrite()
		}()
		got, err := io.ReadAll(tc)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%x: %d of %d bytes, %v", version, len(got), len(data), err)
		}
		r := recv(t, ch)
		if err := recv(t, r.closed); err != nil {
			t.Error(err)
		}
		w.on(t, func() {
			if r.conn.BytesIn() != uint64(len(data)) || r.conn.BytesOut() != uint64(len(data)) {
				t.Errorf("counted %d in, %d out", r.conn.BytesIn(), r.conn.BytesOut())
			}
		})
	}
}

// Every byte in a packet of its own, and everything at once: where records are
// cut must not matter, nor when the handshake is handed over.
func TestAnySegmentation(t *testing.T) {
	w := newWorld(t)
	for _, size := range []int{1, 3, 100, 1 << 20} {
		nc, ch := w.serve(t, "127.0.0.1", strict, nil)
		nc.SetNoDelay(true)
		tc := tls.Client(&chopper{Conn: nc, size: size}, w.clientConfig())
		go func() {
			if tc.Handshake() == nil {
				tc.Write([]byte("right after the handshake"))
				tc.CloseWrite()
				nc.CloseWrite()
			}
		}()
		b, err := io.ReadAll(tc)
		if err != nil || string(b) != "right after the handshake" {
			t.Errorf("%d: %q %v", size, b, err)
		}
		r := recv(t, ch)
		if r.err != nil {
			t.Fatal(r.err)
		}
		if err := recv(t, r.closed); err != nil {
			t.Errorf("%d: %v", size, err)
		}
	}
}

// chopper writes in small pieces.
type chopper struct {
	net.Conn
	size int
}

func (c *chopper) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		k, err := c.Conn.Write(b[n:min(len(b), n+c.size)])
		n += k
		if err != nil {
			return n, err
		}
	}
	return len(b), nil
}

func TestSniffedHelloIsUsed(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type answer struct {
		b   []byte
		err error
	}
	got := make(chan answer, 1)
	go func() {
		tc, err := tls.Dial("tcp", ln.Addr().String(), w.clientConfig())
		if err != nil {
			got <- answer{nil, err}
			return
		}
		tc.Write([]byte("x"))
		b := make([]byte, 1)
		_, err = io.ReadFull(tc, b)
		got <- answer{b, err}
	}()
	ac, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 50) // part of the ClientHello
	if _, err := io.ReadFull(ac, first); err != nil {
		t.Fatal(err)
	}
	r := recv(t, w.serveFD(t, dupFD(t, ac), strict, first))
	if r.err != nil {
		t.Fatal(r.err)
	}
	if a := recv(t, got); a.err != nil || string(a.b) != "x" {
		t.Errorf("%q %v", a.b, a.err)
	}
}

// netServer is a crypto/tls server; each connection is echoed until EOF.
func (w *world) netServer(t *testing.T, edit func(*tls.Config)) net.Addr {
	t.Helper()
	cfg := &tls.Config{Certificates: []tls.Certificate{w.serverCert}, ClientCAs: w.ca.pool(),
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"istio", "h2"}}
	if edit != nil {
		edit(cfg)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return ln.Addr()
}

func uri(s string) conf.StringMatch {
	return conf.StringMatch{Kind: conf.StrExact, Value: s, SAN: conf.SANURI}
}

func TestClient(t *testing.T) {
	w := newWorld(t)
	to := w.netServer(t, nil)
	r := recv(t, w.dial(t, to, &conf.ClientTLS{Certificate: "client", Validation: "ROOTCA", Mesh: true,
		SANs: []conf.StringMatch{uri("spiffe://x"), uri(serverURI)}, ALPN: []string{"tulle1", "istio"}},
		"outbound_.80_._.orders.shop.svc.cluster.local"))
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.h.ALPN != "istio" || r.h.Peer.URI != serverURI || r.h.Local != clientURI {
		t.Errorf("%+v", r.h)
	}
	w.on(t, func() { r.conn.Write([]byte("ping")); r.conn.CloseWrite() })
	if s := recv(t, r.got); s != "ping" {
		t.Errorf("got %q", s)
	}
	if s := recv(t, r.got); s != "EOF" {
		t.Errorf("got %q", s)
	}
}

func TestBothEndsOurs(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cl := w.dial(t, ln.Addr(), &conf.ClientTLS{Certificate: "client", Validation: "ROOTCA"}, "a.shop.example")
	ac, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	sv := w.serveFD(t, dupFD(t, ac), strict, nil)
	c, s := recv(t, cl), recv(t, sv)
	if c.err != nil || s.err != nil {
		t.Fatal(c.err, s.err)
	}
	if c.h.Peer.URI != serverURI || s.h.Peer.URI != clientURI {
		t.Errorf("%s and %s", c.h.Peer.URI, s.h.Peer.URI)
	}
	w.on(t, func() { c.conn.Write([]byte("over")); c.conn.Close() })
	if err := recv(t, s.closed); err != nil {
		t.Error(err)
	}
}

func TestClientRefusals(t *testing.T) {
	w := newWorld(t)
	w.secrets["empty"] = &conf.Secret{}
	other := newAuthority(t, "other")
	w.secrets["other"] = &conf.Secret{CA: other.pem}
	w.update(t)
	to := w.netServer(t, nil)
	expired, key := w.ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, serverURI)
	old, err := tls.X509KeyPair(expired, key)
	if err != nil {
		t.Fatal(err)
	}
	toOld := w.netServer(t, func(c *tls.Config) { c.Certificates = []tls.Certificate{old} })
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			c.Close()
		}
	}()
	closing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closing.Close()
	go func() {
		for {
			c, err := closing.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	for _, tc := range []struct {
		name string
		to   net.Addr
		tls  conf.ClientTLS
		sni  string
		want Reason
	}{
		{"another identity", to, conf.ClientTLS{Validation: "ROOTCA", Certificate: "client", SANs: []conf.StringMatch{uri(clientURI)}}, "", SANMismatch},
		{"uri given as dns", to, conf.ClientTLS{Validation: "ROOTCA", Certificate: "client", SANs: []conf.StringMatch{{Value: serverURI, SAN: conf.SANDNS}}}, "", SANMismatch},
		{"host name", to, conf.ClientTLS{Validation: "ROOTCA", Certificate: "client", AutoSAN: true}, "evil.example", SANMismatch},
		{"no host name", to, conf.ClientTLS{Validation: "ROOTCA", Certificate: "client", AutoSAN: true}, "", SANMismatch},
		{"other root", to, conf.ClientTLS{Validation: "other", Certificate: "client"}, "", UnknownCA},
		{"no bundle yet", to, conf.ClientTLS{Validation: "later", Certificate: "client"}, "", NoTrust},
		{"empty bundle", to, conf.ClientTLS{Validation: "empty", Certificate: "client"}, "", NoTrust},
		{"no certificate yet", to, conf.ClientTLS{Validation: "ROOTCA", Certificate: "later"}, "", NoCertificate},
		{"names without bundle", to, conf.ClientTLS{SANs: []conf.StringMatch{uri(serverURI)}}, "", NoTrust},
		{"expired", toOld, conf.ClientTLS{Validation: "ROOTCA"}, "", Expired},
		{"not tls", plain.Addr(), conf.ClientTLS{Validation: "ROOTCA"}, "", Protocol},
		{"closed", closing.Addr(), conf.ClientTLS{Validation: "ROOTCA"}, "", Closed},
	} {
		r := recv(t, w.dial(t, tc.to, &tc.tls, tc.sni))
		var e *Error
		if !errors.As(r.err, &e) || e.Reason != tc.want {
			t.Errorf("%s: %v", tc.name, r.err)
		}
	}
	for _, tls := range []conf.ClientTLS{
		{Certificate: "client"}, // the server is not verified
		{Validation: "ROOTCA", Certificate: "client", AutoSAN: true},
		{Validation: "ROOTCA", Certificate: "client", SANs: []conf.StringMatch{{Value: "any.shop.example", SAN: conf.SANDNS}}},
		{Validation: "ROOTCA", Certificate: "client", SANs: []conf.StringMatch{{Kind: conf.StrRegex, Regex: regexp.MustCompile("^(?:spiffe://.*/sa/orders)$")}}},
	} {
		r := recv(t, w.dial(t, to, &tls, "orders.shop.svc"))
		if r.err != nil {
			t.Errorf("%+v: %v", tls, r.err)
		} else if r.h.Mutual() != (tls.Validation != "") {
			t.Errorf("%+v: verified %v", tls, r.h.Mutual())
		}
	}
}

func TestServerRefusals(t *testing.T) {
	w := newWorld(t)
	other := newAuthority(t, "other")
	_, foreign := other.pair(t, clientURI)
	_, two := w.ca.pair(t, clientURI, serverURI)
	expired, key := w.ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, clientURI)
	old, err := tls.X509KeyPair(expired, key)
	if err != nil {
		t.Fatal(err)
	}
	serverOnly, key := w.ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, clientURI)
	usage, err := tls.X509KeyPair(serverOnly, key)
	if err != nil {
		t.Fatal(err)
	}
	only := *strict
	only.SANs = []conf.StringMatch{uri(serverURI)}
	missing := *strict
	missing.Certificates = []string{"later"}
	noBundle := *strict
	noBundle.Validation = "later"
	senseless := *strict
	senseless.Validation = ""
	for _, tc := range []struct {
		name string
		tls  *conf.ServerTLS
		cert *tls.Certificate
		want Reason
	}{
		{"no certificate", strict, nil, NoClientCert},
		{"another CA", strict, &foreign, UnknownCA},
		{"expired", strict, &old, Expired},
		{"two URIs", strict, &two, BadCert},
		{"usage", strict, &usage, BadCert},
		{"identity", &only, &w.clientCert, SANMismatch},
		{"own certificate missing", &missing, &w.clientCert, NoCertificate},
		{"bundle missing", &noBundle, &w.clientCert, NoTrust},
		{"no bundle configured", &senseless, &w.clientCert, NoTrust},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			nc, ch := w.serve(t, "127.0.0.1", tc.tls, nil)
			cfg := w.clientConfig()
			cfg.Certificates, cfg.MaxVersion = nil, version
			if tc.cert != nil {
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tc.cert, nil }
			}
			c := tls.Client(nc, cfg)
			_, err := c.Read(make([]byte, 1)) // TLS 1.3 hears of it only here
			if err == nil || tc.want != NoTrust && !strings.Contains(err.Error(), "remote error") {
				t.Errorf("%s: client saw %v", tc.name, err)
			}
			var e *Error
			if r := recv(t, ch); !errors.As(r.err, &e) || e.Reason != tc.want {
				t.Errorf("%s: %v", tc.name, r.err)
			}
		}
	}
}

func TestOptionalClientCertificate(t *testing.T) {
	w := newWorld(t)
	optional := &conf.ServerTLS{Certificates: []string{"server"}, Validation: "ROOTCA"}
	for _, certs := range [][]tls.Certificate{nil, {w.clientCert}} {
		nc, ch := w.serve(t, "127.0.0.1", optional, nil)
		cfg := w.clientConfig()
		cfg.Certificates = certs
		if err := tls.Client(nc, cfg).Handshake(); err != nil {
			t.Fatal(err)
		}
		if r := recv(t, ch); r.err != nil || r.h.Mutual() != (certs != nil) {
			t.Errorf("%+v %v", r.h, r.err)
		}
	}
}

func TestRemoteAlertIsTyped(t *testing.T) {
	w := newWorld(t)
	nc, ch := w.serve(t, "127.0.0.1", strict, nil)
	cfg := w.clientConfig()
	cfg.RootCAs = newAuthority(t, "other").pool() // the client refuses us
	tls.Client(nc, cfg).Handshake()
	var e *Error
	if r := recv(t, ch); !errors.As(r.err, &e) || e.Reason != RemoteAlert {
		t.Errorf("%v", r.err)
	}
}

func TestHostileStarts(t *testing.T) {
	w := newWorld(t)
	w.engine.timeout = 300 * time.Millisecond
	for _, tc := range []struct {
		name  string
		send  string
		close bool
		want  Reason
	}{
		{"plain http", "GET / HTTP/1.1\r\n\r\n", false, Protocol},
		{"nothing", "", false, TimedOut},
		{"half a record", "\x16\x03\x01\x02\x00\x01\x00", false, TimedOut},
		{"half a record and the end", "\x16\x03\x01\x02\x00\x01\x00", true, Closed},
		{"garbage record", "\x16\x03\x01\x00\x04\xff\xff\xff\xff", false, Protocol},
		{"empty records", strings.Repeat("\x16\x03\x01\x00\x00", 100), false, Protocol},
		{"huge record", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 40_000), false, Protocol},
		{"alert", "\x15\x03\x01\x00\x02\x02\x28", false, Protocol},
	} {
		nc, ch := w.serve(t, "127.0.0.1", strict, nil)
		nc.Write([]byte(tc.send))
		if tc.close {
			nc.CloseWrite()
		}
		var e *Error
		if r := recv(t, ch); !errors.As(r.err, &e) || e.Reason != tc.want {
			t.Errorf("%s: %v", tc.name, r.err)
		}
		nc.SetReadDeadline(time.Now().Add(wait))
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: left open", tc.name)
		}
		nc.Close()
	}
}

func TestCorruptedRecordEndsTheConnection(t *testing.T) {
	w := newWorld(t)
	nc, ch := w.serve(t, "127.0.0.1", strict, nil)
	tc := tls.Client(nc, w.clientConfig())
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	r := recv(t, ch)
	nc.Write([]byte("\x17\x03\x03\x00\x20" + strings.Repeat("z", 32)))
	_, err := tc.Read(make([]byte, 1))
	if err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("client saw %v", err)
	}
	var e *Error
	if err := recv(t, r.closed); !errors.As(err, &e) || e.Reason != Protocol {
		t.Errorf("%v", err)
	}
}

func TestTruncationIsNoCleanEnd(t *testing.T) {
	w := newWorld(t)
	nc, ch := w.serve(t, "127.0.0.1", strict, nil)
	tc := tls.Client(nc, w.clientConfig())
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	r := recv(t, ch)
	nc.CloseWrite() // FIN without close_notify
	if err := recv(t, r.closed); !errors.Is(err, loop.ErrTruncated) {
		t.Error(err)
	}
}

// The end may come together with the end of the handshake.
func TestTruncationWithinTheHandover(t *testing.T) {
	w := newWorld(t)
	for range 20 {
		nc, ch := w.serve(t, "127.0.0.1", strict, nil)
		tc := tls.Client(nc, w.clientConfig())
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		nc.CloseWrite()
		r := recv(t, ch)
		if r.err != nil {
			continue // the FIN was seen first
		}
		if err := recv(t, r.closed); !errors.Is(err, loop.ErrTruncated) {
			t.Fatal(err)
		}
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ac, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd := dupFD(t, ac)
	w.on(t, func() {
		c := w.loop().Adopt(fd, loop.LocalAddr(fd), loop.RemoteAddr(fd))
		cancel := w.engine.Client(c, &conf.ClientTLS{}, "", nil, func(*Handshake, error) { t.Error("told after cancel") })
		cancel()
		c.Abort()
	})
	io.Copy(io.Discard, nc)
	w.on(t, func() {})
}

func TestTooManyHandshakes(t *testing.T) {
	w := newWorld(t)
	w.engine.limit = 1
	first, _ := w.serve(t, "127.0.0.1", strict, nil)
	hello := helloRecord(t)
	first.Write(hello) // answered, then waits for the client
	first.Read(make([]byte, 1))
	second, ch := w.serve(t, "127.0.0.1", strict, nil)
	second.Write(hello)
	var e *Error
	if r := recv(t, ch); !errors.As(r.err, &e) || e.Reason != Overloaded {
		t.Errorf("%v", r.err)
	}
	first.Close()
}

// helloRecord is a ClientHello of crypto/tls.
func helloRecord(t testing.TB) []byte {
	a, b := net.Pipe()
	go tls.Client(a, &tls.Config{InsecureSkipVerify: true, ServerName: "x.example"}).Handshake()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.Close()
	return append(head, body...)
}

// Certificates and bundles are those of the moment of each handshake, and
// connections can be checked again when trust changes.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	nc, ch := w.serve(t, "127.0.0.1", strict, nil)
	if err := tls.Client(nc, w.clientConfig()).Handshake(); err != nil {
		t.Fatal(err)
	}
	h := recv(t, ch).h
	if err := h.Reverify(); err != nil {
		t.Error(err)
	}
	if w.update(t) {
		t.Error("trust has not changed")
	}
	next := newAuthority(t, "next")
	w.secrets["ROOTCA"] = &conf.Secret{CA: append(append([]byte{}, w.ca.pem...), next.pem...)}
	w.secrets["server"], w.serverCert = next.pair(t, serverURI, "orders.shop.svc")
	if !w.update(t) {
		t.Error("trust has changed")
	}
	if err := h.Reverify(); err != nil {
		t.Error(err)
	}
	nc, ch = w.serve(t, "127.0.0.1", strict, nil)
	cfg := w.clientConfig()
	cfg.RootCAs = next.pool()
	if err := tls.Client(nc, cfg).Handshake(); err != nil {
		t.Error(err)
	}
	if r := recv(t, ch); r.err != nil {
		t.Error(r.err)
	}
	w.secrets["ROOTCA"] = &conf.Secret{CA: next.pem}
	w.update(t)
	var e *Error
	if err := h.Reverify(); !errors.As(err, &e) || e.Reason != UnknownCA {
		t.Errorf("%v", err)
	}
}

func TestStoreKeepsWhatIsGood(t *testing.T) {
	s := NewStore()
	ca := newAuthority(t, "root")
	good, _ := ca.pair(t, serverURI)
	if _, errs := s.Update(map[string]*conf.Secret{"a": good, "b": {CA: ca.pem}}); len(errs) > 0 {
		t.Fatal(errs)
	}
	trust, errs := s.Update(map[string]*conf.Secret{
		"a": {Chain: []byte("no certificate"), Key: good.Key},
		"b": {CA: good.Key},
		"c": {CA: ca.pem, CRL: []byte("x")},
	})
	if len(errs) != 3 || trust {
		t.Errorf("%v, trust changed: %v", errs, trust)
	}
	for _, err := range errs {
		if strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%v", err)
		}
	}
	if p, err := s.Pair("a"); err != nil || p.URI() != serverURI {
		t.Error(err)
	}
	if _, err := s.Bundle("b"); err != nil {
		t.Error(err)
	}
	if _, err := s.Bundle("c"); err == nil {
		t.Error("a bundle without its revocation list is used")
	}
	if trust, _ := s.Update(nil); !trust {
		t.Error("a bundle went, and nobody is told")
	}
	var e *Error
	if _, err := s.Pair("a"); !errors.As(err, &e) || e.Reason != NoCertificate {
		t.Error(err)
	}
}

func TestStoreReadsFiles(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "root")
	pair, _ := ca.pair(t, serverURI)
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cert := "file-cert:" + write("c", pair.Chain) + "~" + write("k", pair.Key)
	root := "file-root:" + write("r", ca.pem)
	s := NewStore()
	if p, err := s.Pair(cert); err != nil || p.URI() != serverURI {
		t.Error(err)
	}
	if _, err := s.Bundle(root); err != nil {
		t.Error(err)
	}
	expire := func() {
		for _, f := range s.files {
			f.checked = time.Time{}
		}
	}
	other, _ := ca.pair(t, clientURI)
	write("c", other.Chain) // the key does not fit yet
	expire()
	if p, err := s.Pair(cert); err != nil || p.URI() != serverURI {
		t.Error(err)
	}
	write("k", other.Key)
	expire()
	if p, err := s.Pair(cert); err != nil || p.URI() != clientURI {
		t.Error(err)
	}
	var e *Error
	if _, err := s.Bundle("file-root:" + dir + "/none"); !errors.As(err, &e) || e.Reason != NoTrust {
		t.Error(err)
	}
	if _, err := s.Bundle(conf.SystemRoots); err != nil {
		t.Error(err)
	}
}
