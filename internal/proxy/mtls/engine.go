//go:build linux

package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Defaults of Options.
const (
	defaultTimeout = 10 * time.Second
	defaultPending = 4096
)

// configKeep is how many server configurations are kept ready.
const configKeep = 1024

// Options of an Engine.
type Options struct {
	Gate    *loop.Gate
	Source  Source
	Timeout time.Duration    // of a handshake; 0: 10 s
	Pending int              // handshakes under way, at most; 0: 4096
	Now     func() time.Time // nil: time.Now
}

// Engine makes handshakes. It is safe for concurrent use; Server and Client
// are called on the connection's loop.
type Engine struct {
	gate    *loop.Gate
	source  Source
	timeout time.Duration
	limit   int32
	now     func() time.Time
	pending atomic.Int32

	mu      sync.Mutex
	configs map[*conf.ServerTLS]*tls.Config // base of each chain: it holds the ticket keys
}

// New makes an engine.
func New(o Options) *Engine {
	e := &Engine{gate: o.Gate, source: o.Source, timeout: o.Timeout, limit: int32(o.Pending), now: o.Now,
		configs: map[*conf.ServerTLS]*tls.Config{}}
	if e.timeout <= 0 {
		e.timeout = defaultTimeout
	}
	if e.limit <= 0 {
		e.limit = defaultPending
	}
	if e.now == nil {
		e.now = time.Now
	}
	return e
}

// Pending returns how many handshakes are under way.
func (e *Engine) Pending() int { return int(e.pending.Load()) }

// Done is told once how a handshake ended, on the loop. On success the
// connection is under TLS and still has no codec: Done must set one, by Start
// or Swap, or close it; bytes that came with the handshake are delivered right
// after. On failure the connection is being closed, and err is an *Error.
type Done func(h *Handshake, err error)

// Server begins a handshake as server on an adopted or started connection.
// first is what has been read of it already (a sniffed ClientHello). timeout
// 0 means the engine's. From here to Done the connection belongs to the
// engine. cancel ends the handshake without Done; the connection is the
// caller's again, to be closed.
func (e *Engine) Server(c *loop.Conn, t *conf.ServerTLS, first []byte, timeout time.Duration, done Done) (cancel func()) {
	p := e.begin(c, timeout, done)
	p.server = t
	c.Start(p)
	if len(first) > 0 {
		p.OnBytes(first)
	}
	return p.cancelled
}

// Client begins a handshake as client, as soon as the connection stands. sni
// may be empty; alpn is the list to offer.
func (e *Engine) Client(c *loop.Conn, t *conf.ClientTLS, sni string, alpn []string, done Done) (cancel func()) {
	p := e.begin(c, 0, done)
	p.client, p.sni, p.alpn = t, sni, alpn
	c.Start(p)
	if c.Connected() {
		p.launch()
	}
	return p.cancelled
}

// serverConfig returns the configuration of one handshake. What differs
// between handshakes, the certificates and the bundle, is looked up in it.
func (e *Engine) serverConfig(t *conf.ServerTLS, v *verifier, result *Handshake) (*tls.Config, error) {
	if t.RequireClient && t.Validation == "" {
		return nil, failure(NoTrust, "client certificates are required, but no bundle is configured")
	}
	base := e.baseConfig(t)
	c := base
	if v != nil {
		// Without tickets, so that a copy loses nothing.
		c = base.Clone()
		c.VerifyConnection = result.check(v)
	}
	return c, nil
}

// baseConfig makes what all handshakes of a chain share, on all loops: with it
// the keys of session tickets, which crypto/tls changes every day and takes for
// a week.
func (e *Engine) baseConfig(t *conf.ServerTLS) *tls.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.configs[t]; c != nil {
		return c
	}
	for old, c := range e.configs { // a listener that came anew: tickets stay good
		if reflect.DeepEqual(old, t) {
			e.configs[t] = c
			return c
		}
	}
	c := &tls.Config{
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return e.choose(t.Certificates, h) },
		NextProtos:     slices.Clone(t.ALPN),
		MinVersion:     max(t.MinVersion, tls.VersionTLS12),
		MaxVersion:     t.MaxVersion,
		CipherSuites:   t.CipherSuites,
		// A record per write: a small answer is not cut in two.
		DynamicRecordSizingDisabled: true,
		SessionTicketsDisabled:      t.NoTickets || t.Validation != "",
	}
	if t.Validation != "" {
		// Verification is ours, see verifier.
		c.ClientAuth = tls.RequestClientCert
		if t.RequireClient {
			c.ClientAuth = tls.RequireAnyClientCert
		}
		c.CurvePreferences = meshCurves
	}
	if len(e.configs) >= configKeep { // of chains that are gone, most likely
		clear(e.configs)
	}
	e.configs[t] = c
	return c
}

