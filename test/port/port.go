// Package port hands out ports of loopback for tests that must know a port
// before a program listens there.
//
// In: a test. Out: a port that no other test on this machine gets until that
// test has ended, and that the kernel gives to nobody by itself: it lies below
// the range of connections without a port of their own. So nobody is there when
// the program starts, comes there while it is dead, or connects to itself.
//
// What does not belong here: tests that can let the kernel choose (port 0).
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

// Where ports are taken from: below the kernel's own range, above what programs
// are known by.
const first, count = 20000, 12000

// Free is a port of 127.0.0.1 that belongs to the test until its end.
func Free(t testing.TB) netip.AddrPort {
	t.Helper()
	for n := range count {
		at := first + (start+n)%count
		// An abstract socket is a lock that ends with its process, however that ends.
		mine, err := net.Listen("unix", fmt.Sprintf("@tulle-test-port-%d", at))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", at))
		if err != nil {
			_ = mine.Close() // somebody listens who has not asked here
			continue
		}
		_ = l.Close()
		t.Cleanup(func() { _ = mine.Close() })
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at))
	}
	t.Fatalf("no port of 127.0.0.1 is free between %d and %d", first, first+count)
	panic("unreachable")
}

// start differs between processes, so that what one has just closed is not what
// the next begins with.
var start = rand.IntN(count)
