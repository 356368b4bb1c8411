//go:build linux

// Package fds hands sockets from one process to another: a Server makes them
// where it lives, in a network namespace of its own, a Client uses them where
// it lives. They travel as SCM_RIGHTS over a unix socket of datagrams in order.
//
// In: requests to listen, or for sockets to dial with. Out: descriptors. What
// does not belong here: what is done with them.
package fds

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxSockets is how many sockets one request may ask for (the kernel's limit
// is 253 descriptors in one message).
const MaxSockets = 128

// maxMessage bounds a request or reply, in bytes.
const maxMessage = 64 << 10

// Operations.
const (
	opListen  = "listen"  // a listening TCP socket
	opPacket  = "packet"  // a bound UDP socket
	opSockets = "sockets" // TCP sockets to dial with
)

// request is what a client asks for.
type request struct {
	Op    string         `json:"op"`
	Addr  netip.AddrPort `json:"addr,omitzero"`
	V6    bool           `json:"v6,omitempty"`
	Count int            `json:"count,omitempty"`
}

// reply comes with the descriptors.
type reply struct {
	Error string `json:"error,omitempty"`
}

// Client asks a Server. Safe for concurrent use; calls wait for each other.
type Client struct {
	path string

	mu     sync.Mutex
	conn   *net.UnixConn // nil after a failure: the next call connects anew
	closed bool
}

// Dial connects to the server at a path.
func Dial(path string, timeout time.Duration) (*Client, error) {
	c := &Client{path: path}
	if err := c.connect(timeout); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) connect(timeout time.Duration) error {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.Dial("unixpacket", c.path)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	c.conn = conn.(*net.UnixConn)
	return nil
}

// Close ends the client. Sockets that it was given stay.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.drop()
}

func (c *Client) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Listen makes a listening, non-blocking TCP socket. An unspecified IPv4
// address stands for every address that there is, of both families. The caller
// owns the descriptor.
func (c *Client) Listen(a netip.AddrPort, timeout time.Duration) (int, error) {
	return c.one(request{Op: opListen, Addr: a}, timeout)
}

// Packet makes a UDP socket, bound and non-blocking. The caller owns it.
func (c *Client) Packet(a netip.AddrPort, timeout time.Duration) (int, error) {
	return c.one(request{Op: opPacket, Addr: a}, timeout)
}

func (c *Client) one(r request, timeout time.Duration) (int, error) {
	list, err := c.ask(r, 1, timeout)
	if err != nil {
		return -1, fmt.Errorf("%s on %s: %w", r.Op, r.Addr, err)
	}
	return list[0], nil
}

// Sockets makes n TCP sockets, new and non-blocking, for dialling in the
// server's namespace. The caller owns them.
func (c *Client) Sockets(v6 bool, n int, timeout time.Duration) ([]int, error) {
	list, err := c.ask(request{Op: opSockets, V6: v6, Count: n}, n, timeout)
	if err != nil {
		return nil, fmt.Errorf("sockets: %w", err)
	}
	return list, nil
}

// ask sends a request and waits for its reply. After a failure of the
// connection replies could be another request's: it is not used again.
func (c *Client) ask(r request, want int, timeout time.Duration) ([]int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if c.conn == nil {
		if err := c.connect(timeout); err != nil {
			return nil, err
		}
	}
	_ = c.conn.SetDeadline(time.Now().Add(timeout))
	list, err := c.exchange(r)
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		return nil, err
	case err != nil:
		c.drop()
		return nil, fmt.Errorf("agent: %w", err)
	case len(list) != want:
		closeAll(list)
		return nil, fmt.Errorf("agent: %d descriptors, want %d", len(list), want)
	}
	return list, nil
}

func (c *Client) exchange(r request) ([]int, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(b); err != nil {
		return nil, err
	}
	var p reply
	list, err := Receive(c.conn, &p)
	if err == nil && p.Error != "" {
		err = &refusal{p.Error}
	}
	if err != nil {
		closeAll(list)
		return nil, err
	}
	return list, nil
}

