package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Pair is a certificate chain with its key. Immutable.
type Pair struct {
	tls tls.Certificate
}

// URI is the first URI of the leaf's SAN, as a rule its SPIFFE ID; or empty.
func (p *Pair) URI() string {
	if len(p.tls.Leaf.URIs) > 0 {
		return p.tls.Leaf.URIs[0].String()
	}
	return ""
}

// Leaf is the leaf certificate; it must not be changed.
func (p *Pair) Leaf() *x509.Certificate { return p.tls.Leaf }

// Bundle is what peers are verified with. Immutable.
type Bundle struct {
	roots *x509.CertPool
	count int
	crls  []*x509.RevocationList // any: every certificate of a chain must be covered by one
	raw   string                 // the lists, to tell two bundles apart
}

// equal reports whether both trust the same.
func (b *Bundle) equal(o *Bundle) bool { return b.roots.Equal(o.roots) && b.raw == o.raw }

// Source gives the secrets of the moment by name. It is called at every
// handshake, from many goroutines.
type Source interface {
	// Pair returns an error when there is no such certificate, yet.
	Pair(name string) (*Pair, error)
	// Bundle returns an error when there is no such bundle, yet.
	Bundle(name string) (*Bundle, error)
}

// ParsePair reads a PEM chain and its PEM key.
func ParsePair(chain, key []byte) (*Pair, error) {
	c, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err // says what is wrong, holds no key material
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &Pair{c}, nil
}

// ParseBundle reads PEM certificates. Blocks of another kind are an error.
func ParseBundle(p []byte) (*Bundle, error) {
	b := &Bundle{roots: x509.NewCertPool()}
	for len(p) > 0 {
		var block *pem.Block
		if block, p = pem.Decode(p); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("ca bundle holds a %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("ca bundle: %w", err)
		}
		b.roots.AddCert(c)
		b.count++
	}
	if b.count == 0 {
		return nil, errors.New("ca bundle holds no certificate")
	}
	return b, nil
}

// Revoking is the bundle with revocation lists in PEM (RFC 5280 section 5).
func (b *Bundle) Revoking(p []byte) (*Bundle, error) {
	out := *b
	out.raw = string(p)
	for len(p) > 0 {
		var block *pem.Block
		if block, p = pem.Decode(p); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("revocation lists hold a %q", block.Type)
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("revocation list: %w", err)
		}
		out.crls = append(out.crls, l)
	}
	if len(out.crls) == len(b.crls) {
		return nil, errors.New("there is no revocation list")
	}
	return &out, nil
}

// Prefixes of names that stand for files of this machine, or for the text
// behind them.
const (
	fileCert   = "file-cert:"   // CHAIN~KEY
	fileRoot   = "file-root:"   // CA or CA~CRL
	fileInline = "file-inline:" // PEM
)

// fileCheck is how often files are looked at again, at most.
const fileCheck = 10 * time.Second

// Store is a Source that is kept by Update, and reads files for names that
// stand for files. Safe for concurrent use.
type Store struct {
	now atomic.Pointer[secrets]

	mu    sync.Mutex
	files map[string]*fromFile
}

// secrets is one state of the store.
type secrets struct {
	from    map[string]*conf.Secret
	pairs   map[string]*Pair
	bundles map[string]*Bundle
}

// fromFile is a secret that was read from files.
type fromFile struct {
	pair    *Pair
	bundle  *Bundle
	err     error
	checked time.Time
	stamp   string
}

// NewStore returns an empty store.
func NewStore() *Store {
	s := &Store{files: map[string]*fromFile{}}
	s.now.Store(&secrets{})
	return s
}

