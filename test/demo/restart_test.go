package demo

import (
	"fmt"
	"syscall"
	"testing"
)

// The control plane is killed and started again under load through two
// sidecars. Nothing of the mesh may notice, and afterwards it is in charge
// again.
func TestRestart(t *testing.T) { inBothModes(t, restart) }

func restart(t *testing.T, mode string) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop})
	w.mode = mode
	up := w.start()
	server := w.replica("echo", []string{"TEST_NAME=one"}, "-n", "shop", "--deployment", "echo")
	c, caller := w.client("-n", "shop", "--deployment", "caller")
	until(t, "the way", func() error { _, err := get(c, "http://echo/"); return err })
	l := startLoad(t, 4, asks(c, "http://echo/"))
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		l.more(t, 200)
		before := server.count("the control plane is back")
		up.stop(sig)
		server.waitNth(before+1, "the control plane is gone")
		l.more(t, 200)
		up = w.start()
		up.wait("shop/echo-1 is back")
		up.wait("shop/caller-1 is back")
		for _, j := range []*job{server, caller} {
			j.waitNth(before+1, "the control plane is back")
		}
		l.more(t, 200)
		// The proxies listen to the new one.
		w.write("pin.yaml", pin)
		until(t, "a change after the restart", func() error {
			if l.answers("pinned") == 0 {
				return errNotYet
			}
			return nil
		})
		w.write("pin.yaml", "")
		seen := l.answers("one echo-1")
		until(t, "the change back", func() error {
			if l.answers("one echo-1") < seen+10 {
				return errNotYet
			}
			return nil
		})
		l.mu.Lock()
		clear(l.by)
		l.mu.Unlock()
	}
	l.verify(t)
	if n := server.count("tulle:"); n != 5 { // runs as, and gone and back twice
		t.Errorf("%d messages, want 5:\n%s", n, server.all())
	}
	fmt.Fprintln(t.Output(), l.sent.Load(), "requests")
}
