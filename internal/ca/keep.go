package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// rootFile holds the root's certificate and key together, so that one rename
// keeps them a pair.
const rootFile = "root.pem"

// Open reads the root kept in dir. On the first start it makes dir (0700) and
// a root for the trust domain (ECDSA P-256, ten years; 0600). Of two first
// starts at once, both get the same root. A key that others may read is
// refused, for it may have been read.
func Open(dir, trustDomain string, o Options) (*Authority, error) {
	a := &Authority{ttl: o.TTL, maxTTL: o.MaxTTL, now: o.Now}
	if a.ttl <= 0 {
		a.ttl = defaultTTL
	}
	if a.maxTTL <= 0 {
		a.maxTTL = a.ttl
	}
	if a.now == nil {
		a.now = time.Now
	}
	path := filepath.Join(dir, rootFile)
	text, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newRoot(trustDomain, a.now()); err != nil {
			return nil, err
		}
		if err = writeOnce(path, text); err == nil || errors.Is(err, fs.ErrExist) {
			text, err = readPrivate(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("root of the certificate authority: %w", err)
	}
	if err := a.load(text); err != nil {
		return nil, fmt.Errorf("root of the certificate authority in %s: %w", path, err)
	}
	return a, nil
}

func (a *Authority) load(text []byte) error {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return err
			}
			a.root, a.rootPEM = c, pem.EncodeToMemory(block)
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return err
			}
			s, ok := k.(crypto.Signer)
			if !ok {
				return fmt.Errorf("key of type %T cannot sign", k)
			}
			a.key = s
		}
	}
	if a.root == nil || a.key == nil {
		return errors.New("want a CERTIFICATE and a PRIVATE KEY")
	}
	if !a.root.IsCA {
		return errors.New("the certificate is not a CA's")
	}
	if pub, ok := a.root.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(a.key.Public()) {
		return errors.New("the key is not the certificate's")
	}
	if now := a.now(); now.After(a.root.NotAfter) {
		return fmt.Errorf("the certificate ended at %s", a.root.NotAfter.Format(time.RFC3339))
	}
	return nil
}

func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %#o); chmod 600 it if you are sure that nobody did, else remove it", path, st.Mode().Perm())
	}
	if st.Size() > 1<<20 {
		return nil, fmt.Errorf("%s has %d bytes", path, st.Size())
	}
	text := make([]byte, st.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// writeOnce makes path with mode 0600, whole or not at all; fs.ErrExist when
// it is there already.
func writeOnce(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	// A link, unlike a rename, does not replace what another process made.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
