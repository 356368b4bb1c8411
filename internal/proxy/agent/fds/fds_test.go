//go:build linux

package fds

import (
	"errors"
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

	"golang.org/x/sys/unix"
)

const wait = 5 * time.Second

// TestMain is also a client of another user: see TestOtherUser.
func TestMain(m *testing.M) {
	if path := os.Getenv("TULLE_FDS_STRANGER"); path != "" {
		c, err := Dial(path, wait)
		if err == nil {
			_, err = c.Sockets(false, 1, wait)
		}
		if err == nil {
			os.Exit(3)
		}
		return
	}
	os.Exit(m.Run())
}

// server serves on a path of its own.
func server(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func client(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(server(t), wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// listener makes a descriptor a Go listener.
func listener(t *testing.T, fd int) net.Listener {
	t.Helper()
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestListen(t *testing.T) {
	c := client(t)
	for at, reach := range map[string][]string{
		"127.0.0.1:0": {"127.0.0.1"}, "[::1]:0": {"::1"}, "[::]:0": {"::1"}, "0.0.0.0:0": {"127.0.0.1", "::1"},
	} {
		fd, err := c.Listen(netip.MustParseAddrPort(at), wait)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		l := listener(t, fd)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, host := range reach {
			d, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), wait)
			if err != nil {
				t.Errorf("%s from %s: %v", at, host, err)
				continue
			}
			a, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = a.Close()
			_ = d.Close()
		}
	}
}

func TestPacket(t *testing.T) {
	c := client(t)
	fd, err := c.Packet(netip.MustParseAddrPort("127.0.0.1:0"), wait)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "packet")
	p, err := net.FilePacketConn(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	d, err := net.Dial("udp", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, _ = d.Write([]byte("hello"))
	_ = p.SetDeadline(time.Now().Add(wait))
	b := make([]byte, 10)
	if n, _, err := p.ReadFrom(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

func TestSockets(t *testing.T) {
	c := client(t)
	for v6, domain := range map[bool]int{false: unix.AF_INET, true: unix.AF_INET6} {
		list, err := c.Sockets(v6, MaxSockets, wait)
		if err != nil || len(list) != MaxSockets {
			t.Fatalf("%d, %v", len(list), err)
		}
		for _, fd := range list {
			got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			flags, ferr := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			own, oerr := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if errors.Join(err, ferr, oerr) != nil || got != domain || flags&unix.O_NONBLOCK == 0 || own&unix.FD_CLOEXEC == 0 {
				t.Errorf("socket of domain %d, flags %x %x: %v", got, flags, own, errors.Join(err, ferr, oerr))
			}
			_ = unix.Close(fd)
		}
	}
}

// TestRefused tells errors of the other side; the client goes on.
func TestRefused(t *testing.T) {
	c := client(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := c.Listen(netip.MustParseAddrPort(taken.Addr().String()), wait); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	if _, err := c.Sockets(false, MaxSockets+1, wait); err == nil {
		t.Error("too many sockets")
	}
	if _, err := c.Listen(netip.AddrPort{}, wait); err == nil {
		t.Error("no address")
	}
	list, err := c.Sockets(false, 1, wait)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(list)
}

// TestSilent: a server that does not answer costs the time that was given; when
// it is back, the client is too.
func TestSilent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(path, wait)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Sockets(false, 1, 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a timeout", err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(l) }() // the first connection, given up, is accepted first
	list, err := c.Sockets(false, 2, wait)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(list)
	c.Close()
	if _, err := c.Sockets(false, 1, wait); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	_ = l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMany(t *testing.T) {
	c := client(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 50 {
				list, err := c.Sockets(n%2 == 0, 1+n%7, wait)
				if err != nil || len(list) != 1+n%7 {
					t.Errorf("%d: %v", len(list), err)
				}
				closeAll(list)
			}
		})
	}
	wg.Wait()
}

// TestOtherUser gives nothing to processes of other users.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only the superuser can be another user")
	}
	path := server(t)
	for p := path; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"TULLE_FDS_STRANGER=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}
