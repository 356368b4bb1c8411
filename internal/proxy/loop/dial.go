//go:build linux

package loop

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Keepalive of TCP; zero fields leave the kernel's defaults.
type Keepalive struct {
	Probes         int
	Time, Interval time.Duration // whole seconds
}

// DialOptions of an outgoing connection.
type DialOptions struct {
	Source    netip.Addr // address to bind to; invalid: the kernel chooses
	Keepalive *Keepalive // nil: off
	Mark      uint32     // SO_MARK; needs a capability; 0: none
}

// Dial begins a connection. What comes of it is told to the codec after Start:
// OnConnect or OnClose. An error is one that shows at once (no route, no
// descriptors).
func (l *Loop) Dial(to netip.AddrPort, o DialOptions) (*Conn, error) {
	l.check()
	sa, err := Sockaddr(to)
	if err != nil {
		return nil, err
	}
	family := unix.AF_INET6
	if to.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := o.apply(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return l.connect(fd, sa, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
}

// DialUnix is Dial to a unix socket's path ("@" for abstract ones).
func (l *Loop) DialUnix(path string) (*Conn, error) {
	l.check()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l.connect(fd, &unix.SockaddrUnix{Name: path}, netip.AddrPort{})
}

func (l *Loop) connect(fd int, sa unix.Sockaddr, to netip.AddrPort) (*Conn, error) {
	if l.closing {
		_ = unix.Close(fd)
		return nil, ErrEnded
	}
	c := &Conn{loop: l, fd: int32(fd), slot: -1, remote: to}
	for {
		switch err := unix.Connect(fd, sa); err {
		case nil, unix.EINPROGRESS: // an edge comes in both cases
			return c, nil
		case unix.EINTR:
		default:
			_ = unix.Close(fd)
			return nil, fmt.Errorf("connect: %w", err)
		}
	}
}

// apply sets what can be set before connecting.
func (o *DialOptions) apply(fd int) error {
	if err := SetNoDelay(fd); err != nil {
		return err
	}
	if o.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
			return fmt.Errorf("SO_MARK: %w", err)
		}
	}
	if o.Keepalive != nil {
		if err := SetKeepalive(fd, *o.Keepalive); err != nil {
			return err
		}
	}
	if !o.Source.IsValid() {
		return nil
	}
	// The port is chosen at connect, where the destination counts too.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	sa, err := Sockaddr(netip.AddrPortFrom(o.Source, 0))
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind to %s: %w", o.Source, err)
	}
	return nil
}

// SetNoDelay switches Nagle's algorithm off.
func SetNoDelay(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	return nil
}

// SetKeepalive switches TCP keepalive on.
func SetKeepalive(fd int, k Keepalive) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return fmt.Errorf("SO_KEEPALIVE: %w", err)
	}
	for _, o := range []struct{ opt, v int }{
		{unix.TCP_KEEPCNT, k.Probes},
		{unix.TCP_KEEPIDLE, int(k.Time / time.Second)},
		{unix.TCP_KEEPINTVL, int(k.Interval / time.Second)},
	} {
		if o.v <= 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, o.opt, o.v); err != nil {
			return fmt.Errorf("keepalive: %w", err)
		}
	}
	return nil
}
