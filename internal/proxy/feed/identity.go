package feed

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/feed/rpc"
)

// Times between two attempts to get a certificate.
const (
	firstSign  = time.Second
	lastSign   = time.Minute
	noSignWait = 5 * time.Minute // when the control plane signs nothing
	signWithin = 15 * time.Second
)

// maxChain bounds the certificates of an answer.
const maxChain = 16

// credential is the workload's certificate, key and root, PEM. Immutable.
type credential struct {
	chain, key, root []byte
	pair             tls.Certificate
}

// due is how long it is until the certificate is to be renewed: half of its
// lifetime, give or take a twentieth of it, so that proxies that started together
// do not renew together; by the time of day, and by what has passed since it
// came, as the time of day may have been wrong or be set back.
func (c *credential) due(came time.Time) time.Duration {
	life := c.pair.Leaf.NotAfter.Sub(c.pair.Leaf.NotBefore)
	half := life/2 - life/20 + mrand.N(max(life/10, 1))
	return min(time.Until(c.pair.Leaf.NotBefore.Add(half)), time.Until(came.Add(half)))
}

// keepIdentity gets a certificate and renews it, until ctx ends.
func (f *Feed) keepIdentity(ctx context.Context) {
	wait, came := firstSign, time.Now()
	var c *credential
	if p := f.pair.Load(); p != nil {
		c = &credential{pair: *p} // loaded from an earlier run
	}
	for {
		pause := time.Duration(0)
		if c != nil {
			pause = c.due(came)
		}
		if pause > lookAgain { // the time of day may be set, or the machine sleep, meanwhile
			if !f.rest(ctx, lookAgain, nil) {
				return
			}
			continue
		}
		if !f.rest(ctx, pause, nil) {
			return
		}
		next, err := f.sign(ctx)
		if err == nil {
			c, came = next, time.Now()
			f.post(ctx, func() { f.adopt(next, true) })
			if c.due(came) > 0 {
				wait = firstSign
				continue
			}
			err = errOld // good, but asking for another at once would never end
		}
		if ctx.Err() != nil {
			return
		}
		pause = wait/2 + mrand.N(wait)
		wait = min(2*wait, lastSign)
		if errors.Is(err, errUnimplemented) {
			pause = noSignWait
			f.post(ctx, func() { f.noCA, f.resub = true, true })
		}
		f.c.Log.Warn("certificate from the control plane", "error", err, "retry", pause.Round(time.Second))
		var back <-chan struct{} // the control plane is there
		if errors.Is(err, rpc.ErrUnreachable) {
			back = f.back
		}
		if !f.rest(ctx, pause, back) {
			return
		}
	}
}

// ClockSet has the certificate looked at again, at once: the time of day was set.
// Safe for concurrent use.
func (f *Feed) ClockSet() {
	select {
	case f.clockSet <- struct{}{}:
	default:
	}
}

// errOld: of the two clocks one is wrong by more than a third of a lifetime.
var errOld = errors.New("it is to be renewed already: this machine's time of day and the control plane's differ")

// lookAgain bounds how long is slept towards a time of day.
const lookAgain = time.Minute