// Update takes over the secrets of a snapshot. Only those that changed are
// parsed; one that does not parse keeps its last good state and is told in
// errs by name. trust reports whether a bundle that peers were verified with
// has changed or gone: connections should be verified again. One caller at a
// time.
func (s *Store) Update(all map[string]*conf.Secret) (trust bool, errs map[string]error) {
	old := s.now.Load()
	next := &secrets{from: maps.Clone(all), pairs: map[string]*Pair{}, bundles: map[string]*Bundle{}}
	errs = map[string]error{}
	for name, c := range all {
		if old.from[name] == c {
			if p := old.pairs[name]; p != nil {
				next.pairs[name] = p
			}
			if b := old.bundles[name]; b != nil {
				next.bundles[name] = b
			}
			continue
		}
		if len(c.Chain)+len(c.Key) > 0 {
			p, err := ParsePair(c.Chain, c.Key)
			if err != nil {
				p, errs[name] = old.pairs[name], err
			}
			if p != nil {
				next.pairs[name] = p
			}
		}
		if len(c.CA) > 0 {
			b, err := ParseBundle(c.CA)
			if err == nil && len(c.CRL) > 0 {
				b, err = b.Revoking(c.CRL)
			}
			if err != nil {
				b, errs[name] = old.bundles[name], err
			}
			if b != nil {
				next.bundles[name] = b
			}
		}
	}
	for name, b := range old.bundles {
		if n := next.bundles[name]; n == nil || n != b && !n.equal(b) {
			trust = true
		}
	}
	s.now.Store(next)
	return trust, errs
}

// Pair implements Source.
func (s *Store) Pair(name string) (*Pair, error) {
	if files, ok := strings.CutPrefix(name, fileCert); ok {
		f := s.file(name, strings.Split(files, "~"))
		return f.pair, f.err
	}
	if p := s.now.Load().pairs[name]; p != nil {
		return p, nil
	}
	return nil, &Error{NoCertificate, errors.New(name)}
}

// Bundle implements Source.
func (s *Store) Bundle(name string) (*Bundle, error) {
	if paths, ok := strings.CutPrefix(name, fileRoot); ok {
		f := s.file(name, strings.Split(paths, "~"))
		return f.bundle, f.err
	}
	if strings.HasPrefix(name, fileInline) {
		f := s.file(name, nil)
		return f.bundle, f.err
	}
	if b := s.now.Load().bundles[name]; b != nil {
		return b, nil
	}
	return nil, &Error{NoTrust, errors.New(name)}
}

// file returns a secret from files, read again when they changed. What does
// not read keeps its last good state.
func (s *Store) file(name string, paths []string) *fromFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[name]
	if f != nil && time.Since(f.checked) < fileCheck {
		return f
	}
	n := &fromFile{checked: time.Now(), stamp: stamp(paths)}
	if f != nil && f.err == nil && f.stamp == n.stamp {
		f.checked = n.checked
		return f
	}
	n.read(name, paths)
	if n.err != nil && f != nil && f.err == nil {
		f.checked = n.checked
		return f
	}
	if len(s.files) < 1024 || f != nil {
		s.files[name] = n
	}
	return n
}

func (f *fromFile) read(name string, paths []string) {
	data := make([][]byte, len(paths))
	for i, p := range paths {
		if name == conf.SystemRoots {
			break
		}
		if data[i], f.err = os.ReadFile(p); f.err != nil {
			break
		}
	}
	switch {
	case f.err != nil:
	case name == conf.SystemRoots:
		var roots *x509.CertPool
		if roots, f.err = x509.SystemCertPool(); f.err == nil {
			f.bundle = &Bundle{roots: roots}
		}
	case strings.HasPrefix(name, fileInline):
		f.bundle, f.err = ParseBundle([]byte(name[len(fileInline):]))
		name = fileInline
	case strings.HasPrefix(name, fileRoot):
		if f.bundle, f.err = ParseBundle(data[0]); f.err == nil && len(data) == 2 {
			f.bundle, f.err = f.bundle.Revoking(data[1])
		}
	case len(paths) == 2:
		f.pair, f.err = ParsePair(data[0], data[1])
	default:
		f.err = errors.New("want CHAIN~KEY")
	}
	if f.err != nil {
		r := NoCertificate
		if !strings.HasPrefix(name, fileCert) {
			r = NoTrust
		}
		f.err = &Error{r, fmt.Errorf("%s: %w", name, f.err)}
	}
}

// stamp changes when one of the files does.
func stamp(paths []string) string {
	var b strings.Builder
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil {
			fmt.Fprint(&b, st.Size(), st.ModTime().UnixNano(), ";")
		}
	}
	return b.String()
}

// Names lists the secrets that parse, sorted; for dumps.
func (s *Store) Names() []string {
	now := s.now.Load()
	names := slices.Collect(maps.Keys(now.pairs))
	for n := range now.bundles {
		if now.pairs[n] == nil {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}
