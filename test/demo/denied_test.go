package demo

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// denials are ways in which a machine does not let users make namespaces, made
// in namespaces of the test's own, and what is said about them.
var denials = []struct{ name, script, want string }{
	{"no user namespaces", "echo 0 > /proc/sys/user/max_user_namespaces", "no space left on device"},
	{"no network namespaces", "echo 0 > /proc/sys/user/max_net_namespaces", "no space left on device"},
	{"hidden parts of /proc", "mount -t tmpfs none /proc/sys", "a /proc of its own: operation not permitted"},
	{"no /etc/resolv.conf to replace", "mount -t tmpfs none /run; mkdir -p /run/systemd; touch /run/systemd/resolve", ""},
}

// TestDenied: where a piece is missing, namespaces mode says which, and auto
// goes on with ports after one line.
func TestDenied(t *testing.T) {
	tulle := programs(t)
	for _, d := range denials {
		for _, mode := range []string{"namespaces", "auto"} {
			t.Run(d.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				port := freePort(t)
				c := exec.Command("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec",
					d.script+"\nexec \"$@\"", "sh", tulle, "demo", "--check", "--gateway-port", port, "--mode", mode)
				tmp, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(tmp) })
				c.Env = append(os.Environ(), "TMPDIR="+tmp)
				out, err := c.CombinedOutput()
				text := string(out)
				if mode == "namespaces" && d.want != "" {
					if err == nil || !strings.Contains(text, "mode namespaces: ") || !strings.Contains(text, d.want) {
						t.Errorf("%v, want a reason with %q\n%s", err, d.want, text)
					}
					return
				}
				if err != nil || !strings.Contains(text, " 0 failed") || strings.Contains(text, "FAIL") {
					t.Errorf("%v\n%s", err, text)
				}
				if n := strings.Count(text, "namespaces of their own are not to be had: "); d.want != "" && (n != 1 || !strings.Contains(text, d.want)) {
					t.Errorf("%d lines say why, want one with %q\n%s", n, d.want, text)
				}
			})
		}
	}
}
