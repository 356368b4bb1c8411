//go:build linux

package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Version of Kubernetes that the cluster runs; components/go.mod says the same.
const Version = "v1.35.4"

const modulePath = "github.com/tulle-mesh/tulle"

// Components builds Kubernetes and CoreDNS unless this user's cache has them
// for these sources, and returns the directory of the programs kube (with a
// link for each component) and coredns. A cold build takes some minutes of two
// cores. Processes that want it at once wait for the first.
func Components(ctx context.Context, log io.Writer) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, "test", "cluster", "components")
	args := buildArgs()
	key, err := contentKey(ctx, source, args)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "tulle")
	dir := filepath.Join(cache, "kubernetes-"+Version+"-"+key)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "kubernetes.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		now := time.Now() // it is in use
		return dir, os.Chtimes(dir, now, now)
	}
	fmt.Fprintf(log, "building Kubernetes %s: about ten minutes of CPU when nothing is cached\n", Version)
	fresh, err := os.MkdirTemp(cache, "building-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", fresh+"/", "./kube", "./coredns")...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Kubernetes: %w\n%s", err, out)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"} {
		if err := os.Symlink("kube", filepath.Join(fresh, name)); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", err
	}
	if err := forgetOld(cache); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// forgetOld removes what nobody used for a week: it would stay forever.
func forgetOld(cache string) error {
	old, err := filepath.Glob(filepath.Join(cache, "kubernetes-v*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if time.Since(st.ModTime()) < 7*24*time.Hour {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// buildArgs of go. Debug information is a tenth of the build's time, and the
// components say their version as a release would.
func buildArgs() []string {
	flags := "-s -w"
	major, minor, _ := strings.Cut(strings.TrimPrefix(Version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, set := range []string{"gitVersion=" + Version, "gitMajor=" + major, "gitMinor=" + minor, "gitTreeState=clean", "buildDate=1970-01-01T00:00:00Z"} {
			flags += " -X " + p + "." + set
		}
	}
	return []string{"build", "-gcflags=all=-dwarf=false", "-ldflags", flags}
}

// contentKey of what the components are made of: the module's files, the
// flags, the Go release.
func contentKey(ctx context.Context, source string, args []string) (string, error) {
	h := sha256.New()
	version, err := exec.CommandContext(ctx, "go", "version").Output()
	if err != nil {
		return "", fmt.Errorf("go version: %w", err)
	}
	fmt.Fprintf(h, "%s%q", version, args)
	for _, pattern := range []string{"go.mod", "go.sum", "*/*.go"} {
		names, err := filepath.Glob(filepath.Join(source, pattern))
		if err != nil {
			return "", err
		}
		for _, name := range names { // sorted
			b, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %d\n%s", filepath.Base(name), len(b), b)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// Program builds one static program of this module, as ./test/cluster/pause.
func Program(ctx context.Context, pkg, output string) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", output, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// moduleRoot is the directory of Tulle's go.mod; tests run somewhere below it.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if err != nil {
		return "", fmt.Errorf("where is the module %s: %w", modulePath, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// lock waits for a lock file; it is free again when the process ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
