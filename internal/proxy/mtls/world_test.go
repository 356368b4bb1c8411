//go:build linux

package mtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

const wait = 20 * time.Second

// authority signs test certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, encode("CERTIFICATE", der)}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue makes a leaf; edit may change it first. Names with "://" are URIs.
func (a *authority) issue(t testing.TB, edit func(*x509.Certificate), names ...string) (chain, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(2),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(30 * time.Minute),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tpl.URIs = append(tpl.URIs, u)
		} else if ip := net.ParseIP(n); ip != nil {
			tpl.IPAddresses = append(tpl.IPAddresses, ip)
		} else {
			tpl.DNSNames = append(tpl.DNSNames, n)
		}
	}
	if edit != nil {
		edit(tpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", kd)
}

// secret of a certificate, and the pair for net.Conn peers.
func (a *authority) pair(t testing.TB, names ...string) (*conf.Secret, tls.Certificate) {
	t.Helper()
	chain, key := a.issue(t, nil, names...)
	c, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return &conf.Secret{Chain: chain, Key: key}, c
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

const (
	serverURI = "spiffe://cluster.local/ns/shop/sa/orders"
	clientURI = "spiffe://cluster.local/ns/shop/sa/front"
)

// world is what most tests need: loops, an engine, two identities.
type world struct {
	group      *loop.Group
	engine     *Engine
	store      *Store
	secrets    map[string]*conf.Secret
	ca         *authority
	clientCert tls.Certificate
	serverCert tls.Certificate
}

func newWorld(t testing.TB) *world {
	t.Helper()
	g, err := loop.New(1)
	if err != nil {
		t.Fatal(err)
	}
	g.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	w := &world{group: g, store: NewStore(), ca: newAuthority(t, "root")}
	w.secrets = map[string]*conf.Secret{"ROOTCA": {CA: w.ca.pem}}
	w.secrets["server"], w.serverCert = w.ca.pair(t, serverURI, "orders.shop.svc", "*.shop.example", "127.0.0.1")
	w.secrets["client"], w.clientCert = w.ca.pair(t, clientURI)
	w.update(t)
	w.engine = New(Options{Gate: g.Gate(), Source: w.store})
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := g.Panics(); n > 0 {
			t.Errorf("%d panics", n)
		}
		for end := time.Now().Add(wait); w.engine.Pending() > 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Error("a handshake never ended")
				return
			}
		}
	})
	return w
}

func (w *world) update(t testing.TB) bool {
	t.Helper()
	trust, errs := w.store.Update(w.secrets)
	for n, err := range errs {
		t.Errorf("secret %s: %v", n, err)
	}
	return trust
}

func (w *world) loop() *loop.Loop { return w.group.Loops()[0] }

func (w *world) on(t testing.TB, fn func()) {
	t.Helper()
	done := make(chan struct{})
	if !w.loop().Post(func() { defer close(done); fn() }) {
		t.Fatal("loop ended")
	}
	recv(t, done)
}

func recv[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(wait):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

// result of a handshake on the loop.
type result struct {
	h      *Handshake
	err    error
	conn   *loop.Conn
	closed chan error
	got    chan string
}

// echo is a codec with back-pressure; it half-closes when the peer does.
type echo struct {
	c      *loop.Conn
	closed chan error
}

func (e *echo) OnBytes(b []byte) {
	if len(b)%2 == 0 { // both ways of sending
		e.c.SetOut(append(e.c.Out(), b...))
	} else {
		e.c.Write(b)
	}
	if e.c.Blocked() {
		e.c.PauseRead(true)
	}
}
func (e *echo) OnEOF()            { e.c.CloseWrite() }
func (e *echo) OnWritable()       { e.c.PauseRead(false) }
func (e *echo) OnClose(err error) { e.closed <- err }

// collect is a client's codec: what comes goes to a channel.
type collect struct{ r *result }

func (c *collect) OnBytes(b []byte)  { c.r.got <- string(b) }
func (c *collect) OnEOF()            { c.r.got <- "EOF" }
func (c *collect) OnWritable()       {}
func (c *collect) OnClose(err error) { c.r.closed <- err }

var strict = &conf.ServerTLS{Certificates: []string{"server"}, Validation: "ROOTCA", RequireClient: true,
	ALPN: []string{"istio", "h2", "http/1.1"}}

// serve accepts one connection as TLS server on the loop, echoing. The peer
// talks plain TCP to the returned net.Conn.
func (w *world) serve(t testing.TB, ip string, s *conf.ServerTLS, first []byte) (*net.TCPConn, <-chan *result) {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skip(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	ac, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd := dupFD(t, ac)
	return nc.(*net.TCPConn), w.serveFD(t, fd, s, first)
}

func (w *world) serveFD(t testing.TB, fd int, s *conf.ServerTLS, first []byte) <-chan *result {
	ch := make(chan *result, 1)
	w.on(t, func() {
		c := w.loop().Adopt(fd, loop.LocalAddr(fd), loop.RemoteAddr(fd))
		r := &result{conn: c, closed: make(chan error, 2)}
		w.engine.Server(c, s, first, 0, func(h *Handshake, err error) {
			r.h, r.err = h, err
			if err == nil {
				c.Start(&echo{c, r.closed})
			}
			ch <- r
		})
	})
	return ch
}

// dial connects a TLS client on the loop.
func (w *world) dial(t testing.TB, to net.Addr, c *conf.ClientTLS, sni string) <-chan *result {
	t.Helper()
	ch := make(chan *result, 1)
	w.on(t, func() {
		conn, err := w.loop().Dial(netip.MustParseAddrPort(to.String()), loop.DialOptions{})
		if err != nil {
			ch <- &result{err: err}
			return
		}
		r := &result{conn: conn, closed: make(chan error, 2), got: make(chan string, 100)}
		w.engine.Client(conn, c, sni, c.ALPN, func(h *Handshake, err error) {
			r.h, r.err = h, err
			if err == nil {
				conn.Swap(&collect{r})
			}
			ch <- r
		})
	})
	return ch
}

func dupFD(t testing.TB, c net.Conn) int {
	t.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := rc.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 3) }); err != nil || fd < 0 {
		t.Fatal(err)
	}
	c.Close()
	return fd
}
