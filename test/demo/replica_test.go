package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/api"
)

// control is the admin API of the world's control plane.
func (w *world) control() *api.Client {
	c := api.NewClient(filepath.Join(w.state, api.Socket))
	w.t.Cleanup(c.Close)
	return c
}

// workloads waits until exactly these are registered, each with its readiness:
// "shop/echo-1 ready".
func (w *world) workloads(want ...string) {
	w.t.Helper()
	c := w.control()
	until(w.t, "workloads", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		all, err := c.Workloads(ctx)
		if err != nil {
			return err
		}
		var have []string
		for _, x := range all {
			state := " waits"
			if x.Ready {
				state = " ready"
			}
			have = append(have, x.ID+state)
		}
		if got, want := strings.Join(have, ", "), strings.Join(want, ", "); got != want {
			return fmt.Errorf("there is %s, want %s", got, want)
		}
		return nil
	})
}

// Two copies share the load. One that is asked to end leaves without a failed
// request; one that is killed is out of the mesh at once, and nothing of it is
// left.
func TestReplicas(t *testing.T) { inBothModes(t, replicas) }

func replicas(t *testing.T, mode string) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop})
	w.mode = mode
	w.start()
	one := w.replica("echo", []string{"TEST_NAME=one"}, "-n", "shop", "--deployment", "echo")
	one.wait("echo-1 runs as spiffe://cluster.local/ns/shop/sa/echo")
	two := w.replica("echo", []string{"TEST_NAME=two"}, "-n", "shop", "--deployment", "echo")
	two.wait("echo-2 runs as")
	c, caller := w.client("-n", "shop", "--deployment", "caller")
	caller.wait("caller-1 runs as")
	w.workloads("shop/caller-1 ready", "shop/echo-1 ready", "shop/echo-2 ready")
	until(t, "the way", func() error { _, err := get(c, "http://echo/"); return err })
	l := startLoad(t, 4, asks(c, "http://echo/"))
	share := func(name string, more int) {
		t.Helper()
		want := l.answers(name) + more
		until(t, "answers of "+name, func() error {
			if l.failed.Load() > 0 {
				return fmt.Errorf("failed: %s", l.why())
			}
			if l.answers(name) < want {
				return errNotYet
			}
			return nil
		})
	}
	share("one echo-1", 100)
	share("two echo-2", 100)
	one.stop(syscall.SIGTERM)
	if one.err != nil {
		t.Errorf("after SIGTERM: %v\n%s", one.err, one.all())
	}
	w.workloads("shop/caller-1 ready", "shop/echo-2 ready")
	three := w.replica("echo", []string{"TEST_NAME=three"}, "-n", "shop", "--deployment", "echo")
	three.wait("echo-3 runs as")
	share("three echo-3", 100)
	l.verify(t)

	three.stop(syscall.SIGKILL)
	w.workloads("shop/caller-1 ready", "shop/echo-2 ready")
	until(t, "nothing of the killed one is left", func() error {
		for _, p := range w.left() {
			if strings.Contains(p, "shop.echo-3") {
				return fmt.Errorf("left: %s", p)
			}
		}
		return nil
	})
	l = startLoad(t, 4, asks(c, "http://echo/"))
	share("two echo-2", 200)
	l.verify(t)

	// Its keys and sockets do not stay either; those of the others do.
	w.up.stop(syscall.SIGTERM)
	for _, dir := range []string{filepath.Join(w.state, "run"), w.memory()} {
		have, err := os.ReadDir(dir)
		if err != nil || len(have) != 2 {
			t.Errorf("%s holds %v (%v), want what two programs have", dir, have, err)
		}
	}
}

// A program that puts a process into a session of its own does not leave it
// behind, however it ends.
func TestDaemon(t *testing.T) {
	inBothModes(t, daemon)
}

func daemon(t *testing.T, mode string) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			w := newWorld(t, map[string]string{"mesh.yaml": shop})
			w.mode = mode
			w.start()
			j := w.replica("daemon", nil, "-n", "shop", "--deployment", "caller")
			j.wait("daemon started")
			daemons := func() (n int) {
				for _, p := range w.left() {
					if strings.HasPrefix(p, "sleep 1000") {
						n++
					}
				}
				return n
			}
			until(t, "the daemon", func() error {
				if daemons() != 1 {
					return errNotYet
				}
				return nil
			})
			j.stop(sig)
			until(t, "the daemon's end", func() error {
				if n := daemons(); n != 0 {
					return fmt.Errorf("%d are left", n)
				}
				return nil
			})
		})
	}
}

// What a killed `tulle up` leaves does not hinder the next one; the gateway
// does not outlive it.
func TestKilledUp(t *testing.T) {
	w := newWorld(t, map[string]string{"mesh.yaml": shop, "gateway.yaml": gateway})
	up := w.start()
	up.wait("port 80 is open")
	up.stop(syscall.SIGKILL)
	until(t, "the gateway's end", func() error {
		if left := w.left(); len(left) > 0 {
			return fmt.Errorf("left: %q", left)
		}
		return nil
	})
	up = w.start()
	up.wait("state of an earlier run")
	up.wait("port 80 is open")
	up.stop(syscall.SIGTERM)
	if up.err != nil {
		t.Errorf("after SIGTERM: %v\n%s", up.err, up.all())
	}
}

// gateway lets requests for any host in to echo.
const gateway = `apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: way, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: way, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [way]
  http:
  - route: [{destination: {host: echo, port: {number: 80}}}]
`
