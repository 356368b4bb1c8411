package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/agent/fds"
)

// A hot restart: a new process asks the running one at its restart socket for
// all listening sockets, gets ready with what is on disk or what the control
// plane says, and then says "go". From then on the old one accepts nothing,
// tells its clients with each response to come again, and ends. Until "go"
// nothing has changed for the old one, whatever becomes of the new.

// handFormat is the version of what is said at the restart socket.
const handFormat = 1

// handWait bounds each step of a handover, but not the getting ready.
const handWait = 5 * time.Second

// What a key of a descriptor begins with.
const (
	keyListen  = "listen " // and the listen set's own key
	keyAdmin   = "admin "  // and the address in the bootstrap
	keyRestart = "restart "
	keyNames   = "names " // and "packet" or "stream", and the address inside
)

// handRequest is what the successor says.
type handRequest struct {
	Format int  `json:"format"`
	Go     bool `json:"go,omitempty"` // false: hand over
}

// handReply answers; several are sent when descriptors are many.
type handReply struct {
	PID  int      `json:"pid"`
	Keys []string `json:"keys,omitempty"` // one per descriptor
	More bool     `json:"more,omitempty"`
}

// heritage is what a predecessor has handed over.
type heritage struct {
	conn *net.UnixConn // nil: there was none
	pid  int
	fds  map[string]int
}

// inherit asks the process at the restart socket, if there is one.
func inherit(path string) (*heritage, error) {
	h := &heritage{fds: map[string]int{}}
	if path == "" {
		return h, nil
	}
	c, err := net.DialTimeout("unixpacket", path, handWait)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("restart socket: %w", err)
	}
	h.conn = c.(*net.UnixConn)
	_ = h.conn.SetDeadline(time.Now().Add(handWait))
	err = fds.Send(h.conn, handRequest{Format: handFormat}, nil)
	for more := true; more && err == nil; {
		var r handReply
		var list []int
		if list, err = fds.Receive(h.conn, &r); err != nil {
			break
		}
		if len(list) != len(r.Keys) {
			err = fmt.Errorf("%d sockets with %d names", len(list), len(r.Keys))
		}
		for i, fd := range list {
			if i >= len(r.Keys) {
				_ = unix.Close(fd)
				continue
			}
			h.fds[r.Keys[i]] = fd
		}
		h.pid, more = r.PID, r.More
	}
	if err != nil {
		h.close()
		return nil, fmt.Errorf("the process that runs at %s hands nothing over: %w", path, err)
	}
	return h, nil
}

// take gives a descriptor away; -1: there is none of that key.
func (h *heritage) take(key string) int {
	fd, ok := h.fds[key]
	if !ok {
		return -1
	}
	delete(h.fds, key)
	return fd
}

// assume tells the predecessor that we serve, and waits until it does no more.
func (h *heritage) assume() error {
	_ = h.conn.SetDeadline(time.Now().Add(handWait))
	err := fds.Send(h.conn, handRequest{Format: handFormat, Go: true}, nil)
	if err == nil {
		var r handReply
		_, err = fds.Receive(h.conn, &r)
	}
	return err
}

func (h *heritage) close() {
	if h.conn != nil {
		_ = h.conn.Close()
	}
	for k, fd := range h.fds {
		delete(h.fds, k)
		_ = unix.Close(fd)
	}
}

// assume takes the place of the predecessor once we are ready, and serves what
// can be served by one process only.
func (p *Proxy) assume(ctx context.Context, h *heritage) error {
	defer h.close()
	if h.conn != nil {
		select {
		case <-p.served:
		case <-ctx.Done():
			return nil
		}
		if err := h.assume(); err != nil {
			p.log.Warn("the predecessor did not say that it leaves", "pid", h.pid, "error", err)
		} else {
			p.log.Info("took over from the predecessor", "pid", h.pid)
		}
		p.sockets.Forget()
	}
	if p.boot.Admin != "" {
		a, err := p.serveAdmin(p.boot.Admin, h.take(keyAdmin+p.boot.Admin))
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.admin = a
		p.mu.Unlock()
	}
	if p.boot.Pod != nil {
		if err := p.servePod(); err != nil {
			return err
		}
	}
	if p.boot.RestartSocket == "" {
		return nil
	}
	l, err := restartListener(p.boot.RestartSocket, h.take(keyRestart+p.boot.RestartSocket))
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.restart = l
	p.mu.Unlock()
	go p.serveRestart(ctx, l)
	return nil
}

