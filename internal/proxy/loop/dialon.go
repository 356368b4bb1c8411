//go:build linux

package loop

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// DialOn is Dial on a TCP socket that was made elsewhere, as in another
// network namespace: new, non-blocking, of to's family. The loop owns it from
// now on, also when DialOn fails.
func (l *Loop) DialOn(fd int, to netip.AddrPort, o DialOptions) (*Conn, error) {
	l.check()
	sa, err := Sockaddr(to)
	if err == nil {
		err = o.apply(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return l.connect(fd, sa, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
}
