package demo

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestRenew: at SIGUSR2 new proxies take over from the running ones, of caller
// and called, gateway and all, under load; no request fails, and when the control
// plane says nothing they go on with what the others knew.
func TestRenew(t *testing.T) { inBothModes(t, renew) }

func renew(t *testing.T, mode string) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop})
	w.mode = mode
	up := w.start()
	server := w.replica("echo", []string{"TEST_NAME=one"}, "-n", "shop", "--deployment", "echo")
	c, caller := w.client("-n", "shop", "--deployment", "caller")
	until(t, "the way", func() error { _, err := get(c, "http://echo/"); return err })
	l := startLoad(t, 4, asks(c, "http://echo/"))
	for i := range 2 {
		if i == 1 {
			if err := up.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = up.cmd.Process.Signal(syscall.SIGCONT) }()
		}
		for _, j := range []*job{server, caller} {
			before := proxyOf(t, j)
			l.more(t, 100)
			if err := j.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			j.waitNth(i+1, "a new tulle-proxy has taken over")
			l.more(t, 100)
			if now := proxyOf(t, j); now == before {
				t.Errorf("the proxy is still %s", now)
			}
		}
	}
	l.verify(t)
}

// proxyOf are the process ids of a replica's proxies.
func proxyOf(t *testing.T, j *job) string {
	t.Helper()
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(j.cmd.Process.Pid), "-f", "tulle-proxy --bootstrap").Output() // none: nothing
	return strings.Join(strings.Fields(string(out)), " ")
}
