package control

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerUID is the user id of the process that connected to a unix socket.
func PeerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("peer of %s: no unix socket", c.RemoteAddr())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer of a unix socket: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("peer of a unix socket: %w", err)
	}
	if cerr != nil {
		return 0, fmt.Errorf("peer of a unix socket: %w", cerr)
	}
	return cred.Uid, nil
}
