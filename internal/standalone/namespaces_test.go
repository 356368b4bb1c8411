//go:build linux

package standalone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/agent"
)

// TestMain is also tulle-proxy's agent, and a program inside.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(agent.Main(os.Args[2:], os.Stderr))
	}
	if at := os.Getenv("TULLE_TEST_LISTEN"); at != "" && len(os.Args) > 1 && os.Args[1] == "listen" {
		l, err := net.Listen("tcp", at)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			_, _ = io.WriteString(c, "inside\n")
			_ = c.Close()
		}
	}
	os.Exit(m.Run())
}

// output is a buffer for several goroutines.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func open(t *testing.T, o *placeOptions) (*place, *output) {
	t.Helper()
	out := &output{}
	dir, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if o.Proxy == "" {
		o.Proxy = "/proc/self/exe"
	}
	o.Dir, o.Address, o.Resolv = dir, netip.MustParseAddr("127.64.0.7"), resolvConf("shop")
	o.Stdout, o.Stderr = out, out
	o.Env = append(os.Environ(), o.Env...)
	p, err := openPlace(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.close(0) })
	return p, out
}

func TestPlace(t *testing.T) {
	refused := make(chan string, 8)
	p, out := open(t, &placeOptions{Command: []string{"/proc/self/exe", "listen"}, Env: []string{"TULLE_TEST_LISTEN=127.64.0.7:8080"},
		Refused: func(what []string) {
			for _, w := range what {
				refused <- w
			}
		}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := p.dial(ctx, "tcp", "127.64.0.7:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("before the program was started: %v", err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	for {
		var err error
		if c, err = p.dial(ctx, "tcp", "127.64.0.7:8080"); err == nil {
			break
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || ctx.Err() != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if b, err := io.ReadAll(c); string(b) != "inside\n" {
		t.Errorf("%q, %v", b, err)
	}
	_ = c.Close()
	if _, err := net.DialTimeout("tcp", "127.64.0.7:8080", time.Second); err == nil {
		t.Error("the program is to be seen from outside")
	}
	t.Run("errands", func(t *testing.T) { errands(t, p) })
	_ = p.run(ctx, "bash", "-c", "echo x >/dev/udp/192.0.2.9/99") // what counts is what is told
	select {
	case w := <-refused:
		if w != "UDP to 192.0.2.9:99" {
			t.Error(w)
		}
	case <-ctx.Done():
		t.Error("nobody was told what was refused")
	}
	p.close(time.Second)
	if err := p.run(ctx, "true"); err == nil {
		t.Error("a command ran after the end")
	}
	if alive(p.agent.PID()) {
		t.Error("the agent lives")
	}
}

// errands run inside, with the program's rights, and end in time.
func errands(t *testing.T, p *place) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for script, want := range map[string]string{
		"true": "", "exit 3": "exit status 3",
		"test $(cat /proc/1/comm) = exe -o -n \"$(cat /proc/1/comm)\"": "", // its own processes
		"grep -q '^NoNewPrivs:.1' /proc/self/status":                   "",
		"grep -q '^search shop.svc.cluster.local' /etc/resolv.conf":    "",
		"test \"$(id -u)\" = " + fmt.Sprint(os.Getuid()):               "",
	} {
		got := ""
		if err := p.run(ctx, "sh", "-c", script); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if err := p.run(ctx, "/no/such/program"); err == nil || err.Error() != "exit status 127" {
		t.Errorf("no such program: %v", err)
	}
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if err := p.run(short, "sleep", "1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that takes too long: %v", err)
	}
	for end := time.Now().Add(5 * time.Second); len(sleepers(p)) > 0; {
		if time.Now().After(end) {
			t.Fatalf("it was not killed: %v", sleepers(p))
		}
	}
}

// sleepers are the place's processes that sleep, seen from outside.
func sleepers(p *place) (out []int) {
	for _, pid := range descendants(p.agent.PID()) {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(b, []byte("1000\x00")) {
			out = append(out, pid)
		}
	}
	return out
}

// TestPlaceUnprivileged is TestPlace as an ordinary user.
func TestPlaceUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		return // TestPlace was it
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPlace$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR=/tmp", "HOME=/tmp")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPlace/errands") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestEnd: whatever the program started ends with it.
func TestEnd(t *testing.T) {
	p, out := open(t, &placeOptions{Command: []string{"sh", "-c", "setsid sleep 1000 & (setsid sleep 1000 &) ; exit 5"}})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	<-p.agent.Done()
	var exit *exec.ExitError
	if !errors.As(p.agent.Err(), &exit) || exit.ExitCode() != 5 {
		t.Errorf("%v\n%s", p.agent.Err(), out)
	}
	if left := sleepers(p); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestAgentAlone refuses to touch the namespaces of the machine.
func TestAgentAlone(t *testing.T) {
	for _, args := range [][]string{{"--address", "127.64.0.1", "--check"}, {"--nothing"}, {"--address", "x"}} {
		out, err := exec.Command("/proc/self/exe", append([]string{"agent"}, args...)...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || len(out) == 0 {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
}

func TestNamespacesDenied(t *testing.T) {
	silent := filepath.Join(t.TempDir(), "tulle-proxy")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for proxy, want := range map[string]string{"/no/such/proxy": "no such file", silent: "the agent ended"} {
		err := Namespaces(proxy)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", proxy, err, want)
		}
		var said []string
		say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
		if yes, err := Auto.settle(proxy, say); yes || err != nil || len(said) != 1 || !strings.Contains(said[0], want) {
			t.Errorf("auto: %v %v %q", yes, err, said)
		}
		if _, err := InNamespaces.settle(proxy, say); err == nil || !strings.Contains(err.Error(), "mode namespaces") || len(said) != 1 {
			t.Errorf("namespaces: %v %q", err, said)
		}
		if yes, err := ByPorts.settle(proxy, say); yes || err != nil || len(said) != 1 {
			t.Errorf("ports: %v %v %q", yes, err, said)
		}
	}
	if err := Namespaces("/proc/self/exe"); err != nil {
		t.Error(err)
	}
}

func TestMode(t *testing.T) {
	for _, m := range []Mode{Auto, InNamespaces, ByPorts} {
		var got Mode
		if err := got.Set(m.String()); err != nil || got != m {
			t.Errorf("%s: %v %v", m, got, err)
		}
	}
	var m Mode
	if err := m.Set("both"); err == nil || !strings.Contains(err.Error(), "auto, namespaces, ports") {
		t.Error(err)
	}
	got := byName([]string{"-h", "{{tulle.addr ledger 5432}}", "x{{ tulle.addr fd00::1 80 }}y"})
	if fmt.Sprint(got) != "[-h ledger:5432 x[fd00::1]:80y]" {
		t.Error(got)
	}
	if _, err := ParsePorts([]string{"5432", "0"}); err == nil {
		t.Error("port 0")
	}
}
