package envoy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a running Envoy. It ends with its test.
type Process struct {
	admin http.Client // by unix socket
	out   *logBuffer  // access log
	log   *logBuffer  // its own messages
	done  chan struct{}
	err   error // of the process, valid once done is closed
}

// AdminPath in a bootstrap is replaced by the path of a socket of its own when
// Start writes it down.
const AdminPath = "@admin@"

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

// Start runs Envoy with a bootstrap in JSON and returns once its listeners are
// up. Alone, it is in a network namespace of its own, where it may open any
// port and reaches nothing but unix sockets.
func Start(t testing.TB, bootstrap []byte, alone bool) *Process {
	t.Helper()
	binary := Binary(t)
	dir, err := os.MkdirTemp("", "envoy") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	admin := filepath.Join(dir, "admin")
	bootstrap = bytes.ReplaceAll(bootstrap, []byte(AdminPath), []byte(admin))
	p := &Process{out: &logBuffer{}, log: &logBuffer{}, done: make(chan struct{})}
	p.admin = http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", admin)
		},
	}}
	cmd := exec.Command(binary, "-c", write(t, bootstrap), "--concurrency", "1", "--disable-hot-restart",
		"--file-flush-interval-msec", "50", "-l", "warning", "--component-log-level", "misc:error,main:error")
	cmd.Stdout, cmd.Stderr = p.out, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if alone {
		isolate(cmd.SysProcAttr)
	}
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
		if log := p.log.String(); t.Failed() && log != "" {
			t.Logf("envoy said:\n%s", log)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.wait(ctx, t, "readiness", func() bool {
		status, _, err := p.Get("/ready")
		return err == nil && status == http.StatusOK
	})
	return p
}

// isolate asks for a network namespace, as whoever we are.
func isolate(a *syscall.SysProcAttr) {
	a.Cloneflags = syscall.CLONE_NEWNET
	if os.Getuid() == 0 {
		return
	}
	a.Cloneflags |= syscall.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// wait polls until ok. Envoy has no other way to tell.
func (p *Process) wait(ctx context.Context, t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.done:
			t.Fatalf("envoy ended before %s: %v\n%s", what, p.err, p.log)
		case <-ctx.Done():
			t.Fatalf("no %s of envoy: %v\n%s", what, ctx.Err(), p.log)
		case <-tick.C:
		}
	}
}

// Await polls the admin path until its answer satisfies ok, at most a minute.
func (p *Process) Await(t testing.TB, path, what string, ok func(body string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.wait(ctx, t, what, func() bool {
		status, body, err := p.Get(path)
		return err == nil && status == http.StatusOK && ok(body)
	})
}

// Get asks the admin interface.
func (p *Process) Get(path string) (status int, body string, err error) {
	resp, err := p.admin.Get("http://envoy" + path)
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

// Output is what Envoy has written to standard output so far: access logs.
func (p *Process) Output() string { return p.out.String() }

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
