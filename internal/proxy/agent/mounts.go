//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts gives the program a /proc of its own processes and names by our
// sidecar. Nothing of it is seen outside.
func (s *settings) mounts() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("a /proc of its own: %w (parts of this machine's /proc are hidden, as in a container)", err)
		}
		return fmt.Errorf("a /proc of its own: %w", err)
	}
	if s.resolv == "" {
		return nil
	}
	text, err := os.ReadFile(s.resolv)
	if err != nil {
		return fmt.Errorf("resolver configuration: %w", err)
	}
	return resolver(text, s.resolv)
}

// answerers are directories where services of the machine answer the C
// library's questions about names without any packet: they do not know the
// mesh. Programs go on to ask as resolv.conf says where they do not answer.
var answerers = []string{"/run/systemd/resolve", "/run/nscd", "/var/run/nscd"}

// resolver puts text in the place of /etc/resolv.conf. from is a file that
// holds it.
func resolver(text []byte, from string) error {
	const conf = "/etc/resolv.conf"
	target, err := filepath.EvalSymlinks(conf)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("resolver configuration: %w", err)
	}
	hidden := false
	for _, d := range answerers {
		if st, err := os.Lstat(d); err != nil || !st.IsDir() {
			continue
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("hide %s: %w", d, err)
		}
		if target == "" || !strings.HasPrefix(target, d+"/") {
			continue
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			return fmt.Errorf("resolver configuration: %w", err)
		}
		hidden = true
	}
	if missing || hidden {
		return nil // without the file, the C library asks 127.0.0.1: the sidecar hears it
	}
	if err := unix.Mount(from, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("private %s: %w", conf, err)
	}
	return nil
}
