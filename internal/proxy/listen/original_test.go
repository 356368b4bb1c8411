//go:build linux

package listen

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside says that the test runs in namespaces of its own.
const inside = "LISTEN_TEST_INSIDE"

// Redirected connections tell where they were going, in both families, by the
// kernel's own word. The test runs itself again in a user and network
// namespace, where it may set rules.
func TestOriginalDestination(t *testing.T) {
	if os.Getenv(inside) == "" {
		if _, err := exec.LookPath("nft"); err != nil {
			t.Skip("no nft here")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestOriginalDestination$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		out, err := cmd.CombinedOutput()
		switch {
		case err != nil && len(out) == 0:
			t.Skipf("no namespaces here: %v", err)
		case err != nil:
			t.Fatalf("%v\n%s", err, out)
		case strings.Contains(string(out), "--- SKIP"):
			t.Skipf("%s", out)
		}
		return
	}
	loopbackUp(t)
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table inet capture {
		chain out {
			type nat hook output priority -100;
			meta l4proto tcp tcp dport 8080 redirect to :15001
		}
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Skipf("no rules here: %v %s", err, out)
	}
	b := newBench(t, 1, Options{})
	out := listener("out", "0.0.0.0:15001", "[::]:15001")
	out.OriginalDst = true
	vip := listener("vip", "127.0.0.2:8080")
	vip.Bind = false
	b.update(t, out, vip)
	for _, tc := range []struct{ to, original, chain string }{
		{"127.0.0.2:8080", "127.0.0.2:8080", "vip-chain"},
		{"127.0.0.3:8080", "127.0.0.3:8080", "out-chain"},
		{"[::1]:8080", "[::1]:8080", "out-chain"},
		{"127.0.0.1:15001", "", "out-chain"}, // not redirected
		{"[::1]:15001", "", "out-chain"},
	} {
		_, r := dial(t, tc.to)
		says(t, r, tc.chain)
		a := recv(t, b.arrived)
		want, _ := netip.ParseAddrPort(tc.original)
		if a.original != want {
			t.Errorf("%s: original destination %s", tc.to, a.original)
		}
		if want, _ := netip.ParseAddrPort(tc.to); a.info.Destination != want {
			t.Errorf("%s: destination %s", tc.to, a.info.Destination)
		}
	}
}

// loopbackUp brings up lo in a new network namespace.
func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName("lo"); err != nil {
		t.Fatal(err)
	}
}
