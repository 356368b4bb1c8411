//go:build !linux

package control

import (
	"errors"
	"net"
)

// PeerOf is the process that connected to a unix socket; it is known on Linux
// only.
func PeerOf(net.Conn) (Peer, error) {
	return Peer{}, errors.New("peers of unix sockets are known on Linux only")
}
