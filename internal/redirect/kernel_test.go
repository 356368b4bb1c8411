//go:build linux

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// stage says what a copy of the test program is to be: the kernel tests run in
// namespaces of their own, as the user of the test and as one without rights.
const stage = "TULLE_REDIRECT_STAGE"

func TestMain(m *testing.M) {
	switch os.Getenv(stage) {
	case "unprivileged":
		os.Exit(enter("inside"))
	default:
		os.Exit(m.Run())
	}
}

// enter runs this program again in new namespaces, as root there.
func enter(next string) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), stage+"="+next)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestKernel(t *testing.T) {
	if os.Getenv(stage) == "inside" {
		kernel(t)
		return
	}
	for _, who := range []string{"own user", "unprivileged"} {
		t.Run(who, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernel$", "-test.v")
			cmd.Env = append(os.Environ(), stage+"=unprivileged") // the same path, but for the user
			if who == "unprivileged" {
				if os.Getuid() != 0 {
					t.Skip("the first case was unprivileged already")
				}
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestKernel/") {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

func kernel(t *testing.T) {
	run(t, "ip", "link", "set", "lo", "up")
	run(t, "ip", "addr", "add", "127.64.3.4/32", "dev", "lo", "scope", "global")
	run(t, "ip", "route", "add", "default", "dev", "lo")
	run(t, "ip", "-6", "addr", "add", "fdff::1/128", "dev", "lo", "nodad")
	run(t, "ip", "-6", "route", "add", "default", "dev", "lo", "src", "fdff::1")
	for name, p := range plans {
		t.Run("listing "+name, func(t *testing.T) { sameAsText(t, &p) })
	}
	t.Run("iptables", iptables)
	t.Run("probe", probes)
	p := plans["machine6"]
	if err := Apply(&p); err != nil {
		t.Fatal(err)
	}
	t.Run("tcp", captured)
	t.Run("dns", questions)
	t.Run("refused", func(t *testing.T) { refusals(t, &p) })
	t.Run("excluded", excluded)
	t.Run("undo", func(t *testing.T) { undo(t, &p) })
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sameAsText compares what nft lists after Apply and after its own reading of
// the plan's text.
func sameAsText(t *testing.T, p *Plan) {
	if err := Apply(p); err != nil {
		t.Fatal(err)
	}
	if err := Verify(p); err != nil {
		t.Error(err)
	}
	var got []string
	for _, l := range strings.Split(run(t, "nft", "list", "table", "inet", Table), "\n") {
		l, _, _ = strings.Cut(l, " comment \"")
		got = append(got, l)
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader("delete table inet " + Table + "\n" + p.Text())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, p.Text())
	}
	want := strings.Split(run(t, "nft", "list", "table", "inet", Table), "\n")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-nft of the text +Apply:\n%s", d)
	}
	if err := Verify(p); !errors.Is(err, ErrDiffers) {
		t.Errorf("rules without our comments pass for the plan: %v", err)
	}
}

// iptables shows what the kernel holds, and what iptables' own programs make of
// it says the same.
func iptables(t *testing.T) {
	p := plans["pod-everything"]
	p.UIDs, p.GIDs = []uint32{0}, []uint32{0} // whom iptables knows in this user namespace
	want, err := p.Chains()
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(&p); err != nil {
		t.Fatal(err)
	}
	got, err := InKernel("")
	if err != nil {
		t.Fatal(err)
	}
	byAddress := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if d := cmp.Diff(want, got, byAddress); d != "" {
		t.Errorf("-plan +kernel:\n%s", d)
	}
	if err := Undo(&p); err != nil {
		t.Fatal(err)
	}
	if got, err = InKernel(""); err != nil || len(got) != 4 {
		t.Errorf("after Undo there are %d chains, %v", len(got), err)
	}
	for range 2 { // the second in place of the first
		if err := ApplyIPTables(&p, nft); err != nil {
			t.Fatal(err)
		}
	}
	for program, v6 := range map[string]bool{"iptables-nft": false, "ip6tables-nft": true} {
		var text strings.Builder
		Specs(&text, want, v6, "")
		lines := func(s string) map[string][]string { // by chain, which come in an order of their own
			out := map[string][]string{}
			for l := range strings.Lines(s) {
				chain := strings.Fields(l)[1]
				out[chain] = append(out[chain], l)
			}
			return out
		}
		shown := run(t, program, "-t", "nat", "-S")
		if d := cmp.Diff(lines(text.String()), lines(shown)); d != "" {
			t.Errorf("%s -ours +its:\n%s", program, d)
		}
	}
	if err := UndoIPTables(true, nft); err != nil {
		t.Fatal(err)
	}
	if left := run(t, "iptables-nft", "-t", "nat", "-S"); strings.Contains(left, "ISTIO") {
		t.Errorf("left over:\n%s", left)
	}
	run(t, "nft", "flush", "ruleset")
}

// nft finds iptables' programs that every kernel of today can serve.
func nft(name string) (string, error) {
	if strings.Contains(name, "legacy") {
		return "", exec.ErrNotFound
	}
	return exec.LookPath(name)
}

// probes see whether rules are there, with somebody at the port or not.
func probes(t *testing.T) {
	p := plans["machine6"]
	if n, err := Probe(&p); n != 0 || !errors.Is(err, ErrNotCaptured) {
		t.Errorf("without rules: %d probed, %v", n, err)
	}
	if err := AddSources(&p); err != nil {
		t.Fatal(err)
	}
	if err := AddSources(&p); err != nil { // again, after a restart
		t.Fatal(err)
	}
	if err := Apply(&p); err != nil {
		t.Fatal(err)
	}
	if n, err := Probe(&p); n != 2 || err != nil {
		t.Errorf("%d probed, %v; want 2", n, err)
	}
	listen(t, "127.0.0.1:15001")
	listen(t, "[::1]:15001")
	if n, err := Probe(&p); n != 2 || err != nil {
		t.Errorf("with the proxy there: %d probed, %v; want 2", n, err)
	}
	l := listen(t, "[::6]:8080") // AddSources
	_ = l.Close()
}

func original(t *testing.T, c net.Conn) string {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var out string
	err = raw.Control(func(fd uintptr) {
		if netip.MustParseAddrPort(c.LocalAddr().String()).Addr().Is4() {
			sa, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, 80) // 16 bytes, like sockaddr_in
			if err != nil {
				t.Error(err)
				return
			}
			b := sa.Multiaddr
			out = fmt.Sprintf("%d.%d.%d.%d:%d", b[4], b[5], b[6], b[7], int(b[2])<<8|int(b[3]))
			return
		}
		sa, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, 80)
		if err != nil {
			t.Error(err)
			return
		}
		port := sa.Addr.Port<<8 | sa.Addr.Port>>8
		out = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr.Addr), port).String()
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func listen(t *testing.T, at string) net.Listener {
	t.Helper()
	network := "tcp4"
	if strings.HasPrefix(at, "[") {
		network = "tcp6"
	}
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// captured dials everywhere and finds itself at the proxy's port, which learns
// where it was going.
func captured(t *testing.T) {
	l := map[bool]net.Listener{false: listen(t, "0.0.0.0:15001"), true: listen(t, "[::]:15001")}
	for _, to := range []string{"8.8.8.8:80", "240.240.1.2:5432", "127.64.9.9:8080", "[2001:db8::1]:443"} {
		c, err := net.DialTimeout("tcp", to, 2*time.Second)
		if err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		in, err := l[strings.HasPrefix(to, "[")].Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := original(t, in); got != to {
			t.Errorf("dialled %s, the proxy hears %s", to, got)
		}
		_ = in.Close()
		_ = c.Close()
	}
}

// questions to any server reach the proxy, and its answers seem to be that
// server's.
func questions(t *testing.T) {
	for _, at := range []string{"127.0.0.1", "::1"} {
		s, err := net.ListenPacket("udp", net.JoinHostPort(at, strconv.Itoa(DNSPort)))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		go func() {
			b := make([]byte, 100)
			for {
				n, from, err := s.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = s.WriteTo(append([]byte("heard "), b[:n]...), from)
			}
		}()
	}
	for _, to := range []string{"8.8.8.8:53", "127.0.0.1:53", "127.0.0.53:53", "[2001:db8::1]:53", "[::1]:53"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = c.Write([]byte("q"))
		b := make([]byte, 100)
		n, err := c.Read(b) // a connected socket takes answers of that address alone
		if err != nil || string(b[:n]) != "heard q" {
			t.Errorf("%s: %q, %v", to, b[:n], err)
		}
		_ = c.Close()
	}
}

// refusals come at once and are remembered.
func refusals(t *testing.T, p *Plan) {
	for _, to := range []string{"8.8.8.8:123", "[2001:db8::1]:123"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		start := time.Now()
		_, err = c.Write([]byte("x")) // the kernel tells the sender, or answers with ICMP
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v after %s, want an error at once", to, err, time.Since(start))
		}
		_ = c.Close()
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_ = unix.Sendto(fd, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0, &unix.SockaddrInet4{Addr: [4]byte{9, 9, 9, 9}})
	list, err := Refused(p)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.String())
	}
	slices.Sort(got)
	want := []string{"ICMP to 9.9.9.9", "UDP to 8.8.8.8:123", "UDP to [2001:db8::1]:123"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// excluded addresses, and what the proxy dials itself, are reached directly.
func excluded(t *testing.T) {
	for _, at := range []string{"127.64.3.4:8080", "127.0.0.1:8080", "[fdff::1]:8080", "[::1]:8080"} {
		l := listen(t, at)
		d := net.Dialer{Timeout: 2 * time.Second}
		if !strings.HasPrefix(at, "[") {
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 6)}
		}
		c, err := d.Dial("tcp", at)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = in.Close()
		_ = c.Close()
	}
	// UDP between programs of the namespace works.
	s, err := net.ListenPacket("udp", "127.64.3.4:9000")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("udp", "127.64.3.4:9000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	_ = s.SetDeadline(time.Now().Add(2 * time.Second))
	if _, _, err := s.ReadFrom(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func undo(t *testing.T, p *Plan) {
	if err := Verify(p); err != nil {
		t.Error(err)
	}
	run(t, "nft", "delete", "rule", "inet", Table, "output", "handle", lastHandle(t))
	if err := Verify(p); !errors.Is(err, ErrDiffers) {
		t.Errorf("a rule is missing and Verify says %v", err)
	}
	for range 2 {
		if err := Undo(p); err != nil {
			t.Error(err)
		}
	}
	if out := run(t, "nft", "list", "tables"); strings.Contains(out, Table) {
		t.Errorf("left behind: %s", out)
	}
}

func lastHandle(t *testing.T) string {
	out := run(t, "nft", "-a", "list", "chain", "inet", Table, "output")
	i := strings.LastIndex(out, "redirect to :15001")
	_, h, _ := strings.Cut(out[i:], "# handle ")
	h, _, _ = strings.Cut(h, "\n")
	return strings.TrimSpace(h)
}
