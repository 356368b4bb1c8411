//go:build linux

package loop

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The raw system calls below never block: their descriptors are non-blocking,
// so the scheduler need not hear of them.

func sysRead(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
	return int(n), e
}

func sysSend(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])),
		uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}

// sysSend2 sends a and then b in one call. iov and msg are scratch.
func sysSend2(fd int32, iov *[2]unix.Iovec, msg *unix.Msghdr, a, b []byte) (int, syscall.Errno) {
	iov[0].Base, iov[1].Base = &a[0], &b[0]
	iov[0].SetLen(len(a))
	iov[1].SetLen(len(b))
	msg.Iov = &iov[0]
	msg.SetIovlen(2)
	n, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(msg)), unix.MSG_NOSIGNAL)
	iov[0].Base, iov[1].Base = nil, nil
	return int(n), e
}

// sysSplice moves up to n bytes between a socket and a pipe, one way or the other.
func sysSplice(from, to int32, n int) (int, syscall.Errno) {
	k, _, e := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
		unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(k), e
}

func sysEpollWait(epfd int, evs []unix.EpollEvent) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&evs[0])),
		uintptr(len(evs)), 0, 0, 0)
	return int(n), e
}

// Accept takes one connection from a listening socket, non-blocking and
// close-on-exec. remote is invalid for unix sockets. unix.EAGAIN says that
// there is none. It may be called from anywhere.
func Accept(lfd int) (fd int, remote netip.AddrPort, err error) {
	var sa unix.RawSockaddrAny
	n := uint32(unix.SizeofSockaddrAny)
	for {
		r, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(lfd), uintptr(unsafe.Pointer(&sa)),
			uintptr(unsafe.Pointer(&n)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch e {
		case 0:
			return int(r), addrPort(&sa), nil
		case unix.EINTR, unix.ECONNABORTED:
			continue
		}
		return -1, remote, e
	}
}

// LocalAddr returns the address that a socket is bound to; invalid for unix
// sockets and on errors.
func LocalAddr(fd int) netip.AddrPort { return sockName(unix.SYS_GETSOCKNAME, fd) }

// RemoteAddr returns the address of the peer; invalid for unix sockets and on
// errors.
func RemoteAddr(fd int) netip.AddrPort { return sockName(unix.SYS_GETPEERNAME, fd) }

func sockName(call uintptr, fd int) netip.AddrPort {
	var sa unix.RawSockaddrAny
	n := uint32(unix.SizeofSockaddrAny)
	if _, _, e := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&n))); e != 0 {
		return netip.AddrPort{}
	}
	return addrPort(&sa)
}

// addrPort reads a socket address, unmapped.
func addrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		p := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(p.Addr), ntohs(p.Port))
	case unix.AF_INET6:
		p := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		a := netip.AddrFrom16(p.Addr).Unmap()
		if p.Scope_id != 0 && a.Is6() {
			a = a.WithZone(strconv.FormatUint(uint64(p.Scope_id), 10))
		}
		return netip.AddrPortFrom(a, ntohs(p.Port))
	}
	return netip.AddrPort{}
}

func ntohs(p uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return uint16(b[0])<<8 | uint16(b[1])
}

// Sockaddr makes the kernel's form of a. A zone is a number or the name of an
// interface.
func Sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	ip := a.Addr().Unmap()
	switch {
	case ip.Is4():
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(a.Port())}, nil
	case ip.Is6():
		sa := &unix.SockaddrInet6{Addr: ip.As16(), Port: int(a.Port())}
		if z := ip.Zone(); z != "" {
			n, err := strconv.ParseUint(z, 10, 32)
			if err != nil {
				i, err := net.InterfaceByName(z)
				if err != nil {
					return nil, fmt.Errorf("zone of %s: %w", a, err)
				}
				n = uint64(i.Index)
			}
			sa.ZoneId = uint32(n)
		}
		return sa, nil
	}
	return nil, fmt.Errorf("no address: %s", a)
}
