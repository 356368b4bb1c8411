//go:build linux

package listen

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Shut closes the sockets of listeners for which the function says so, and
// Update opens them no more. Connections that have been made to them are
// accepted first, and stay. It returns when that is done; not from a loop.
func (s *Set) Shut(which func(*conf.Listener) bool) {
	s.mu.Lock()
	s.shut = which
	var rest sync.WaitGroup
	for key, sock := range s.sockets {
		if which(sock.conf.Load()) {
			delete(s.sockets, key)
			rest.Add(1)
			sock.close(rest.Done)
		}
	}
	s.mu.Unlock()
	rest.Wait()
}

// Close is Shut for all listeners, and for what was inherited.
func (s *Set) Close() {
	s.Shut(func(*conf.Listener) bool { return true })
	s.Forget()
}

// Forget closes what was inherited and no listener has asked for.
func (s *Set) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, fd := range s.inherited {
		delete(s.inherited, key)
		_ = unix.Close(fd)
		unlink(key)
	}
}

// Hand returns duplicates of the listening sockets, by key, for a successor;
// the caller owns them. Both accept connections until Leave.
func (s *Set) Hand() (map[string]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for key, sock := range s.sockets {
		fd, err := unix.FcntlInt(uintptr(sock.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, fd := range out {
				_ = unix.Close(fd)
			}
			return nil, fmt.Errorf("hand over %s: %w", key, err)
		}
		out[key] = fd
	}
	return out, nil
}

// Leave stops accepting: what waits, and what comes, is the successor's.
func (s *Set) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = func(*conf.Listener) bool { return true }
	for key, sock := range s.sockets {
		delete(s.sockets, key)
		sock.handed = true
		sock.close(nil)
	}
}

// Inspecting counts the connections whose first bytes are waited for.
func (s *Set) Inspecting() int { return int(s.inspecting.Load()) }

// close closes the socket, from anywhere, and calls done afterwards. Who has
// connected is not left behind, unless a successor sees to that.
func (k *socket) close(done func()) {
	end := func() {
		for !k.handed && k.take() {
		}
		k.gone = true
		k.rest.Stop()
		if k.watch != nil {
			k.watch.Close()
		}
		_ = unix.Close(k.fd)
		if done != nil {
			done()
		}
	}
	if !k.loop.Post(end) { // the loop has ended, nobody else uses it
		_ = unix.Close(k.fd)
		if done != nil {
			done()
		}
	}
	if !k.handed {
		unlink(k.name)
	}
}

// unlink removes the file of a unix socket.
func unlink(key string) {
	if strings.HasPrefix(key, "/") {
		_ = os.Remove(key)
	}
}
