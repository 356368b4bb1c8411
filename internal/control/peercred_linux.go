package control

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerOf is the process that connected to a unix socket.
func PeerOf(c net.Conn) (Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("peer of %s: no unix socket", c.RemoteAddr())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("peer of a unix socket: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, fmt.Errorf("peer of a unix socket: %w", err)
	}
	if cerr != nil {
		return Peer{}, fmt.Errorf("peer of a unix socket: %w", cerr)
	}
	return Peer{UID: cred.Uid, PID: int(cred.Pid)}, nil
}
