package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// rootFile holds the root's certificate and key together, so that one rename
// keeps them a pair.
const rootFile = "root.pem"

// Open reads the root kept in dir. On the first start it makes dir (0700) and
// a root for the trust domain (ECDSA P-256, ten years; 0600). Of two first
// starts at once, both get the same root. A key that others may read is
// refused, for it may have been read.
func Open(dir, trustDomain string, o Options) (*Authority, error) {
	a := unsigned(o)
	path := filepath.Join(dir, rootFile)
	text, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		var m Material
		if m, err = newMaterial(trustDomain, a.now()); err != nil {
			return nil, err
		}
		text = append(m.Certificate, m.Key...)
		if err = writeOnce(path, text); err == nil || errors.Is(err, fs.ErrExist) {
			text, err = readPrivate(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("root of the certificate authority: %w", err)
	}
	if err := a.Replace(Material{Certificate: text, Key: text, Roots: text}); err != nil {
		return nil, fmt.Errorf("root of the certificate authority in %s: %w", path, err)
	}
	return a, nil
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
