//go:build linux

package wire

import (
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/proxytest"
)

// TestIdleConnectionsAreSmall: what a connection holds that has served a
// request and waits for the next.
func TestIdleConnectionsAreSmall(t *testing.T) {
	p := proxytest.Start(t, &proxy.Bootstrap{}, proxytest.Forward(proxytest.To(fixed(t)), nil))
	at := netip.MustParseAddrPort(p.Addr)
	request := []byte("GET / HTTP/1.1\r\nhost: items.shop\r\n\r\n")
	b := make([]byte, 4096)
	const n = 4000
	fds := make([]int, 0, 2*n)
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	// Bare descriptors: the client's side must not count.
	open := func(n int) {
		for range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fd, request); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(fd, b); err != nil || n < 15 || string(b[:15]) != "HTTP/1.1 200 OK" {
				t.Fatal(err, string(b[:max(n, 0)]))
			}
		}
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	open(200)
	before := heap()
	open(n)
	per := (heap() - before) / n
	if t.Logf("%d bytes of heap per idle connection", per); per > 640 {
		t.Error("want at most 640")
	}
}
