//go:build linux

package standalone

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/proxy/agent"
	"github.com/tulle-mesh/tulle/internal/proxy/agent/fds"
)

// place is a program's own namespaces with the agent in them.
type place struct {
	agent   *Process
	socket  string   // where sockets from inside are to be had
	control *os.File // to the agent; closing it ends the place
	sockets *fds.Client
	events  chan agent.Event
	refused func(what []string)

	mu      sync.Mutex
	last    int              // number of the last errand
	errands map[int]chan int // by number: where its status goes
}

// placeOptions say what the place is for.
type placeOptions struct {
	Proxy      string // path of tulle-proxy
	Dir        string // scratch
	Address    netip.Addr
	Resolv     string // text of /etc/resolv.conf
	Command    []string
	Env        []string
	Stdin      io.Reader
	Stdout     io.Writer
	Stderr     io.Writer
	Foreground bool
	// Refused, if set, is told what the program sends that the mesh does not
	// carry, each destination once.
	Refused func(what []string)
}

// patience with a place that is being made.
const placePatience = 10 * time.Second

// openPlace makes the namespaces; the program in them waits for start.
func openPlace(ctx context.Context, o *placeOptions) (*place, error) {
	resolv := filepath.Join(o.Dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte(o.Resolv), 0o644); err != nil {
		return nil, fmt.Errorf("resolver configuration: %w", err)
	}
	p := &place{socket: filepath.Join(o.Dir, "agent.sock"), refused: o.Refused}
	args := []string{"--socket", p.socket, "--resolv", resolv}
	if o.Foreground {
		args = append(args, "--foreground")
	}
	err := p.enter(ctx, o, args)
	if err != nil {
		return nil, err
	}
	if p.sockets, err = fds.Dial(p.socket, placePatience); err != nil {
		p.close(0)
		return nil, err
	}
	go p.follow()
	return p, nil
}

// enter starts the agent in new namespaces and waits for what it says.
func (p *place) enter(ctx context.Context, o *placeOptions, args []string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	_ = unix.SetNonblock(pair[0], true) // so that reading ends with Close
	p.control = os.NewFile(uintptr(pair[0]), "control")
	for _, a := range addressesOf(o.Address) {
		args = append(args, "--address", a.String())
	}
	args = append(append([]string{o.Proxy, "agent"}, args...), "--")
	attr, err := namespaces(o.Foreground)
	if err == nil {
		p.agent, err = Start(Command{Args: append(args, o.Command...), Env: o.Env, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr,
			Attr: attr, Files: []*os.File{theirs}, Foreground: o.Foreground})
	}
	_ = theirs.Close() // so that reading ours ends with the agent
	if err != nil {
		_ = p.control.Close()
		return fmt.Errorf("namespaces: %w", err)
	}
	p.events = make(chan agent.Event, 16)
	go p.read()
	limit := time.NewTimer(placePatience)
	defer limit.Stop()
	select {
	case e, ok := <-p.events:
		switch {
		case ok && e.Ready:
			return nil
		case ok && e.Failed != "":
			err = errors.New(e.Failed)
		default:
			<-p.agent.Done()
			err = fmt.Errorf("the agent ended: %w", p.agent.Err())
		}
	case <-limit.C:
		err = errors.New("the agent does not answer")
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.close(0)
	return fmt.Errorf("namespaces: %w", err)
}

// addressesOf are a program's addresses: the mesh's, and one of IPv6 where this
// machine has a way out by it. Elsewhere the program is to see at once that
// there is none.
func addressesOf(a netip.Addr) []netip.Addr {
	out := []netip.Addr{a}
	// A route lookup; nothing is sent.
	if c, err := net.Dial("udp6", "[2606:4700:4700::1111]:53"); err == nil {
		_ = c.Close()
		out = append(out, netip.MustParseAddr("fd74:756c:6c65::1"))
	}
	return out
}

// namespaces says how to start a process in namespaces of its own, as the user
// that we are. The superuser sees the same users inside.
func namespaces(foreground bool) (*syscall.SysProcAttr, error) {
	a := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Setpgid:    !foreground,
	}
	uid, gid := os.Geteuid(), os.Getegid()
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	if uid != 0 {
		// Other than the superuser loses its capabilities when it executes the
		// agent, unless they are ambient.
		a.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
		return a, nil
	}
	var err error
	if a.UidMappings, err = sameMap("/proc/self/uid_map"); err != nil {
		return nil, err
	}
	if a.GidMappings, err = sameMap("/proc/self/gid_map"); err != nil {
		return nil, err
	}
	// Where we may not set groups ourselves, nobody inside may.
	if b, err := os.ReadFile("/proc/self/setgroups"); err == nil {
		a.GidMappingsEnableSetgroups = strings.TrimSpace(string(b)) == "allow"
	}
	return a, nil
}

// sameMap maps every id that we know to itself.
func sameMap(file string) ([]syscall.SysProcIDMap, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, syscall.SysProcIDMap{ContainerID: int(inside), HostID: int(inside), Size: int(size)})
	}
	return out, nil
}

