//go:build linux

package listen

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

const backlog = 4096

// ErrInUse says that another process, or another listener, has the address.
var ErrInUse = errors.New("address is in use")

// Open makes a listening TCP socket, non-blocking, without SO_REUSEPORT: a
// second one on the address is an error. Accepted sockets inherit TCP_NODELAY.
// The caller owns the descriptor.
func Open(a netip.AddrPort) (int, error) {
	sa, err := loop.Sockaddr(a)
	if err != nil {
		return -1, err
	}
	family := unix.AF_INET6
	if a.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", a, err)
	}
	opt := func(level, name int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, name, 1)
		}
	}
	opt(unix.SOL_SOCKET, unix.SO_REUSEADDR)
	opt(unix.IPPROTO_TCP, unix.TCP_NODELAY)
	if family == unix.AF_INET6 {
		opt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return -1, fmt.Errorf("listen on %s: %w", a, ErrInUse)
	case errors.Is(err, unix.EACCES):
		return -1, fmt.Errorf("listen on %s: %w: ports below 1024 need a privilege", a, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return -1, fmt.Errorf("listen on %s: %w: this machine does not have the address", a, err)
	}
	return -1, fmt.Errorf("listen on %s: %w", a, err)
}

// OpenUnix makes a listening unix socket; a path that begins with "@" is
// abstract. A socket file that nobody listens on any longer is replaced.
func OpenUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", path, err)
	}
	sa := &unix.SockaddrUnix{Name: path}
	if err = unix.Bind(fd, sa); errors.Is(err, unix.EADDRINUSE) && path[0] != '@' {
		if stale(sa) {
			_ = os.Remove(path)
			err = unix.Bind(fd, sa)
		}
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		err = ErrInUse
	}
	return -1, fmt.Errorf("listen on %s: %w", path, err)
}

// stale reports whether a socket file is left over: nobody answers there.
func stale(sa *unix.SockaddrUnix) bool {
	st, err := os.Lstat(sa.Name)
	if err != nil || st.Mode()&os.ModeSocket == 0 {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return errors.Is(unix.Connect(fd, sa), unix.ECONNREFUSED)
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// originalDst returns where a redirected connection was going; invalid when it
// was not redirected. local is the address it was accepted on.
func originalDst(fd int, local netip.AddrPort) netip.AddrPort {
	var to netip.AddrPort
	if local.Addr().Is4() {
		var sa unix.RawSockaddrInet4
		if !getsockopt(fd, unix.SOL_IP, soOriginalDst, unsafe.Pointer(&sa), unsafe.Sizeof(sa)) {
			return to
		}
		p := (*[2]byte)(unsafe.Pointer(&sa.Port))
		to = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(p[0])<<8|uint16(p[1]))
	} else {
		var sa unix.RawSockaddrInet6
		if !getsockopt(fd, unix.SOL_IPV6, soOriginalDst, unsafe.Pointer(&sa), unsafe.Sizeof(sa)) {
			return to
		}
		p := (*[2]byte)(unsafe.Pointer(&sa.Port))
		to = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(p[0])<<8|uint16(p[1]))
	}
	if to == local {
		return netip.AddrPort{}
	}
	return to
}

func getsockopt(fd, level, name int, p unsafe.Pointer, size uintptr) bool {
	n := uint32(size)
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(p),
		uintptr(unsafe.Pointer(&n)), 0)
	return e == 0
}