func restartListener(path string, fd int) (*net.UnixListener, error) {
	if fd >= 0 {
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("restart socket: %w", err)
		}
		return l.(*net.UnixListener), nil
	}
	_ = os.Remove(path) // nobody answered there
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("restart socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // see retire
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restart socket: %w", err), l.Close())
	}
	return l, nil
}

// serveRestart answers successors, one at a time, until l is closed.
func (p *Proxy) serveRestart(ctx context.Context, l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		err = fds.SameUser(c)
		if err == nil {
			err = p.handOver(ctx, c)
		}
		_ = c.Close()
		if err != nil && ctx.Err() == nil {
			p.log.Warn("a successor did not take over", "error", err)
		}
	}
}

// handOver serves one successor, which may take its time to get ready.
func (p *Proxy) handOver(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(handWait))
	var r handRequest
	if err := expect(c, &r); err != nil {
		return err
	}
	if f := p.source.Load(); f != nil { // the successor begins with what we know now
		within, cancel := context.WithTimeout(ctx, handWait/2)
		if err := f.Keep(within); err != nil {
			p.log.Warn("what is known is not kept for a successor", "error", err)
		}
		cancel()
	}
	all, err := p.hand()
	if err == nil {
		err = sendAll(c, all)
	}
	for _, fd := range all {
		_ = unix.Close(fd)
	}
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	if err := expect(c, &r); err != nil {
		return err
	}
	if !r.Go {
		return errors.New("it asked twice")
	}
	p.log.Info("a successor serves now; draining")
	p.sockets.Leave()
	p.retire(true)
	p.handed.Store(true)
	defer close(p.goodbye)
	p.stop()
	<-p.unfed // it must not write the state that the successor writes
	_ = c.SetDeadline(time.Now().Add(handWait))
	return fds.Send(c, handReply{PID: os.Getpid()}, nil)
}

func expect(c *net.UnixConn, r *handRequest) error {
	list, err := fds.Receive(c, r)
	for _, fd := range list {
		_ = unix.Close(fd)
	}
	if err == nil && r.Format != handFormat {
		err = fmt.Errorf("it speaks format %d, we %d", r.Format, handFormat)
	}
	return err
}

// sendAll sends descriptors, as many messages as it takes.
func sendAll(c *net.UnixConn, all map[string]int) error {
	r := handReply{PID: os.Getpid()}
	var list []int
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if len(list) == fds.MaxSockets {
			r.More = true
			if err := fds.Send(c, r, list); err != nil {
				return err
			}
			r, list = handReply{PID: os.Getpid()}, nil
		}
		r.Keys, list = append(r.Keys, k), append(list, all[k])
	}
	return fds.Send(c, r, list)
}

// hand duplicates everything that a successor goes on with.
func (p *Proxy) hand() (map[string]int, error) {
	list, err := p.sockets.Hand()
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for k, fd := range list {
		out[keyListen+k] = fd
	}
	dup := func(key string, fd int) {
		var n int
		if n, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			out[key] = n
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.admin != nil {
		dup(keyAdmin+p.boot.Admin, p.admin.fd)
	}
	each := func(key string, s syscall.Conn) {
		raw, cerr := s.SyscallConn()
		if cerr == nil {
			cerr = raw.Control(func(fd uintptr) { dup(key, int(fd)) })
		}
		err = errors.Join(err, cerr)
	}
	if p.restart != nil {
		each(keyRestart+p.boot.RestartSocket, p.restart)
	}
	for k, c := range p.nameSockets {
		each(keyNames+k, c)
	}
	if err != nil {
		for _, fd := range out {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("duplicate a socket: %w", err)
	}
	return out, nil
}

// retire ends what one process only can serve: the admin server, the names, the
// restart socket. A successor goes on at the same paths.
func (p *Proxy) retire(successor bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.admin != nil {
		p.admin.close(!successor)
		p.admin = nil
	}
	for _, d := range p.podDoors {
		d.close(false)
	}
	p.podDoors = nil
	if p.restart != nil {
		_ = p.restart.Close()
		p.restart = nil
		if !successor {
			_ = os.Remove(p.boot.RestartSocket)
		}
	}
	p.closeNames()
}

// served sockets that names are answered on.
type nameSocket interface {
	io.Closer
	syscall.Conn
}

// inheritListeners gives the listen set its sockets.
func (p *Proxy) inheritListeners(h *heritage) {
	for _, k := range slices.Collect(maps.Keys(h.fds)) {
		if key, ok := strings.CutPrefix(k, keyListen); ok {
			p.sockets.Inherit(key, h.take(k))
		}
	}
}