// read passes on what the agent says until it ends.
func (p *place) read() {
	defer close(p.events)
	in := bufio.NewScanner(p.control)
	for in.Scan() {
		var e agent.Event
		if json.Unmarshal(in.Bytes(), &e) == nil {
			p.events <- e
		}
	}
}

func (p *place) follow() {
	for e := range p.events {
		if len(e.Refused) > 0 && p.refused != nil {
			p.refused(e.Refused)
		}
		if e.Ran != 0 {
			p.ended(e.Ran, e.Status)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, c := range p.errands {
		delete(p.errands, id)
		close(c)
	}
	p.last = -1 // no more
}

func (p *place) ended(id, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.errands[id]; c != nil {
		delete(p.errands, id)
		c <- status
	}
}

// order tells the agent something.
func (p *place) order(o agent.Order) error {
	b, err := json.Marshal(o)
	if err == nil {
		_, err = p.control.Write(append(b, '\n'))
	}
	return err
}

// run runs a command beside the program, with its environment and rights, and
// waits for its end; when ctx ends first it is killed. The program must have
// been started.
func (p *place) run(ctx context.Context, args ...string) error {
	status := make(chan int, 1)
	p.mu.Lock()
	if p.last < 0 {
		p.mu.Unlock()
		return errors.New("the program has ended")
	}
	p.last++
	id := p.last
	if p.errands == nil {
		p.errands = map[int]chan int{}
	}
	p.errands[id] = status
	err := p.order(agent.Order{Run: &agent.Errand{ID: id, Args: args}})
	p.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case n, ok := <-status:
		switch {
		case !ok:
			return errors.New("the program has ended")
		case n != 0:
			return fmt.Errorf("exit status %d", n)
		}
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.errands, id)
		_ = p.order(agent.Order{Kill: id})
		return ctx.Err()
	}
}

// start lets the program begin.
func (p *place) start() error {
	if err := p.order(agent.Order{Start: true}); err != nil {
		return fmt.Errorf("start the program: %w", err)
	}
	return nil
}

// close ends the place with everything in it.
func (p *place) close(grace time.Duration) {
	p.agent.Stop(grace)
	_ = p.control.Close()
	if p.sockets != nil {
		p.sockets.Close()
	}
}

// dial connects to an address inside. Its form is net.Dialer's.
func (p *place) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	timeout := 5 * time.Second
	end, limited := ctx.Deadline()
	if limited {
		timeout = time.Until(end)
	} else {
		end = time.Now().Add(timeout)
	}
	v6 := to.Addr().Is6()
	list, err := p.sockets.Sockets(v6, 1, timeout)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(list[0]), "tcp")
	defer f.Close() // FileConn makes a copy
	sa := unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port())})
	if v6 {
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		sa.(*unix.SockaddrInet4).Addr = to.Addr().As4()
	}
	if err := connect(list[0], sa, end); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: os.NewSyscallError("connect", err)}
	}
	return net.FileConn(f)
}

// connect waits for a connection on a non-blocking socket.
func connect(fd int, sa unix.Sockaddr, end time.Time) error {
	err := unix.Connect(fd, sa)
	if err != unix.EINPROGRESS {
		return err
	}
	for {
		left := time.Until(end)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
		if err == unix.EINTR || n == 0 && err == nil {
			continue
		}
		if err != nil {
			return err
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		return err
	}
}

// resolvConf is what a program of a namespace reads as /etc/resolv.conf: the
// sidecar answers, names are completed as in a cluster, then as on this machine.
func resolvConf(namespace string) string {
	const domain = "cluster.local"
	search := []string{namespace + ".svc." + domain, "svc." + domain, domain}
	if b, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain") {
				search = append(search, f[1:min(len(f), 4)]...)
			}
		}
	}
	return "# by tulle: the sidecar answers\nnameserver 127.0.0.1\nsearch " + strings.Join(search, " ") + "\noptions ndots:5\n"
}

var probed sync.Map // path of tulle-proxy -> func() error

// Namespaces reports whether programs can have namespaces of their own here,
// by making some; the error says which piece the kernel denies. The answer is
// remembered.
func Namespaces(proxy string) error {
	f, _ := probed.LoadOrStore(proxy, sync.OnceValue(func() error {
		p := &place{}
		ctx, cancel := context.WithTimeout(context.Background(), placePatience)
		defer cancel()
		dir, err := os.MkdirTemp("", "tulle-probe-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		resolv := filepath.Join(dir, "resolv.conf")
		if err := os.WriteFile(resolv, []byte(resolvConf("default")), 0o644); err != nil {
			return err
		}
		err = p.enter(ctx, &placeOptions{Proxy: proxy, Address: netip.AddrFrom4([4]byte{127, 64, 0, 1}), Env: os.Environ()},
			[]string{"--check", "--resolv", resolv})
		if err == nil {
			p.close(0)
		}
		return err
	}))
	return f.(func() error)()
}
