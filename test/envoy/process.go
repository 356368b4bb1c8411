package envoy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a running Envoy. It ends with its test.
type Process struct {
	Admin string // host:port
	log   *logBuffer
	done  chan struct{}
	err   error // of the process, valid once done is closed
}

// Validate runs envoy --mode validate on a bootstrap in JSON; the error holds
// what it said.
func Validate(t testing.TB, bootstrap []byte) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), Binary(t), "--mode", "validate", "-c", write(t, bootstrap), "-l", "warning").CombinedOutput()
	if err != nil {
		return fmt.Errorf("envoy refuses the configuration: %w\n%s", err, out)
	}
	return nil
}

func write(t testing.TB, bootstrap []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Start runs Envoy with a bootstrap in JSON, whose admin address should have
// port 0, and returns once its listeners are up.
func Start(t testing.TB, bootstrap []byte, args ...string) *Process {
	t.Helper()
	binary := Binary(t)
	adminPath := filepath.Join(t.TempDir(), "admin")
	p := &Process{log: &logBuffer{}, done: make(chan struct{})}
	cmd := exec.Command(binary, append([]string{
		"-c", write(t, bootstrap), "--concurrency", "1", "--disable-hot-restart", "-l", "warning", "--component-log-level", "misc:error",
		"--admin-address-path", adminPath,
	}, args...)...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start envoy: %v", err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("envoy said:\n%s", p.Log())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p.wait(ctx, t, "its admin address", func() bool {
		b, err := os.ReadFile(adminPath)
		p.Admin = strings.TrimSpace(string(b))
		return err == nil && p.Admin != ""
	})
	p.wait(ctx, t, "readiness", func() bool {
		status, _, err := p.Get("/ready")
		return err == nil && status == http.StatusOK
	})
	return p
}

// wait polls until ok. Envoy has no other way to tell.
func (p *Process) wait(ctx context.Context, t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.done:
			t.Fatalf("envoy ended before %s: %v\n%s", what, p.err, p.Log())
		case <-ctx.Done():
			t.Fatalf("no %s of envoy: %v\n%s", what, ctx.Err(), p.Log())
		case <-tick.C:
		}
	}
}

// Await polls the admin path until its answer satisfies ok, at most 20 s.
func (p *Process) Await(t testing.TB, path, what string, ok func(body string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p.wait(ctx, t, what, func() bool {
		status, body, err := p.Get(path)
		return err == nil && status == http.StatusOK && ok(body)
	})
}

// Get asks the admin interface.
func (p *Process) Get(path string) (status int, body string, err error) {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get("http://" + p.Admin + path)
	if err != nil {
		return 0, "", fmt.Errorf("ask envoy %s: %w", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read envoy's answer to %s: %w", path, err)
	}
	return resp.StatusCode, string(b), nil
}

// Log is what Envoy has written so far, its access log included.
func (p *Process) Log() string { return p.log.String() }

// logBuffer is written by the process and read by the test.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