// meshCurves inside the mesh: the post-quantum exchange costs a fifth more per
// handshake.
var meshCurves = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}

// choose picks the first certificate that suits the client, else the first.
func (e *Engine) choose(names []string, h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var first *tls.Certificate
	var err error = failure(NoCertificate, "none is configured")
	for _, n := range names {
		p, e := e.source.Pair(n)
		if e != nil {
			err = e
			continue
		}
		if first == nil {
			first = &p.tls
		}
		if len(names) > 1 && h.SupportsCertificate(&p.tls) == nil {
			return &p.tls, nil
		}
	}
	if first == nil {
		return nil, err
	}
	return first, nil
}

// clientConfig makes the configuration of one handshake.
func (e *Engine) clientConfig(t *conf.ClientTLS, sni string, alpn []string, v *verifier, result *Handshake) (*tls.Config, error) {
	c := &tls.Config{
		ServerName:                  sni,
		NextProtos:                  alpn,
		MinVersion:                  max(t.MinVersion, tls.VersionTLS12),
		MaxVersion:                  t.MaxVersion,
		CipherSuites:                t.CipherSuites,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, // verification is ours, see verifier; none without a bundle
	}
	if t.Mesh {
		c.CurvePreferences = meshCurves
	}
	if v != nil {
		c.VerifyConnection = result.check(v)
	} else if len(t.SANs) > 0 || t.AutoSAN || !t.Pins.Empty() {
		return nil, failure(NoTrust, "names are to be checked, but no bundle is configured")
	}
	if t.Certificate != "" {
		p, err := e.source.Pair(t.Certificate)
		if err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			result.Local = p.URI()
			return &p.tls, nil
		}
	}
	return c, nil
}

// verifierFor returns what checks the peer; nil: nothing does.
func (e *Engine) verifierFor(p *pipe) *verifier {
	switch {
	case p.server != nil && p.server.Validation != "":
		return &verifier{source: e.source, bundle: p.server.Validation, sans: p.server.SANs, pins: p.server.Pins,
			usage: x509.ExtKeyUsageClientAuth, now: e.now}
	case p.client != nil && p.client.Validation != "":
		v := &verifier{source: e.source, bundle: p.client.Validation, sans: p.client.SANs, pins: p.client.Pins,
			usage: x509.ExtKeyUsageServerAuth, now: e.now}
		if p.client.AutoSAN {
			v.host = p.sni
		}
		return v
	}
	return nil
}

var errNoName = errors.New("the server's name is to be checked, but none was sent")

// Handshake is the result: what was agreed on, and with whom. Immutable.
type Handshake struct {
	Peer    *Peer  // nil: no certificate was shown, or none was verified
	Local   string // URI of our own certificate that was shown; empty: none
	SNI     string
	ALPN    string
	Version string // as Envoy writes it: TLSv1.2, TLSv1.3
	Cipher  string // as OpenSSL writes it

	verifier *verifier
	chain    []*x509.Certificate
	sealer   *sealer
}

// check is a VerifyConnection that keeps the peer.
func (h *Handshake) check(v *verifier) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 { // allowed, or crypto/tls had refused
			return nil
		}
		p, err := v.verify(cs.PeerCertificates)
		if err != nil {
			return err
		}
		h.Peer, h.verifier, h.chain = p, v, cs.PeerCertificates
		return nil
	}
}

// Mutual reports whether the peer showed a certificate that was verified.
func (h *Handshake) Mutual() bool { return h.Peer != nil }

// Expiry is when the peer's certificate, or its chain, expires and the
// connection should end; zero: never.
func (h *Handshake) Expiry() time.Time {
	if h.Peer == nil {
		return time.Time{}
	}
	return h.Peer.NotAfter
}

// Reverify checks the peer again, against the bundle and the time of now. An
// *Error says that the connection should end. It costs CPU: call it behind the
// gate.
func (h *Handshake) Reverify() error {
	if h.Peer == nil {
		return nil
	}
	_, err := h.verifier.verify(h.chain)
	return err
}

// Worn reports that one key has protected so many records that the connection
// should be replaced (RFC 8446 section 5.5). On its loop.
func (h *Handshake) Worn() bool { return h.sealer != nil && h.sealer.records > wornRecords }