// refusal is an error that the server told.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// Send writes v as one message, with duplicates of the descriptors, at most
// MaxSockets; c is of the kind "unixpacket".
func Send(c *net.UnixConn, v any, list []int) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, _, err = c.WriteMsgUnix(b, unix.UnixRights(list...), nil)
	}
	return err
}

// Receive reads one message with its descriptors, which the caller owns.
func Receive(c *net.UnixConn, v any) ([]int, error) {
	b := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*MaxSockets))
	n, m, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	list, err := rights(oob[:m])
	switch {
	case err != nil:
	case n == 0 && m == 0:
		err = net.ErrClosed
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("message too long")
	default:
		err = json.Unmarshal(b[:n], v)
	}
	if err != nil {
		closeAll(list)
		return nil, err
	}
	return list, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var out []int
	for i := range msgs {
		list, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // some other control message
		}
		out = append(out, list...)
	}
	return out, nil
}

func closeAll(list []int) {
	for _, fd := range list {
		_ = unix.Close(fd)
	}
}

// Serve answers clients of l, which must be a "unixpacket" listener, until it
// is closed. Only processes of the server's own user are answered.
func Serve(l *net.UnixListener) error {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("agent: %w", err)
		}
		if err := SameUser(c); err != nil {
			_ = c.Close()
			continue
		}
		go serve(c)
	}
}

// SameUser is an error when the process at the other end is another user's.
func SameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr == nil && int(cred.Uid) != os.Getuid() {
		cerr = fmt.Errorf("user %d is not ours", cred.Uid)
	}
	return cerr
}

func serve(c *net.UnixConn) {
	defer c.Close()
	for {
		var r request
		list, err := Receive(c, &r)
		closeAll(list) // nobody has reason to send any
		if err != nil {
			return
		}
		made, err := r.make()
		p := reply{}
		if err != nil {
			p.Error = err.Error()
		}
		err = Send(c, p, made)
		closeAll(made)
		if err != nil {
			return
		}
	}
}

// make does what is asked for.
func (r *request) make() (out []int, err error) {
	switch r.Op {
	case opListen:
		out, err = only(bound(unix.SOCK_STREAM, r.Addr))
	case opPacket:
		out, err = only(bound(unix.SOCK_DGRAM, r.Addr))
	case opSockets:
		if r.Count < 1 || r.Count > MaxSockets {
			return nil, fmt.Errorf("%d sockets: want 1 to %d", r.Count, MaxSockets)
		}
		for range r.Count {
			family := unix.AF_INET
			if r.V6 {
				family = unix.AF_INET6
			}
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				closeAll(out)
				return nil, err
			}
			out = append(out, fd)
		}
	default:
		err = fmt.Errorf("operation %q", r.Op)
	}
	return out, err
}

func only(fd int, err error) ([]int, error) {
	if err != nil {
		return nil, err
	}
	return []int{fd}, nil
}

// bound makes a socket on an address; one of streams listens.
func bound(kind int, a netip.AddrPort) (int, error) {
	if !a.IsValid() {
		return -1, errors.New("no address")
	}
	host := a.Addr().Unmap()
	any4 := host.Is4() && host.IsUnspecified()
	family, both := unix.AF_INET, false
	var sa unix.Sockaddr
	switch {
	case any4 && kind == unix.SOCK_STREAM && hasIPv6():
		family, sa, both = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port())}, true
	case host.Is4():
		sa = &unix.SockaddrInet4{Port: int(a.Port()), Addr: host.As4()}
	default:
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: host.As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	set := func(level, name, value int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, name, value)
		}
	}
	if family == unix.AF_INET6 {
		v := 1
		if both {
			v = 0
		}
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v)
	}
	if kind == unix.SOCK_STREAM {
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// hasIPv6 reports whether this namespace has the IPv6 loopback address.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}) == nil
}
