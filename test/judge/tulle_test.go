package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// tulleBinary builds tulle-proxy once.
var tulleBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tulle-proxy")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tulle-proxy")
	out, err := exec.Command("go", "build", "-o", path, "github.com/tulle-mesh/tulle/cmd/tulle-proxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tulle-proxy: %w\n%s", err, out)
	}
	return path, nil
})

// TestMain removes what tulleBinary built.
func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := tulleBinary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// tulleEngine is our own proxy, as a process.
func tulleEngine(bridge bool) Engine {
	name := "tulle-proxy"
	if !bridge {
		name += " without bridge"
	}
	return Engine{name: name, start: func(t testing.TB, p *control.Plane, r *control.Registration) func() string {
		t.Helper()
		path, err := tulleBinary()
		if err != nil {
			t.Fatal(err)
		}
		dir := shortDir(t)
		boot := proxy.Bootstrap{
			Concurrency: 1, // as Envoy: with two, each may open the one connection that a limit allows
			ID:          nodeID(r), XDS: "unix://" + p.Socket(), TokenFile: secretFile(t, dir, "token", []byte(r.Token)),
			Admin: "unix://" + filepath.Join(dir, "admin"), NoBridge: !bridge, Drain: proxy.Duration(100 * time.Millisecond),
			Workload: proxy.Workload{Name: r.Name, Namespace: r.Namespace, Gateway: r.Gateway},
		}
		b, err := json.Marshal(boot)
		if err != nil {
			t.Fatal(err)
		}
		process, log := start(t, r.ID, path, "--bootstrap", secretFile(t, dir, "bootstrap.json", b))
		if why := ready(filepath.Join(dir, "admin")); why != "" {
			_ = process.Signal(syscall.SIGQUIT) // shows what it waits for
			_, _ = process.Wait()
			t.Fatalf("%s is not ready after %s: %s", r.ID, patience, why)
		}
		accepted(t, p, r.ID)
		return log.String
	}}
}

func secretFile(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs a program until the test ends; what it says is shown when the
// test failed.
func start(t testing.TB, name, path string, args ...string) (*os.Process, *output) {
	t.Helper()
	log, errs := &output{}, &output{}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, errs.String())
		}
	})
	return cmd.Process, log
}

// output is written by a process and read by the test.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// ready polls the admin socket of a proxy; it returns what is missing.
func ready(admin string) string {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", admin)
		},
		DisableKeepAlives: true,
	}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	last := "it never answered"
	for {
		if resp, err := c.Get("http://proxy/ready"); err == nil {
			var b bytes.Buffer
			_, _ = b.ReadFrom(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return ""
			}
			last = b.String()
		} else {
			last = err.Error()
		}
		select {
		case <-tick.C:
		case <-deadline:
			return last
		}
	}
}

// TestTulle compares our proxy with Envoy on every line of the table, in each
// role, with the bridge and without, and each as the other's peer.
func TestTulle(t *testing.T) {
	want := run(t, setStage(t, everywhere(envoyEngine(true))))
	ours, plainOurs, theirs := tulleEngine(true), tulleEngine(false), envoyEngine(true)
	for name, c := range map[string]casting{
		"bridge":           everywhere(ours),
		"no bridge":        everywhere(plainOurs),
		"envoy behind it":  {front: ours, back: theirs},
		"envoy before it":  {front: theirs, back: ours},
		"only one bridges": {front: plainOurs, back: ours},
	} {
		if testing.Short() && name != "bridge" && name != "no bridge" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			// Envoy is held to the table; ours is held to Envoy.
			s := setStage(t, c)
			compare(t, want, ask(t, s, false))
			do(t, s)
		})
	}
}
