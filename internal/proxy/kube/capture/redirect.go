//go:build linux

package capture

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/redirect"
)

// Record is where Redirect writes down what it did, in a directory that the
// init container shares with the proxy: the proxy may not ask the kernel.
const Record = "/etc/istio/proxy/redirect.json"

// Redirect is `tulle-proxy redirect`: it makes the rules in the network
// namespace that it runs in, checks them and returns the exit code. It may be
// called again. It needs CAP_NET_ADMIN, and nothing else.
func Redirect(args []string, stdout, stderr io.Writer) int {
	var o options
	fs := flag.NewFlagSet("tulle-proxy redirect", flag.ContinueOnError)
	fs.SetOutput(stderr)
	o.flags(fs)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "tulle-proxy redirect sends a network namespace's traffic to the sidecar in it.\n\nusage: tulle-proxy redirect -i '*' -b '*' [flags of istio-iptables]")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "tulle-proxy redirect: what is %q?\n", fs.Arg(0))
		return 2
	}
	p, err := o.plan(hasIPv6())
	if err != nil {
		fmt.Fprintln(stderr, "tulle-proxy redirect:", err)
		return 2
	}
	if o.dry {
		fmt.Fprint(stdout, p.Text())
		return 0
	}
	if o.cleanup {
		err = cleanup(p, o.record)
	} else {
		err = o.apply(p, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "tulle-proxy redirect:", err)
		return 1
	}
	return 0
}

func cleanup(p *redirect.Plan, record string) error {
	_ = os.Remove(record)
	err := redirect.Undo(p)
	if err == nil || !without(err) {
		return err
	}
	return redirect.UndoIPTables(p.IPv6, exec.LookPath)
}

// without reports whether the kernel has no nftables, or not all that a plan
// needs of it.
func without(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EAFNOSUPPORT)
}

func (o *options) apply(p *redirect.Plan, stderr io.Writer) error {
	if err := redirect.AddSources(p); err != nil {
		return err
	}
	chains, how, err := put(p)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: the container needs the capability NET_ADMIN", err)
	}
	if err != nil {
		return err
	}
	probed := 0
	if !o.skipProbe {
		if probed, err = redirect.Probe(p); err != nil {
			return err
		}
	}
	rules := 0
	for _, c := range chains {
		rules += len(c.Rules)
	}
	fmt.Fprintf(stderr, "tulle-proxy redirect: %d rules by %s; %d connections tried\n", rules, how, probed)
	return write(o.record, chains)
}

// put makes the rules by nftables, or else by iptables, and reads them back
// where that can be done.
func put(p *redirect.Plan) (chains []redirect.Chain, how string, err error) {
	err = redirect.Apply(p)
	if err == nil {
		if err = redirect.Verify(p); err != nil {
			return nil, "", err
		}
		chains, err = redirect.InKernel(p.Table)
		return chains, "nftables", err
	}
	if !without(err) {
		return nil, "", err
	}
	if e := redirect.ApplyIPTables(p, exec.LookPath); e != nil {
		return nil, "", fmt.Errorf("%w; and by iptables: %w", err, e)
	}
	chains, err = p.Chains()
	return chains, "iptables", err
}

// write keeps the record; without its directory there is nobody to read it.
func write(path string, chains []redirect.Chain) error {
	if _, err := os.Stat(filepath.Dir(path)); path == "" || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	b, err := json.Marshal(chains)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".redirect-*")
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