// rest sleeps, until early or a time of day that was set ends it. It reports false
// when ctx ended first.
func (f *Feed) rest(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-early:
	case <-f.clockSet:
	case <-t.C:
	}
	return true
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sign makes a key and has it certified.
func (f *Feed) sign(ctx context.Context) (*credential, error) {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	var key *ecdsa.PrivateKey
	var csr []byte
	var err error
	work := func() {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			// Who we are is the control plane's to say.
			csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		}
	}
	if e := f.c.Gate(ctx, work); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	req := putBytes(nil, 1, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	if s := int64(f.c.CertificateTTL / time.Second); s > 0 {
		req = protowire.AppendVarint(protowire.AppendTag(req, 3, protowire.VarintType), uint64(s))
	}
	out, err := f.t.call(ctx, csrMethod, req)
	if err != nil {
		return nil, err
	}
	var certs [][]byte
	err = each(out, func(n protowire.Number, v []byte) error {
		if n == 1 {
			certs = append(certs, v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	var c *credential
	if e := f.c.Gate(ctx, func() { c, err = newCredential(certs, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})) }); e != nil {
		return nil, e
	}
	return c, err
}

// newCredential checks an answer: leaf first, root last, made for our key and
// valid now.
func newCredential(certs [][]byte, key []byte) (*credential, error) {
	if len(certs) < 2 || len(certs) > maxChain {
		return nil, fmt.Errorf("the answer has %d certificates, want leaf to root", len(certs))
	}
	c := &credential{key: key, root: newline(certs[len(certs)-1])}
	for _, p := range certs[:len(certs)-1] {
		c.chain = append(c.chain, newline(p)...)
	}
	return c, c.parse()
}

func newline(p []byte) []byte { return append(bytes.TrimSpace(p), '\n') }

func (c *credential) parse() (err error) {
	if c.pair, err = tls.X509KeyPair(c.chain, c.key); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if c.pair.Leaf == nil {
		if c.pair.Leaf, err = x509.ParseCertificate(c.pair.Certificate[0]); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.root) {
		return errors.New("root: not a certificate")
	}
	for _, der := range c.pair.Certificate[1:] {
		if x, err := x509.ParseCertificate(der); err == nil {
			inter.AddCert(x)
		}
	}
	_, err = c.pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

// adopt makes c the workload's certificate, and keeps it.
func (f *Feed) adopt(c *credential, keep bool) {
	pair := c.pair
	f.pair.Store(&pair)
	f.local[ownPair] = &conf.Secret{Name: ownPair, Chain: c.chain, Key: c.key}
	if old := f.local[ownRoots]; old == nil || !bytes.Equal(old.CA, c.root) {
		f.local[ownRoots] = &conf.Secret{Name: ownRoots, CA: c.root}
	}
	f.touch(sds, ownPair, ownRoots)
	if f.noCA {
		f.noCA, f.resub = false, true
	}
	leaf := pair.Leaf
	f.status.Certificate, f.status.NotBefore, f.status.NotAfter = "", leaf.NotBefore, leaf.NotAfter
	if len(leaf.URIs) > 0 {
		f.status.Certificate = leaf.URIs[0].String()
	}
	f.c.Log.Info("certificate", "id", f.status.Certificate, "until", leaf.NotAfter)
	if keep && f.c.SecretDir != "" {
		b := bytes.Join([][]byte{f.ownerMark(), c.key, c.chain, []byte(rootMark), c.root}, nil)
		if err := writeFile(f.identityFile(), b); err != nil {
			f.c.Log.Warn("certificate is not kept", "error", err)
		}
	}
}

// File systems that are backed by memory (statfs(2)).
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// checkSecretDir says so when keys would outlive the machine's power.
func (f *Feed) checkSecretDir() {
	if f.c.SecretDir == "" {
		return
	}
	var st syscall.Statfs_t
	err := os.MkdirAll(f.c.SecretDir, 0o700)
	if err == nil {
		err = syscall.Statfs(f.c.SecretDir, &st)
	}
	if err != nil {
		f.c.Log.Warn("directory of secrets", "error", err)
	} else if t := uint32(st.Type); t != tmpfsMagic && t != ramfsMagic {
		f.c.Log.Warn("directory of secrets is not backed by memory", "dir", f.c.SecretDir)
	}
}

// rootMark stands between our chain and the root in the identity file.
const rootMark = "# root\n"

// ownerMark is the first line of the identity file: whose it is.
func (f *Feed) ownerMark() []byte { return fmt.Appendf(nil, "# %q\n", f.c.Identity) }

func (f *Feed) identityFile() string { return filepath.Join(f.c.SecretDir, "identity.pem") }

// loadIdentity takes over the certificate of an earlier run, if it is good
// still.
func (f *Feed) loadIdentity() {
	if f.c.SecretDir == "" {
		return
	}
	b, err := os.ReadFile(f.identityFile())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		c := &credential{}
		var rest []byte
		rest, c.root, _ = bytes.Cut(b, []byte(rootMark))
		block, chain := pem.Decode(rest)
		if !bytes.HasPrefix(b, f.ownerMark()) {
			err = errors.New("it is another workload's")
		} else if block == nil {
			err = errors.New("no key")
		} else {
			c.key, c.chain = pem.EncodeToMemory(block), chain
			err = c.parse()
		}
		if err == nil {
			f.adopt(c, false)
			return
		}
	}
	f.c.Log.Warn("certificate of an earlier run is not used", "error", err)
}
